"""What may stand between Q and DQ: clamps, which narrow the range of codes, and operators that only move codes."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from kwsq.ir.quant import IntRange
from kwsq.passes.dialects.canonical import DialectContext

MAX_DEPTH = 64
"""Integer operators between Q and DQ; exporters write one or two."""

LIMITERS = frozenset({"Clip", "Max", "Min"})

MOVEMENT_OPS = frozenset(
    "Reshape Transpose Flatten Squeeze Unsqueeze Identity Slice Concat MaxPool GlobalMaxPool Gather Expand".split()
)
"""Operators that commute with a grid, which is monotone: they select or reorder codes and compute nothing."""

_EVERYTHING = IntRange(-(2**31), 2**31 - 1)


def moves_codes(node: gs.Node) -> bool:
    """Returns whether a node only selects or reorders."""
    return node.op in MOVEMENT_OPS and not node.domain and len(node.outputs) == 1


def data_inputs(node: gs.Node) -> int:
    """Returns how many leading inputs of a moving node carry codes."""
    return len(node.inputs) if node.op == "Concat" else 1


def through_limiters(
    context: DialectContext, tensor: gs.Tensor, limits: IntRange | None = None
) -> tuple[gs.Tensor, gs.Node | None, IntRange | None]:
    """Walks up through clamps of codes.

    Args:
        context: the graph.
        tensor: codes.
        limits: range of clamps further down, None when there is none.

    Returns:
        The tensor above them, its producer, and the range that is left (None when there is no clamp at all).
    """
    source = context.editor.producer(tensor)
    for _ in range(MAX_DEPTH):
        if source is None or source.op not in LIMITERS or source.domain:
            break
        tensor, limits = limited(context, source, limits or _EVERYTHING)
        source = context.editor.producer(tensor)
    return tensor, source, limits


def limits_above(context: DialectContext, tensor: gs.Tensor, limits: IntRange) -> IntRange:
    """Returns the range that clamps anywhere above a constant tensor of codes leave, and then `limits`."""
    for _ in range(MAX_DEPTH):
        node = context.editor.producer(tensor)
        if node is None or node.domain:
            break
        if node.op in LIMITERS:
            tensor, limits = limited(context, node, limits)
        elif moves_codes(node) and node.op != "Concat":
            tensor = node.inputs[0]
        else:
            break
    return limits


def limited(context: DialectContext, node: gs.Node, limits: IntRange) -> tuple[gs.Tensor, IntRange]:
    """Returns the data input of a Clip, Min or Max on codes, and the range it leaves of `limits`."""
    if node.op == "Clip":
        data, bounds = node.inputs[0], (_bound(context, node, 1), _bound(context, node, 2))
    else:
        at = next((i for i, item in enumerate(node.inputs) if _is_scalar(context, item)), None)
        if at is None or len(node.inputs) != 2:
            found = f"{node.op} of codes with something that is not a constant scalar"
            raise context.refuse(node, found, "a constant bound", "clamp codes with Clip")
        data, bound = node.inputs[1 - at], _bound(context, node, at)
        bounds = (bound, None) if node.op == "Max" else (None, bound)
    low = _EVERYTHING.low if bounds[0] is None else bounds[0]
    high = _EVERYTHING.high if bounds[1] is None else bounds[1]
    if low > high:
        raise context.broken(node, f"a clamp to [{low}, {high}]", "a non-empty range of codes")
    return data, clamped(IntRange(low, high), limits)


def clamped(codes: IntRange, limits: IntRange | None) -> IntRange:
    """Returns the range of `codes` after a later clamp to `limits`; disjoint ranges leave one code.

    >>> clamped(IntRange(-128, 127), IntRange(-7, 7)), clamped(IntRange(0, 3), IntRange(5, 9))
    (IntRange(low=-7, high=7), IntRange(low=5, high=5))
    """
    if limits is None:
        return codes
    low, high = (min(max(code, limits.low), limits.high) for code in (codes.low, codes.high))
    return IntRange(low, high)


def _is_scalar(context: DialectContext, tensor: gs.Tensor) -> bool:
    value = context.value(tensor)
    return value is not None and value.size == 1


def _bound(context: DialectContext, node: gs.Node, index: int) -> int | None:
    if index >= len(node.inputs) or not node.inputs[index].name:
        return None
    value = context.required(node, index, "clip bound")
    if value.size != 1:
        raise context.broken(node, f"a clip bound of shape {list(value.shape)}", "a scalar")
    return int(value.reshape(())[()])
