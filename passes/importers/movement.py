"""Operators that move values; on constants they move the codes at import."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from kwsq.ir.ops import Concat, Pad, Reshape, Slice, Split, Transpose
from kwsq.passes.importers.context import ImportContext, UnsupportedNodeError, positive_axis


def _reshape_to(ctx: ImportContext, node: gs.Node, shape: tuple[int, ...]) -> None:
    tensor = ctx.tensor(node.inputs[0])
    if int(np.prod(shape, dtype=np.int64)) != int(np.prod(tensor.shape, dtype=np.int64)):
        raise UnsupportedNodeError(f"a reshape of {list(tensor.shape)} to {list(shape)}", "equal element counts")
    if not tensor.is_constant:
        ctx.add(node, Reshape(shape), [tensor.name])
        return
    assert tensor.data is not None

    def axis(old: int) -> int | None:
        """The channel axis survives when the same extent starts at the same element count."""
        before = int(np.prod(tensor.shape[:old], dtype=np.int64))
        matches = [i for i in range(len(shape)) if int(np.prod(shape[:i], dtype=np.int64)) == before]
        return next((i for i in matches if shape[i] == tensor.shape[old]), None)

    if not ctx.move_constant(tensor.name, node.outputs[0].name, tensor.data.reshape(shape), axis):
        raise UnsupportedNodeError(
            "a reshape across the channel axis of a weight's scales", "scales per output channel"
        )


def import_reshape(ctx: ImportContext, node: gs.Node) -> None:
    """Reshape with a constant shape; 0 copies a dimension, -1 is inferred."""
    target = ctx.constant(node, 1) if len(node.inputs) > 1 else np.asarray(node.attrs.get("shape", []))
    assert target is not None
    x = ctx.shape(node)
    shape = [int(v) for v in target.reshape(-1)]
    if not node.attrs.get("allowzero", 0):
        shape = [x[i] if v == 0 and i < len(x) else v for i, v in enumerate(shape)]
    if shape.count(-1) > 1 or min(shape, default=1) < -1:
        raise UnsupportedNodeError(f"target shape {shape}", "at most one -1")
    if -1 in shape:
        known = int(np.prod([v for v in shape if v != -1], dtype=np.int64))
        shape[shape.index(-1)] = int(np.prod(x, dtype=np.int64)) // max(known, 1)
    _reshape_to(ctx, node, tuple(shape))


def import_flatten(ctx: ImportContext, node: gs.Node) -> None:
    """Flatten to a matrix."""
    x = ctx.shape(node)
    axis = int(node.attrs.get("axis", 1))
    axis += len(x) if axis < 0 else 0
    _reshape_to(ctx, node, (int(np.prod(x[:axis])), int(np.prod(x[axis:]))))


def _axes(ctx: ImportContext, node: gs.Node) -> list[int] | None:
    if "axes" in node.attrs:
        return [int(axis) for axis in node.attrs["axes"]]
    constant = ctx.constant(node, 1)
    return None if constant is None else [int(axis) for axis in constant.reshape(-1)]


def import_squeeze(ctx: ImportContext, node: gs.Node) -> None:
    """Squeeze."""
    x, axes = ctx.shape(node), _axes(ctx, node)
    drop = (
        {positive_axis(axis, len(x)) for axis in axes} if axes is not None else {i for i, n in enumerate(x) if n == 1}
    )
    if any(x[i] != 1 for i in drop):
        raise UnsupportedNodeError(f"a squeeze of axes {sorted(drop)} of {list(x)}", "dimensions of size 1")
    _reshape_to(ctx, node, tuple(n for i, n in enumerate(x) if i not in drop))


def import_unsqueeze(ctx: ImportContext, node: gs.Node) -> None:
    """Unsqueeze."""
    x, axes = list(ctx.shape(node)), _axes(ctx, node)
    if axes is None:
        raise UnsupportedNodeError("no axes", "constant axes")
    rank = len(x) + len(axes)
    for axis in sorted(positive_axis(axis, rank) for axis in axes):
        x.insert(axis, 1)
    _reshape_to(ctx, node, tuple(x))


def import_transpose(ctx: ImportContext, node: gs.Node) -> None:
    """Transpose."""
    tensor = ctx.tensor(node.inputs[0])
    perm = tuple(int(i) for i in node.attrs.get("perm", range(tensor.rank)[::-1]))
    if sorted(perm) != list(range(tensor.rank)):
        raise UnsupportedNodeError(f"perm {list(perm)}", f"a permutation of {tensor.rank} dimensions")
    if not tensor.is_constant:
        ctx.add(node, Transpose(perm), [tensor.name])
        return
    assert tensor.data is not None
    moved = np.ascontiguousarray(tensor.data.transpose(perm))
    ctx.move_constant(tensor.name, node.outputs[0].name, moved, lambda axis: perm.index(axis))


def import_concat(ctx: ImportContext, node: gs.Node) -> None:
    """Concat."""
    shapes = [ctx.shape(node, i) for i in range(len(node.inputs))]
    names = ctx.inputs(node)
    if len(names) == 1:
        ctx.alias(node, names[0])
        return
    ctx.add(node, Concat(positive_axis(int(node.attrs["axis"]), len(shapes[0]))), names)


def import_slice(ctx: ImportContext, node: gs.Node) -> None:
    """Slice with constant bounds and positive steps."""
    x = ctx.shape(node)
    if "starts" in node.attrs:
        starts, ends = list(node.attrs["starts"]), list(node.attrs["ends"])
        axes = list(node.attrs.get("axes", range(len(starts))))
        steps = [1] * len(starts)
    else:
        values = [ctx.constant(node, i) for i in range(1, 5)]
        assert values[0] is not None
        assert values[1] is not None
        starts, ends = values[0].reshape(-1).tolist(), values[1].reshape(-1).tolist()
        axes = list(range(len(starts))) if values[2] is None else values[2].reshape(-1).tolist()
        steps = [1] * len(starts) if values[3] is None else values[3].reshape(-1).tolist()
    begin, end, step = [0] * len(x), list(x), [1] * len(x)
    for first, last, axis, stride in zip(starts, ends, axes, steps, strict=True):
        i = positive_axis(int(axis), len(x))
        if int(stride) < 1:
            raise UnsupportedNodeError(f"step {stride}", "a positive step")
        begin[i], end[i], step[i] = (*slice(int(first), int(last)).indices(x[i])[:2], int(stride))
        if end[i] <= begin[i]:
            raise UnsupportedNodeError(f"an empty slice of axis {i}", "at least one element")
    ctx.add(node, Slice(tuple(begin), tuple(end), tuple(step)), ctx.inputs(node)[:1])


def import_gather(ctx: ImportContext, node: gs.Node) -> None:
    """Gather of constant places as slices: one place drops the dimension, evenly spaced ones are a single slice."""
    x, indices = ctx.shape(node), ctx.constant(node, 1)
    axis = positive_axis(int(node.attrs.get("axis", 0)), len(x))
    assert indices is not None
    if indices.dtype.kind not in "iu" or indices.ndim > 1 or not indices.size:
        raise UnsupportedNodeError(f"indices of shape {list(indices.shape)}", "one index or a list of them")
    places = [int(place) for place in indices.reshape(-1)]
    if min(places) < -x[axis] or max(places) >= x[axis]:
        raise UnsupportedNodeError(f"indices {places} of {x[axis]}", "indices inside the dimension")
    places = [place % x[axis] for place in places]
    runs = _even_runs(places)
    is_single = indices.ndim == 1 and len(runs) == 1
    parts = [ctx.add(node, _slice_of(x, axis, run), ctx.inputs(node)[:1], last=is_single, part="place") for run in runs]
    if indices.ndim == 0:
        ctx.add(node, Reshape((*x[:axis], *x[axis + 1 :])), parts)
    elif not is_single:
        ctx.add(node, Concat(axis), parts)


def _even_runs(places: list[int]) -> list[range]:
    """Returns the places as few ascending, evenly spaced runs.

    >>> _even_runs([0, 2, 4, 3, 1])
    [range(0, 5, 2), range(3, 4), range(1, 2)]
    """
    runs: list[range] = []
    for place in places:
        last = runs[-1] if runs else None
        step = place - last[-1] if last is not None else 0
        if last is not None and step > 0 and (len(last) == 1 or step == last.step):
            runs[-1] = range(last.start, place + 1, step)
        else:
            runs.append(range(place, place + 1))
    return runs


def _slice_of(x: tuple[int, ...], axis: int, run: range) -> Slice:
    begin, end, step = [0] * len(x), list(x), [1] * len(x)
    begin[axis], end[axis], step[axis] = run.start, run.stop, run.step
    return Slice(tuple(begin), tuple(end), tuple(step))


def import_split(ctx: ImportContext, node: gs.Node) -> None:
    """Split into equal or stated parts."""
    x = ctx.shape(node)
    axis = positive_axis(int(node.attrs.get("axis", 0)), len(x))
    given = node.attrs.get("split")
    if given is None:
        constant = ctx.constant(node, 1)
        given = None if constant is None else constant.reshape(-1).tolist()
    if given is None:
        parts = len(node.outputs)
        size = -(-x[axis] // parts)
        given = [size] * (parts - 1) + [x[axis] - size * (parts - 1)]
    if sum(given) != x[axis] or min(given) < 1:
        raise UnsupportedNodeError(f"parts {given} of {x[axis]}", "parts that add up")
    ctx.add(node, Split(axis, tuple(int(size) for size in given)), ctx.inputs(node)[:1])


def import_pad(ctx: ImportContext, node: gs.Node) -> None:
    """Pad with a constant."""
    x = ctx.shape(node)
    mode = node.attrs.get("mode", "constant")
    if mode != "constant":
        raise UnsupportedNodeError(f"mode {mode!r}", "mode 'constant'")
    if "pads" in node.attrs:
        pads, value = list(node.attrs["pads"]), float(node.attrs.get("value", 0.0))
    else:
        amounts, fill = ctx.constant(node, 1), ctx.constant(node, 2)
        assert amounts is not None
        pads, value = [int(p) for p in amounts.reshape(-1)], 0.0 if fill is None else float(fill.reshape(()))
    axes_input = ctx.constant(node, 3)
    axes = (
        list(range(len(x))) if axes_input is None else [positive_axis(int(a), len(x)) for a in axes_input.reshape(-1)]
    )
    if min(pads, default=0) < 0 or len(pads) != 2 * len(axes):
        raise UnsupportedNodeError(f"pads {pads}", "non-negative pads")
    full = [(0, 0)] * len(x)
    for i, axis in enumerate(axes):
        full[axis] = (int(pads[i]), int(pads[i + len(axes)]))
    ctx.add(node, Pad(tuple(full), value), ctx.inputs(node)[:1])
