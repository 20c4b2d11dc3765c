"""Rounding, saturation and fixed-point scaling: the ground floor of every integer kernel.

A real multiplier is carried as a Q0.31 integer and a power-of-two shift,
``real = multiplier_q31 * 2**(shift - 31)``, docs/quantization.md (4). Scaling an accumulator rounds
twice, as in (5)-(7): once in the 32x32 -> 32 bit high multiply, once in the right shift.

Source: the published behaviour of LiteRT ``internal/quantization_util.cc``, ``internal/common.cc`` and
gemmlowp ``fixedpoint.h``; the double rounding was confirmed against the BUILTIN_REF kernels of
ai-edge-litert 2.3.0 (tests/ir/numerics/test_fixed_point.py).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

INT8_MIN, INT8_MAX = -128, 127
INT32_MIN, INT32_MAX = -(2**31), 2**31 - 1

Int8Array = NDArray[np.int8]
Int32Array = NDArray[np.int32]
Int64Array = NDArray[np.int64]
FloatArray = NDArray[np.float64]

_BELOW_HALF = 0.5 - 2.0**-54


class KernelRangeError(ValueError):
    """Scales or sizes of a model that a kernel cannot compute with.

    Its text is shown to users as a statement about their model; a plain ValueError is a defect of kwsq.
    """


def round_half_away(x: ArrayLike) -> FloatArray:
    """Round to the nearest integer, ties away from zero (C ``round``).

    Args:
        x: finite real values, any shape; computed in float64, so float32 input is exact.

    Returns:
        float64 array of integers.

    Source: ISO C ``round``; docs/quantization.md (3).
    """
    values = np.asarray(x, dtype=np.float64)
    # Adding 0.5 would take 0.49999999999999994 to 1. Adding its predecessor, a tie is 2**-54 short of the next integer,
    # which float64 rounds up to that integer; what is below the tie ends at least one representable step short of it.
    nudged = np.copysign(_BELOW_HALF, values)
    nudged += values
    return np.trunc(nudged)


def round_half_even(x: ArrayLike) -> FloatArray:
    """Round to the nearest integer, ties to even (ONNX QuantizeLinear, IEEE 754 default).

    Args:
        x: real values, any shape.

    Returns:
        float64 array of integers.

    Source: ONNX QuantizeLinear; docs/quantization.md (3).
    """
    return np.rint(np.asarray(x, dtype=np.float64))


def saturate(x: NDArray[Any], low: float, high: float) -> NDArray[Any]:
    """Clamp to ``[low, high]``; the dtype of ``x`` is kept, casting down is the caller's step.

    Args:
        x: integer or float values, any shape.
        low: smallest value of the result.
        high: largest value of the result.

    Returns:
        array like ``x``.

    Raises:
        ValueError: ``low > high``.

    Source: docs/quantization.md (3).
    """
    if low > high:
        raise ValueError(f"saturate: found the empty range [{low}, {high}], expected low <= high; swap the bounds")
    clamped: NDArray[Any] = np.clip(x, low, high)
    return clamped


def quantize_multiplier(real: float) -> tuple[int, int]:
    """Express a real multiplier as ``multiplier_q31 * 2**(shift - 31)``.

    Below about 2**-32 the result is (0, 0): every product would round to zero anyway, and the kernels
    flush the same way.

    Args:
        real: multiplier >= 0, a double.

    Returns:
        ``(multiplier_q31, shift)`` with multiplier 0 or in [2**30, 2**31) and shift in [-31, 31].

    Raises:
        KernelRangeError: ``real`` is NaN, infinite, negative, or >= 2**31 (no int32 survives such a scale).

    Source: LiteRT ``QuantizeMultiplier``; docs/quantization.md (4).
    """
    if not math.isfinite(real) or real < 0.0:
        raise KernelRangeError(f"quantize_multiplier: found {real!r}, expected a finite value >= 0; check the scales")
    fraction, shift = math.frexp(real)
    multiplier = int(round_half_away(fraction * 2.0**31))
    if multiplier == 2**31:
        multiplier, shift = multiplier // 2, shift + 1
    if shift < -31:
        return 0, 0
    if shift > 31:
        raise KernelRangeError(f"quantize_multiplier: found {real!r}, expected a value below 2**31; check the scales")
    return multiplier, shift


def quantize_multipliers(reals: ArrayLike) -> tuple[Int32Array, Int32Array]:
    """Apply `quantize_multiplier` to each element.

    Args:
        reals: (channels,) float64 multipliers.

    Returns:
        ``(multiplier_q31, shift)``, int32 arrays of the same shape.

    Raises:
        KernelRangeError: as `quantize_multiplier`.

    Source: LiteRT ``PopulateConvolutionQuantizationParams``; docs/quantization.md (4).
    """
    values = np.atleast_1d(np.asarray(reals, dtype=np.float64))
    fractions, shifts = np.frexp(values)
    outside = ~np.isfinite(values) | (values < 0.0) | (shifts > 31)
    multipliers = round_half_away(np.where(outside, 0.5, fractions) * 2.0**31)
    if outside.any() or (multipliers[shifts == 31] == 2.0**31).any():
        for value in values:
            quantize_multiplier(float(value))  # raises, with the offending value
    carried = multipliers == 2.0**31
    shifts = shifts + carried
    kept = shifts >= -31
    multipliers = np.where(kept, np.where(carried, 2.0**30, multipliers), 0.0)
    return multipliers.astype(np.int32), np.where(kept, shifts, 0).astype(np.int32)


def saturating_rounding_doubling_high_mul(a: ArrayLike, b: ArrayLike) -> Int32Array:
    """Return the high 32 bits of ``2 * a * b``, rounded half up, saturating the one overflow.

    Args:
        a: int32 values.
        b: int32 values, broadcast against ``a``.

    Returns:
        int32 array; ``a = b = -2**31`` gives 2**31 - 1.

    Source: gemmlowp ``SaturatingRoundingDoublingHighMul``; docs/quantization.md (5).
    """
    product: Int64Array = np.multiply(a, b, dtype=np.int64)
    # The nudge-and-truncate of the C++ text equals adding 2**30 and flooring, for both signs.
    product = (product + (1 << 30)) >> 31
    return np.minimum(product, INT32_MAX).astype(np.int32)


def rounding_divide_by_pot(x: ArrayLike, exponent: ArrayLike) -> Int64Array:
    """Divide by ``2**exponent``, rounding half away from zero.

    Args:
        x: integer values within int32.
        exponent: integers in [0, 31], broadcast against ``x``.

    Returns:
        int64 array.

    Source: gemmlowp ``RoundingDivideByPOT``; docs/quantization.md (6).
    """
    values = np.asarray(x, dtype=np.int64)
    power = np.asarray(exponent, dtype=np.int64)
    half = (np.int64(1) << power) >> 1
    # Where exponent = 0 half is 0 and the sign term must vanish too.
    return (values + half + np.where(power > 0, values >> 63, 0)) >> power


def multiply_by_quantized_multiplier(x: ArrayLike, multiplier_q31: ArrayLike, shift: ArrayLike) -> Int32Array:
    """Scale int32 accumulators by a fixed-point multiplier, rounding twice.

    The left shift of a multiplier > 1 wraps in int32, as the kernel's does: such an accumulator has
    left the representable range, and a parity oracle must show what the runtime shows.

    Args:
        x: int32 accumulators, any shape.
        multiplier_q31: int32 >= 0, broadcast against ``x`` (per channel on the last axis, or scalar).
        shift: int32 in [-31, 31], broadcast like ``multiplier_q31``; negative shifts right.

    Returns:
        int32 array of the broadcast shape.

    Source: LiteRT ``MultiplyByQuantizedMultiplier(int32_t, ...)``, double rounding; docs/quantization.md (7).
    """
    accumulator = np.asarray(x, dtype=np.int32)
    power = np.asarray(shift, dtype=np.int64)
    if np.any(power > 0):
        shifted = accumulator.astype(np.int64) << np.maximum(power, 0)
        accumulator = shifted.astype(np.int32)  # astype wraps modulo 2**32
    product: Int64Array = np.multiply(accumulator, multiplier_q31, dtype=np.int64)
    product += 1 << 30
    product >>= 31
    high = product.astype(np.int32)  # |high| <= 2**31 - 2, which the steps below rely on
    right = np.maximum(-power, 0).astype(np.int32)
    if np.any(right == 0):
        return rounding_divide_by_pot(high, right).astype(np.int32)
    # Equation (6) within int32: floor((v + half) / 2**r) = floor((floor(v / 2**(r - 1)) + 1) / 2).
    high += high >> 31
    high >>= right - 1
    high += 1
    high >>= 1
    return high
