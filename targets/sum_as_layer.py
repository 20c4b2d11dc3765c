"""SUM as a layer of ones, because LiteRT's int8 SUM returns wrong codes in its reference kernels.

The sum over adjacent axes is a dense layer (last axes) or a depthwise convolution (others) whose weights are all 1 at
scale 1: the same real number, rounded once.
"""

from __future__ import annotations

import math

import numpy as np

from kwsq.ir.lowered import DepthwiseConv2D, DType, FullyConnected, LoweredNode, LoweredTensor, Reshape, Shape, Sum
from kwsq.targets.draft import Draft


def sum_as_layer(draft: Draft, node: LoweredNode) -> bool:
    """Adds the layer for a Sum over adjacent axes; returns whether it did."""
    if not isinstance(node.op, Sum):
        return False
    x, y = draft.tensors[node.inputs[0]], draft.tensors[node.outputs[0]]
    axes = [axis for axis in sorted(node.op.axes) if x.shape[axis] > 1] or [node.op.axes[0]]
    if any(x.shape[axis] > 1 for axis in range(axes[0], axes[-1]) if axis not in axes):
        return False
    axes = list(range(axes[0], axes[-1] + 1))
    before, count, after = (math.prod(part) for part in _parts(x.shape, axes))
    op: FullyConnected | DepthwiseConv2D = FullyConnected()
    shapes: tuple[Shape, Shape, Shape] = ((before, count), (1, count), (before, 1))
    if after > 1:
        op = DepthwiseConv2D((1, 1), (1, 1), ((0, 0), (0, 0)))
        shapes = ((before, count, 1, after), (1, count, 1, after), (before, 1, 1, after))
    inner, kernel, outer = shapes
    source = draft.add_tensor(x, "terms", inner)
    result = draft.add_tensor(y, "sum", outer)
    operands = _ones(draft, x, y, kernel)
    draft.add_node(node, "to_terms", Reshape(inner), (x.name,), source)
    draft.add_node(node, "sum", op, (source, *operands), result)
    draft.add_node(node, "from_sum", Reshape(y.shape), (result,), y.name)
    return True


def _parts(shape: Shape, axes: list[int]) -> tuple[Shape, Shape, Shape]:
    return shape[: axes[0]], shape[axes[0] : axes[-1] + 1], shape[axes[-1] + 1 :]


def _ones(draft: Draft, x: LoweredTensor, y: LoweredTensor, kernel: Shape) -> tuple[str, str]:
    """Returns weights of one and a bias of zero."""
    one = np.ones(1, np.float32)
    codes, outputs = np.ones(kernel, np.int8), kernel[-1] if len(kernel) == 4 else 1
    axis = 3 if len(kernel) == 4 else 0
    weight = draft.add_tensor(
        y, "ones", kernel, data=codes, dtype=DType.INT8, scale=one, zero_point=0, quantized_dimension=axis
    )
    zeros = np.zeros(outputs, np.int32)
    bias = draft.add_tensor(y, "zeros", (outputs,), data=zeros, dtype=DType.INT32, scale=x.scale, zero_point=0, bits=32)
    return weight, bias
