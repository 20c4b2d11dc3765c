"""Quantisation vocabulary: what an integer code means.

Affine:    real = scale * (q - zero_point)             (1)
Codebook:  real = scale * levels[index]                (2)

Equation numbers refer to docs/quantization.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TypeVar

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.integer]
FloatArray = npt.NDArray[np.float32]
ScalarT = TypeVar("ScalarT", bound=np.generic)


@dataclass(frozen=True, slots=True)
class IntRange:
    """Closed interval of integer codes.

    Args:
        low: smallest code.
        high: largest code, at least `low`.

    >>> IntRange.of(bits=4, signed=True, narrow=True)
    IntRange(low=-7, high=7)
    >>> IntRange(-7, 7).bits, IntRange(0, 255).bits, IntRange(-8, 7).narrow
    (4, 8, False)
    """

    low: int
    high: int

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise ValueError(f"empty integer range [{self.low}, {self.high}]")

    @classmethod
    def of(cls, bits: int, *, signed: bool = True, narrow: bool = False) -> IntRange:
        """Returns the range of `bits`-wide codes; `narrow` drops the lowest (signed) or highest (unsigned) code."""
        if signed:
            return cls(-(2 ** (bits - 1)) + narrow, 2 ** (bits - 1) - 1)
        return cls(0, 2**bits - 1 - narrow)

    @property
    def signed(self) -> bool:
        """Whether negative codes exist."""
        return self.low < 0

    @property
    def bits(self) -> int:
        """Smallest width, in bits, of a two's complement (signed) or plain (unsigned) code that holds the range."""
        if not self.signed:
            return max(1, self.high.bit_length())
        return max((-self.low - 1).bit_length(), self.high.bit_length()) + 1

    @property
    def narrow(self) -> bool:
        """Whether the range is symmetric around zero."""
        return self.low == -self.high

    def contains(self, codes: IntArray) -> bool:
        """Returns whether every code lies inside."""
        return codes.size == 0 or (int(codes.min()) >= self.low and int(codes.max()) <= self.high)

    def shifted(self, offset: int) -> IntRange:
        """Returns the range moved by `offset`."""
        return IntRange(self.low + offset, self.high + offset)


INT8 = IntRange(-128, 127)
UINT8 = IntRange(0, 255)
INT16 = IntRange(-(2**15), 2**15 - 1)
INT32 = IntRange(-(2**31), 2**31 - 1)


class Rounding(Enum):
    """How a real quotient becomes an integer code."""

    HALF_EVEN = "half_even"
    """round_half_even(x / scale) + zero_point, the ONNX QuantizeLinear order."""
    HALF_EVEN_OFFSET_FIRST = "half_even_offset_first"
    """round_half_even(clamp(x / scale + zero_point)), the QONNX Quant order; differs at ties of odd zero points."""
    FLOOR = "floor"
    CEIL = "ceil"
    UP = "up"
    """Away from zero."""
    DOWN = "down"
    """Towards zero."""
    HALF_UP = "half_up"
    """Ties away from zero."""
    HALF_DOWN = "half_down"
    """Ties towards zero."""


@dataclass(frozen=True, slots=True)
class PerTensor:
    """One scale for the whole tensor."""


@dataclass(frozen=True, slots=True)
class PerAxis:
    """One scale per slice along `axis` (non-negative)."""

    axis: int


Granularity = PerTensor | PerAxis
PER_TENSOR = PerTensor()


def read_only(array: npt.ArrayLike, dtype: npt.DTypeLike) -> npt.NDArray[np.generic]:
    """Returns a contiguous read-only array of `dtype`; a copy only where one is needed."""
    result: npt.NDArray[np.generic] = np.ascontiguousarray(array, dtype=dtype)
    if result.flags.writeable:
        result = result.view()
        result.setflags(write=False)
    return result


