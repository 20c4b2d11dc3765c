"""The constants and fixed-layout records of a kwsq pack; docs/pack-format.md is normative."""

from __future__ import annotations

import struct
from enum import IntEnum

MAGIC = b"KWSQPACK"
VERSION = (1, 0)
ENDIAN_MARK = 0x0A0B0C0D
ALIGNMENT_BYTES = 16
DIGEST_BYTES = 32

HEADER = struct.Struct("<8sHHIIIII32s")
"""magic, major, minor, endianness mark, total length, section count, section alignment, zero, SHA-256 of the whole."""
DIGEST_OFFSET = HEADER.size - DIGEST_BYTES
ENTRY = struct.Struct("<IIII32s")
"""type, offset, length, zero, SHA-256."""
GRAPH_HEADER = struct.Struct("<HHHHII")
"""tensors, operators, layers, zero, dimensions, arena bytes."""
TENSOR = struct.Struct("<BBHIfhBB")
"""dtype, rank, first dimension, offset, scale, zero point, storage, zero."""
LAYER = struct.Struct("<BBBBIIIIHBBIIIHH")
"""bits, scheme, layout, log2 of row alignment, rows, columns, offset in weights, offset in codebooks, levels,
per channel, zero, first bias, first multiplier, first scale, kernel height, kernel width."""
OPERATOR = struct.Struct("<BBBB")
"""code, inputs, outputs, attributes; then the tensor numbers as uint16, an even count, then the attributes as int32."""
IO = struct.Struct("<HBBHHI")
"""tensor, role, zero, number of the state output that feeds it, length of the name, offset of the name."""

NONE = 0xFFFFFFFF
NO_PARTNER = 0xFFFF

MAX_TENSORS = 1024
MAX_OPERATORS = 1024
MAX_REACH = 2**16
"""Largest extent of a kernel, largest stride, dilation and padding, in pixels."""
MAX_COUNT = 2**23
"""Elements averaged into one: 2**23 codes stay below 2**31."""
MAX_ARENA_BYTES = 2**28
MAX_WORK = 2**33
"""Multiply-accumulates and other element operations of one inference."""
MAX_MANIFEST_BYTES = 2**20


class Section(IntEnum):
    """Section types, in the order they have in the file."""

    MANIFEST = 1
    GRAPH = 2
    IO = 3
    WEIGHTS = 4
    CODEBOOKS = 5
    SCALES = 6
    BIASES = 7
    REQUANTIZATION = 8
    CONSTANTS = 9

    @property
    def label(self) -> str:
        """The name used in messages and reports."""
        return self.name.lower()


REQUIRED = (Section.MANIFEST, Section.GRAPH, Section.IO)


class ElementType(IntEnum):
    """Element type of a tensor."""

    INT8 = 1
    UINT8 = 2
    FLOAT32 = 3

    @property
    def size_bytes(self) -> int:
        """Bytes per element."""
        return 4 if self is ElementType.FLOAT32 else 1


class Storage(IntEnum):
    """Where a tensor lies."""

    ARENA = 0
    CONSTANTS = 1


class Role(IntEnum):
    """What an entry of the io section describes."""

    INPUT = 0
    OUTPUT = 1


def aligned(size: int, alignment: int = ALIGNMENT_BYTES) -> int:
    """Returns `size` rounded up.

    >>> aligned(0), aligned(1), aligned(16)
    (0, 16, 16)
    """
    return -(-size // alignment) * alignment
