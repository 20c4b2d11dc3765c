"""Pooling and reductions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from kwsq.ir import lowered as low
from kwsq.ir.graph import Node, Tensor
from kwsq.ir.lowered import DType, LoweredOp, Pads
from kwsq.ir.numerics import Grid, derive_mean
from kwsq.ir.ops import Activation, AveragePool, MaxPool, Mean, ReduceMax, ReduceSum
from kwsq.passes.lowering.border_average import correction_map, is_same_padding, pixels_covered
from kwsq.passes.lowering.context import LoweringContext, LoweringRefusedError, int8_grid
from kwsq.passes.lowering.forms import (
    Form,
    channels_last,
    identity_form,
    order,
    renumbered,
    without,
)

Pair = tuple[int, int]


def _window(op: AveragePool | MaxPool) -> tuple[Pair, Pair, Pads]:
    if len(op.kernel) == 2:
        return (op.kernel[0], op.kernel[1]), (op.strides[0], op.strides[1]), (op.pads[0], op.pads[1])
    return (1, op.kernel[0]), (1, op.strides[0]), ((0, 0), op.pads[0])


def lower_max_pool(ctx: LoweringContext, node: Node) -> None:
    """MaxPool on one grid."""
    assert isinstance(node.op, MaxPool)
    kernel, stride, pads = _window(node.op)
    form = channels_last(ctx.graph[node.inputs[0]].rank, dims=4)
    source = ctx.get(node.inputs[0], form)
    ctx.emit(node, lambda _: low.MaxPool2D(kernel, stride, pads), [source], form, moves=True)


def lower_average_pool(ctx: LoweringContext, node: Node) -> None:
    """AveragePool: the runtime's on one grid; else a depthwise convolution with weight 1/K, which rounds once."""
    op = node.op
    assert isinstance(op, AveragePool)
    kernel, stride, pads = _window(op)
    x = ctx.graph[node.inputs[0]]
    form = channels_last(x.rank, dims=4)
    is_padded = any(sum(pad) for pad in pads)
    leaves_padding_out = is_padded and not op.count_include_pad
    has_kernel = not is_padded or (leaves_padding_out and is_same_padding(_image(x), kernel, stride, pads))
    if has_kernel and ctx.spec(node.outputs[0]).same_as(ctx.spec(x.name)):
        ctx.emit(node, lambda _: low.AveragePool2D(kernel, stride, pads), [ctx.get(x.name, form)], form, moves=True)
    elif leaves_padding_out:
        _emit_border_average(ctx, node, form, (kernel, stride, pads))
    else:
        _emit_average(ctx, node, form, (kernel, stride, pads))


def _emit_average(ctx: LoweringContext, node: Node, form: Form, window: tuple[Pair, Pair, Pads]) -> None:
    """Adds the average that counts its padding."""
    kernel, stride, pads = window
    x = ctx.graph[node.inputs[0]]
    inputs = [ctx.get(x.name, form), *_mean_window(ctx, node, kernel)]
    ctx.real_biases[inputs[2]] = np.zeros(x.shape[1])

    def make(activation: Activation) -> LoweredOp:
        return low.DepthwiseConv2D(stride, (1, 1), pads, activation)

    ctx.note(node.name, "lowered to a depthwise convolution with weights 1/K, which rounds once")
    ctx.emit(node, make, inputs, form)


def _image(x: Tensor) -> Pair:
    """Returns height and width; a 1-D signal has height 1."""
    return (x.shape[2], x.shape[3]) if x.rank == 4 else (1, x.shape[2])


def _mean_window(ctx: LoweringContext, node: Node, kernel: Pair) -> list[str]:
    """Returns weight and bias of a depthwise convolution that averages: code 127 on scale 1/(127 K)."""
    x = ctx.graph[node.inputs[0]]
    channels = x.shape[1]
    scale = np.full(channels, 1.0 / (127 * kernel[0] * kernel[1]), np.float32)
    weight = ctx.constant(f"{node.name}/ones", np.full((1, *kernel, channels), 127), DType.INT8, scale)
    ctx.tensors[weight] = replace(ctx.tensors[weight], quantized_dimension=3)
    bias_scale = (int8_grid(ctx.spec(x.name)).scale * scale).astype(np.float32)
    bias = ctx.constant(f"{node.name}/zeros", np.zeros(channels), DType.INT32, bias_scale)
    return [weight, bias]


