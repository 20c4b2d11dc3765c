"""Unary piecewise-linear operators on int8 codes, all as 256-entry tables for `lookup.look_up`.

Source: published behaviour of LiteRT ``activations.cc``, ``elementwise.cc``, ``neg.cc``,
``reference/{leaky_relu, prelu, hard_swish}.h``; compared bit by bit in tests/ir/numerics/test_activation.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kwsq.ir.numerics.affine import Grid, activation_range
from kwsq.ir.numerics.fixed_point import (
    INT8_MAX,
    INT8_MIN,
    Int8Array,
    Int32Array,
    Int64Array,
    KernelRangeError,
    multiply_by_quantized_multiplier,
    quantize_multiplier,
    rounding_divide_by_pot,
    saturate,
)
from kwsq.ir.numerics.lookup import ALL_CODES

INT16_MIN, INT16_MAX = -(2**15), 2**15 - 1


def _steps(source: Grid) -> Int32Array:
    return np.subtract(ALL_CODES, source.zero_point, dtype=np.int32)


def _saturated(steps: Int32Array | Int64Array, target: Grid, low: int = INT8_MIN, high: int = INT8_MAX) -> Int8Array:
    return saturate(steps.astype(np.int64) + target.zero_point, low, high).astype(np.int8)


def _ratio(source: Grid, target: Grid) -> tuple[int, int]:
    """Multiplier s_x / s_y, divided in float32 as these kernels do."""
    return quantize_multiplier(float(np.float32(source.scale) / np.float32(target.scale)))


def relu_table(source: Grid, target: Grid, *, low: float | None = 0.0, high: float | None = None) -> Int8Array:
    """Tabulate a standalone RELU (0, None), RELU6 (0, 6), RELU_N1_TO_1 (-1, 1) or RELU_0_TO_1 (0, 1).

    Args:
        source: input grid.
        target: output grid.
        low: real lower bound.
        high: real upper bound, or None.

    Returns:
        (256,) int8.

    Raises:
        KernelRangeError: the ratio of the scales is out of range.

    Source: LiteRT ``ReluPrepare``, ``QuantizedReluX``; docs/quantization.md (22).
    """
    bounds = activation_range(low, high, scale=target.scale, zero_point=target.zero_point)
    scaled = multiply_by_quantized_multiplier(_steps(source), *_ratio(source, target))
    return _saturated(scaled, target, *bounds)


def leaky_relu_table(source: Grid, target: Grid, *, alpha: float) -> Int8Array:
    """Tabulate LEAKY_RELU.

    Args:
        source: input grid.
        target: output grid.
        alpha: slope below 0; rounded to float32 as the file stores it; may be negative.

    Returns:
        (256,) int8.

    Raises:
        KernelRangeError: a multiplier is out of range.

    Source: LiteRT ``LeakyReluPrepare``, ``QuantizeLeakyRelu``; docs/quantization.md (23).
    """
    slope = np.float32(source.scale) * np.float32(alpha) / np.float32(target.scale)
    steps = _steps(source)
    identity = multiply_by_quantized_multiplier(steps, *_ratio(source, target))
    sloped = multiply_by_quantized_multiplier(steps, *quantize_multiplier(abs(float(slope))))
    return _saturated(np.where(steps >= 0, identity, np.sign(slope).astype(np.int32) * sloped), target)


@dataclass(frozen=True, slots=True)
class PreluParams:
    """Constants of PRELU; see `derive_prelu`."""

    input_zero_point: int
    alpha_zero_point: int
    output: Grid
    identity: tuple[int, int]
    slope: tuple[int, int]


def derive_prelu(source: Grid, alpha: Grid, target: Grid) -> PreluParams:
    """Derive the constants of PRELU; all scale arithmetic rounds to float32.

    Args:
        source: input grid.
        alpha: grid of the slopes.
        target: output grid.

    Returns:
        the constants for `prelu`.

    Raises:
        KernelRangeError: a multiplier is out of range.

    Source: LiteRT ``PreluPrepare``; docs/quantization.md (23).
    """
    slope = np.float32(source.scale) * np.float32(alpha.scale) / np.float32(target.scale)
    multipliers = _ratio(source, target), quantize_multiplier(float(slope))
    return PreluParams(source.zero_point, alpha.zero_point, target, *multipliers)


def prelu(x: Int8Array, alpha: Int8Array, params: PreluParams) -> Int8Array:
    """Scale negative codes by a slope per channel.

    Args:
        x: int8, any shape.
        alpha: int8 slopes, broadcast with ``x``.
        params: from `derive_prelu`.

    Returns:
        int8, shape of ``x``.

    Source: LiteRT ``reference/prelu.h``; docs/quantization.md (23).
    """
    steps = np.subtract(x, params.input_zero_point, dtype=np.int32)
    slopes = np.subtract(alpha, params.alpha_zero_point, dtype=np.int32)
    identity = multiply_by_quantized_multiplier(steps, *params.identity)
    sloped = multiply_by_quantized_multiplier(steps * slopes, *params.slope)
    return _saturated(np.where(steps >= 0, identity, sloped), params.output)


def abs_table(source: Grid, target: Grid) -> Int8Array:
    """Tabulate ABS.

    Args:
        source: input grid.
        target: output grid.

    Returns:
        (256,) int8.

    Raises:
        KernelRangeError: the ratio of the scales is out of range.

    Source: LiteRT ``AbsEvalQuantized``; docs/quantization.md (22).
    """
    steps = np.abs(_steps(source))
    if source.scale != target.scale:
        steps = multiply_by_quantized_multiplier(steps, *_ratio(source, target))
    return _saturated(steps, target)


def negate(x: Int8Array) -> Int8Array:
    """Negate bare codes; right only where both zero points are 0 and the scales equal; -128 stays -128.

    Args:
        x: int8, any shape.

    Returns:
        int8, same shape.

    Source: LiteRT ``reference/neg.h`` (looks at no zero point); docs/quantization.md (22).
    """
    return np.negative(x)


def _doubling_high_mul_q15(a: Int64Array, b: int) -> Int64Array:
    """16-bit SaturatingRoundingDoublingHighMul; b is never -2**15 here, so it cannot overflow."""
    product = a * b
    return (product + (1 << 14)) >> 15


def _multiplier_q15(real: np.float32) -> tuple[int, int]:
    multiplier, exponent = quantize_multiplier(float(real))
    if multiplier >= 2**31 - 1 - (1 << 15):
        return INT16_MAX, exponent
    return (multiplier + (1 << 15)) >> 16, exponent


def _reluish(raised: Int64Array, multiplier_q15: int, exponent: int) -> Int64Array:
    """Rescale to [0, 1] in Q0.15 the gate min(max(x + 3, 0), 6) / 6, equation (25)."""
    value = raised
    if exponent > 0:
        value = saturate(value << (exponent - 1), INT16_MIN, INT16_MAX)
    value = _doubling_high_mul_q15(value, multiplier_q15)
    if exponent > 0:
        value = saturate(value << 1, INT16_MIN, INT16_MAX)
    if exponent < 0:
        value = rounding_divide_by_pot(value, -exponent)
    return (value + (1 << 15)) >> 1


def hard_swish_table(source: Grid, target: Grid) -> Int8Array:
    """Tabulate x * min(max(x + 3, 0), 6) / 6 in the kernel's 16-bit fixed point.

    Args:
        source: input grid.
        target: output grid.

    Returns:
        (256,) int8.

    Raises:
        KernelRangeError: the scales are out of the kernel's range.

    Source: LiteRT ``HardSwishPrepare``, ``reference/hard_swish.h``; docs/quantization.md (24), (25).
    """
    raised_scale = np.float32(1.0 / 128.0) * np.float32(source.scale)
    output_q15, output_exponent = _multiplier_q15(raised_scale / np.float32(target.scale))
    gate_q15, gate_exponent = _multiplier_q15(raised_scale / np.float32(3.0 / 32768.0))
    # A 16-bit right shift by 16 or more is undefined in the kernel.
    if not -15 <= output_exponent <= 0 or gate_exponent < -15:
        raise KernelRangeError(
            f"HARD_SWISH: found scales {source.scale} -> {target.scale}, expected a ratio in [2**-9, 128) "
            "and an input scale above 2e-7; requantize before or after"
        )
    raised = _steps(source).astype(np.int64) << 7
    gate = _reluish(raised, gate_q15, gate_exponent)
    product = gate * _doubling_high_mul_q15(raised, output_q15)
    truncated = np.sign(product) * (np.abs(product) >> 15)
    return _saturated(rounding_divide_by_pot(truncated, -output_exponent), target)
