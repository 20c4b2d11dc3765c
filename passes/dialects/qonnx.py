"""QONNX: Quant / IntQuant, BipolarQuant and Trunc, under all three domain names.

Semantics of Quant, which differ from QuantizeLinear's in order and in freedom:

    y = (round(clamp(x / scale + zero_point, q_min, q_max)) - zero_point) * scale

with the zero point added before the rounding, any rounding mode, and a scale that broadcasts against x (full rank with
ones) in place of a vector and an axis. A signed 1-bit Quant is bipolar with 0 -> +1. Weights are latent floats.

Source: QONNX operator documents IntQuant, BipolarQuant, Trunc, and the executor's treatment of 1-bit Quant.
"""

from __future__ import annotations

import math

import numpy as np
import onnx_graphsurgeon as gs

from kwsq.ir.quant import Affine, Granularity, IntRange, Rounding
from kwsq.passes.decode import Array
from kwsq.passes.dialects.bipolar import bipolar_weight
from kwsq.passes.dialects.canonical import FAKE_QUANT, DialectContext, Refused
from kwsq.passes.known_ops import QONNX_DOMAINS

DIALECT = "qonnx"

_ROUNDINGS = {
    "ROUND": Rounding.HALF_EVEN_OFFSET_FIRST,
    "HALF_EVEN": Rounding.HALF_EVEN_OFFSET_FIRST,
    "FLOOR": Rounding.FLOOR,
    "CEIL": Rounding.CEIL,
    "UP": Rounding.UP,
    "DOWN": Rounding.DOWN,
    "HALF_UP": Rounding.HALF_UP,
    "HALF_DOWN": Rounding.HALF_DOWN,
}
_HALVES_TO_ROUND = {Rounding.FLOOR: -1.0, Rounding.CEIL: 1.0, Rounding.HALF_EVEN_OFFSET_FIRST: 0.0}
"""What turns a truncation into a rounding to nearest, in halves of its step; without an offset both orders are one."""
_MAX_BITS = 32
_MAX_WALK = 16
_KEEPS_SIGN = frozenset({"AveragePool", "GlobalAveragePool", "ReduceMean", "ReduceSum", "Reshape", "Flatten", "Mul"})


def rewrite(context: DialectContext) -> None:
    """Replaces every QONNX quantizer."""
    readers = {"Quant": _quant, "IntQuant": _quant, "BipolarQuant": _bipolar, "Trunc": _trunc}
    for node in list(context.editor.nodes()):
        reader = readers.get(node.op) if (node.domain or "") in QONNX_DOMAINS else None
        if reader is None:
            continue
        try:
            reader(context, node)
        except Refused:
            continue


def _quant(context: DialectContext, node: gs.Node) -> None:
    signed, narrow = bool(node.attrs.get("signed", 1)), bool(node.attrs.get("narrow", 0))
    bits = _bits(context, node, 3)
    x = node.inputs[0]
    scale, granularity = _scale(context, node, 1, x)
    zero_point = _zero_point(context, node, 2, scale.size)
    if bits == 1 and signed:
        if np.any(zero_point):
            raise context.refuse(node, "a bipolar quantizer with a zero point", "zero point 0", "remove the offset")
        bipolar_weight(context, node, x, scale, granularity, DIALECT)
        return
    codes = IntRange.of(bits, signed=signed, narrow=narrow)
    spec = Affine(scale, zero_point, codes, granularity)
    rounding = _rounding(context, node, "ROUND")
    # Without an offset the two orders are one.
    if rounding is Rounding.HALF_EVEN_OFFSET_FIRST and not np.any(zero_point):
        rounding = Rounding.HALF_EVEN
    context.fake_quantize(node, node.outputs[0], x, spec, DIALECT, rounding)


def _bipolar(context: DialectContext, node: gs.Node) -> None:
    x = node.inputs[0]
    scale, granularity = _scale(context, node, 1, x)
    bipolar_weight(context, node, x, scale, granularity, DIALECT)


def _scale(context: DialectContext, node: gs.Node, index: int, x: gs.Tensor) -> tuple[Array, Granularity]:
    values = context.scale(node, context.required(node, index, "scale"))
    latent = context.value(x)
    return context.along_one_axis(node, values, None if latent is None else latent.shape)


def _bits(context: DialectContext, node: gs.Node, index: int) -> int:
    values = context.required(node, index, "bit width")
    if values.size != 1:
        remedy = "use one bit width per tensor"
        raise context.refuse(node, f"{values.size} bit widths", "one per tensor", remedy)
    bits = float(values.reshape(-1)[0])
    if not bits.is_integer() or not 1 <= bits <= _MAX_BITS:
        raise context.broken(node, f"bit width {bits}", f"an integer of 1 to {_MAX_BITS}")
    return int(bits)


def _zero_point(context: DialectContext, node: gs.Node, index: int, size: int) -> Array:
    values = context.required(node, index, "zero point").reshape(-1)
    rounded = np.rint(values)
    if not np.array_equal(values, rounded) or np.any(np.abs(rounded) >= 2.0**31):
        remedy = "use integer zero points; integer kernels hold no others"
        raise context.refuse(node, f"zero point {float(values[0])}", "an integer zero point", remedy)
    if values.size not in (1, size):
        raise context.broken(node, f"{values.size} zero points for {size} scales", "one, or one per scale")
    return np.broadcast_to(rounded.astype(np.int32), (size,))


