"""LoweredGraph -> an equal LoweredGraph in which every node is one LiteRT operator.

- A padding that is neither SAME nor VALID becomes a PAD node before a VALID window. PAD fills with the zero point, so
  a convolution sees the zeros it would have seen; a max pool gets the lowest code instead, which never wins.
- For TensorFlow Lite Micro, a dense layer whose weights are to be INT4 per channel becomes a 1x1 convolution.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from kwsq.ir.errors import UnsupportedModelError
from kwsq.ir.lowered import (
    Conv2D,
    DepthwiseConv2D,
    FullyConnected,
    LoweredGraph,
    LoweredNode,
    LoweredTensor,
    MaxPool2D,
    Pad,
    Pads,
    Pair,
    Reshape,
    Shape,
    verify,
)
from kwsq.targets.base import TargetOptions
from kwsq.targets.neon.constraints import problems
from kwsq.targets.neon.container import fits_int4
from kwsq.targets.neon.padding import needed_pads, padding_scheme

_LOWEST_CODE = -128
_NO_PADS: Pads = ((0, 0), (0, 0))
Rule = Callable[["_Draft", LoweredNode], bool]


class _Draft:
    """The graph under rewriting: nodes so far and all tensors."""

    def __init__(self, graph: LoweredGraph) -> None:
        self.nodes: list[LoweredNode] = []
        self.tensors: dict[str, LoweredTensor] = dict(graph.tensors)

    def add_tensor(self, like: LoweredTensor, suffix: str, shape: Shape, **fields: object) -> str:
        """Adds a tensor on the grid of `like` and returns its name."""
        name = f"{like.name}/{suffix}"
        while name in self.tensors:
            name += "_"
        self.tensors[name] = replace(like, name=name, shape=shape, **fields)  # type: ignore[arg-type]  # by replace
        return name


def legalize(graph: LoweredGraph, options: TargetOptions) -> LoweredGraph:
    """Returns the graph as LiteRT can express it; a legal graph comes back equal.

    Args:
        graph: verified graph.
        options: container and runtime.

    Raises:
        UnsupportedModelError: naming every node that has no form.
    """
    rules: list[Rule] = [_pad_window]
    if options.container == "int4" and options.runtime == "tflm":
        rules.append(_dense_as_convolution)
    draft = _Draft(graph)
    for node in graph.nodes:
        if not any(rule(draft, node) for rule in rules):
            draft.nodes.append(node)
    used = {n for node in draft.nodes for n in (*node.inputs, *node.outputs)} | {*graph.inputs, *graph.outputs}
    tensors = {name: tensor for name, tensor in draft.tensors.items() if name in used}
    legal = replace(graph, nodes=tuple(draft.nodes), tensors=tensors)
    verify(legal)
    if found := list(problems(legal)):
        raise UnsupportedModelError(found, "the model has nodes LiteRT's int8 kernels cannot compute")
    return legal


def _pad_window(draft: _Draft, node: LoweredNode) -> bool:
    op = node.op
    if not isinstance(op, Conv2D | DepthwiseConv2D | MaxPool2D):
        return False
    x = draft.tensors[node.inputs[0]]
    kernel, dilation = _kernel(draft, node)
    size = (x.shape[1], x.shape[2])
    if padding_scheme(size, kernel, op.stride, dilation, op.pads) is not None:
        return False
    pads = [needed_pads(*axis) for axis in zip(size, kernel, op.stride, dilation, op.pads, strict=True)]
    shape = (x.shape[0], size[0] + sum(pads[0]), size[1] + sum(pads[1]), x.shape[3])
    padded = draft.add_tensor(x, "padded", shape)
    value = _LOWEST_CODE if isinstance(op, MaxPool2D) else None
    pad = Pad(((0, 0), *pads, (0, 0)), value)
    draft.nodes.append(LoweredNode(f"{node.name}/pad", pad, (x.name,), (padded,), node.origins))
    draft.nodes.append(replace(node, op=replace(op, pads=_NO_PADS), inputs=(padded, *node.inputs[1:])))
    return True


def _kernel(draft: _Draft, node: LoweredNode) -> tuple[Pair, Pair]:
    """Returns kernel and dilation of a window node."""
    if isinstance(node.op, MaxPool2D):
        return node.op.kernel, (1, 1)
    assert isinstance(node.op, Conv2D | DepthwiseConv2D)
    _, height, width, _ = draft.tensors[node.inputs[1]].shape
    return (height, width), node.op.dilation


def _dense_as_convolution(draft: _Draft, node: LoweredNode) -> bool:
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
    convolution = Conv2D((1, 1), (1, 1), _NO_PADS, node.op.activation)
    draft.nodes += [
        LoweredNode(f"{node.name}/to_image", Reshape((rows, 1, 1, depth)), (x.name,), (image,), node.origins),
        replace(node, op=convolution, inputs=(image, kernel, *node.inputs[2:]), outputs=(result,)),
        LoweredNode(f"{node.name}/from_image", Reshape(y.shape), (result,), (y.name,), node.origins),
    ]
    return True