def _emit_border_average(ctx: LoweringContext, node: Node, form: Form, window: tuple[Pair, Pair, Pads]) -> None:
    """Adds the average with its padding and the map that corrects the borders."""
    kernel, stride, pads = window
    x, y = ctx.graph[node.inputs[0]], ctx.graph[node.outputs[0]]
    covered = pixels_covered(_image(x), kernel, stride, pads)
    if covered.min() < 1:
        raise LoweringRefusedError("a window over padding alone", "a pixel in every window", "reduce the padding")
    codes, scale = correction_map(covered, kernel)
    borders = ctx.constant(f"{node.name}/borders", codes[None, :, :, None], DType.INT8, scale)
    averaged = ctx.activation(ctx.fresh(f"{y.name}/averaged"), y, (x.shape[0], *covered.shape, x.shape[1]))
    op = low.DepthwiseConv2D(stride, (1, 1), pads)
    ctx.add(
        f"{node.name}/average", op, [ctx.get(x.name, form), *_mean_window(ctx, node, kernel)], [averaged], node.name
    )
    ctx.note(node.name, "leaves its padding out: averaged with it, then corrected at the borders by a constant map")
    ctx.emit(node, lambda _: low.Mul(), [averaged, borders], form, fuses=False)


ROUNDS_TWICE = (-1,)
"""Right shift of MEAN's multiplier at which half of its sums end in a tie: its second rounding then shifts the result
by a quarter of a code. Each further bit halves that, and what is left goes into the next layer's bias (41)."""


def _mean_as_product(ctx: LoweringContext, node: Node) -> bool:
    """Lowers a spatial mean to a product with a row of 1/K where MEAN would round twice; False when MEAN is fine.

    The row holds code 127 on scale 1/(127 K), so the accumulator is large and the rounding single in effect.
    """
    op, x = node.op, ctx.graph[node.inputs[0]]
    assert isinstance(op, Mean)
    if x.rank not in (3, 4) or op.axes != tuple(range(2, x.rank)):
        return False
    count = int(np.prod(x.shape[2:]))
    grids = (int8_grid(ctx.spec(name)) for name in (x.name, node.outputs[0]))
    source, target = (Grid(float(grid.scale), grid.zero_point) for grid in grids)
    if derive_mean(source, target, count=count).shift not in ROUNDS_TWICE:
        return False
    stored = ctx.get(x.name, channels_last(x.rank, dims=4))
    flat = ctx.fresh(f"{x.name}/positions")
    shape = (x.shape[0], count, x.shape[1])
    ctx.tensors[flat] = replace(ctx.tensors[stored], name=flat, shape=shape)
    ctx.add(f"{node.name}/positions", low.Reshape(shape), [stored], [flat], node.name)
    row = ctx.constant(f"{node.name}/row", np.full((1, 1, count), 127), DType.INT8, np.array([1 / (127 * count)]))
    ctx.note(node.name, "lowered to a product with a row of 1/K: MEAN would round twice on these grids")
    ctx.emit(node, lambda _: low.BatchMatMul(), [row, flat], (0, None, 1), fuses=False)
    return True


def reduction(make: Callable[[tuple[int, ...], bool], LoweredOp]) -> Callable[[LoweringContext, Node], None]:
    """Returns the lowering of a reduction; reduced dimensions are not stored while any other is.

    Args:
        make: returns the operator for stored axes, and whether they stay as unit dimensions.
    """

    def lowering(ctx: LoweringContext, node: Node) -> None:
        op = node.op
        assert isinstance(op, Mean | ReduceMax | ReduceSum)
        if isinstance(op, Mean) and _mean_as_product(ctx, node):
            return
        x = ctx.graph[node.inputs[0]]
        stored = ctx.form(x.name)
        if not any(axis in op.axes for axis in stored):
            stored = identity_form(x.rank)  # only unit dimensions are reduced, and none of them is stored
        if isinstance(op, ReduceSum) and not _adjacent(stored, op.axes, x.shape):
            stored = (*without(stored, op.axes), *(axis for axis in stored if axis is not None and axis in op.axes))
        # Inserted dimensions go too, so that no reshape follows; the first one carries the batch and stays.
        dropped = [i for i, axis in enumerate(stored) if (axis is None and i > 0) or axis in op.axes]
        axes = tuple(dropped)
        kept = tuple(axis for i, axis in enumerate(stored) if i not in dropped)
        survivors = [axis for axis in range(x.rank) if axis not in op.axes]
        mapping = {a: a for a in survivors} if op.keepdims else {a: i for i, a in enumerate(survivors)}
        form = renumbered(kept, mapping)
        if not kept and ctx.graph[node.outputs[0]].rank == 0:
            raise LoweringRefusedError(
                "a reduction to a scalar", "at least one dimension left", "keep the batch dimension"
            )
        if not kept:
            # Without a dimension the kernel would write a scalar, which is another shape for the caller and no input
            # for many kernels.
            form = stored if op.keepdims else (0, *[None] * (len(stored) - 1))
        ctx.emit(node, lambda _: make(axes, not kept), [ctx.get(x.name, stored)], form, fuses=False)

    return lowering


def _adjacent(form: Form, axes: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    """Returns whether the reduced axes of size > 1 are stored next to each other, as a sum needs them."""
    places = [i for i, axis in enumerate(order(form, shape)) if axis in axes]
    return not places or places[-1] - places[0] == len(places) - 1
