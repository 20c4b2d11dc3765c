"""Weight codes as bit fields: two's complement, plain binary, or the index of a level."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from kwsq.ir.quant import IntArray, IntRange
from kwsq.targets.accel.bits import Fields

Int8Array = npt.NDArray[np.int8]


class Scheme(IntEnum):
    """What a bit field stands for."""

    SIGNED = 1
    """The field is the code in two's complement."""
    UNSIGNED = 2
    """The field is the code."""
    CODEBOOK = 3
    """The field is an index; the code is the level of that index."""


@dataclass(frozen=True, slots=True, eq=False)
class Coding:
    """How the codes of one tensor become fields.

    Args:
        scheme: meaning of a field.
        bits: width of a field.
        levels: (L,) int8 strictly increasing, for a codebook; None otherwise.
    """

    scheme: Scheme
    bits: int
    levels: Int8Array | None = None

    @property
    def bit1_means(self) -> int:
        """Code of a field whose lowest bit alone is set; for one bit, what a set bit stands for."""
        return int(self.to_codes(np.ones((1, 1), np.uint8))[0, 0])

    def to_fields(self, codes: IntArray) -> Fields:
        """Returns the fields of codes that fit."""
        if self.levels is not None:
            return np.asarray(np.searchsorted(self.levels, codes), np.uint8)
        return np.asarray(codes.astype(np.int16) & (2**self.bits - 1), np.uint8)

    def to_codes(self, fields: Fields) -> Int8Array:
        """Returns the int8 codes of fields.

        Raises:
            ValueError: an index beyond the levels, or an unsigned code beyond int8.
        """
        if self.levels is not None:
            if fields.size and int(fields.max()) >= self.levels.size:
                raise ValueError(f"found the index {int(fields.max())}, expected below {self.levels.size}")
            return self.levels[fields]
        if self.scheme is Scheme.UNSIGNED:
            if fields.size and int(fields.max()) > 127:
                raise ValueError(f"found the unsigned code {int(fields.max())}, expected an int8")
            return fields.astype(np.int8)
        sign = 1 << (self.bits - 1)
        return ((fields.astype(np.int16) ^ sign) - sign).astype(np.int8)


def choose_coding(codes: IntArray, bits: int, levels: IntArray | None) -> Coding | None:
    """Returns how `codes` are stored in `bits` bits, None when they do not fit.

    Args:
        codes: int8 codes.
        bits: declared width.
        levels: levels of a codebook, None for a uniform grid.
    """
    if levels is not None:
        known = np.asarray(levels, np.int8)
        fits = 2 <= known.size <= 2**bits and bool(np.isin(codes, known).all())
        return Coding(Scheme.CODEBOOK, bits, known) if fits else None
    if IntRange.of(bits).contains(codes):
        return Coding(Scheme.SIGNED, bits)
    return Coding(Scheme.UNSIGNED, bits) if IntRange.of(bits, signed=False).contains(codes) else None
