"""What convolutions and matrix products share: effective scales, exact accumulation, requantization.

Accumulators are exact integers computed by floating-point BLAS: every partial sum, in whatever order
BLAS forms it, is bounded by ``max|x| * sum|w|``; below 2**24 float32 holds it exactly, below 2**53
float64 does. The input zero point is folded into the bias, docs/quantization.md (13), which keeps
``|x| <= 128`` and the bound small.

The BUILTIN_REF kernels of ai-edge-litert 2.3.0 requantize in two ways. Convolutions and BATCH_MATMUL carry
a Q0.31 multiplier and round twice, (15a): `FixedPointParams`. FULLY_CONNECTED multiplies the accumulator by
a double and rounds once, (15b): `RealParams`. The layers are in `dense` and `convolution`.

Source: published behaviour of LiteRT ``kernel_util.cc`` and ``reference_integer_ops``; compared bit by bit in
tests/ir/numerics/test_dense.py and test_convolution.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kwsq.ir.numerics.affine import float32_scale
from kwsq.ir.numerics.fixed_point import (
    INT8_MAX,
    INT8_MIN,
    INT32_MAX,
    FloatArray,
    Int8Array,
    Int32Array,
    Int64Array,
    KernelRangeError,
    multiply_by_quantized_multiplier,
    quantize_multipliers,
    round_half_away,
)
from kwsq.ir.numerics.xnnpack import SingleParams, requantize_single


@dataclass(frozen=True, slots=True, eq=False)
class FixedPointParams:
    """Constants of a convolution or BATCH_MATMUL; see `derive_fixed_point`.

    Attributes:
        multiplier_q31: (1,) or (C_out,) int32.
        shift: like ``multiplier_q31``.
        low: smallest output code, after any fused activation.
        high: largest output code.
    """

    input_zero_point: int
    output_zero_point: int
    multiplier_q31: Int32Array
    shift: Int32Array
    low: int = INT8_MIN
    high: int = INT8_MAX


@dataclass(frozen=True, slots=True, eq=False)
class RealParams:
    """Constants of FULLY_CONNECTED; see `effective_scale_conv` for ``effective_scale``.

    Attributes:
        effective_scale: (1,) or (C_out,) float64, s_x * s_w / s_y.
        low: smallest output code, after any fused activation.
        high: largest output code.
    """

    input_zero_point: int
    output_zero_point: int
    effective_scale: FloatArray
    low: int = INT8_MIN
    high: int = INT8_MAX


def effective_scale_conv(input_scale: float, weight_scale: ArrayLike, output_scale: float) -> FloatArray:
    """Return the real multipliers of CONV_2D, DEPTHWISE_CONV_2D and FULLY_CONNECTED.

    Args:
        input_scale: exact float32.
        weight_scale: scalar or (C_out,), exact float32 values.
        output_scale: exact float32.

    Returns:
        (1,) or (C_out,) float64: product and quotient both in double.

    Raises:
        ValueError: a scale is not positive, finite and float32.

    Source: LiteRT ``PopulateConvolutionQuantizationParams``; docs/quantization.md (14a).
    """
    weights = np.ravel(np.asarray(weight_scale, dtype=np.float64))
    for value in weights[~_is_float32_scale(weights)][:1]:
        float32_scale(float(value), "weight scale")  # raises, saying what is wrong with it
    product = float(float32_scale(input_scale, "input scale")) * weights
    return product / float(float32_scale(output_scale, "output scale"))


def _is_float32_scale(scales: FloatArray) -> NDArray[np.bool_]:
    with np.errstate(over="ignore"):
        single = scales.astype(np.float32)
    exact: NDArray[np.bool_] = np.isfinite(single) & (single > 0) & (single == scales)
    return exact


def effective_scale_matmul(a_scale: float, b_scale: float, output_scale: float) -> FloatArray:
    """Return the real multiplier of BATCH_MATMUL (and of FULLY_CONNECTED in the non-reference kernels).

    Args:
        a_scale: exact float32.
        b_scale: exact float32.
        output_scale: exact float32.

    Returns:
        (1,) float64: the product is rounded to float32 first, then divided in double.

    Raises:
        ValueError: as `effective_scale_conv`.

    Source: LiteRT ``GetQuantizedConvolutionMultipler``; docs/quantization.md (14b).
    """
    product = float32_scale(a_scale, "left scale") * float32_scale(b_scale, "right scale")
    return np.array([float(product) / float(float32_scale(output_scale, "output scale"))], dtype=np.float64)


def derive_fixed_point(
    effective_scale: ArrayLike,
    *,
    input_zero_point: int,
    output_zero_point: int,
    low: int = INT8_MIN,
    high: int = INT8_MAX,
) -> FixedPointParams:
    """Derive the constants of a convolution or matrix product.

    Args:
        effective_scale: (1,) or (C_out,) float64 from one of the ``effective_scale_*`` functions.
        input_zero_point: input code of real 0.
        output_zero_point: output code of real 0.
        low: smallest output code, from `affine.activation_range`.
        high: largest output code.

    Returns:
        the constants.

    Raises:
        KernelRangeError: a multiplier is out of range.

    Source: docs/quantization.md (4), (14).
    """
    multiplier, shift = quantize_multipliers(effective_scale)
    return FixedPointParams(input_zero_point, output_zero_point, multiplier, shift, low, high)


def requantize_layer(accumulator: NDArray[Any], params: FixedPointParams | SingleParams) -> Int8Array:
    """Requantize as `params` say: rounding twice or once.

    Args:
        accumulator: (..., C_out) int32.
        params: from `derive_fixed_point` or `xnnpack.derive_single`.

    Returns:
        int8 codes, same shape.

    Source: docs/quantization.md (15a), (15c).
    """
    if isinstance(params, SingleParams):
        return requantize_single(accumulator, params)
    return requantize_fixed_point(accumulator, params)


def requantize_fixed_point(accumulator: NDArray[Any], params: FixedPointParams) -> Int8Array:
    """Scale int32 accumulators with double rounding, add the output zero point, clamp.

    Args:
        accumulator: (..., C_out) int32.
        params: from `derive_fixed_point`.

    Returns:
        int8 codes, same shape.

    Source: LiteRT ``MultiplyByQuantizedMultiplier``; docs/quantization.md (15a).
    """
    scaled = multiply_by_quantized_multiplier(accumulator, params.multiplier_q31, params.shift)
    return _clamp_steps(scaled, params)


def requantize_real(accumulator: NDArray[Any], params: RealParams) -> Int8Array:
    """Scale int32 accumulators in double with one rounding, add the output zero point, clamp.

    A product beyond int32 is undefined in the kernel (a C float-to-int cast); here it saturates.

    Args:
        accumulator: (..., C_out) int32.
        params: constants of FULLY_CONNECTED.

    Returns:
        int8 codes, same shape.

    Source: LiteRT ``reference_integer_ops::FullyConnected`` of 2026; docs/quantization.md (15b).
    """
    return _clamp_steps(round_half_away(accumulator * params.effective_scale), params)


def _clamp_steps(steps: NDArray[Any], params: FixedPointParams | RealParams) -> Int8Array:
    zero_point = params.output_zero_point
    clamped = np.clip(steps, params.low - zero_point, params.high - zero_point, out=steps)
    clamped += steps.dtype.type(zero_point)
    return clamped.astype(np.int8)


def exact_float(bound: int) -> type[np.floating[Any]]:
    """Return the narrowest float that holds every integer up to ``bound`` exactly.

    Args:
        bound: largest magnitude of any partial sum.

    Returns:
        ``numpy.float32`` or ``numpy.float64``.

    Raises:
        KernelRangeError: ``bound`` is above 2**31 - 1: an int32 accumulator may overflow.

    Source: IEEE 754 significand widths; docs/quantization.md (13).
    """
    if bound > INT32_MAX:
        raise KernelRangeError(f"accumulator bound: found {bound}, expected at most 2**31 - 1; split the layer")
    return np.float32 if bound < 2**24 else np.float64


def accumulator_bound(weights: NDArray[Any]) -> int:
    """Bound ``|sum x * w|`` over all int8 inputs: 128 times the largest L1 norm of a weight row.

    Args:
        weights: (C_out, K) integers.

    Returns:
        the bound; any partial sum obeys it too.

    Source: docs/quantization.md (13).
    """
    return 128 * int(np.abs(weights.astype(np.int32)).sum(axis=-1, dtype=np.int64).max(initial=0))


def fold_zero_point(weights: NDArray[Any], bias: Int32Array | None, input_zero_point: int) -> Int64Array:
    """Return ``b - z_x * sum(w)`` per output channel, equation (13).

    Args:
        weights: (C_out, K) integers.
        bias: (C_out,) int32, or None for zero.
        input_zero_point: input code of real 0.

    Returns:
        (C_out,) int64.

    Source: docs/quantization.md (13).
    """
    total: Int64Array = weights.sum(axis=-1, dtype=np.int64) * -input_zero_point
    return total if bias is None else total + bias


def add_folded_bias(products: NDArray[Any], folded_bias: Int64Array) -> Int32Array:
    """Add the folded bias to exact products; a sum beyond int32 wraps, as the kernel's addition does.

    Args:
        products: (..., C_out) float holding integers.
        folded_bias: (C_out,) from `fold_zero_point`.

    Returns:
        (..., C_out) int32 accumulators.

    Source: docs/quantization.md (13).
    """
    if int(np.abs(folded_bias).max(initial=0)) < 2**29 and products.dtype == np.float32:
        total = products.astype(np.int32)
        total += folded_bias.astype(np.int32)
        return total
    return (products.astype(np.int64) + folded_bias).astype(np.int32)
