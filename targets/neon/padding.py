"""Which of TFLite's two padding schemes a window has, if any.

A window is placed by the pixels before the first one and by the output size; pixels after the last follow from both.
"""

from __future__ import annotations

from kwsq.ir.lowered import Pads, Pair
from kwsq.ir.numerics import same_padding, valid_size
from kwsq.targets.neon.schema import SAME, VALID


def padding_scheme(size: Pair, kernel: Pair, stride: Pair, dilation: Pair, pads: Pads) -> int | None:
    """Returns SAME or VALID where TFLite's rule places the window as `pads` do, else None.

    Args:
        size: height and width of the input, pixels.
        kernel: taps per axis.
        stride: between output positions, pixels.
        dilation: between taps, pixels.
        pads: (before, after) per axis, pixels.

    Source: LiteRT ``padding.h``; docs/quantization.md (16).
    """
    axes = list(zip(size, kernel, stride, dilation, pads, strict=True))
    outputs = [output_size(*axis) for axis in axes]
    if all(
        out == valid_size(n, k, stride=s, dilation=d) and before == 0
        for out, (n, k, s, d, (before, _)) in zip(outputs, axes, strict=True)
    ):
        return VALID
    if all(
        (out, before) == same_padding(n, k, stride=s, dilation=d)
        for out, (n, k, s, d, (before, _)) in zip(outputs, axes, strict=True)
    ):
        return SAME
    return None


def output_size(size: int, kernel: int, stride: int, dilation: int, pad: Pair) -> int:
    """Returns the number of window positions along one axis, pixels."""
    return valid_size(size + sum(pad), kernel, stride=stride, dilation=dilation)


def needed_pads(size: int, kernel: int, stride: int, dilation: int, pad: Pair) -> Pair:
    """Returns `pad` without the trailing pixels that no window reaches."""
    before, _ = pad
    last = (output_size(size, kernel, stride, dilation, pad) - 1) * stride + (kernel - 1) * dilation + 1
    return before, max(0, last - size - before)
