"""Forms TensorFlow Lite Micro runs where it refuses, or gets wrong, what LiteRT runs.

- It refuses dense layers with per-channel INT4 weights: they become 1x1 convolutions.
- Its RELU6 clamps codes without moving them to the output's grid: a QUANTIZE does that first.
- It has no RELU_N1_TO_1: a MAXIMUM and a MINIMUM with constants clamp the codes.

Source: running tflite-micro 0.dev20261023 (tests/converter/runtimes/test_tflm.py).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from kwsq.ir.lowered import (
    Conv2D,
    FullyConnected,
    LoweredNode,
    LoweredTensor,
    Maximum,
    Minimum,
    Quantize,
    Rectify,
    Reshape,
)
from kwsq.ir.numerics import activation_range
from kwsq.ir.ops import Activation
from kwsq.targets.draft import Draft, same_grid
from kwsq.targets.neon.container import fits_int4


def dense_as_convolution(draft: Draft, node: LoweredNode) -> bool:
    """Rewrites x (..., K) dense (O, K) as x (N, 1, 1, K) convolved with (O, 1, 1, K), N the product of the rest."""
    weight = draft.tensors[node.inputs[1]] if isinstance(node.op, FullyConnected) else None
    if weight is None or weight.scale is None or weight.scale.size == 1 or not fits_int4(weight):
        return False
    assert isinstance(node.op, FullyConnected)
    x, y = draft.tensors[node.inputs[0]], draft.tensors[node.outputs[0]]
    rows, (units, depth) = int(np.prod(x.shape[:-1])), weight.shape
    assert weight.data is not None
    kernel_shape = (units, 1, 1, depth)
    kernel = draft.add_tensor(weight, "kernel", kernel_shape, data=weight.data.reshape(kernel_shape))
    image = draft.add_tensor(x, "image", (rows, 1, 1, depth))
    result = draft.add_tensor(y, "image", (rows, 1, 1, units))
    convolution = Conv2D((1, 1), (1, 1), ((0, 0), (0, 0)), node.op.activation)
    draft.add_node(node, "to_image", Reshape((rows, 1, 1, depth)), (x.name,), image)
    draft.nodes.append(replace(node, op=convolution, inputs=(image, kernel, *node.inputs[2:]), outputs=(result,)))
    draft.add_node(node, "from_image", Reshape(y.shape), (result,), y.name)
    return True


def clamp_in_steps(draft: Draft, node: LoweredNode) -> bool:
    """Rewrites a stand-alone clamp that Micro lacks or gets wrong: first the grid, then the bounds."""
    if not isinstance(node.op, Rectify) or node.op.activation is Activation.RELU:
        return False
    x, y = draft.tensors[node.inputs[0]], draft.tensors[node.outputs[0]]
    has_clamp = node.op.activation is Activation.RELU6
    if has_clamp and same_grid(x, y):
        return False
    source = x.name
    if not same_grid(x, y):
        source = draft.add_tensor(y, "moved", y.shape)
        draft.add_node(node, "move", Quantize(), (x.name,), source)
    if has_clamp:
        draft.nodes.append(replace(node, inputs=(source,)))
        return True
    low, high = (_bound(draft, y, code) for code in _bounds(y, node.op.activation))
    raised = draft.add_tensor(y, "raised", y.shape)
    draft.add_node(node, "raise", Maximum(), (source, low), raised)
    draft.add_node(node, "lower", Minimum(), (raised, high), y.name)
    return True


def _bounds(y: LoweredTensor, activation: Activation) -> tuple[int, int]:
    assert y.scale is not None
    low, high = activation.bounds
    return activation_range(low, high, scale=float(y.scale[0]), zero_point=y.zero_point)


def _bound(draft: Draft, y: LoweredTensor, code: int) -> str:
    shape = (1,) * len(y.shape)
    return draft.add_tensor(y, "bound", shape, data=np.full(shape, code, np.int8))
