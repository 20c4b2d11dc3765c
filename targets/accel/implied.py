"""Weight scales that follow from the multipliers, so that nine bytes describe an output channel.

multiplier * 2**(shift - 31) = s_x * s_w / s_y up to 2**-31 of its value, and a float32 has 24 bits: dividing back and
rounding to float32 gives s_w exactly, whatever s_x and s_y. The writer checks every channel and stores the scales
where that fails, which needs a multiplier so small that it was flushed to zero.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from kwsq.ir.quant import FloatArray


def implied_scales(
    multipliers: npt.NDArray[np.int32], shifts: npt.NDArray[np.integer], input_scale: float, output_scale: float
) -> FloatArray:
    """Returns the weight scales behind multipliers and shifts.

    Args:
        multipliers: (C,) Q0.31.
        shifts: (C,).
        input_scale: exact float32.
        output_scale: exact float32.

    >>> implied_scales(np.array([1717986918], np.int32), np.array([-3]), 0.5, 0.25).tolist()
    [0.05000000074505806]
    """
    with np.errstate(over="ignore"):
        effective = np.ldexp(multipliers.astype(np.float64), shifts.astype(np.int64) - 31)
        return np.asarray(effective * output_scale / input_scale, np.float64).astype(np.float32)
