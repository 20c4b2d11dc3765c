"""Uniform weight grids: the codes that b bits may take, shared by training and conversion.

With step `scale` between codes that differ by one:

  mid-tread  codes -(2^(b-1) - 1) .. 2^(b-1) - 1              zero is a code; 2^b - 1 of them   (43)
  mid-rise   odd codes -(2^b - 1), .., -1, 1, .., 2^b - 1     no zero; 2^b of them              (44)

A mid-rise grid has no integer zero point, so it is stated as a codebook of its odd codes.

Equation numbers refer to docs/quantization.md. Source: both are text-book quantizers; that 1 and 2 bits take (44) is
our reconstruction of what Zeng et al. 2022 need for 1-bit weights.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kwsq.ir.quant import PER_TENSOR, Affine, Codebook, FloatArray, Granularity, IntArray, IntRange

WIDEST_MID_RISE = 7
"""Bits; the odd codes of eight bits do not fit int8."""
WIDEST_MID_TREAD = 8
MID_RISE_UP_TO = 2


@dataclass(frozen=True, slots=True)
class UniformGrid:
    """The codes of a uniform weight grid.

    Args:
        bits: width; 2..8 for mid-tread, 1..7 for mid-rise.
        mid_rise: which of (43) and (44).

    >>> UniformGrid(3, mid_rise=False).codes.tolist()
    [-3, -2, -1, 0, 1, 2, 3]
    >>> UniformGrid(2, mid_rise=True).codes.tolist()
    [-3, -1, 1, 3]
    """

    bits: int
    mid_rise: bool

    def __post_init__(self) -> None:
        low, high = (1, WIDEST_MID_RISE) if self.mid_rise else (2, WIDEST_MID_TREAD)
        if not low <= self.bits <= high:
            raise ValueError(
                f"{self.bits} bits for a {'mid-rise' if self.mid_rise else 'mid-tread'} grid: {low}..{high}"
            )

    @classmethod
    def of(cls, bits: int) -> UniformGrid:
        """Returns the grid of a width: mid-rise for 1 and 2 bits, where a code spent on zero is dear."""
        return cls(bits, mid_rise=bits <= MID_RISE_UP_TO)

    @property
    def top(self) -> int:
        """Largest code."""
        return int(2**self.bits - 1 if self.mid_rise else 2 ** (self.bits - 1) - 1)

    @property
    def spacing(self) -> int:
        """Difference of neighbouring codes."""
        return 2 if self.mid_rise else 1

    @property
    def codes(self) -> IntArray:
        """All codes, ascending, int8."""
        return np.arange(-self.top, self.top + 1, self.spacing).astype(np.int8)

    def nearest(self, ratio: npt.NDArray[np.floating]) -> IntArray:
        """Returns the code nearest to each weight / scale: a tie goes to even (mid-tread) or up (mid-rise)."""
        code = 2.0 * np.floor(ratio / 2.0) + 1.0 if self.mid_rise else np.rint(ratio)
        return np.asarray(np.clip(code, -self.top, self.top), np.int8)

    def spec(self, scale: float | FloatArray, granularity: Granularity = PER_TENSOR) -> Affine | Codebook:
        """Returns the grid with a scale, or with one per slice of an axis: those of any shape, in order."""
        step = np.asarray(scale, np.float32).reshape(-1)
        if self.mid_rise:
            return Codebook(self.codes, step, self.bits, granularity)
        return Affine(step, np.zeros(step.size, np.int32), IntRange(-self.top, self.top), granularity)
