"""The graph and io sections -> records. Structure only; `validate` checks what they mean."""

from __future__ import annotations

import math
import struct
from enum import IntEnum
from typing import Any, TypeVar

from kwsq.targets.accel.bits import Layout
from kwsq.targets.accel.codes import Scheme
from kwsq.targets.accel.format import (
    GRAPH_HEADER,
    IO,
    LAYER,
    MAX_OPERATORS,
    MAX_TENSORS,
    NO_PARTNER,
    NONE,
    OPERATOR,
    TENSOR,
    ElementType,
    Role,
    Storage,
)
from kwsq.targets.accel.records import (
    PackGraph,
    PackIo,
    PackLayer,
    PackOperator,
    PackTensor,
    row_layout,
)
from kwsq.targets.machine import MAX_ELEMENTS, MAX_RANK, Opcode

Kind = TypeVar("Kind", bound=IntEnum)
_MAX_ALIGN_LOG2 = 9


class _Cursor:
    """A position in a section that cannot leave it."""

    def __init__(self, data: memoryview) -> None:
        self._data, self._position = data, 0

    def record(self, layout: struct.Struct) -> tuple[Any, ...]:
        """Reads one record."""
        if layout.size > len(self._data) - self._position:
            raise ValueError(f"found {len(self._data)} bytes, expected the records its counts announce")
        values = layout.unpack_from(self._data, self._position)
        self._position += layout.size
        return values

    def numbers(self, kind: str, count: int) -> tuple[int, ...]:
        """Reads `count` little-endian integers of a struct type."""
        return self.record(struct.Struct(f"<{count}{kind}"))

    def finish(self) -> None:
        """Refuses bytes nobody asked for."""
        if self._position != len(self._data):
            raise ValueError(f"found {len(self._data) - self._position} bytes after the last record, expected none")


def _member(kind: type[Kind], value: int, what: str) -> Kind:
    try:
        return kind(value)
    except ValueError as error:
        raise ValueError(f"found {what} {value}, expected one of {[int(k) for k in kind]}") from error


def _zero(value: int, what: str) -> None:
    if value:
        raise ValueError(f"found {value} in the reserved field of {what}, expected 0")


def read_graph(data: memoryview) -> PackGraph:
    """Returns the records of the graph section.

    Raises:
        ValueError: the section is not well formed.
    """
    cursor = _Cursor(data)
    tensor_count, operator_count, layer_count, zero, dimension_count, arena_bytes = cursor.record(GRAPH_HEADER)
    _zero(zero, "the graph header")
    if tensor_count > MAX_TENSORS or operator_count > MAX_OPERATORS or layer_count > operator_count:
        found = f"{tensor_count} tensors, {operator_count} operators, {layer_count} layers"
        raise ValueError(f"found {found}, expected at most {MAX_TENSORS}, {MAX_OPERATORS} and one per operator")
    records = [cursor.record(TENSOR) for _ in range(tensor_count)]
    if dimension_count > 2**16:
        raise ValueError(f"found {dimension_count} dimensions, expected at most {2**16}")
    dimensions = cursor.numbers("I", dimension_count)
    tensors = tuple(_tensor(record, dimensions, i) for i, record in enumerate(records))
    layers = tuple(_layer(cursor.record(LAYER), i) for i in range(layer_count))
    operators = tuple(_operator(cursor, tensor_count, i) for i in range(operator_count))
    cursor.finish()
    return PackGraph(tensors, layers, operators, arena_bytes)


def _tensor(record: tuple[Any, ...], dimensions: tuple[int, ...], number: int) -> PackTensor:
    dtype, rank, first, offset, scale, zero_point, storage, zero = record
    where = f"tensor {number}"
    _zero(zero, where)
    if rank > MAX_RANK or first + rank > len(dimensions):
        raise ValueError(f"found rank {rank} of {where}, expected at most {MAX_RANK} listed dimensions")
    shape = dimensions[first : first + rank]
    if not 0 < math.prod(shape) <= MAX_ELEMENTS:
        raise ValueError(f"found {where} of shape {list(shape)}, expected 1 to {MAX_ELEMENTS} elements")
    element = _member(ElementType, dtype, f"the type of {where}")
    return PackTensor(shape, element, scale, zero_point, _member(Storage, storage, f"the storage of {where}"), offset)


def _layer(record: tuple[Any, ...], number: int) -> PackLayer:
    bits, scheme, order, align, rows, columns, weights, levels, level_count, per_channel, zero, *rest = record
    bias, multiplier, scale, kernel_height, kernel_width = rest
    where = f"layer {number}"
    _zero(zero, where)
    if not 1 <= bits <= 8 or align > _MAX_ALIGN_LOG2 or per_channel > 1:
        found = f"{bits} bits, alignment 2**{align}, per channel {per_channel} in {where}"
        raise ValueError(f"found {found}, expected 1 to 8, at most 2**{_MAX_ALIGN_LOG2}, 0 or 1")
    return PackLayer(
        scheme=_member(Scheme, scheme, f"the scheme of {where}"),
        layout=row_layout(rows, columns, bits, 1 << align, _member(Layout, order, f"the layout of {where}")),
        kernel=(kernel_height, kernel_width),
        weights_offset=weights,
        levels_offset=levels,
        level_count=level_count,
        per_channel=bool(per_channel),
        bias_index=None if bias == NONE else bias,
        multiplier_index=multiplier,
        scale_index=None if scale == NONE else scale,
    )


def _operator(cursor: _Cursor, tensor_count: int, number: int) -> PackOperator:
    code, inputs, outputs, attributes = cursor.record(OPERATOR)
    count = inputs + outputs
    tensors = cursor.numbers("H", count + count % 2)
    _zero(sum(tensors[count:]), f"operator {number}")
    if any(tensor >= tensor_count for tensor in tensors[:count]):
        raise ValueError(f"found a tensor {max(tensors)} in operator {number}, expected below {tensor_count}")
    opcode = _member(Opcode, code, f"the code of operator {number}")
    return PackOperator(opcode, tensors[:inputs], tensors[inputs:count], cursor.numbers("i", attributes))


def read_io(data: memoryview, tensor_count: int) -> tuple[PackIo, ...]:
    """Returns the entries of the io section.

    Args:
        data: the section.
        tensor_count: number of tensors in the graph.

    Raises:
        ValueError: the section is not well formed.
    """
    cursor = _Cursor(data)
    (count,) = cursor.numbers("I", 1)
    if count > tensor_count:
        raise ValueError(f"found {count} entries, expected at most {tensor_count}")
    records = [cursor.record(IO) for _ in range(count)]
    names = bytes(data[4 + IO.size * count :])
    entries, expected = [], 4 + IO.size * count
    for i, (tensor, role, zero, partner, length, offset) in enumerate(records):
        _zero(zero, f"entry {i}")
        if tensor >= tensor_count or offset != expected or offset + length > len(data):
            raise ValueError(f"found entry {i} out of place, expected a tensor below {tensor_count} and gapless names")
        expected += length
        start = offset - 4 - IO.size * count
        name = names[start : start + length].decode()  # UnicodeDecodeError is a ValueError
        entries.append(PackIo(name, tensor, _member(Role, role, f"the role of entry {i}"), _partner(partner)))
    if expected != len(data):
        raise ValueError(f"found {len(data) - expected} bytes after the names, expected none")
    return tuple(entries)


def _partner(number: int) -> int | None:
    return None if number == NO_PARTNER else number
