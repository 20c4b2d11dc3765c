"""TensorFlow Lite Micro's lookup-table compression: packed indices, a table of values, and a DECODE before the user.

A DECODE operator takes the packed indices and an *ancillary* tensor, and writes the plain constant into the arena,
where the operator after it finds it. Indices of b bits follow each other from the most significant bit of the first
byte on, row-major over the whole tensor; the last byte is filled up with zeros. The ancillary tensor:

    byte 0       0, a lookup table
    byte 1       1, version
    byte 4       1, version of the table
    byte 5       15 in the high half (one table for the tensor), b in the low half
    byte 6       values from one channel's table to the next
    byte 16 on   the values, ascending

Micro's decoder counts channels by the scales of the result, whatever byte 5 says, so that a tensor with a scale per
channel would need its table once per channel. With a distance of 0 all channels read the one table.

Source: tensorflow/lite/micro/compression/decode.py and lut.py and kernels/decode_state_lut.cc of tflite-micro; byte 6
found by running tflite-micro 0.dev20261023 (tests/targets/neon/test_lookup.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kwsq.ir.quant import IntArray

DECODE = "CUSTOM:TFLM_DECODE"
MAX_BITS = 7
_HEADER_BYTES, _ONE_TABLE = 16, 0xF0


@dataclass(frozen=True, slots=True)
class Lookup:
    """A compressed tensor.

    Args:
        bits: width of an index, 1 to 7.
        indices: packed.
        ancillary: header and values.
    """

    bits: int
    indices: bytes
    ancillary: bytes

    @property
    def size_bytes(self) -> int:
        """Bytes of both tensors."""
        return len(self.indices) + len(self.ancillary)


def index_bits(distinct: int) -> int:
    """Returns the width of an index into so many values."""
    return max(1, (distinct - 1).bit_length())


def compress(codes: IntArray, channels: int) -> Lookup | None:
    """Returns int8 codes as a table and indices, or None when they take more than 2^7 values.

    >>> packed = compress(np.array([[-1, 1, 1], [1, -1, 1]], np.int8), channels=1)
    >>> packed.bits, packed.indices.hex(), packed.ancillary.hex()
    (1, '74', '0001000001f102000000000000000000ff01')

    Args:
        codes: (...) int8.
        channels: number of scales of the tensor.
    """
    flat = np.ascontiguousarray(codes, np.int8).reshape(-1)
    counts = np.bincount(flat.view(np.uint8), minlength=256)
    # From -128 up: uint8 128 is int8 -128.
    values = np.array([v for v in range(-128, 128) if counts[v & 255]], np.int8)
    bits = index_bits(values.size)
    if bits > MAX_BITS:
        return None
    places = np.zeros(256, np.uint8)
    places[values.view(np.uint8)] = np.arange(values.size, dtype=np.uint8)
    fields = np.unpackbits(places[flat.view(np.uint8)][:, None], axis=1)[:, 8 - bits :]
    stride = values.size if channels == 1 else 0
    header = bytes([0, 1, 0, 0, 1, _ONE_TABLE | bits, stride]).ljust(_HEADER_BYTES, b"\0")
    return Lookup(bits, np.packbits(fields).tobytes(), header + values.tobytes())


def decompress(indices: bytes, ancillary: bytes, shape: tuple[int, ...]) -> npt.NDArray[np.int8]:
    """Returns the codes of a compressed int8 tensor with one table, as Micro's DECODE does.

    Args:
        indices: contents of the first tensor.
        ancillary: contents of the second.
        shape: of the result.

    Raises:
        ValueError: it is not one, or its indices or values end early.
    """
    bits = ancillary[5] & 7 if len(ancillary) > _HEADER_BYTES else 0
    if not bits or ancillary[:2] != b"\0\1" or ancillary[4] != 1 or ancillary[5] & 0xF0 != _ONE_TABLE:
        raise ValueError("not the header of one lookup table")
    count = math.prod(shape)
    if len(indices) != -(-count * bits // 8):
        raise ValueError(f"{len(indices)} bytes of indices where {count} of {bits} bits take {-(-count * bits // 8)}")
    stream = int.from_bytes(indices, "big") >> (8 * len(indices) - count * bits)
    digits = np.frombuffer(f"{stream:0{count * bits}b}".encode(), np.uint8).reshape(count, bits) - ord("0")
    places = digits @ (1 << np.arange(bits)[::-1])
    values = np.frombuffer(ancillary[_HEADER_BYTES:], np.int8)
    if places.max(initial=0) >= values.size:
        raise ValueError(f"index {places.max()} into {values.size} values")
    codes: npt.NDArray[np.int8] = values[places].reshape(shape)
    return codes
