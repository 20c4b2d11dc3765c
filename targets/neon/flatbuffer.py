"""Bounds-checked reading of flatbuffers; the Python flatbuffers package has no verifier.

A table is an int32 distance back to its vtable, followed by inline fields; a vtable is uint16 sizes (its own,
the table's) followed by one uint16 field offset per slot. Vectors and strings are a uint32 count and the
elements. Every access is checked against the file, and the bytes visited are charged to a budget, because
offsets may alias: without it a small file could make a reader walk terabytes.

Source: the flatbuffers binary format description, https://flatbuffers.dev/internals/.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from enum import Enum

import numpy as np
import numpy.typing as npt

from kwsq.ir.errors import InvalidModelError, Problem

MAX_NAME_BYTES = 4096


class Region(Enum):
    """What a stretch of the file holds."""

    GRAPH = "graph"
    """Tables: tensors, operators, options, shapes, operator codes, signatures."""
    NAME = "name"
    QUANTIZATION = "quantization"
    METADATA = "metadata"
    BUFFER = "buffer"


@dataclass(frozen=True, slots=True)
class Extent:
    """Bytes [start, stop) of the file and what they hold."""

    start: int
    stop: int
    region: Region


class FlatBuffer:
    """The bytes of a file, read within bounds and within a visiting budget.

    Args:
        data: the whole file.
        path: its name, for messages.
    """

    def __init__(self, data: bytes, path: str) -> None:
        self.data = data
        self.path = path
        # Writers share vtables, vectors and strings, so honest files are visited more than once, but not 16
        # times.
        self._budget_bytes = 16 * len(data) + 2**16

    def broken(self, position: int, found: str) -> InvalidModelError:
        """Returns the error for damage at byte `position`."""
        where = f"{self.path}, byte {position}"
        return InvalidModelError(
            Problem(where, found, "a complete TFLite flatbuffer", "export the model again or check the download")
        )

    def claim(self, start: int, size_bytes: int) -> None:
        """Checks that bytes [start, start + size) exist and charges them."""
        if start < 0 or start + size_bytes > len(self.data):
            raise self.broken(start, f"{size_bytes} bytes that reach past the end of the file ({len(self.data)} bytes)")
        self._budget_bytes -= size_bytes
        if self._budget_bytes < 0:
            raise self.broken(start, "offsets that refer to the same bytes over and over")

    def unpack(self, layout: str, position: int) -> int:
        """Returns the little-endian integer of struct type `layout` at `position`."""
        self.claim(position, struct.calcsize(layout))
        value: int = struct.unpack_from("<" + layout, self.data, position)[0]
        return value

    def root(self) -> Table:
        """Returns the root table of a TFLite file."""
        if len(self.data) < 8 or self.data[4:8] != b"TFL3":
            raise self.broken(0, "no TFL3 file identifier")
        extents = [Extent(0, 8, Region.GRAPH)]
        return Table(self, self.unpack("I", 0), extents)


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """One table of a flatbuffer.

    Args:
        buffer: the file.
        position: where the table starts.
        extents: where visited bytes are recorded; children record there too unless given another list.
        region: what the visited bytes hold.
    """

    buffer: FlatBuffer
    position: int
    extents: list[Extent] = field(default_factory=list)
    region: Region = Region.GRAPH
    _vtable: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        buffer = self.buffer
        start = self.position - buffer.unpack("i", self.position)
        size, inline = buffer.unpack("H", start), buffer.unpack("H", start + 2)
        if size < 4 or size % 2 or inline < 4:
            raise buffer.broken(start, f"a vtable of {size} bytes for a table of {inline} bytes")
        buffer.claim(start, size)
        buffer.claim(self.position, inline)
        slots = struct.unpack_from(f"<{size // 2 - 2}H", buffer.data, start + 4)
        if any(offset >= inline for offset in slots):
            raise buffer.broken(start, f"a field outside its table of {inline} bytes")
        object.__setattr__(self, "_vtable", slots)
        self._record(start, size)
        self._record(self.position, inline)

    def _record(self, start: int, size_bytes: int) -> None:
        if size_bytes:
            self.extents.append(Extent(start, start + size_bytes, self.region))

    def _field(self, slot: int) -> int | None:
        offset = self._vtable[slot] if slot < len(self._vtable) else 0
        return self.position + offset if offset else None

    def _target(self, slot: int) -> int | None:
        place = self._field(slot)
        return None if place is None else place + self.buffer.unpack("I", place)

    def integer(self, slot: int, layout: str, default: int = 0) -> int:
        """Returns the scalar in `slot`, struct type `layout`."""
        place = self._field(slot)
        return default if place is None else self.buffer.unpack(layout, place)

    def table(self, slot: int, *, extents: list[Extent] | None = None, region: Region | None = None) -> Table | None:
        """Returns the table in `slot`, None when absent."""
        target = self._target(slot)
        return None if target is None else self._child(target, extents, region)

    def tables(self, slot: int, *, limit: int, region: Region | None = None, apart: bool = False) -> list[Table]:
        """Returns the vector of tables in `slot`.

        Args:
            slot: position in the vtable.
            limit: largest count accepted.
            region: what the tables hold, this table's region when None.
            apart: record each table's bytes in a list of its own instead of this table's.
        """
        target = self._target(slot)
        if target is None:
            return []
        count = self._count(target, 4, limit)
        self._record(target, 4 + 4 * count)
        starts = target + 4 + 4 * np.arange(count, dtype=np.int64)
        offsets = np.frombuffer(self.buffer.data, "<u4", count, target + 4).astype(np.int64)
        return [self._child(int(p), [] if apart else None, region) for p in starts + offsets]

    def vector(
        self, slot: int, dtype: str, *, region: Region | None = None, limit: int | None = None
    ) -> npt.NDArray[np.generic]:
        """Returns the vector of numbers in `slot` as a read-only view of the file, empty when absent."""
        target = self._target(slot)
        if target is None:
            return np.zeros(0, dtype)
        size = np.dtype(dtype).itemsize
        count = self._count(target, size, len(self.buffer.data) if limit is None else limit)
        self._record(target, 4)
        if count:
            self.extents.append(Extent(target + 4, target + 4 + count * size, region or self.region))
        return np.frombuffer(self.buffer.data, np.dtype(dtype).newbyteorder("<"), count, target + 4)

    def text(self, slot: int) -> str:
        """Returns the string in `slot`, "" when absent; bytes that are not UTF-8 are replaced."""
        target = self._target(slot)
        if target is None:
            return ""
        count = self._count(target, 1, MAX_NAME_BYTES)
        region = Region.METADATA if self.region is Region.METADATA else Region.NAME
        # A string ends with a zero byte that its count leaves out.
        self.extents.append(Extent(target, min(target + 5 + count, len(self.buffer.data)), region))
        return self.buffer.data[target + 4 : target + 4 + count].decode("utf-8", errors="replace")

    def _count(self, position: int, size_bytes: int, limit: int) -> int:
        count = self.buffer.unpack("I", position)
        if count > limit:
            raise self.buffer.broken(position, f"a vector of {count} elements where at most {limit} can be")
        self.buffer.claim(position + 4, count * size_bytes)
        return count

    def _child(self, position: int, extents: list[Extent] | None, region: Region | None) -> Table:
        own = self.extents if extents is None else extents
        return Table(self.buffer, position, own, region or self.region)
