"""Writing flatbuffers: equal vectors, strings and value tables are stored once and shared by offset.

Source: the flatbuffers binary format description, https://flatbuffers.dev/internals/.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import flatbuffers
import numpy as np
import numpy.typing as npt

from kwsq.targets.neon.schema import Field

BUFFER_ALIGNMENT_BYTES = 16
"""Kernels may read constants with vector loads."""

Offset = int


class Writer:
    """A flatbuffer under construction, written from the end of the file to its start.

    Args:
        size_hint_bytes: expected size; growing copies everything written so far.
    """

    def __init__(self, size_hint_bytes: int) -> None:
        self._builder = flatbuffers.Builder(size_hint_bytes)
        self._known: dict[object, Offset] = {}

    def text(self, value: str) -> Offset:
        """Writes a string."""
        offset: Offset = self._builder.CreateSharedString(value)
        return offset

    def numbers(self, values: npt.ArrayLike, dtype: str) -> Offset:
        """Writes a vector of numbers of NumPy type `dtype`."""
        array = np.ascontiguousarray(values, np.dtype(dtype).newbyteorder("<"))
        key = (dtype, array.tobytes())
        if key not in self._known:
            self._known[key] = self._builder.CreateNumpyVector(array)
        return self._known[key]

    def contents(self, data: bytes) -> Offset:
        """Writes the bytes of a buffer, aligned for vector loads."""
        builder = self._builder
        builder.StartVector(1, len(data), BUFFER_ALIGNMENT_BYTES)
        head = builder.Head() - len(data)
        # The builder has no public call that copies bytes under a chosen alignment; this is its CreateByteVector.
        builder.head = head
        builder.Bytes[head : head + len(data)] = data
        offset: Offset = builder.EndVector()
        return offset

    def offsets(self, values: Sequence[Offset]) -> Offset:
        """Writes a vector of offsets."""
        self._builder.StartVector(4, len(values), 4)
        for value in reversed(values):
            self._builder.PrependUOffsetTRelative(value)
        offset: Offset = self._builder.EndVector()
        return offset

    def table(self, fields: Mapping[Field, float]) -> Offset:
        """Writes a table; fields at their default take no space. Widest fields first, which wastes no padding."""
        present = [(field, value) for field, value in fields.items() if value != field.default]
        present.sort(key=lambda item: (-item[0].kind.size_bytes, item[0].slot))
        self._builder.StartObject(1 + max((field.slot for field, _ in present), default=-1))
        for field, value in present:
            write = getattr(self._builder, f"Prepend{field.kind.value[0]}Slot")
            write(field.slot, value, field.default)
        offset: Offset = self._builder.EndObject()
        return offset

    def shared_table(self, fields: Mapping[Field, float]) -> Offset:
        """Writes a table, or returns an equal one written before."""
        key = tuple(fields.items())
        if key not in self._known:
            self._known[key] = self.table(fields)
        return self._known[key]

    def finish(self, root: Offset, identifier: bytes) -> bytes:
        """Returns the file."""
        self._builder.Finish(root, identifier)
        return bytes(self._builder.Output())
