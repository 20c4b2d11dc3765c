"""AVERAGE_POOL_2D and MAX_POOL_2D on int8 codes; input and output share one grid.

Axis letters: N batch, H, W, C channels, OH, OW.

Source: published behaviour of LiteRT ``reference_integer_ops::{AveragePool, MaxPool}``; compared bit by bit
in tests/ir/numerics/test_pooling.py.
"""

from __future__ import annotations

import numpy as np

from kwsq.ir.numerics.fixed_point import (
    INT8_MAX,
    INT8_MIN,
    Int8Array,
    Int32Array,
    KernelRangeError,
    saturate,
)
from kwsq.ir.numerics.window import Window, pad_for_window, tap_view


def average_pool2d(
    x: Int8Array, *, kernel: tuple[int, int], window: Window, low: int = INT8_MIN, high: int = INT8_MAX
) -> Int8Array:
    """Average the codes under each window; padding is not counted.

    Args:
        x: (N, H, W, C) int8.
        kernel: (KH, KW).
        window: stride, padding and output size; dilation 1.
        low: smallest output code, from `affine.activation_range`.
        high: largest output code.

    Returns:
        (N, OH, OW, C) int8, rounded half away from zero *in codes*.

    Raises:
        KernelRangeError: a window covers no pixel, which the runtime refuses.

    Source: LiteRT ``reference_integer_ops::AveragePool``; docs/quantization.md (31).
    """
    counts = _pixels_covered(x, kernel, window)
    if (counts == 0).any():
        raise KernelRangeError(
            "AVERAGE_POOL_2D: found a window outside the image, expected a pixel; reduce the padding"
        )
    padded = pad_for_window(x, kernel=kernel, window=window, value=0)
    total = np.zeros((x.shape[0], *window.output_size, x.shape[3]), dtype=np.int32)
    for row, column in np.ndindex(*kernel):
        total += tap_view(padded, row, column, window=window)
    half = counts // 2
    magnitude = (np.abs(total) + half) // counts
    return saturate(np.where(total > 0, magnitude, -magnitude), low, high).astype(np.int8)


def _pixels_covered(x: Int8Array, kernel: tuple[int, int], window: Window) -> Int32Array:
    """Count the real pixels under each window: (OH, OW, 1) int32."""
    per_axis = []
    for axis in (0, 1):
        start = np.arange(window.output_size[axis]) * window.stride[axis] - window.padding[axis]
        end = np.minimum(start + kernel[axis], x.shape[1 + axis])
        per_axis.append(np.maximum(end - np.maximum(start, 0), 0))
    covered: Int32Array = np.multiply.outer(*per_axis)[..., None].astype(np.int32)
    return covered


def max_pool2d(
    x: Int8Array, *, kernel: tuple[int, int], window: Window, low: int = INT8_MIN, high: int = INT8_MAX
) -> Int8Array:
    """Take the largest code under each window; padding never wins.

    Args:
        x: (N, H, W, C) int8.
        kernel: (KH, KW).
        window: stride, padding and output size; dilation 1.
        low: smallest output code, from `affine.activation_range`.
        high: largest output code.

    Returns:
        (N, OH, OW, C) int8.

    Source: LiteRT ``reference_integer_ops::MaxPool``; docs/quantization.md (32).
    """
    padded = pad_for_window(x, kernel=kernel, window=window, value=INT8_MIN)
    largest = np.full((x.shape[0], *window.output_size, x.shape[3]), INT8_MIN, dtype=np.int8)
    for row, column in np.ndindex(*kernel):
        np.maximum(largest, tap_view(padded, row, column, window=window), out=largest)
    return saturate(largest, low, high).astype(np.int8)