@dataclass(frozen=True, slots=True, eq=False)
class Affine:
    """Uniform grid: real = scale * (q - zero_point), q in `range`.

    Args:
        scale: (1,) or (C,) float32, finite and positive.
        zero_point: same shape as `scale`, int32.
        range: codes that may occur; its width is the declared bit width.
        granularity: PerTensor for one scale, PerAxis for C scales.
        declared: False when the width was recovered from bare values and so is only a lower bound.
    """

    scale: FloatArray
    zero_point: IntArray
    range: IntRange
    granularity: Granularity = PerTensor()
    declared: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "scale", np.atleast_1d(read_only(self.scale, np.float32)))
        zero_point = np.atleast_1d(read_only(self.zero_point, np.int32))
        if not np.array_equal(zero_point, np.atleast_1d(self.zero_point)):
            raise ValueError(f"zero points {np.atleast_1d(self.zero_point)[:8].tolist()} that int32 does not hold")
        object.__setattr__(self, "zero_point", zero_point)
        if self.scale.ndim != 1 or self.scale.shape != self.zero_point.shape:
            raise ValueError(f"scale {self.scale.shape} and zero_point {self.zero_point.shape} must be equal vectors")
        if isinstance(self.granularity, PerTensor) and self.scale.size != 1:
            raise ValueError(f"{self.scale.size} scales for a per-tensor grid")

    @classmethod
    def per_tensor(cls, scale: float, zero_point: int, range: IntRange, *, declared: bool = True) -> Affine:
        """Returns a per-tensor grid."""
        return cls(np.array([scale], np.float32), np.array([zero_point]), range, PerTensor(), declared)

    @property
    def bits(self) -> int:
        """Declared width of a code in bits."""
        return self.range.bits

    def same_as(self, other: QuantSpec) -> bool:
        """Returns whether both specs describe the same grid, scales compared bit for bit."""
        return (
            isinstance(other, Affine)
            and np.array_equal(self.scale, other.scale)
            and np.array_equal(self.zero_point, other.zero_point)
            and self.range == other.range
            and self.granularity == other.granularity
        )


@dataclass(frozen=True, slots=True, eq=False)
class Codebook:
    """Non-uniform grid: real = scale * level, level one of `levels`.

    The data of a codebook tensor are the int8 levels themselves; the index of a level is its position in `levels`.

    Args:
        levels: (L,) int8, strictly increasing, 2 <= L <= 2**bits; 1-bit weights are (-1, +1).
        scale: (1,) or (C,) float32, finite and positive.
        bits: width of an index.
        granularity: PerTensor or PerAxis of the scale; the levels are shared by the tensor.
    """

    levels: IntArray
    scale: FloatArray
    bits: int
    granularity: Granularity = PerTensor()
    declared: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "levels", read_only(self.levels, np.int8))
        object.__setattr__(self, "scale", np.atleast_1d(read_only(self.scale, np.float32)))
        if not 2 <= self.levels.size <= 2**self.bits:
            raise ValueError(f"{self.levels.size} levels do not fit {self.bits} bits")
        if not np.all(np.diff(self.levels.astype(np.int16)) > 0):
            raise ValueError("levels must be strictly increasing")
        if isinstance(self.granularity, PerTensor) and self.scale.size != 1:
            raise ValueError(f"{self.scale.size} scales for a per-tensor codebook")

    def same_as(self, other: QuantSpec) -> bool:
        """Returns whether both specs describe the same codebook, scales compared bit for bit."""
        return (
            isinstance(other, Codebook)
            and np.array_equal(self.levels, other.levels)
            and np.array_equal(self.scale, other.scale)
            and self.bits == other.bits
            and self.granularity == other.granularity
        )


@dataclass(frozen=True, slots=True)
class Unquantized:
    """A real-valued tensor that carries no grid (yet)."""


QuantSpec = Affine | Codebook | Unquantized
UNQUANTIZED = Unquantized()


