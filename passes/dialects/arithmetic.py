"""Quantizers written out in arithmetic: LSQ, PACT, DoReFa and their many spellings.

    x -> Div(s) -> [Add(z)] -> Clip(q_min, q_max) -> Round -> [Sub(z)] -> Mul(s)

with Round before Clip, Mul by 1/s, clamps as Min and Max or on x itself, Floor(u + 0.5) for Round, scales computed in
the graph. All spellings are one: an affine map, a rounding, an affine map back, and clamps, which commute with both
(rounding is monotone, so clamping before it equals clamping after it at the rounded bounds). A quantizer is recognised
when the second map inverts the first, which makes the rewrite exact.

Weights are constants, so their codes are computed by the chain itself and only the map back has to be understood.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_graphsurgeon as gs

from kwsq.ir.quant import Affine, IntRange, Rounding
from kwsq.passes.dialects.canonical import DialectContext, Refused
from kwsq.passes.dialects.chain import ChainState, downstream, upstream
from kwsq.passes.dialects.weight_grid import weight_grid

DIALECT = "arithmetic"

_GAIN_TOLERANCE = 4e-7
"""The maps are inverse when gain * gain' = 1 up to the float32 roundings of s, 1/s and one product: 3 * 2**-23."""
_OFFSET_TOLERANCE = 1e-4
"""A zero point computed as z * s / s in float32 is off its integer by at most 2**-23 * 2**8 roundings' worth."""


def rewrite(context: DialectContext) -> None:
    """Replaces every recognised chain around Round or Floor."""
    readers = context.live_consumers()
    weights_last: list[gs.Node] = []
    for node in list(context.editor.nodes()):
        if node.domain or node.op not in ("Round", "Floor"):
            continue
        try:
            if context.value(node.inputs[0]) is None:
                _rewrite_activation(context, node, readers)
            else:
                weights_last.append(node)
        except Refused:
            continue
    # The chains of scales end in what was just replaced: a second look at what is alive leaves weights only.
    alive = {id(node) for node in context.editor.nodes()}
    for node in sorted((n for n in weights_last if id(n) in alive), key=lambda n: -_rank(context, n)):
        _try_weight(context, node, readers)


def _rank(context: DialectContext, node: gs.Node) -> int:
    value = context.value(node.outputs[0])
    return 0 if value is None else value.ndim


def _try_weight(context: DialectContext, node: gs.Node, readers: Mapping[int, Sequence[gs.Node]]) -> None:
    try:
        _rewrite_weight(context, node, readers)
    except Refused:
        return


def _rewrite_activation(context: DialectContext, node: gs.Node, readers: Mapping[int, Sequence[gs.Node]]) -> None:
    before, after = upstream(context, node.inputs[0]), downstream(context, node.outputs[0], readers)
    rounding, shift = (Rounding.HALF_EVEN, 0.0) if node.op == "Round" else (Rounding.HALF_UP, 0.5)
    match = _inverse_pair(before, after, shift)
    if match is None:
        return
    head, tail = match
    spec = _activation_grid(context, node, head, tail, rounding)
    if rounding is not Rounding.HALF_UP and _adds_offset_first(head, spec):
        rounding = Rounding.HALF_EVEN_OFFSET_FIRST
    end = context.editor.producer(tail.tensor)
    context.fake_quantize(end, tail.tensor, head.tensor, spec, DIALECT, rounding)


def _inverse_pair(
    before: list[ChainState], after: list[ChainState], shift: float
) -> tuple[ChainState, ChainState] | None:
    """The stretch whose second map inverts the first and whose codes are bounded.

    Clip and Round alone are a quantizer of scale 1, so the most scaling on both sides wins; of equals the one with
    the fewest operators, because what follows may scale back again: another quantizer of the same scale.
    """
    pairs = [(head, tail) for tail in after for head in before]
    for head, tail in sorted(pairs, key=_preference):
        if _is_inverse(head, tail, shift) and np.all(np.isfinite([*_code_bounds(head, tail, shift)])):
            return head, tail
    return None


