"""Bit planes as GAP9's NE16 reads them: blocks of 16 input channels, one 16-bit word per plane and tap.

Codes become unsigned by adding 2**(bits - 1), which the accelerator subtracts again through its weight offset. Input
channels are filled up to a multiple of 16 with zero bits. A depthwise kernel has its channels on the input side.

Source: pulp-nnx ``test/Ne16Weight.py``, its published behaviour.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from kwsq.ir.quant import IntArray, IntRange

BLOCK = 16
CONVENTIONS: Mapping[str, object] = {
    "bit1_means": "code + 2**(bits - 1), unsigned",
    "bit_order": "lsb_first",
    "pack_axis": "input",
    "group": BLOCK,
    "pad_value": 0,
    "word_bytes": 2,
    "word_order": "little",
    "layout": "planes",
}


def pack_ne16(codes: IntArray, bits: int, *, depthwise: bool = False) -> npt.NDArray[np.uint8]:
    """Returns the bit planes of a convolution.

    Args:
        codes: (O, H, W, I) codes of `bits` bits; (1, H, W, O) for a depthwise layer, as kwsq stores it.
        bits: 2 to 8.
        depthwise: the layer is depthwise.

    Returns:
        (O, ceil(I / 16), bits, H * W, 2) uint8; (1, ceil(O / 16), bits, H * W, 2) for a depthwise layer.

    Raises:
        ValueError: the codes do not fit the width.
    """
    if not 2 <= bits <= 8 or not IntRange.of(bits).contains(codes):
        raise ValueError(f"found codes from {codes.min()} to {codes.max()}, expected 2 to 8 bits that hold them")
    if depthwise and len(codes) != 1:
        raise ValueError(f"found {len(codes)} filters, expected (1, H, W, O) of a depthwise layer; check the order")
    outputs, height, width, inputs = codes.shape
    blocks = -(-inputs // BLOCK)
    unsigned = np.zeros((outputs, height * width, blocks * BLOCK), np.uint8)
    unsigned[..., :inputs] = (codes.astype(np.int16) + 2 ** (bits - 1)).reshape(outputs, -1, inputs)
    single = np.unpackbits(unsigned[..., None], axis=-1, count=bits, bitorder="little")
    by_block = single.reshape(outputs, height * width, blocks, BLOCK, bits)
    return np.packbits(by_block.transpose(0, 2, 4, 1, 3), axis=-1, bitorder="little")
