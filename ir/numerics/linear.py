"""Convolutions and matrix products of int8 codes with int32 accumulators.

Accumulators are exact integers computed by floating-point BLAS: every partial sum, in whatever order
BLAS forms it, is bounded by ``max|x| * sum|w|``; below 2**24 float32 holds it exactly, below 2**53
float64 does. The input zero point is folded into the bias, docs/quantization.md (12), which keeps
``|x| <= 128`` and the bound small.

Axis letters: N batch, H, W, C_in, C_out, KH, KW; weights are OHWI (1HWO for depthwise).

Source: published behaviour of LiteRT ``reference_integer_ops::{ConvPerChannel, DepthwiseConvPerChannel,
FullyConnected}`` and ``reference_ops::BatchMatMul``; tests/ir/numerics/test_linear.py compares them bit by bit.
"""

from __future__ import annotations

from collections.abc import Iterator
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
    multiply_by_quantized_multiplier,
    quantize_multipliers,
    saturate,
)
from kwsq.ir.numerics.window import Window, pad_for_window, patches, tap_view

# Rows of a patch matrix per step: about 2 MiB of float32, so that a step stays in the cache.
_CHUNK_ELEMENTS = 1 << 19


@dataclass(frozen=True, slots=True)
class LinearParams:
    """Constants of one convolution, dense layer or matrix product; see `derive_linear`.

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


def effective_scale_conv(input_scale: float, weight_scale: ArrayLike, output_scale: float) -> FloatArray:
    """Return the real multipliers of CONV_2D, DEPTHWISE_CONV_2D and per-channel FULLY_CONNECTED.

    Args:
        input_scale: exact float32.
        weight_scale: scalar or (C_out,), exact float32 values.
        output_scale: exact float32.

    Returns:
        (1,) or (C_out,) float64: product and quotient both in double.

    Raises:
        ValueError: a scale is not positive, finite and float32.

    Source: LiteRT ``PopulateConvolutionQuantizationParams``; docs/quantization.md (13a).
    """
    weights = [float(float32_scale(float(value), "weight scale")) for value in np.ravel(np.asarray(weight_scale))]
    product = float(float32_scale(input_scale, "input scale")) * np.array(weights, dtype=np.float64)
    return product / float(float32_scale(output_scale, "output scale"))


def effective_scale_matmul(input_scale: float, weight_scale: float, output_scale: float) -> FloatArray:
    """Return the real multiplier of per-tensor FULLY_CONNECTED and of BATCH_MATMUL.

    Args:
        input_scale: exact float32.
        weight_scale: exact float32.
        output_scale: exact float32.

    Returns:
        (1,) float64: the product is rounded to float32 first, then divided in double.

    Raises:
        ValueError: as `effective_scale_conv`; also a product that underflows float32 to zero.

    Source: LiteRT ``GetQuantizedConvolutionMultipler``; docs/quantization.md (13b).
    """
    product = float32_scale(input_scale, "input scale") * float32_scale(weight_scale, "weight scale")
    return np.array([float(product) / float(float32_scale(output_scale, "output scale"))], dtype=np.float64)


def effective_scale_fully_connected(
    input_scale: float, weight_scale: ArrayLike, output_scale: float
) -> FloatArray:
    """Choose the derivation FULLY_CONNECTED uses: one weight scale is per tensor, several per channel.

    Args:
        input_scale: exact float32.
        weight_scale: scalar, (1,) or (C_out,).
        output_scale: exact float32.

    Returns:
        (1,) or (C_out,) float64.

    Raises:
        ValueError: as `effective_scale_conv`.

    Source: LiteRT FULLY_CONNECTED Prepare; docs/quantization.md (13).
    """
    scales = np.ravel(np.asarray(weight_scale))
    if scales.size == 1:
        return effective_scale_matmul(input_scale, float(scales[0]), output_scale)
    return effective_scale_conv(input_scale, scales, output_scale)


def derive_linear(
    effective_scale: ArrayLike,
    *,
    input_zero_point: int,
    output_zero_point: int,
    low: int = INT8_MIN,
    high: int = INT8_MAX,
) -> LinearParams:
    """Derive the constants of a linear layer from its effective scale.

    Args:
        effective_scale: (1,) or (C_out,) float64 from one of the ``effective_scale_*`` functions.
        input_zero_point: input code of real 0.
        output_zero_point: output code of real 0.
        low: smallest output code, from `affine.activation_range`.
        high: largest output code.

    Returns:
        the constants.

    Raises:
        ValueError: a multiplier is out of range.

    Source: docs/quantization.md (4), (13).
    """
    multiplier, shift = quantize_multipliers(effective_scale)
    return LinearParams(input_zero_point, output_zero_point, multiplier, shift, low, high)


def requantize_accumulator(accumulator: NDArray[Any], params: LinearParams) -> Int8Array:
    """Scale, shift to the output zero point and clamp.

    Args:
        accumulator: (..., C_out) integers within int32.
        params: from `derive_linear`.

    Returns:
        int8 codes, same shape.

    Source: docs/quantization.md (11).
    """
    scaled = multiply_by_quantized_multiplier(accumulator, params.multiplier_q31, params.shift)
    np.clip(scaled, params.low - params.output_zero_point, params.high - params.output_zero_point, out=scaled)
    scaled += np.int32(params.output_zero_point)
    return scaled.astype(np.int8)


def exact_float(bound: int) -> type[np.floating[Any]]:
    """Return the narrowest float that holds every integer up to ``bound`` exactly.

    Args:
        bound: largest magnitude of any partial sum.

    Returns:
        ``numpy.float32`` or ``numpy.float64``.

    Raises:
        ValueError: ``bound`` is above 2**31 - 1: an int32 accumulator may overflow.

    Source: IEEE 754 significand widths; docs/quantization.md (12).
    """
    if bound > INT32_MAX:
        raise ValueError(
            f"accumulator bound: found {bound}, expected at most 2**31 - 1; split the layer or narrow the weights"
        )
    return np.float32 if bound < 2**24 else np.float64


def _l1_bound(weights: NDArray[Any]) -> int:
    """Bound |sum x*w| for weights (C_out, K) and any int8 x."""
    return 128 * int(np.abs(weights.astype(np.int32)).sum(axis=-1, dtype=np.int64).max(initial=0))


def _folded_bias(weights: NDArray[Any], bias: Int32Array | None, input_zero_point: int) -> Int64Array:
    """Equation (12): b - z_x * sum(w), per output channel, for weights (C_out, K)."""
    total = weights.sum(axis=-1, dtype=np.int64) * -input_zero_point
    return total if bias is None else total + bias


def _accumulate(products: NDArray[Any], folded_bias: Int64Array) -> Int32Array:
    total: Int64Array = products.astype(np.int64) + folded_bias
    return total.astype(np.int32)  # a bias that overflows wraps, as the kernel's int32 addition does


def fully_connected(x: Int8Array, weights: Int8Array, bias: Int32Array | None, params: LinearParams) -> Int8Array:
    """Multiply rows of codes by a weight matrix.

    Args:
        x: (..., K) int8.
        weights: (C_out, K) int8, zero point 0.
        bias: (C_out,) int32 at scale s_x * s_w, or None.
        params: from `derive_linear` with `effective_scale_fully_connected`.

    Returns:
        (..., C_out) int8.

    Raises:
        ValueError: the accumulator bound exceeds int32.

    Source: LiteRT ``reference_integer_ops::FullyConnected``; docs/quantization.md (11)-(13).
    """
    dtype = exact_float(_l1_bound(weights))
    products = x.astype(dtype) @ weights.astype(dtype).T
    return requantize_accumulator(_accumulate(products, _folded_bias(weights, bias, params.input_zero_point)), params)


def batch_matmul(a: Int8Array, b: Int8Array, params: LinearParams, *, b_zero_point: int) -> Int8Array:
    """Multiply two stacks of matrices of codes.

    Args:
        a: (..., M, K) int8; its zero point is ``params.input_zero_point``.
        b: (..., K, N) int8; leading axes broadcast.
        params: from `derive_linear` with `effective_scale_matmul`.
        b_zero_point: code of real 0 in ``b``.

    Returns:
        (..., M, N) int8.

    Raises:
        ValueError: the accumulator bound exceeds int32.

    Source: LiteRT ``reference_ops::BatchMatMul``; docs/quantization.md (15).
    """
    dtype = exact_float(255 * 255 * a.shape[-1])
    centred_a = a.astype(dtype) - dtype(params.input_zero_point)
    centred_b = b.astype(dtype) - dtype(b_zero_point)
    return requantize_accumulator((centred_a @ centred_b).astype(np.int32), params)


def conv2d(
    x: Int8Array, weights: Int8Array, bias: Int32Array | None, params: LinearParams, *, window: Window
) -> Int8Array:
    """Convolve; fewer weight input channels than C_in means groups, as in TFLite.

    Args:
        x: (N, H, W, C_in) int8.
        weights: (C_out, KH, KW, C_in / groups) int8.
        bias: (C_out,) int32 or None.
        params: from `derive_linear` with `effective_scale_conv`.
        window: stride, dilation, padding and output size.

    Returns:
        (N, OH, OW, C_out) int8.

    Raises:
        ValueError: channels do not divide into groups, or the accumulator bound exceeds int32.

    Source: LiteRT ``reference_integer_ops::ConvPerChannel``; docs/quantization.md (11)-(14).
    """
    c_out, kernel, c_group = weights.shape[0], weights.shape[1:3], weights.shape[3]
    groups = x.shape[3] // c_group
    if groups * c_group != x.shape[3] or c_out % groups:
        raise ValueError(
            f"conv2d: found {x.shape[3]} input, {c_group} weight input and {c_out} output channels, expected whole "
            "groups; check the weight layout (OHWI)"
        )
    flat = weights.reshape(c_out, -1)
    dtype = exact_float(_l1_bound(flat))
    matrix = flat.reshape(groups, c_out // groups, -1).transpose(0, 2, 1).astype(dtype)
    folded = _folded_bias(flat, bias, params.input_zero_point)
    padded = pad_for_window(x, kernel=kernel, window=window, value=params.input_zero_point)
    output = np.empty((x.shape[0], *window.output_size, c_out), dtype=np.int8)
    for part in _batch_chunks(x.shape[0], int(np.prod(window.output_size)) * max(flat.shape[1] * groups, c_out)):
        rows = _patch_rows(padded[part], kernel, window, groups, dtype)
        products = np.matmul(rows, matrix)  # (groups, rows, C_out / groups)
        merged = products.transpose(1, 0, 2).reshape(output[part].shape)
        output[part] = requantize_accumulator(_accumulate(merged, folded), params)
    return output


def _batch_chunks(count: int, elements_each: int) -> Iterator[slice]:
    step = max(1, _CHUNK_ELEMENTS // max(1, elements_each))
    return (slice(start, start + step) for start in range(0, count, step))


def _patch_rows(
    padded: Int8Array, kernel: tuple[int, int], window: Window, groups: int, dtype: type[np.floating[Any]]
) -> NDArray[Any]:
    """Return (groups, N*OH*OW, KH*KW*C_in/groups) of ``dtype``."""
    view = patches(padded, kernel=kernel, window=window)
    taps, channels = kernel[0] * kernel[1], padded.shape[3]
    split = view.reshape(*view.shape[:5], groups, channels // groups) if groups > 1 else view[..., None, :]
    grouped = np.moveaxis(split, 5, 0).astype(dtype)
    return grouped.reshape(groups, -1, taps * (channels // groups))


def depthwise_conv2d(
    x: Int8Array, weights: Int8Array, bias: Int32Array | None, params: LinearParams, *, window: Window
) -> Int8Array:
    """Convolve each channel with its own kernels.

    Args:
        x: (N, H, W, C_in) int8.
        weights: (1, KH, KW, C_out) int8; output channel ``c * M + m`` reads input channel ``c``.
        bias: (C_out,) int32 or None.
        params: from `derive_linear` with `effective_scale_conv`.
        window: stride, dilation, padding and output size.

    Returns:
        (N, OH, OW, C_out) int8.

    Raises:
        ValueError: C_out is no multiple of C_in, or the accumulator bound exceeds int32.

    Source: LiteRT ``reference_integer_ops::DepthwiseConvPerChannel``; docs/quantization.md (11)-(14).
    """
    kernel, c_out = weights.shape[1:3], weights.shape[3]
    if c_out % x.shape[3]:
        raise ValueError(
            f"depthwise_conv2d: found {x.shape[3]} input and {c_out} output channels, expected a whole depth "
            "multiplier; check the weight layout (1HWO)"
        )
    flat = weights.reshape(-1, c_out).T
    dtype = exact_float(_l1_bound(flat))
    folded = _folded_bias(flat, bias, params.input_zero_point)
    padded = pad_for_window(x, kernel=kernel, window=window, value=params.input_zero_point)
    taps = weights[0].astype(dtype)
    output = np.empty((x.shape[0], *window.output_size, c_out), dtype=np.int8)
    for part in _batch_chunks(x.shape[0], int(np.prod(window.output_size)) * c_out):
        image = np.repeat(padded[part].astype(dtype), c_out // x.shape[3], axis=3)
        total = np.zeros(output[part].shape, dtype=dtype)
        for row, column in np.ndindex(*kernel):
            total += tap_view(image, row, column, window=window) * taps[row, column]
        output[part] = requantize_accumulator(_accumulate(total, folded), params)
    return output
