"""Pooling and reductions."""

from __future__ import annotations

from collections.abc import Callable

import onnx_graphsurgeon as gs

from kwsq.ir.graph import Op
from kwsq.ir.ops import AveragePool, MaxPool, Mean, ReduceMax, Slice
from kwsq.passes.importers.context import ImportContext, Importer, UnsupportedNodeError, positive_axis
from kwsq.passes.importers.linear import Pads, spatial_pads

Window = tuple[tuple[int, ...], tuple[int, ...], Pads]


def _window(ctx: ImportContext, node: gs.Node) -> Window:
    """Returns kernel, strides and pads, with ceil_mode expressed as extra padding."""
    x = ctx.shape(node)
    kernel = tuple(int(k) for k in node.attrs["kernel_shape"])
    rank = len(kernel)
    if rank not in (1, 2) or len(x) != rank + 2:
        raise UnsupportedNodeError(f"a {rank}-D window on an input of rank {len(x)}", "a 1-D or 2-D pooling")
    strides = tuple(int(s) for s in node.attrs.get("strides", [1] * rank))
    dilations = [int(d) for d in node.attrs.get("dilations", [1] * rank)]
    if dilations != [1] * rank:
        raise UnsupportedNodeError(f"dilations {dilations}", "no dilation")
    pads = spatial_pads(node, x[2:], kernel, strides, (1,) * rank)
    if node.attrs.get("ceil_mode", 0):
        pads = _with_partial_windows(node, x[2:], kernel, strides, pads)
    return kernel, strides, pads


def _with_partial_windows(
    node: gs.Node, size: tuple[int, ...], kernel: tuple[int, ...], strides: tuple[int, ...], pads: Pads
) -> Pads:
    """Returns pads that end where the last window of ceil_mode does; a window must start inside the input.

    Source: ONNX operator specification, MaxPool; onnxruntime agrees.
    """
    extended = []
    for n, k, s, (before, after) in zip(size, kernel, strides, pads, strict=True):
        windows = -(-(n + before + after - k) // s) + 1
        windows -= (windows - 1) * s >= n + before
        extended.append((before, max(after, (windows - 1) * s + k - n - before)))
    if tuple(extended) != pads and node.attrs.get("count_include_pad", 0) and any(sum(pad) for pad in pads):
        raise UnsupportedNodeError(
            "ceil_mode = 1 with a partial last window, explicit pads and count_include_pad = 1",
            "one of them at most",
            "pad the input with a Pad node, or set count_include_pad = 0",
        )
    return tuple(extended)


def import_average_pool(ctx: ImportContext, node: gs.Node) -> None:
    """AveragePool; over the whole input it is a Mean."""
    kernel, strides, pads = _window(ctx, node)
    x = ctx.shape(node)
    if kernel == x[2:] and not any(sum(pad) for pad in pads):
        ctx.add(node, Mean(tuple(range(2, len(x))), keepdims=True), ctx.inputs(node))
        return
    if _is_single_window(x[2:], kernel, strides, pads):
        # One window that leaves a border out: a Mean of what it covers, which has a grid of its own.
        ends = (*x[:2], *kernel)
        covered = ctx.add(node, Slice((0,) * len(x), ends, (1,) * len(x)), ctx.inputs(node), last=False, part="window")
        ctx.add(node, Mean(tuple(range(2, len(x))), keepdims=True), [covered])
        return
    # What ceil_mode adds beyond the input is never counted.
    explicit = pads == spatial_pads(node, x[2:], kernel, strides, (1,) * len(kernel))
    counts_padding = explicit and bool(node.attrs.get("count_include_pad", 0))
    ctx.add(node, AveragePool(kernel, strides, pads, counts_padding), ctx.inputs(node))


def _is_single_window(size: tuple[int, ...], kernel: tuple[int, ...], strides: tuple[int, ...], pads: Pads) -> bool:
    return all((n - k) // s == 0 and not sum(p) for n, k, s, p in zip(size, kernel, strides, pads, strict=True))


def import_max_pool(ctx: ImportContext, node: gs.Node) -> None:
    """MaxPool without indices."""
    if ctx.reads_beyond_first(node):
        raise UnsupportedNodeError("the indices output", "the data output only")
    kernel, strides, pads = _window(ctx, node)
    ctx.add(node, MaxPool(kernel, strides, pads), ctx.inputs(node))


def global_pool(make: Callable[[tuple[int, ...], bool], Op]) -> Importer:
    """Returns an importer that reduces all spatial dimensions."""

    def importer(ctx: ImportContext, node: gs.Node) -> None:
        ctx.add(node, make(tuple(range(2, len(ctx.shape(node)))), True), ctx.inputs(node))

    return importer


def reduction(make: Callable[[tuple[int, ...], bool], Op]) -> Importer:
    """Returns an importer for ReduceMean and kin; axes as attribute or input, all when absent."""

    def importer(ctx: ImportContext, node: gs.Node) -> None:
        rank = len(ctx.shape(node))
        given = node.attrs.get("axes")
        if given is None:
            constant = ctx.constant(node, 1)
            given = [] if constant is None else constant.reshape(-1).tolist()
        if not given and node.attrs.get("noop_with_empty_axes", 0):
            ctx.alias(node, ctx.name(node.inputs[0]))
            return
        axes = tuple(sorted({positive_axis(int(axis), rank) for axis in given})) or tuple(range(rank))
        ctx.add(node, make(axes, bool(node.attrs.get("keepdims", 1))), ctx.inputs(node)[:1])

    return importer


import_global_average_pool = global_pool(Mean)
import_global_max_pool = global_pool(ReduceMax)