def _preference(pair: tuple[ChainState, ChainState]) -> tuple[int, int, int, int]:
    head, tail = pair
    return -min(head.maps, tail.maps), head.maps + tail.maps, tail.length, head.length


def _is_inverse(head: ChainState, tail: ChainState, shift: float) -> bool:
    gain = np.abs(head.gain * tail.gain - 1)
    zero = -tail.offset / tail.gain
    offset = np.abs(head.offset - shift - zero)
    return float(np.max(gain)) <= _GAIN_TOLERANCE and float(np.max(offset)) <= _OFFSET_TOLERANCE * max(
        1.0, float(np.max(np.abs(zero)))
    )


def _code_bounds(head: ChainState, tail: ChainState, shift: float) -> tuple[float, float]:
    """Tightest bounds of the rounded value over all channels; not finite where a side is open."""
    low = np.maximum(np.rint(head.low - shift), np.rint(tail.low)).reshape(-1)
    high = np.minimum(np.rint(head.high - shift), np.rint(tail.high)).reshape(-1)
    if np.any(low != low[0]) or np.any(high != high[0]):
        return -np.inf, np.inf
    return float(low[0]), float(high[0])


def _activation_grid(
    context: DialectContext, node: gs.Node, head: ChainState, tail: ChainState, rounding: Rounding
) -> Affine:
    shift = 0.5 if rounding is Rounding.HALF_UP else 0.0
    low, high = _code_bounds(head, tail, shift)
    zero = -tail.offset / tail.gain
    integer = np.rint(zero)
    if float(np.max(np.abs(zero - integer))) > _OFFSET_TOLERANCE * max(1.0, float(np.max(np.abs(zero)))):
        found = f"a quantizer with zero point {float(zero.reshape(-1)[0]):.6g}"
        remedy = "use an integer zero point; integer kernels hold no others"
        raise context.refuse(node, found, "an integer zero point", remedy)
    if low > high:
        raise context.broken(node, f"a clamp to [{low:g}, {high:g}]", "a non-empty range of codes")
    scale = context.scale(node, np.asarray(tail.gain, np.float32))
    vector, granularity = context.along_one_axis(node, scale, None)
    base = int(tail.base)
    codes = IntRange(int(low) + base, int(high) + base)
    if rounding is Rounding.HALF_UP:
        # The same grid with codes from 0: floor(u + 1/2) rounds ties up, half-away-from-zero for u >= 0 only.
        base, codes = base - codes.low, codes.shifted(-codes.low)
    elif _fits_shifted(codes) and not np.any(head.offset):
        # 256 codes about a zero point that is written into the clamp: the shift comes behind the rounding.
        base, codes = base - codes.low, codes.shifted(-codes.low)
    zeros = context.zero_points(node, integer.reshape(-1) + base, vector.size)
    return Affine(vector, zeros, codes, granularity)


def _fits_shifted(codes: IntRange) -> bool:
    """Whether codes are 8 bits wide, but for where they begin."""
    fits = any(low <= codes.low and codes.high <= low + 255 for low in (-128, 0))
    return not fits and codes.high - codes.low <= 255


def _adds_offset_first(head: ChainState, spec: Affine) -> bool:
    return bool(np.any(spec.zero_point)) and bool(np.any(head.offset != 0))


def _rewrite_weight(context: DialectContext, node: gs.Node, readers: Mapping[int, Sequence[gs.Node]]) -> None:
    rounded = context.value(node.outputs[0])
    if rounded is None:
        return
    before, after = upstream(context, node.inputs[0]), downstream(context, node.outputs[0], readers)
    shift = 0.5 if node.op == "Floor" else 0.0
    match = _inverse_pair(before, after, shift)
    if match is None or match[1].maps == 0:
        # The exporter folded the way there (w / s is stored): the way back alone tells the grid, the clamps its range.
        match = before[-1], min(after, key=lambda state: (-state.maps, state.length))
    head, tail = match
    bounds = _code_bounds(head, tail, shift)
    declared = IntRange(*(int(bound) for bound in bounds)) if np.all(np.isfinite(bounds)) else None
    if tail.length == 0 and declared is None:
        return
    weight_grid(context, node, rounded, tail, declared, DIALECT)
