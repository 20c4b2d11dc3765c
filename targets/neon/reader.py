"""Reading of any `.tflite` file, also damaged or hostile ones, into frozen records.

Nothing is trusted: offsets, counts, indices and types are checked, so that the only outcomes are a
    `TfliteModel` and an
`InvalidModelError`. Each record keeps the extents of the file it was read from, which is how the footprint
accounts for every byte.

Source: tensorflow/compiler/mlir/lite/schema/schema.fbs (table layouts; slot numbers are field positions in
    it).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kwsq.ir.errors import InvalidModelError, Problem
from kwsq.targets.neon.flatbuffer import Extent, FlatBuffer, Region, Table
from kwsq.targets.neon.schema_names import BUILTIN_OPERATORS, TENSOR_TYPES

MAX_FILE_BYTES = 2**29
MAX_SUBGRAPHS = 64
MAX_TENSORS = 2**14
MAX_OPERATORS = 2**14
MAX_RANK = 16
MAX_ELEMENTS = 2**32
# Operator options that end in a vector of their own; others are one table. Numbers: union BuiltinOptions.
_OPTIONS_WITH_VECTOR = {17: "RESHAPE", 30: "SQUEEZE"}
_CUSTOM = BUILTIN_OPERATORS.index("CUSTOM")


@dataclass(frozen=True, slots=True, eq=False)
class FileBuffer:
    """Bytes of one buffer and where they lie."""

    data: memoryview
    extents: tuple[Extent, ...]


@dataclass(frozen=True, slots=True, eq=False)
class FileTensor:
    """One tensor as the file describes it.

    Args:
        name: name, possibly empty.
        shape: dimensions, non-negative.
        dtype: name of the element type in the schema.
        element_bits: bits per element; 0 where elements have no fixed size.
        buffer: index of its buffer.
        data: constant contents as stored, empty for activations.
        scale: (0,), (1,) or (C,) float32.
        zero_point: (0,), (1,) or (C,) int64.
        quantized_dimension: axis of a per-channel scale.
        is_variable: whether it keeps its contents between invocations.
        extents: bytes of the file that describe it, its buffer excepted.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    element_bits: int
    buffer: int
    data: memoryview
    scale: npt.NDArray[np.float32]
    zero_point: npt.NDArray[np.int64]
    quantized_dimension: int
    is_variable: bool
    extents: tuple[Extent, ...]

    @property
    def is_constant(self) -> bool:
        """Whether the file holds its contents."""
        return len(self.data) > 0

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def size_bytes(self) -> int:
        """Bytes of the elements, packed types rounded up to whole bytes."""
        return -(-self.size * self.element_bits // 8)

    def codes(self) -> npt.NDArray[np.generic]:
        """Returns a constant's elements in its shape, INT4 and INT2 unpacked to int8.

        Raises:
            InvalidModelError: the buffer does not hold exactly `size` elements, or the type has no fixed
                size.
        """
        if not self.element_bits or len(self.data) != self.size_bytes:
            found = f"{len(self.data)} bytes for shape {self.shape} of {self.dtype}"
            expected = f"{self.size_bytes} bytes"
            raise InvalidModelError(Problem(f"tensor {self.name!r}", found, expected, "export the model again"))
        raw = np.frombuffer(self.data, np.uint8)
        if self.dtype in ("INT4", "INT2"):
            return _unpack(raw, self.element_bits, self.size).reshape(self.shape)
        return raw.view(_NUMPY[self.dtype]).reshape(self.shape)


_NUMPY = {
    "FLOAT32": "<f4", "FLOAT16": "<f2", "FLOAT64": "<f8", "COMPLEX64": "<c8", "COMPLEX128": "<c16",
    "INT8": "i1", "INT16": "<i2", "INT32": "<i4", "INT64": "<i8",
    "UINT8": "u1", "UINT16": "<u2", "UINT32": "<u4", "UINT64": "<u8",
    "BOOL": "?", "UINT4": "u1", "BFLOAT16": "<u2", "FLOAT8_E4M3FN": "u1", "FLOAT8_E5M2": "u1",
}  # fmt: skip


def _unpack(raw: npt.NDArray[np.uint8], bits: int, count: int) -> npt.NDArray[np.int8]:
    """Returns signed codes packed low bits first."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    codes = (raw[:, None] >> shifts).reshape(-1)[:count] & (2**bits - 1)
    # Moving the sign bit to bit 7 and back extends it.
    signed: npt.NDArray[np.int8] = (codes << (8 - bits)).astype(np.uint8).view(np.int8) >> (8 - bits)
    return signed


@dataclass(frozen=True, slots=True, eq=False)
class FileOperator:
    """One operator.

    Args:
        name: builtin operator name; `CUSTOM:name` for custom ones.
        version: operator version.
        inputs: tensor indices, -1 for an omitted input.
        outputs: tensor indices.
        options: its builtin options table, None without.
        extents: bytes that describe it.
    """

    name: str
    version: int
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: Table | None
    extents: tuple[Extent, ...]


@dataclass(frozen=True, slots=True, eq=False)
class FileSubgraph:
    """One subgraph."""

    name: str
    tensors: tuple[FileTensor, ...]
    operators: tuple[FileOperator, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class TfliteModel:
    """A `.tflite` file.

    Args:
        subgraphs: the first one is the entry.
        buffers: all buffers, 0 being the empty one.
        metadata: name -> contents.
        metadata_buffers: indices of the buffers that hold metadata.
        description: free text of the writer.
        extents: bytes that belong to no tensor, operator or buffer.
        size_bytes: size of the file.
    """

    subgraphs: tuple[FileSubgraph, ...]
    buffers: tuple[FileBuffer, ...]
    metadata: dict[str, bytes]
    metadata_buffers: frozenset[int]
    description: str
    extents: tuple[Extent, ...]
    size_bytes: int

    @property
    def main(self) -> FileSubgraph:
        """The entry subgraph."""
        return self.subgraphs[0]


def read(data: bytes, path: str) -> TfliteModel:
    """Reads a `.tflite` file.

    Args:
        data: the whole file.
        path: its name, for messages.

    Raises:
        InvalidModelError: the bytes are not a well-formed TFLite model.
    """
    if len(data) > MAX_FILE_BYTES:
        raise InvalidModelError(
            Problem(path, f"{len(data)} bytes", f"at most {MAX_FILE_BYTES}", "convert a smaller model")
        )
    root = FlatBuffer(data, path).root()
    codes = [_operator_code(table) for table in root.tables(1, limit=MAX_OPERATORS)]
    buffers = tuple(_buffer(table) for table in root.tables(4, limit=2 * MAX_TENSORS, apart=True))
    graphs = root.tables(2, limit=MAX_SUBGRAPHS)
    if not graphs or not buffers:
        raise root.buffer.broken(0, "a model without subgraphs or without buffers")
    subgraphs = tuple(_subgraph(table, codes, buffers) for table in graphs)
    metadata = _metadata(root, buffers)
    description = root.text(3)
    root.vector(5, "i4", region=Region.METADATA)
    _signatures(root)
    used = frozenset(index for index, _, _ in metadata)
    contents = {name: body for _, name, body in metadata}
    return TfliteModel(subgraphs, buffers, contents, used, description, tuple(root.extents), len(data))


def _operator_code(table: Table) -> tuple[str, int]:
    # Codes above 127 did not fit the first field; writers fill both, old files only that one.
    builtin = max(table.integer(0, "b"), table.integer(3, "i"))
    custom, version = table.text(1), table.integer(2, "i", 1)
    if builtin == _CUSTOM:
        return f"CUSTOM:{custom}", version
    known = 0 <= builtin < len(BUILTIN_OPERATORS)
    return BUILTIN_OPERATORS[builtin] if known else f"BUILTIN_{builtin}", version


def _buffer(table: Table) -> FileBuffer:
    data = table.vector(0, "u1", region=Region.BUFFER)
    offset, size = table.integer(1, "Q"), table.integer(2, "Q")
    if offset > 1:  # contents behind the flatbuffer itself, for files past 2 GB
        table.buffer.claim(offset, size)
        table.extents.append(Extent(offset, offset + size, Region.BUFFER))
        return FileBuffer(memoryview(table.buffer.data)[offset : offset + size], tuple(table.extents))
    return FileBuffer(data.data, tuple(table.extents))


def _metadata(root: Table, buffers: Sequence[FileBuffer]) -> list[tuple[int, str, bytes]]:
    entries = []
    for table in root.tables(6, limit=1024, region=Region.METADATA):
        index = table.integer(1, "I")
        if index >= len(buffers):
            raise table.buffer.broken(table.position, f"metadata in buffer {index} of {len(buffers)}")
        entries.append((index, table.text(0), bytes(buffers[index].data)))
    return entries


def _signatures(root: Table) -> None:
    for table in root.tables(7, limit=1024):
        table.text(2)
        for slot in (0, 1):
            for entry in table.tables(slot, limit=MAX_TENSORS):
                entry.text(0)


def _subgraph(table: Table, codes: Sequence[tuple[str, int]], buffers: Sequence[FileBuffer]) -> FileSubgraph:
    tensors = tuple(_tensor(t, buffers) for t in table.tables(0, limit=MAX_TENSORS, apart=True))
    inputs = _indices(table, 1, len(tensors), optional=False)
    outputs = _indices(table, 2, len(tensors), optional=False)
    operators = tuple(_operator(t, codes, len(tensors)) for t in table.tables(3, limit=MAX_OPERATORS, apart=True))
    return FileSubgraph(table.text(4), tensors, operators, inputs, outputs)


def _indices(table: Table, slot: int, count: int, *, optional: bool) -> tuple[int, ...]:
    values = tuple(int(v) for v in table.vector(slot, "i4", limit=MAX_TENSORS))
    lowest = -1 if optional else 0
    bad = [v for v in values if not lowest <= v < count]
    if bad:
        raise table.buffer.broken(table.position, f"tensor index {bad[0]} of {count} tensors")
    return values


def _operator(table: Table, codes: Sequence[tuple[str, int]], tensors: int) -> FileOperator:
    index = table.integer(0, "I")
    if index >= len(codes):
        raise table.buffer.broken(table.position, f"operator code {index} of {len(codes)}")
    inputs = _indices(table, 1, tensors, optional=True)
    outputs = _indices(table, 2, tensors, optional=False)
    options = table.table(4)
    if options is not None and table.integer(3, "B") in _OPTIONS_WITH_VECTOR:
        options.vector(0, "i4")
    for slot, dtype in ((5, "u1"), (7, "u1"), (8, "i4")):  # custom options, mutating inputs, intermediates
        table.vector(slot, dtype)
    table.table(12)
    name, version = codes[index]
    return FileOperator(name, version, inputs, outputs, options, tuple(table.extents))


def _tensor(table: Table, buffers: Sequence[FileBuffer]) -> FileTensor:
    shape = tuple(int(v) for v in table.vector(0, "i4", limit=MAX_RANK))
    kind, buffer = table.integer(1, "b"), table.integer(2, "I")
    name = table.text(3)
    if any(size < 0 for size in shape) or math.prod(shape) > MAX_ELEMENTS:
        raise table.buffer.broken(table.position, f"tensor {name!r} of shape {shape}")
    if not 0 <= kind < len(TENSOR_TYPES):
        raise table.buffer.broken(table.position, f"tensor {name!r} of unknown type {kind}")
    if buffer >= len(buffers):
        raise table.buffer.broken(table.position, f"tensor {name!r} in buffer {buffer} of {len(buffers)}")
    scale, zero_point, axis = _quantization(table, name, len(shape))
    table.vector(7, "i4")
    dtype, bits = TENSOR_TYPES[kind]
    variable, data = bool(table.integer(5, "B")), buffers[buffer].data
    extents = tuple(table.extents)
    return FileTensor(name, shape, dtype, bits, buffer, data, scale, zero_point, axis, variable, extents)


def _quantization(table: Table, name: str, rank: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64], int]:
    grid = table.table(4, region=Region.QUANTIZATION)
    if grid is None:
        return np.zeros(0, np.float32), np.zeros(0, np.int64), 0
    grid.vector(0, "f4")
    grid.vector(1, "f4")
    # Copies: views at odd file offsets would be unaligned.
    scale = np.array(grid.vector(2, "f4"), np.float32)
    zero_point = np.array(grid.vector(3, "i8"), np.int64)
    axis = grid.integer(6, "i")
    if zero_point.size not in (0, 1, scale.size) or (scale.size > 1 and not 0 <= axis < max(rank, 1)):
        found = f"tensor {name!r} with {scale.size} scales, {zero_point.size} zero points on axis {axis}"
        raise table.buffer.broken(grid.position, found)
    return scale, zero_point, axis
