"""The grid of a value that only a leaky rectifier reads: the rectifier's own step, so that it rounds nothing twice."""

from __future__ import annotations

import numpy as np

from kwsq.ir.ops import LeakyRelu
from kwsq.ir.quant import INT8, Affine
from kwsq.passes.fuse_activation import grid_bounds


def rectifier_input_grid(op: LeakyRelu, output: Affine, low: float, high: float) -> Affine | None:
    """Returns the int8 grid with the output's step for the input of a leaky rectifier, or None where it would clip.

    On that grid the rectifier passes positive values code by code, and scales only the negative ones. The upper end
    covers what the output can hold; below, clipping is allowed as long as the output shows less than half a code of it.

    Args:
        op: the rectifier.
        output: grid of its output.
        low: smallest observed input.
        high: largest observed input.
    """
    step = float(output.scale[0])
    above = int(np.ceil(min(max(high, 0.0), grid_bounds(output)[1]) / step))
    below = int(np.ceil(-min(low, 0.0) / step))
    spare = INT8.high - INT8.low - above - below
    if not 0.0 <= op.alpha <= 1.0 or above > INT8.high - INT8.low or op.alpha * -spare > 1 / 2:
        return None
    # What is left of the 256 codes goes to both ends, for values larger than those observed.
    return Affine.per_tensor(step, INT8.high - above - max(spare, 0) // 2, INT8)
