"""Operators that move values: most only change the form and cost nothing."""

from __future__ import annotations

import numpy as np

from kwsq.ir import lowered as low
from kwsq.ir.graph import Node, Tensor
from kwsq.ir.lowered import DType
from kwsq.ir.ops import Concat, Dense, Pad, Reshape, Slice, Split, Transpose
from kwsq.passes.base import Level
from kwsq.passes.lowering.context import LoweringContext, int8_grid
from kwsq.passes.lowering.forms import (
    Form,
    identity_form,
    order,
    physical_shape,
    renumbered,
    unit_reshape_mapping,
)


def lower_reshape(ctx: LoweringContext, node: Node) -> None:
    """Reshape: nothing when only unit dimensions change, else row-major on logical order."""
    assert isinstance(node.op, Reshape)
    x, y = ctx.graph[node.inputs[0]], ctx.graph[node.outputs[0]]
    mapping = unit_reshape_mapping(x.shape, y.shape)
    if mapping is not None and x.name not in ctx.feature_order and y.name not in ctx.graph.outputs:
        ctx.alias(y.name, x.name, renumbered(ctx.form(x.name), mapping))
        return
    if mapping is not None and x.name not in ctx.feature_order:
        source = ctx.get(x.name, identity_form(x.rank))
    elif _flattens_for_dense(ctx, x, y):
        _flatten_in_storage_order(ctx, node, x, y)
        return
    else:
        source = ctx.get(x.name, identity_form(x.rank))
    target = ctx.define(y.name, identity_form(y.rank))
    ctx.add(node.name, low.Reshape(y.shape), [source], [target], node.name)


def _flattens_for_dense(ctx: LoweringContext, x: Tensor, y: Tensor) -> bool:
    """Whether x, stored out of logical order, is flattened to (N, features) for dense layers alone."""
    stored = order(ctx.form(x.name), x.shape)
    if list(stored) == sorted(stored) or y.rank != 2 or y.shape[0] != x.shape[0] or y.name in ctx.graph.outputs:
        return False
    if x.shape[0] > 1 and stored[0] != 0:
        return False
    readers = [node for node in ctx.graph.nodes if y.name in node.inputs]
    return bool(readers) and all(isinstance(node.op, Dense) for node in readers)


def _flatten_in_storage_order(ctx: LoweringContext, node: Node, x: Tensor, y: Tensor) -> None:
    features = np.arange(int(np.prod(x.shape[1:]))).reshape(1, *x.shape[1:])
    axes = [axis for axis in ctx.form(x.name) if axis is not None]
    missing = [axis for axis in range(x.rank) if axis not in axes]
    ctx.feature_order[y.name] = features.transpose([*missing, *axes]).reshape(-1)
    target = ctx.define(y.name, identity_form(y.rank))
    ctx.add(node.name, low.Reshape(y.shape), [ctx.names[x.name]], [target], node.name)


def lower_transpose(ctx: LoweringContext, node: Node) -> None:
    """Transpose: a new name for the same storage."""
    assert isinstance(node.op, Transpose)
    x, y = ctx.graph[node.inputs[0]], ctx.graph[node.outputs[0]]
    perm = node.op.perm
    ctx.alias(y.name, x.name, renumbered(ctx.form(x.name), {axis: perm.index(axis) for axis in range(x.rank)}))


def _form_with(ctx: LoweringContext, names: tuple[str, ...], axes: list[int], rank: int) -> Form:
    """Returns the first operand's form that stores all of `axes`, else logical order."""
    for name in names:
        if not ctx.graph[name].is_constant and all(axis in ctx.form(name) for axis in axes):
            return ctx.form(name)
    return identity_form(rank)


def lower_concat(ctx: LoweringContext, node: Node) -> None:
    """Concat on one grid."""
    assert isinstance(node.op, Concat)
    y = ctx.graph[node.outputs[0]]
    varying = [axis for axis, size in enumerate(y.shape) if size > 1]
    form = _form_with(ctx, node.inputs, sorted({node.op.axis, *varying}), y.rank)
    axis = form.index(node.op.axis)
    inputs = [_concat_operand(ctx, node, name, form, y) for name in node.inputs]
    ctx.emit(node, lambda _: low.Concat(axis), inputs, form, moves=True)


def _concat_operand(ctx: LoweringContext, node: Node, name: str, form: Form, output: Tensor) -> str:
    tensor = ctx.graph[name]
    if not tensor.is_constant:
        return ctx.get(name, form)
    grid = int8_grid(ctx.spec(output.name))
    codes = np.clip(np.rint(tensor.real() / grid.scale) + grid.zero_point, grid.low, grid.high).astype(np.int8)
    axes = [axis for axis in form if axis is not None]
    missing = [axis for axis in range(tensor.rank) if axis not in axes]
    moved = codes.transpose([*missing, *axes]).reshape(physical_shape(form, tensor.shape))
    return ctx.constant(f"{node.name}/{name}", moved, DType.INT8, np.array([grid.scale]), grid.zero_point)


def lower_slice(ctx: LoweringContext, node: Node) -> None:
    """Slice in storage order."""
    op = node.op
    assert isinstance(op, Slice)
    x = ctx.graph[node.inputs[0]]
    form = ctx.form(x.name)
    source = ctx.get(x.name, form)
    begin, end, step = (tuple(_stored(form, v, fill)) for v, fill in ((op.begin, 0), (op.end, 1), (op.step, 1)))
    ctx.emit(node, lambda _: low.StridedSlice(begin, end, step), [source], form, moves=True)


def _stored(form: Form, values: tuple[int, ...], fill: int) -> list[int]:
    return [fill if axis is None else values[axis] for axis in form]


def lower_split(ctx: LoweringContext, node: Node) -> None:
    """Split in storage order."""
    op = node.op
    assert isinstance(op, Split)
    x = ctx.graph[node.inputs[0]]
    form = _form_with(ctx, node.inputs, [op.axis], x.rank)
    source = ctx.get(x.name, form)
    targets = [ctx.define(name, form) for name in node.outputs]
    ctx.add(node.name, low.Split(form.index(op.axis), op.sizes), [source], targets, node.name)


def lower_pad(ctx: LoweringContext, node: Node) -> None:
    """Pad with real 0 (the zero point) or with the code of a constant."""
    op = node.op
    assert isinstance(op, Pad)
    x = ctx.graph[node.inputs[0]]
    padded = [axis for axis, pad in enumerate(op.pads) if sum(pad)]
    form = _form_with(ctx, node.inputs, padded, x.rank)
    source = ctx.get(x.name, form)
    pads = tuple((0, 0) if axis is None else op.pads[axis] for axis in form)
    grid = int8_grid(ctx.spec(x.name))
    value = None
    if op.value != 0.0:
        value = int(np.clip(np.rint(op.value / float(grid.scale)) + grid.zero_point, grid.low, grid.high))
        ctx.note(node.name, f"pads with code {value} for {op.value}", Level.INFO)
    ctx.emit(node, lambda _: low.Pad(pads, value), [source], form, moves=True)