def along_axis(values: npt.NDArray[ScalarT], granularity: Granularity, rank: int) -> npt.NDArray[ScalarT]:
    """Returns `values` (1-D) reshaped to broadcast against a tensor of `rank`.

    >>> along_axis(np.arange(3), PerAxis(1), 4).shape
    (1, 3, 1, 1)
    """
    if isinstance(granularity, PerTensor):
        return values.reshape(())
    shape = [1] * rank
    shape[granularity.axis] = -1
    return values.reshape(shape)


def dequantize(codes: IntArray, spec: Affine | Codebook) -> FloatArray:
    """Returns the real values of `codes`, equations (1) and (2), computed in float32.

    Args:
        codes: integer codes; for a codebook the int8 levels themselves.
        spec: grid of the codes.
    """
    scale = along_axis(spec.scale, spec.granularity, codes.ndim)
    values = codes.astype(np.int32)
    if isinstance(spec, Affine):
        values = values - along_axis(spec.zero_point, spec.granularity, codes.ndim)
    return np.asarray(values.astype(np.float32) * scale, np.float32)


def quantize(real: npt.NDArray[np.floating], spec: Affine, rounding: Rounding = Rounding.HALF_EVEN) -> IntArray:
    """Returns the codes of `real` on a uniform grid, clamped to the spec's range, equation (3).

    Args:
        real: values of any shape; the quotient is formed in float32 as QuantizeLinear does.
        spec: grid.
        rounding: order and direction of the rounding.

    Returns:
        int32 codes of the same shape.
    """
    scale = along_axis(spec.scale, spec.granularity, real.ndim)
    zero = along_axis(spec.zero_point, spec.granularity, real.ndim)
    quotient = np.asarray(real, np.float32) / scale
    low, high = spec.range.low, spec.range.high
    if rounding is Rounding.HALF_EVEN:
        # int32 offsets would take the sum to float64. Offset and range below 2**22 make float32 exact: what it does not
        # hold exactly lies far outside the range.
        narrow = max(-low, high, int(np.abs(zero).max())) < 2**22
        offset = zero.astype(np.float32) if narrow else zero
        return np.asarray(np.clip(np.rint(quotient) + offset, low, high), np.int32)
    return _round(np.clip(quotient + zero.astype(np.float32), low, high), rounding).astype(np.int32)


def _round(x: FloatArray, rounding: Rounding) -> FloatArray:
    match rounding:
        case Rounding.HALF_EVEN | Rounding.HALF_EVEN_OFFSET_FIRST:
            return np.rint(x)
        case Rounding.FLOOR:
            return np.floor(x)
        case Rounding.CEIL:
            return np.ceil(x)
        case Rounding.UP:
            return np.sign(x) * np.ceil(np.abs(x))
        case Rounding.DOWN:
            return np.trunc(x)
        case Rounding.HALF_UP:
            return np.sign(x) * np.floor(np.abs(x) + np.float32(0.5))
        case Rounding.HALF_DOWN:
            return np.sign(x) * np.ceil(np.abs(x) - np.float32(0.5))


def fake_quantize(real: npt.NDArray[np.floating], spec: Affine, rounding: Rounding = Rounding.HALF_EVEN) -> FloatArray:
    """Returns `real` rounded onto the grid of `spec`: dequantize(quantize(real))."""
    if rounding is not Rounding.HALF_EVEN:
        return dequantize(quantize(real, spec, rounding), spec)
    # The same values without leaving float32: codes are below 2**24, so q - zero_point is exact.
    scale = along_axis(spec.scale, spec.granularity, real.ndim)
    zero = along_axis(spec.zero_point, spec.granularity, real.ndim).astype(np.float32)
    centred = np.rint(np.asarray(real, np.float32) / scale)
    low, high = np.float32(spec.range.low) - zero, np.float32(spec.range.high) - zero
    return np.asarray(np.clip(centred, low, high) * scale, np.float32)
