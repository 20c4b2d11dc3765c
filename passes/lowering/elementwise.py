"""Elementwise operators, activations and Softmax."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from kwsq.ir import lowered as low
from kwsq.ir.graph import Array, Node, Tensor
from kwsq.ir.lowered import DType, LoweredOp
from kwsq.ir.ops import Activation, Clip, LeakyRelu, Mul, Relu, Softmax
from kwsq.ir.quant import Affine
from kwsq.passes.fuse_activation import has_zero
from kwsq.passes.lowering.context import INT8_HIGH, LoweringContext, LoweringRefusedError, int8_grid
from kwsq.passes.lowering.forms import Form, identity_form, physical_shape
from kwsq.passes.lowering.requantize import lower_change_of_grid
from kwsq.passes.observe import affine_from_range

Lowering = Callable[[LoweringContext, Node], None]


def _operand(ctx: LoweringContext, node: Node, name: str, form: Form, rank: int, spec: Affine | None) -> str:
    """Returns an operand in `form`; a constant is quantised on `spec`, else on its own grid, or that of its range."""
    tensor = ctx.graph[name]
    if not tensor.is_constant:
        return ctx.get(name, form, rank=rank)
    real = tensor.real().reshape((1,) * (rank - tensor.rank) + tensor.shape)
    grid = int8_grid(spec or _annotated(tensor) or affine_from_range(float(real.min()), float(real.max())))
    codes = np.clip(np.rint(real / grid.scale) + grid.zero_point, -128, 127).astype(np.int8)
    scale, zero_point = grid.scale, grid.zero_point
    if isinstance(node.op, Mul):
        codes, scale, zero_point = _largest_codes(codes, scale, zero_point)
    axes = [axis for axis in form if axis is not None]
    missing = [axis for axis in range(rank) if axis not in axes]
    moved = codes.transpose([*missing, *axes]).reshape(physical_shape(form, codes.shape))
    return ctx.constant(f"{node.name}/{name}", moved, DType.INT8, np.array([scale]), zero_point, origin=tensor.origin)


def _largest_codes(codes: Array, scale: np.float32, zero_point: int) -> tuple[Array, np.float32, int]:
    """Returns the same real values as the largest codes that are powers of two times as large, zero point 0.

    The kernel rounds a product of codes to a binary fraction of the output's step first: the larger, the finer.
    """
    centred = codes.astype(np.int32) - zero_point
    largest = int(np.abs(centred).max(initial=0))
    if not 0 < largest <= INT8_HIGH:
        return codes, scale, zero_point
    shift = int(math.log2(INT8_HIGH / largest))
    return (centred << shift).astype(np.int8), np.float32(scale / 2**shift), 0


def _annotated(tensor: Tensor) -> Affine | None:
    """Returns the grid that the source gives a constant, where int8 can hold its codes as they are or shifted."""
    spec = tensor.quant
    if not isinstance(spec, Affine) or spec.scale.size > 1 or spec.range.high - spec.range.low > 255:
        return None
    return spec if has_zero(spec) else None


def binary(kind: Callable[[Activation], LoweredOp], *, fuses: bool = True, one_grid: bool = False) -> Lowering:
    """Returns the lowering of a broadcast operator of two inputs.

    Args:
        kind: makes the operator.
        fuses: whether it can carry a fused activation.
        one_grid: whether inputs and output must share a grid (Maximum, Minimum).
    """

    def lowering(ctx: LoweringContext, node: Node) -> None:
        output = ctx.graph[node.outputs[0]]
        form = _common_form(ctx, node, output)
        spec = ctx.spec(output.name) if one_grid else None
        inputs = [_operand(ctx, node, name, form, output.rank, spec) for name in node.inputs]
        activation = getattr(node.op, "activation", Activation.NONE)
        ctx.emit(node, kind, inputs, form, activation=activation, fuses=fuses)

    return lowering


def _common_form(ctx: LoweringContext, node: Node, output: Tensor) -> Form:
    """The form of the largest full-rank activation operand that stores every axis of the output; first of equals."""
    largest_first = sorted(node.inputs, key=lambda name: -math.prod(ctx.graph[name].shape))
    for name in largest_first:
        tensor = ctx.graph[name]
        if not tensor.is_constant and tensor.rank == output.rank and name not in ctx.feature_order:
            form = ctx.form(name)
            if all(size == 1 or axis in form for axis, size in enumerate(output.shape)):
                return form
    return identity_form(output.rank)


def unary(kind: Callable[[Node], LoweredOp]) -> Lowering:
    """Returns the lowering of an operator that keeps shape and form."""

    def lowering(ctx: LoweringContext, node: Node) -> None:
        form = ctx.form(node.inputs[0])
        ctx.emit(node, lambda _: kind(node), [ctx.get(node.inputs[0], form)], form, fuses=False)

    return lowering


def lower_clamp(ctx: LoweringContext, node: Node) -> None:
    """Relu or Clip on its own: a rectifier where the runtime has one, else maximum and minimum with constants."""
    bounds = (0.0, np.inf) if isinstance(node.op, Relu) else _clip_bounds(node)
    activation = _RECTIFIERS.get(bounds)
    if activation is not None:
        lower_change_of_grid(ctx, node, activation)
        return
    form = ctx.form(node.inputs[0])
    source = ctx.get(node.inputs[0], form)
    _lower_general_clamp(ctx, node, source, form, bounds)


def _clip_bounds(node: Node) -> tuple[float, float]:
    assert isinstance(node.op, Clip)
    return node.op.low, node.op.high


_RECTIFIERS = {
    (0.0, np.inf): Activation.RELU,
    (0.0, 6.0): Activation.RELU6,
    (-1.0, 1.0): Activation.RELU_N1_TO_1,
}


def _lower_general_clamp(
    ctx: LoweringContext, node: Node, source: str, form: Form, bounds: tuple[float, float]
) -> None:
    name = node.outputs[0]
    spec = ctx.spec(name)
    grid = int8_grid(spec)
    if not spec.same_as(ctx.spec(node.inputs[0])):
        raise LoweringRefusedError(
            "a clamp between two grids", "one grid on both sides", "report this as a defect of kwsq"
        )
    target = ctx.define(name, form)
    steps: list[tuple[LoweredOp, float]] = []
    if np.isfinite(bounds[0]):
        steps.append((low.Maximum(), bounds[0]))
    if np.isfinite(bounds[1]):
        steps.append((low.Minimum(), bounds[1]))
    for i, (op, bound) in enumerate(steps):
        code = np.clip(np.rint(bound / float(grid.scale)) + grid.zero_point, grid.low, grid.high)
        rank = len(ctx.tensors[source].shape)
        limit = ctx.constant(
            f"{node.name}/bound", np.full((1,) * rank, code), DType.INT8, np.array([grid.scale]), grid.zero_point
        )
        last = i == len(steps) - 1
        output = target if last else ctx._like(ctx.fresh(f"{name}/part"), target, ctx.tensors[target].shape)
        ctx.add(f"{node.name}/{op.name}", op, [source, limit], [output], node.name)
        source = output


def lower_softmax(ctx: LoweringContext, node: Node) -> None:
    """Softmax over the last stored dimension."""
    assert isinstance(node.op, Softmax)
    x = ctx.graph[node.inputs[0]]
    form = ctx.form(x.name)
    if form[-1] != node.op.axis:
        rest = [axis for axis in range(x.rank) if axis != node.op.axis]
        form = (*rest, node.op.axis)
    ctx.emit(node, lambda _: low.Softmax(), [ctx.get(x.name, form)], form, fuses=False)


def lower_leaky_relu(node: Node) -> LoweredOp:
    """LeakyRelu with its slope."""
    assert isinstance(node.op, LeakyRelu)
    return low.LeakyRelu(node.op.alpha)


def lower_prelu(ctx: LoweringContext, node: Node) -> None:
    """PRelu with an int8 slope."""
    output = ctx.graph[node.outputs[0]]
    form = ctx.form(node.inputs[0])
    inputs = [_operand(ctx, node, name, form, output.rank, None) for name in node.inputs]
    ctx.emit(node, lambda _: low.PRelu(), inputs, form, fuses=False)
