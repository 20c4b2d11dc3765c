"""An average pool that does not count its padding, where the runtime's SAME padding does not place its windows.

Every window is averaged as if the padding counted, by a depthwise convolution with weights 1/K; a constant map of
K / (pixels covered) then corrects the windows at the borders. Elsewhere the map is 1, so that only borders round twice.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from kwsq.ir.lowered import Pads
from kwsq.ir.numerics import same_padding, valid_size
from kwsq.ir.quant import FloatArray

Pair = tuple[int, int]
MAP_BOUND = 127


def is_same_padding(size: Pair, kernel: Pair, stride: Pair, pads: Pads) -> bool:
    """Returns whether the runtime's SAME padding places the windows as `pads` do.

    >>> is_same_padding((8, 6), (3, 3), (1, 1), ((1, 1), (1, 1)))
    True
    >>> is_same_padding((8, 6), (2, 2), (1, 1), ((1, 0), (1, 0)))
    False
    """
    return all(
        same_padding(n, k, stride=s) == (valid_size(n + sum(p), k, stride=s), p[0])
        for n, k, s, p in zip(size, kernel, stride, pads, strict=True)
    )


def pixels_covered(size: Pair, kernel: Pair, stride: Pair, pads: Pads) -> npt.NDArray[np.int64]:
    """Returns how many pixels of the input each window covers, (OH, OW).

    >>> pixels_covered((2, 3), (2, 2), (1, 1), ((1, 0), (0, 0)))
    array([[2, 2],
           [4, 4]])
    """
    rows, columns = (
        np.array([min(start + k, n) - max(start, 0) for start in range(-p[0], n + p[1] - k + 1, s)], np.int64)
        for n, k, s, p in zip(size, kernel, stride, pads, strict=True)
    )
    return np.multiply.outer(rows, columns)


def correction_map(covered: npt.NDArray[np.int64], kernel: Pair) -> tuple[npt.NDArray[np.int8], FloatArray]:
    """Returns codes and scale of K / covered; 1 has a code of its own exactly.

    Args:
        covered: (OH, OW) pixels per window, at least 1.
        kernel: (KH, KW).

    >>> codes, scale = correction_map(np.array([[2, 4]]), (2, 2))
    >>> codes.tolist(), float(scale[0])
    ([[126, 63]], 0.01587301678955555)
    """
    ratio = kernel[0] * kernel[1] / covered
    unit = max(1, int(MAP_BOUND / ratio.max()))
    return np.rint(ratio * unit).astype(np.int8), np.array([1 / unit], np.float32)
