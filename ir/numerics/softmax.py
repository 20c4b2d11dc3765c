"""SOFTMAX on int8 codes in the fixed point of the reference kernel.

exp(x - max) takes one of 256 values, so it is a table; the sum, its reciprocal and the final product are
integers. Formats: Q5.26 for the scaled difference, Q0.31 for exp and the reciprocal, Q12.19 for the sum,
Q2.29 inside the Newton iteration.

Source: published behaviour of LiteRT ``SoftmaxPrepare``, ``reference/softmax.h`` and of gemmlowp
``fixedpoint.h`` (``exp_on_negative_values``, ``one_over_one_plus_x_for_x_in_0_1``); compared bit by bit in
tests/ir/numerics/test_softmax.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from kwsq.ir.numerics.affine import float32_scale
from kwsq.ir.numerics.fixed_point import (
    INT8_MAX,
    INT8_MIN,
    INT32_MAX,
    INT32_MIN,
    Int8Array,
    Int32Array,
    Int64Array,
    KernelRangeError,
    quantize_multiplier,
    rounding_divide_by_pot,
    saturate,
    saturating_rounding_doubling_high_mul,
)

_DIFFERENCE_BITS = 5
_SUM_BITS = 12
_MAX_SUM = 512  # the final right shift reaches 32 bits there
_ONE_Q31 = INT32_MAX
_EXP_MINUS_EIGHTH_Q31 = 1895147668
_THIRD_Q31 = 715827883
# (bit of the Q5.26 magnitude, exp(-2**(bit - 26)) in Q0.31)
_EXP_POWERS_Q31 = (
    (24, 1672461947),
    (25, 1302514674),
    (26, 790015084),
    (27, 290630308),
    (28, 39332535),
    (29, 720401),
    (30, 242),
)
_48_OVER_17_Q29 = 1515870810
_MINUS_32_OVER_17_Q29 = -1010580540
_ONE_Q29 = 1 << 29


def _times(a: Int64Array | int, b: Int64Array | int) -> Int64Array:
    return saturating_rounding_doubling_high_mul(a, b).astype(np.int64)


def _exp_near_zero(a: Int64Array) -> Int64Array:
    """Exp on [-1/4, 0) in Q0.31: a Taylor polynomial around -1/8, docs/quantization.md (28)."""
    x = a + (1 << 28)
    x2 = _times(x, x)
    x3, x4 = _times(x2, x), _times(x2, x2)
    tail = rounding_divide_by_pot(_times(rounding_divide_by_pot(x4, 2) + x3, _THIRD_Q31) + x2, 1)
    return _EXP_MINUS_EIGHTH_Q31 + _times(_EXP_MINUS_EIGHTH_Q31, x + tail)


def exp_on_negative_values(a: Int32Array) -> Int32Array:
    """Return exp(a) for a <= 0.

    Args:
        a: Q5.26 values <= 0, any shape.

    Returns:
        Q0.31 int32; exp(0) is 2**31 - 1.

    Source: gemmlowp ``exp_on_negative_values``; docs/quantization.md (28).
    """
    values = a.astype(np.int64)
    quarter = 1 << 24
    fraction = (values & (quarter - 1)) - quarter
    result = _exp_near_zero(saturate(fraction << _DIFFERENCE_BITS, INT32_MIN, INT32_MAX))
    rest = fraction - values
    for bit, factor in _EXP_POWERS_Q31:
        result = np.where(rest & (1 << bit) != 0, _times(result, factor), result)
    return np.where(values == 0, _ONE_Q31, result).astype(np.int32)


def one_over_one_plus_x(x: Int32Array) -> Int32Array:
    """Return 1 / (1 + x) for x in [0, 1) by three Newton steps.

    Args:
        x: Q0.31, any shape.

    Returns:
        Q0.31 int32.

    Source: gemmlowp ``one_over_one_plus_x_for_x_in_0_1``; docs/quantization.md (29).
    """
    half_denominator = (x.astype(np.int64) + _ONE_Q31 + 1) >> 1  # rounding half sum of two non-negative values
    y = _48_OVER_17_Q29 + _times(half_denominator, _MINUS_32_OVER_17_Q29)
    for _ in range(3):
        error = _ONE_Q29 - _times(half_denominator, y)
        y = y + saturate(_times(y, error) << 2, INT32_MIN, INT32_MAX)
    return saturate(y << 1, INT32_MIN, INT32_MAX).astype(np.int32)


@dataclass(frozen=True, slots=True)
class SoftmaxParams:
    """Constants of SOFTMAX; see `derive_softmax`.

    Attributes:
        multiplier_q31: of the input difference, to Q5.26.
        left_shift: >= 0.
        lowest_difference: differences below this give the lowest output code.
    """

    multiplier_q31: int
    left_shift: int
    lowest_difference: int


def derive_softmax(*, input_scale: float, beta: float = 1.0) -> SoftmaxParams:
    """Derive the constants of SOFTMAX; the output grid is fixed at (1/256, -128).

    Args:
        input_scale: exact float32.
        beta: factor of the logits, an exact float32.

    Returns:
        the constants for `softmax`.

    Raises:
        ValueError: bad scale, or one so small (about 1.5e-8) that the runtime would abort.

    Source: LiteRT ``PreprocessSoftmaxScaling``, ``CalculateInputRadius``; docs/quantization.md (27).
    """
    scale = float(float32_scale(input_scale, "input scale"))
    factor = float(float32_scale(beta, "beta"))
    real = min(factor * scale * 2.0 ** (31 - _DIFFERENCE_BITS), 2.0**31 - 1.0)
    if real <= 1.0:
        raise KernelRangeError(
            f"SOFTMAX: found beta * input scale {factor * scale!r}, expected above 2**-26; rescale it"
        )
    multiplier, left_shift = quantize_multiplier(real)
    radius = (2**_DIFFERENCE_BITS - 1) * 2.0 ** (31 - _DIFFERENCE_BITS) / 2.0**left_shift
    return SoftmaxParams(multiplier, left_shift, -math.floor(radius))


def exp_difference_table(params: SoftmaxParams) -> Int32Array:
    """Tabulate exp(beta * scale * difference) for differences 0, -1, ..., -255.

    Args:
        params: from `derive_softmax`.

    Returns:
        (256,) int32 Q0.31; entry ``d`` belongs to difference ``-d``; 0 below the lowest difference.

    Source: LiteRT ``reference/softmax.h``; docs/quantization.md (27), (28).
    """
    difference = -np.arange(256, dtype=np.int64)
    live = difference >= params.lowest_difference
    raised = np.where(live, difference << params.left_shift, 0)
    table = exp_on_negative_values(saturating_rounding_doubling_high_mul(raised, params.multiplier_q31))
    return np.where(live, table, 0).astype(np.int32)


def softmax(x: Int8Array, params: SoftmaxParams) -> Int8Array:
    """Softmax over the last axis.

    Args:
        x: (..., K) int8; K < 512.
        params: from `derive_softmax`.

    Returns:
        (..., K) int8 on the grid (1/256, -128).

    Raises:
        KernelRangeError: K is 512 or more: a sum of 512 makes the runtime abort the process.

    Source: LiteRT ``reference_ops::Softmax``; docs/quantization.md (27)-(30).
    """
    if x.shape[-1] >= _MAX_SUM:
        raise KernelRangeError(f"SOFTMAX: found {x.shape[-1]} classes, expected fewer than {_MAX_SUM}; split the layer")
    difference = x.max(axis=-1, keepdims=True).astype(np.int64) - x
    live = difference <= -params.lowest_difference
    exponential: Int64Array = exp_difference_table(params).astype(np.int64)[difference]
    total: Int64Array = rounding_divide_by_pot(exponential, _SUM_BITS).sum(axis=-1, keepdims=True)
    _, bits = np.frexp(total.astype(np.float64))  # exact: total < 2**31
    headroom = 32 - bits.astype(np.int64)  # leading zeros of the 32-bit total
    reciprocal = one_over_one_plus_x(((total << headroom) - (1 << 31)).astype(np.int32))
    exponent = _SUM_BITS - headroom + 31 - 8
    codes = rounding_divide_by_pot(_times(reciprocal.astype(np.int64), exponential), exponent) + INT8_MIN
    return np.where(live, saturate(codes, INT8_MIN, INT8_MAX), INT8_MIN).astype(np.int8)
