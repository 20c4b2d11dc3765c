"""Pooling and reductions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from kwsq.ir import lowered as low
from kwsq.ir.graph import Node
from kwsq.ir.lowered import DType, LoweredOp, Pads
from kwsq.ir.numerics import Grid, derive_mean
from kwsq.ir.ops import Activation, AveragePool, MaxPool, Mean, ReduceMax, ReduceSum
from kwsq.passes.lowering.context import LoweringContext, LoweringRefusedError, int8_grid
from kwsq.passes.lowering.forms import Form, channels_last, physical_shape, renumbered, without

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
    ctx.emit(node, lambda _: low.MaxPool2D(kernel, stride, pads), [source], form, fuses=False)


def lower_average_pool(ctx: LoweringContext, node: Node) -> None:
    """AveragePool: the runtime's on one grid; else a depthwise convolution with weight 1/K, which rounds once."""
    op = node.op
    assert isinstance(op, AveragePool)
    kernel, stride, pads = _window(op)
    x, name = ctx.graph[node.inputs[0]], node.outputs[0]
    form = channels_last(x.rank, dims=4)
    padded = any(sum(pad) for pad in pads)
    counts_padding = op.count_include_pad or not padded
    if ctx.spec(name).same_as(ctx.spec(x.name)) and (not padded or not op.count_include_pad):
        ctx.emit(node, lambda _: low.AveragePool2D(kernel, stride, pads), [ctx.get(x.name, form)], form, fuses=False)
        return
    if not counts_padding:
        raise LoweringRefusedError(
            "an average pool that leaves padding out and changes the grid",
            "count_include_pad = 1, no padding, or equal scales on both sides",
            "quantise its output with the scale of its input",
        )
    ctx.note(node.name, "its grids differ: lowered to a depthwise convolution, which rounds once")
    _emit_mean_window(ctx, node, form, (kernel, stride, pads), form)


def _emit_mean_window(
    ctx: LoweringContext, node: Node, form: Form, window: tuple[Pair, Pair, Pads], output_form: Form
) -> None:
    """Adds a depthwise convolution whose weights are all 1/K, as code 127 on scale 1/(127 K)."""
    kernel, stride, pads = window
    x = ctx.graph[node.inputs[0]]
    channels = x.shape[1]
    scale = np.full(channels, 1.0 / (127 * kernel[0] * kernel[1]), np.float32)
    weight = ctx.constant(f"{node.name}/ones", np.full((1, *kernel, channels), 127), DType.INT8, scale)
    ctx.tensors[weight] = replace(ctx.tensors[weight], quantized_dimension=3)
    bias_scale = (int8_grid(ctx.spec(x.name)).scale * scale).astype(np.float32)
    bias = ctx.constant(f"{node.name}/zeros", np.zeros(channels), DType.INT32, bias_scale)
    ctx.real_biases[bias] = np.zeros(channels)

    def make(activation: Activation) -> LoweredOp:
        return low.DepthwiseConv2D(stride, (1, 1), pads, activation)

    ctx.emit(node, make, [ctx.get(x.name, form), weight, bias], output_form)


ROUNDS_TWICE = (-1, -2)
"""Right shifts of MEAN's multiplier at which its second rounding shifts the result by 1/4 or 1/8 code."""


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


def reduction(make: Callable[[tuple[int, ...]], LoweredOp]) -> Callable[[LoweringContext, Node], None]:
    """Returns the lowering of a reduction; reduced dimensions are not stored."""

    def lowering(ctx: LoweringContext, node: Node) -> None:
        op = node.op
        assert isinstance(op, Mean | ReduceMax | ReduceSum)
        if isinstance(op, Mean) and _mean_as_product(ctx, node):
            return
        x = ctx.graph[node.inputs[0]]
        stored = ctx.form(x.name)
        axes = tuple(i for i, axis in enumerate(stored) if axis is not None and axis in op.axes)
        kept = without(stored, op.axes)
        rank = ctx.graph[node.outputs[0]].rank
        survivors = [axis for axis in range(x.rank) if axis not in op.axes]
        mapping = {a: a for a in survivors} if op.keepdims else {a: i for i, a in enumerate(survivors)}
        form = renumbered(kept, mapping)
        if not form and rank == 0:
            raise LoweringRefusedError(
                "a reduction to a scalar", "at least one dimension left", "keep the batch dimension"
            )
        if physical_shape(form, ctx.graph[node.outputs[0]].shape) == ():
            form = (0,)
        ctx.emit(node, lambda _: make(axes), [ctx.get(x.name, stored)], form, fuses=False)

    return lowering
