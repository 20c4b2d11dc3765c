"""Binary kernels as the MAX78002's weight memories hold them.

Each input channel has a memory of its own. A byte holds one tap of eight consecutive output channels, the first in the
least significant bit, and a set bit means -1. The nine taps of a 3 x 3 kernel are written last tap first and make a
word of 72 bits, which a loader takes as four u32: the first byte alone; the next four, the first of them highest; the
last four likewise; zero.

Source: ai8x-synthesis ``izer/kernels.py`` and its README, their published behaviour.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from kwsq.ir.quant import IntArray

TAPS, CHANNELS = 9, 8
CONVENTIONS: Mapping[str, object] = {
    "bit1_means": -1,
    "bit_order": "lsb_first",
    "pack_axis": "output",
    "group": CHANNELS,
    "pad_value": 0,
    "word_bytes": 9,
    "word_order": "four u32: byte 0; bytes 1 to 4 big-endian; bytes 5 to 8 big-endian; zero",
}


def pack_max78002(codes: IntArray) -> npt.NDArray[np.uint32]:
    """Returns the weight memories of binary 3 x 3 kernels.

    Args:
        codes: (O, 3, 3, I) codes -1 and +1; output channels are filled up to a multiple of 8 with zero bits.

    Returns:
        (I, ceil(O / 8), 4) uint32: input channel, group of output channels, words of the loader.

    Raises:
        ValueError: another kernel size, or a code that is neither -1 nor +1.
    """
    if codes.ndim != 4 or codes.shape[1:3] != (3, 3):
        raise ValueError(f"found kernels of shape {codes.shape}, expected (O, 3, 3, I); this memory holds 3 x 3 taps")
    if not np.isin(codes, (-1, 1)).all():
        raise ValueError("found codes other than -1 and +1, expected binary weights; train binary weights")
    outputs, inputs = codes.shape[0], codes.shape[3]
    groups = -(-outputs // CHANNELS)
    negative = np.zeros((groups * CHANNELS, TAPS, inputs), np.uint8)
    negative[:outputs] = codes.reshape(outputs, TAPS, inputs) < 0
    by_group = negative.reshape(groups, CHANNELS, TAPS, inputs)
    taps = np.packbits(by_group, axis=1, bitorder="little")[:, 0, ::-1, :].astype(np.uint32)
    k = taps.transpose(2, 0, 1)
    words = [k[..., 0], _big_endian(k[..., 1:5]), _big_endian(k[..., 5:9]), np.zeros_like(k[..., 0])]
    stacked: npt.NDArray[np.uint32] = np.stack(words, axis=-1)
    return stacked


def _big_endian(tap: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    return np.asarray(tap[..., 0] << 24 | tap[..., 1] << 16 | tap[..., 2] << 8 | tap[..., 3], np.uint32)
