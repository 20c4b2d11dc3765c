"""Between real numbers and codes: quantize, dequantize, requantize, fused activation bounds.

Source: published behaviour of LiteRT ``reference/quantize``-family kernels and ``kernel_util.cc``;
docs/quantization.md (1)-(3), (9). Compared with BUILTIN_REF in tests/ir/numerics/test_affine.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kwsq.ir.numerics.fixed_point import (
    INT8_MAX,
    INT8_MIN,
    Int8Array,
    KernelRangeError,
    multiply_by_quantized_multiplier,
    quantize_multiplier,
    round_half_away,
    saturate,
)


def float32_scale(scale: float, what: str = "scale") -> np.float32:
    """Return ``scale`` as float32, refusing one that float32 cannot hold exactly.

    Args:
        scale: positive and finite, exactly representable in float32.
        what: name of the value for the message.

    Returns:
        the same number as ``np.float32``.

    Raises:
        ValueError: zero, negative, not finite, or not exactly a float32.

    Source: the ``.tflite`` schema stores scales as float32; docs/quantization.md (1).
    """
    single = np.float32(scale)
    if not (np.isfinite(single) and single > 0):
        raise KernelRangeError(
            f"{what}: found {scale!r}, expected a finite scale > 0; check where the scale was computed"
        )
    if float(single) != float(scale):
        raise ValueError(f"{what}: found {scale!r}, expected an exact float32; round it once with numpy.float32")
    return single


@dataclass(frozen=True, slots=True)
class Grid:
    """An activation's affine grid: real = scale * (code - zero_point).

    Attributes:
        scale: positive, finite, exactly a float32.
        zero_point: code of real 0.

    Raises:
        ValueError: bad scale, or a zero point outside 8 bits.
    """

    scale: float
    zero_point: int

    def __post_init__(self) -> None:
        float32_scale(self.scale)
        if not INT8_MIN <= self.zero_point <= 255:
            raise KernelRangeError(f"zero point: found {self.zero_point}, expected an 8-bit code; check the range")


def activation_range(low: float | None, high: float | None, *, scale: float, zero_point: int) -> tuple[int, int]:
    """Turn the real bounds of a fused activation into the int8 clamp of the output.

    Args:
        low: real lower bound (0 for RELU and RELU6, -1 for RELU_N1_TO_1) or None.
        high: real upper bound (6 for RELU6, 1 for RELU_N1_TO_1) or None.
        scale: output scale, an exact float32.
        zero_point: output zero point.

    Returns:
        ``(low, high)`` codes within [-128, 127].

    Raises:
        ValueError: bad scale, or a bound beyond int32 codes (the runtime refuses it too).

    Source: LiteRT ``CalculateActivationRangeQuantized``; docs/quantization.md (9).
    """
    single = float32_scale(scale, "output scale")
    quantized_low = INT8_MIN if low is None else max(INT8_MIN, _bound_code(low, single, zero_point))
    quantized_high = INT8_MAX if high is None else min(INT8_MAX, _bound_code(high, single, zero_point))
    return quantized_low, quantized_high


def _bound_code(bound: float, scale: np.float32, zero_point: int) -> int:
    steps = round_half_away(np.float32(bound) / scale)  # the division rounds to float32, as in the kernel
    if abs(float(steps)) > 2**31 - 1:
        raise KernelRangeError(
            f"activation bound {bound}: found {float(steps)} steps, expected int32; check the output scale"
        )
    return zero_point + int(steps)


def quantize(
    x: NDArray[np.float32], *, scale: float, zero_point: int, low: int = INT8_MIN, high: int = INT8_MAX
) -> NDArray[Any]:
    """Quantize float32 to 8-bit codes: float32 division, ties away from zero, saturation.

    Args:
        x: float32 values, any shape.
        scale: exact float32.
        zero_point: code of real 0.
        low: smallest code; 0 selects uint8.
        high: largest code; 255 for uint8.

    Returns:
        int8 array, or uint8 when ``low >= 0``. Steps beyond int32, where the
        kernel casts undefined, saturate.

    Raises:
        ValueError: bad scale, or NaN in ``x``.

    Source: LiteRT QUANTIZE (``AffineQuantize``); docs/quantization.md (3).
    """
    single = float32_scale(scale)
    with np.errstate(over="ignore"):
        steps = np.divide(np.asarray(x, dtype=np.float32), single)
    if np.isnan(steps).any():
        raise ValueError("quantize: found NaN in the input, expected numbers; check the data")
    steps = saturate(steps, -(2.0**31), 2.0**31)
    codes = saturate(round_half_away(steps) + zero_point, low, high)
    return codes.astype(np.int8 if low < 0 else np.uint8)


def dequantize(q: NDArray[Any], *, scale: float, zero_point: int) -> NDArray[np.float32]:
    """Return ``scale * (q - zero_point)`` in float32.

    Args:
        q: 8-bit codes, any shape.
        scale: exact float32.
        zero_point: code of real 0.

    Returns:
        float32 array; the product of a 24-bit and a 9-bit number rounds once.

    Raises:
        ValueError: bad scale.

    Source: LiteRT DEQUANTIZE; docs/quantization.md (1).
    """
    steps = np.subtract(q, zero_point, dtype=np.int32).astype(np.float32)
    real: NDArray[np.float32] = steps * float32_scale(scale)
    return real


@dataclass(frozen=True, slots=True)
class RequantizeParams:
    """Constants of an 8-bit to 8-bit QUANTIZE; see `derive_requantize`."""

    input_zero_point: int
    output_zero_point: int
    multiplier_q31: int
    shift: int
    low: int = INT8_MIN
    high: int = INT8_MAX


def derive_requantize(source: Grid, target: Grid, *, target_is_unsigned: bool = False) -> RequantizeParams:
    """Derive the constants of an 8-bit to 8-bit QUANTIZE node.

    Args:
        source: input grid; the zero point of a uint8 input is in [0, 255].
        target: output grid.
        target_is_unsigned: the output is uint8.

    Returns:
        the constants for `requantize`.

    Raises:
        KernelRangeError: the ratio of the scales is out of range.

    Source: LiteRT QUANTIZE Prepare (double division); docs/quantization.md (4), (8).
    """
    low, high = (0, 255) if target_is_unsigned else (INT8_MIN, INT8_MAX)
    multiplier = quantize_multiplier(source.scale / target.scale)
    return RequantizeParams(source.zero_point, target.zero_point, *multiplier, low, high)


def requantize(q: NDArray[Any], params: RequantizeParams) -> NDArray[Any]:
    """Move 8-bit codes from one grid to another.

    Args:
        q: int8 or uint8 codes, any shape.
        params: from `derive_requantize`.

    Returns:
        int8 (or uint8) codes of the same shape.

    Source: LiteRT ``reference_ops::Requantize``; docs/quantization.md (8).
    """
    steps = np.subtract(q, params.input_zero_point, dtype=np.int32)
    scaled = multiply_by_quantized_multiplier(steps, params.multiplier_q31, params.shift)
    # int64: a saturated product plus the zero point may leave int32.
    codes = saturate(scaled.astype(np.int64) + params.output_zero_point, params.low, params.high)
    return codes.astype(np.int8 if params.low < 0 else np.uint8)


def requantize_table(params: RequantizeParams) -> Int8Array:
    """Tabulate `requantize` for int8 input and output.

    Args:
        params: from `derive_requantize`, int8 to int8.

    Returns:
        (256,) int8; entry ``q + 128`` is the output code of ``q``.

    Source: docs/quantization.md (8).
    """
    return requantize(np.arange(INT8_MIN, INT8_MAX + 1, dtype=np.int32), params)
