"""Sign words as Larq Compute Engine stores binary filters.

Element i of the input channels is bit i % 32 of word i / 32, least significant bit first; a set bit means a value below
0. Every tap starts a new word and ends in zero bits, which would read as values of at least 0: a consumer must know the
number of channels.

Source: larq compute engine ``core/bitpacking/bitpack.h`` and ``core/types.h``, its published behaviour.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from kwsq.ir.quant import IntArray

WORD_BITS = 32
CONVENTIONS: Mapping[str, object] = {
    "bit1_means": -1,
    "bit_order": "lsb_first",
    "pack_axis": "input",
    "group": 1,
    "pad_value": 0,
    "word_bytes": 4,
    "word_order": "little",
}


def pack_lce(codes: IntArray) -> npt.NDArray[np.int32]:
    """Returns the sign words of binary weights.

    Args:
        codes: (O, H, W, I) codes -1 and +1.

    Returns:
        (O, H, W, ceil(I / 32)) int32.

    Raises:
        ValueError: a code is neither -1 nor +1.
    """
    if not np.isin(codes, (-1, 1)).all():
        raise ValueError(f"found codes {np.unique(codes)[:4].tolist()}, expected -1 and +1; train binary weights")
    words = -(-codes.shape[-1] // WORD_BITS)
    signs = np.zeros((*codes.shape[:-1], words * WORD_BITS), np.uint8)
    signs[..., : codes.shape[-1]] = codes < 0
    packed = np.packbits(signs, axis=-1, bitorder="little")
    return np.ascontiguousarray(packed).view("<i4").astype(np.int32)
