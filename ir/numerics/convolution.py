"""CONV_2D (with groups) and DEPTHWISE_CONV_2D on int8 codes.

Axis letters: N batch, H, W, C_in, C_out, KH, KW, OH, OW; weights are OHWI, 1HWO for depthwise.

Source: published behaviour of LiteRT ``reference_integer_ops::{ConvPerChannel, DepthwiseConvPerChannel}``;
compared bit by bit in tests/ir/numerics/test_convolution.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kwsq.ir.numerics.fixed_point import Int8Array, Int32Array
from kwsq.ir.numerics.linear import (
    FixedPointParams,
    accumulator_bound,
    add_folded_bias,
    exact_float,
    fold_zero_point,
    requantize_layer,
)
from kwsq.ir.numerics.window import Window, pad_for_window, patches, tap_view
from kwsq.ir.numerics.xnnpack import SingleParams

LayerParams = FixedPointParams | SingleParams

# Elements of the largest float32 array of a step: the matrix product tolerates 2 MiB, the elementwise passes
# of the depthwise kernel want all their arrays in the second-level cache.
_CHUNK_ELEMENTS = 1 << 19
_DEPTHWISE_CHUNK_ELEMENTS = 1 << 17


def conv2d(
    x: Int8Array, weights: Int8Array, bias: Int32Array | None, params: LayerParams, *, window: Window
) -> Int8Array:
    """Convolve; fewer weight input channels than C_in means groups, as in TFLite.

    Args:
        x: (N, H, W, C_in) int8.
        weights: (C_out, KH, KW, C_in / groups) int8.
        bias: (C_out,) int32 or None.
        params: from `derive_fixed_point` with `effective_scale_conv`, or from `xnnpack.derive_single`.
        window: stride, dilation, padding and output size.

    Returns:
        (N, OH, OW, C_out) int8.

    Raises:
        ValueError: channels do not divide into groups, or the accumulator bound exceeds int32.

    Source: LiteRT ``reference_integer_ops::ConvPerChannel``; docs/quantization.md (13)-(16).
    """
    output = np.empty((x.shape[0], *window.output_size, weights.shape[0]), dtype=np.int8)
    for part, sums in _conv2d_parts(x, weights, bias, params.input_zero_point, window):
        output[part] = requantize_layer(sums, params)
    return output


def conv2d_sums(
    x: Int8Array, weights: Int8Array, bias: Int32Array | None, *, input_zero_point: int, window: Window
) -> Int32Array:
    """Return the accumulators `conv2d` requantizes.

    Args:
        x: (N, H, W, C_in) int8.
        weights: (C_out, KH, KW, C_in / groups) int8.
        bias: (C_out,) int32 or None.
        input_zero_point: input code of real 0.
        window: stride, dilation, padding and output size.

    Returns:
        (N, OH, OW, C_out) int32.

    Raises:
        ValueError: as `conv2d`.

    Source: docs/quantization.md (13).
    """
    output = np.empty((x.shape[0], *window.output_size, weights.shape[0]), dtype=np.int32)
    for part, sums in _conv2d_parts(x, weights, bias, input_zero_point, window):
        output[part] = sums
    return output


def _conv2d_parts(
    x: Int8Array, weights: Int8Array, bias: Int32Array | None, input_zero_point: int, window: Window
) -> Iterator[tuple[slice, Int32Array]]:
    """Yield the accumulators of a few images at a time."""
    c_out, rows, columns, c_group = weights.shape
    groups = x.shape[3] // c_group
    if groups * c_group != x.shape[3] or c_out % groups:
        raise ValueError(
            f"conv2d: found {x.shape[3]} input, {c_group} weight input and {c_out} output channels, expected "
            "whole groups; check the weight layout (OHWI)"
        )
    flat = weights.reshape(c_out, -1)
    dtype = exact_float(accumulator_bound(flat))
    matrix = flat.reshape(groups, c_out // groups, -1).transpose(0, 2, 1).astype(dtype)
    folded = fold_zero_point(flat, bias, input_zero_point)
    padded = pad_for_window(x, kernel=(rows, columns), window=window, value=input_zero_point)
    shape = (x.shape[0], *window.output_size, c_out)
    for part in _batch_chunks(shape, max(flat.shape[1] * groups, c_out), limit=_CHUNK_ELEMENTS):
        products = np.matmul(_patch_matrix(padded[part], (rows, columns), window, groups, dtype), matrix)
        merged = products.transpose(1, 0, 2).reshape(-1, *shape[1:])
        yield part, add_folded_bias(merged, folded)


def _batch_chunks(shape: tuple[int, ...], elements_per_position: int, *, limit: int) -> Iterator[slice]:
    step = max(1, limit // max(1, shape[1] * shape[2] * elements_per_position))
    return (slice(start, start + step) for start in range(0, shape[0], step))


def _patch_matrix(
    padded: Int8Array, kernel: tuple[int, int], window: Window, groups: int, dtype: type[np.floating[Any]]
) -> NDArray[Any]:
    """Return (groups, N * OH * OW, KH * KW * C_in / groups) of ``dtype``."""
    view = patches(padded, kernel=kernel, window=window)
    channels = padded.shape[3] // groups
    split = view.reshape(*view.shape[:5], groups, channels) if groups > 1 else view[..., None, :]
    return np.moveaxis(split, 5, 0).astype(dtype).reshape(groups, -1, kernel[0] * kernel[1] * channels)


def depthwise_conv2d(
    x: Int8Array, weights: Int8Array, bias: Int32Array | None, params: LayerParams, *, window: Window
) -> Int8Array:
    """Convolve each channel with its own kernels.

    Args:
        x: (N, H, W, C_in) int8.
        weights: (1, KH, KW, C_out) int8; output channel ``c * M + m`` reads input channel ``c``.
        bias: (C_out,) int32 or None.
        params: from `derive_fixed_point` with `effective_scale_conv`, or from `xnnpack.derive_single`.
        window: stride, dilation, padding and output size.

    Returns:
        (N, OH, OW, C_out) int8.

    Raises:
        ValueError: C_out is no multiple of C_in, or the accumulator bound exceeds int32.

    Source: LiteRT ``reference_integer_ops::DepthwiseConvPerChannel``; docs/quantization.md (13)-(16).
    """
    output = np.empty((x.shape[0], *window.output_size, weights.shape[3]), dtype=np.int8)
    for part, sums in _depthwise_parts(x, weights, bias, params.input_zero_point, window):
        output[part] = requantize_layer(sums, params)
    return output


def depthwise_conv2d_sums(
    x: Int8Array, weights: Int8Array, bias: Int32Array | None, *, input_zero_point: int, window: Window
) -> Int32Array:
    """Return the accumulators `depthwise_conv2d` requantizes.

    Args:
        x: (N, H, W, C_in) int8.
        weights: (1, KH, KW, C_out) int8.
        bias: (C_out,) int32 or None.
        input_zero_point: input code of real 0.
        window: stride, dilation, padding and output size.

    Returns:
        (N, OH, OW, C_out) int32.

    Raises:
        ValueError: as `depthwise_conv2d`.

    Source: docs/quantization.md (13).
    """
    output = np.empty((x.shape[0], *window.output_size, weights.shape[3]), dtype=np.int32)
    for part, sums in _depthwise_parts(x, weights, bias, input_zero_point, window):
        output[part] = sums
    return output


def _depthwise_parts(
    x: Int8Array, weights: Int8Array, bias: Int32Array | None, input_zero_point: int, window: Window
) -> Iterator[tuple[slice, Int32Array]]:
    """Yield the accumulators of a few images at a time."""
    _, rows, columns, c_out = weights.shape
    if c_out % x.shape[3]:
        raise ValueError(
            f"depthwise_conv2d: found {x.shape[3]} input and {c_out} output channels, expected a whole depth "
            "multiplier; check the weight layout (1HWO)"
        )
    flat = weights.reshape(-1, c_out).T
    dtype = exact_float(accumulator_bound(flat))
    folded = fold_zero_point(flat, bias, input_zero_point)
    padded = pad_for_window(x, kernel=(rows, columns), window=window, value=input_zero_point)
    taps = weights[0].astype(dtype)
    shape = (x.shape[0], *window.output_size, c_out)
    for part in _batch_chunks(shape, c_out, limit=_DEPTHWISE_CHUNK_ELEMENTS):
        image = padded[part].astype(dtype)
        if c_out != x.shape[3]:
            image = np.repeat(image, c_out // x.shape[3], axis=3)
        total = np.zeros((len(image), *shape[1:]), dtype=dtype)
        product = np.empty_like(total)
        for row, column in np.ndindex(rows, columns):
            np.multiply(tap_view(image, row, column, window=window), taps[row, column], out=product)
            total += product
        yield part, add_folded_bias(total, folded)
