"""Memory lines as FINN writes them: hexadecimal text, one folded word per line.

A bipolar weight is the bit (w + 1) / 2, so a set bit means +1; wider weights are two's complement. Without `reverse`
the first element is the most significant field of a line, with it the least significant. Lines are filled up with
zeros at the top to a multiple of `pad_to_bits`.

Source: finn-base ``util/data_packing.py`` (array2hexstring), its published behaviour.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from kwsq.ir.quant import IntArray, IntRange

CONVENTIONS: Mapping[str, object] = {
    "bit1_means": 1,
    "bit_order": "first element most significant unless reversed",
    "pack_axis": "input",
    "group": "pe x simd",
    "pad_value": 0,
    "word_bytes": "pad_to_bits / 8",
}


def pack_finn(
    codes: IntArray, bits: int, *, pe: int = 1, simd: int | None = None, reverse: bool = True, pad_to_bits: int = 4
) -> tuple[str, ...]:
    """Returns the lines of a weight memory.

    Args:
        codes: (O, H, W, I) or (O, I) codes: -1 and +1 for one bit, else two's complement of `bits`.
        bits: width of a weight.
        pe: output channels in a line; they divide O.
        simd: inputs of each in a line, None for all; they divide H * W * I.
        reverse: whether the first element is the least significant.
        pad_to_bits: lines are a multiple of this wide, at least 4.

    Returns:
        One line for each `pe` channels and `simd` inputs, inputs running faster.

    Raises:
        ValueError: the codes do not fit, or the folding does not divide them.
    """
    rows = codes.reshape(len(codes), -1)
    simd = simd or rows.shape[1]
    if len(rows) % pe or rows.shape[1] % simd or pad_to_bits < 4:
        raise ValueError(f"found {rows.shape} weights folded by {pe} x {simd}, expected divisors; choose others")
    fields = _fields(rows, bits).reshape(-1, pe, rows.shape[1] // simd, simd).swapaxes(1, 2)
    return tuple(_line(word.reshape(-1), bits, reverse, pad_to_bits) for fold in fields for word in fold)


def _fields(rows: IntArray, bits: int) -> IntArray:
    if bits == 1:
        if not np.isin(rows, (-1, 1)).all():
            raise ValueError("found codes other than -1 and +1, expected bipolar weights; train binary weights")
        return np.asarray((rows.astype(np.int64) + 1) // 2, np.int64)
    if not IntRange.of(bits).contains(rows):
        raise ValueError(f"found codes from {rows.min()} to {rows.max()}, expected {bits} bits; use their own width")
    return np.asarray(rows.astype(np.int64) & (2**bits - 1), np.int64)


def _line(fields: IntArray, bits: int, reverse: bool, pad_to_bits: int) -> str:
    ordered = fields[::-1] if reverse else fields
    value = 0
    for field in ordered.tolist():
        value = value << bits | field
    width = -(-fields.size * bits // pad_to_bits) * pad_to_bits
    return f"{value:0{-(-width // 4)}x}"
