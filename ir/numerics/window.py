"""Geometry of sliding windows (convolution, pooling) over NHWC arrays.

Axis letters: N batch, H, W, C channels, KH, KW kernel, OH, OW output.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Window:
    """Placement of a kernel over an image; every pair is (height, width).

    Attributes:
        stride: step between output positions, pixels.
        dilation: step between kernel taps, pixels.
        padding: pixels added before the first row and column; those after the last follow from
            ``output_size`` and may be negative (the rest of the image is not read).
        output_size: (OH, OW).
    """

    output_size: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)


def same_padding(size: int, kernel: int, *, stride: int = 1, dilation: int = 1) -> tuple[int, int]:
    """Return ``(output size, padding before)`` of TFLite's SAME padding along one axis.

    Args:
        size: input pixels.
        kernel: taps.
        stride: pixels.
        dilation: pixels.

    Returns:
        output pixels and pixels before the first; the odd one goes after the last.

    Source: LiteRT ``padding.h``; docs/quantization.md (16).
    """
    output = -(-size // stride)
    reach = (kernel - 1) * dilation + 1
    return output, max(0, (output - 1) * stride + reach - size) // 2


def valid_size(size: int, kernel: int, *, stride: int = 1, dilation: int = 1) -> int:
    """Return the output size of TFLite's VALID padding along one axis (arguments as `same_padding`)."""
    reach = (kernel - 1) * dilation + 1
    return (size - reach) // stride + 1


def pad_for_window(x: NDArray[Any], *, kernel: tuple[int, int], window: Window, value: int) -> NDArray[Any]:
    """Extend (or crop) an image so that every tap of every output position exists.

    Args:
        x: (N, H, W, C).
        kernel: (KH, KW).
        window: placement.
        value: fill, the code of real 0 for convolutions.

    Returns:
        (N, H', W', C), same dtype; a view when nothing had to be added.
    """
    before_after = []
    for axis in (0, 1):
        reach = (kernel[axis] - 1) * window.dilation[axis] + 1
        needed = (window.output_size[axis] - 1) * window.stride[axis] + reach
        before = window.padding[axis]
        before_after.append((before, max(0, needed - x.shape[1 + axis] - before), needed))
    (top, bottom, height), (left, right, width) = before_after
    if top or bottom or left or right:
        x = np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)), constant_values=value)
    return x[:, :height, :width, :]


def tap_view(x: NDArray[Any], row: int, column: int, *, window: Window) -> NDArray[Any]:
    """View the pixel that kernel tap (row, column) reads at every output position.

    Args:
        x: (N, H', W', C) from `pad_for_window`.
        row: tap row.
        column: tap column.
        window: placement.

    Returns:
        (N, OH, OW, C) view.
    """
    top, left = row * window.dilation[0], column * window.dilation[1]
    bottom = top + (window.output_size[0] - 1) * window.stride[0] + 1
    right = left + (window.output_size[1] - 1) * window.stride[1] + 1
    return x[:, top : bottom : window.stride[0], left : right : window.stride[1], :]


def patches(x: NDArray[Any], *, kernel: tuple[int, int], window: Window) -> NDArray[Any]:
    """View all taps of all output positions.

    Args:
        x: (N, H', W', C) from `pad_for_window`.
        kernel: (KH, KW).
        window: placement.

    Returns:
        (N, OH, OW, KH, KW, C) view, no copy.
    """
    reach = tuple((taps - 1) * step + 1 for taps, step in zip(kernel, window.dilation, strict=True))
    view = sliding_window_view(x, reach, axis=(1, 2))  # (N, positions, positions, C, reach, reach)
    view = view[:, :: window.stride[0], :: window.stride[1], :, :: window.dilation[0], :: window.dilation[1]]
    return view[:, : window.output_size[0], : window.output_size[1]].transpose(0, 1, 2, 4, 5, 3)
