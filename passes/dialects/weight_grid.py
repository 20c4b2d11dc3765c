"""The grid of a weight whose integers are already known: rounded by its own chain, and mapped back by another."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from kwsq.ir.quant import Affine, Codebook, Granularity, IntArray, IntRange
from kwsq.passes.decode import Array
from kwsq.passes.dialects.bipolar import LEVELS
from kwsq.passes.dialects.canonical import DialectContext
from kwsq.passes.dialects.chain import ChainState, Float64

_HALF_TOLERANCE = 1e-4
_LARGEST_CODE = 2**15


def weight_grid(
    context: DialectContext, node: gs.Node, integers: Array, tail: ChainState, declared: IntRange | None, dialect: str
) -> None:
    """Replaces the end of a weight's chain by its codes.

    Args:
        context: the graph.
        node: operator whose output `integers` is, for messages.
        integers: whole numbers in any numeric type.
        tail: the chain after it, real = gain * integer + offset.
        declared: range the chain clamps to; None where it clamps nothing, so that the codes show only a lower bound.
        dialect: name for the report.

    Raises:
        Refused: the numbers are not small integers, or no integer or half-integer zero point exists.
    """
    end = context.editor.producer(tail.tensor)
    codes = _whole_codes(context, node, integers, tail)
    scale, granularity = context.along_one_axis(node, _scale(context, node, tail.gain), codes.shape)
    doubled = np.rint(-2 * tail.offset / tail.gain)
    error = np.max(np.abs(-2 * tail.offset / tail.gain - doubled))
    if float(error) > _HALF_TOLERANCE * max(1.0, float(np.max(np.abs(doubled)))):
        found = "a weight whose zero lies between two codes"
        remedy = "use an integer zero point, or a symmetric grid"
        raise context.refuse(node, found, "an integer or half-integer zero point", remedy)
    if np.any(doubled % 2):
        _emit_levels(context, end, codes, doubled, scale, granularity, declared, dialect)
        return
    zero_points = context.zero_points(node, (doubled / 2).reshape(-1), scale.size)
    if not zero_points.any() and set(np.unique(codes).tolist()) == {-1, 1} and declared is None:
        context.codes(end, tail.tensor, codes, Codebook(LEVELS, scale, 1, granularity), dialect)
        return
    span = declared or _span(codes)
    spec = Affine(scale, zero_points, span, granularity, declared is not None)
    context.codes(end, tail.tensor, codes, spec, dialect)


def _scale(context: DialectContext, node: gs.Node, gain: Float64) -> Array:
    return context.scale(node, np.asarray(gain, np.float32))


def _whole_codes(context: DialectContext, node: gs.Node, integers: Array, tail: ChainState) -> IntArray:
    values = np.asarray(integers, np.float64)
    low, high = np.broadcast_to(tail.low, ()), np.broadcast_to(tail.high, ())
    values = np.clip(values, low, high)
    if not np.array_equal(values, np.rint(values)) or np.max(np.abs(values), initial=0) > _LARGEST_CODE:
        remedy = "quantize weights to 8 bits or fewer"
        raise context.refuse(node, "rounded weights that are not small integers", "integer codes", remedy)
    small = np.max(np.abs(values), initial=0) <= 127
    return values.astype(np.int8 if small else np.int16)


def _span(codes: IntArray) -> IntRange:
    """The narrowest usual range that holds the codes: unsigned, else symmetric."""
    low, high = int(codes.min(initial=0)), int(codes.max(initial=0))
    if low >= 0:
        return IntRange.of(max(high, 1).bit_length(), signed=False)
    bound = max(-low, high)
    bits = max(bound.bit_length() + 1, 2)
    return IntRange.of(bits, narrow=low >= -(2 ** (bits - 1)) + 1)


def _emit_levels(
    context: DialectContext,
    end: gs.Node,
    codes: IntArray,
    doubled: Float64,
    scale: Array,
    granularity: Granularity,
    declared: IntRange | None,
    dialect: str,
) -> None:
    """Codes around a half-integer zero are odd levels at half the scale: 0..15 becomes -15, -13 .. 15."""
    if np.ptp(doubled) > 0:
        found = "a weight with half-integer zero points that differ between channels"
        raise context.refuse(end, found, "one zero point", "use a symmetric grid")
    span = declared or _span(codes)
    zero = int(doubled.reshape(-1)[0])
    levels = 2 * np.arange(span.low, span.high + 1) - zero
    values = 2 * codes.astype(np.int32) - zero
    if np.max(np.abs(levels)) > 127:
        found = f"{levels.size} levels of {levels.min()} to {levels.max()}"
        raise context.refuse(end, found, "levels of -127 to 127", "quantize these weights to 7 bits or fewer")
    spec = Codebook(levels, np.asarray(scale / 2, np.float32), span.bits, granularity, declared is not None)
    context.codes(end, end.outputs[0], values.astype(np.int8), spec, dialect)