def _rounding(context: DialectContext, node: gs.Node, default: str) -> Rounding:
    mode = str(node.attrs.get("rounding_mode", default)).upper()
    if mode not in _ROUNDINGS:
        expected = "one of " + ", ".join(_ROUNDINGS)
        raise context.refuse(node, f"rounding_mode {mode!r}", expected, "train with a supported rounding mode")
    return _ROUNDINGS[mode]


def _trunc(context: DialectContext, node: gs.Node) -> None:
    """Drops k low bits: y = f(round(x / s) / 2**k) * s_out, with f = floor unless stated.

    For f = floor and integer n = round(x / s), floor(n / 2**k) = round((n - (2**k - 1) / 2) / 2**k): the argument of
    the second rounding is never nearer than 2**-(k+1) to a tie, so both roundings become one on x - s (2**k - 1) / 2.
    Ceil mirrors it. Rounding to nearest needs no shift where x lies on the fine grid, as sums of codes do. Our
    derivation.
    """
    form = _TruncForm(context, node)
    sign = _HALVES_TO_ROUND.get(form.rounding)
    if form.shift == 0:
        sign = 0.0
    if sign is None:
        found = f"Trunc with rounding mode {form.rounding.value}"
        raise context.refuse(node, found, "FLOOR, CEIL or ROUND", "export the truncation with rounding_mode FLOOR")
    offset = np.float32(sign * form.scale * (2**form.shift - 1) / 2)
    x = context.shifted(node, node.inputs[0], offset)
    wide = form.scale * 2.0**form.shift
    if form.output_scale != wide:
        x = context.scaled(node, x, np.float32(form.output_scale / wide))
    spec = Affine.per_tensor(form.output_scale, 0, form.codes)
    context.fake_quantize(node, node.outputs[0], x, spec, DIALECT, Rounding.HALF_EVEN)


class _TruncForm:
    """The inputs of either version: 5 (no output scale), 6, or 7 (with an output zero point)."""

    def __init__(self, context: DialectContext, node: gs.Node) -> None:
        self.context, self.node = context, node
        self.scale = self._scalar(1)
        if np.any(context.required(node, 2, "zero point")):
            raise context.refuse(node, "Trunc with a zero point", "zero point 0", "quantize symmetrically")
        self.rounding = _rounding(context, node, "FLOOR")
        count = len(node.inputs)
        if count == 5:
            self._read_v1()
        elif count in (6, 7):
            self._read_v2(count)
        else:
            raise context.broken(node, f"{count} inputs", "5, 6 or 7")

    def _scalar(self, index: int) -> float:
        values = self.context.scale(self.node, self.context.required(self.node, index, "scale"))
        if values.size != 1:
            remedy = "quantize activations per tensor"
            raise self.context.refuse(self.node, f"Trunc with {values.size} scales", "one scale", remedy)
        return float(values.reshape(-1)[0])

    def _read_v1(self) -> None:
        bits_in, bits_out = _bits(self.context, self.node, 3), _bits(self.context, self.node, 4)
        if bits_out > bits_in:
            raise self.context.broken(self.node, f"{bits_in} input and {bits_out} output bits", "fewer output bits")
        self.shift = bits_in - bits_out
        self.output_scale = self.scale
        self.codes = IntRange.of(bits_out, signed=not _is_non_negative(self.context, self.node.inputs[0]))

    def _read_v2(self, count: int) -> None:
        self.output_scale = self._scalar(4)
        if count == 7 and np.any(self.context.required(self.node, 5, "output zero point")):
            raise self.context.refuse(self.node, "Trunc with a zero point", "zero point 0", "quantize symmetrically")
        bits = _bits(self.context, self.node, count - 1)
        self.shift = int(np.round(math.log2(self.output_scale / self.scale)))
        if self.shift < 0:
            raise self.context.broken(self.node, "an output scale below the input scale", "2**k times the input scale")
        signed, narrow = bool(self.node.attrs.get("signed", 1)), bool(self.node.attrs.get("narrow", 0))
        self.codes = IntRange.of(bits, signed=signed, narrow=narrow)


def _is_non_negative(context: DialectContext, tensor: gs.Tensor) -> bool:
    """Whether a value is a pool or gain of unsigned codes; version 1 of Trunc does not say itself."""
    for _ in range(_MAX_WALK):
        node = context.editor.producer(tensor)
        if node is None:
            return False
        if node.op == FAKE_QUANT:
            spec: Affine = node.attrs["spec"]
            return spec.range.low >= int(spec.zero_point.max())
        if node.op not in _KEEPS_SIGN or (node.op == "Mul" and not _has_positive_factor(context, node)):
            return bool(node.op == "Relu")
        tensor = next((item for item in node.inputs if context.value(item) is None), node.inputs[0])
    return False


def _has_positive_factor(context: DialectContext, node: gs.Node) -> bool:
    factors = (context.value(item) for item in node.inputs)
    return any(value is not None and bool(np.all(value >= 0)) for value in factors)
