"""What a pack says, decoded: tensors, layers, operators and the model's boundary."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kwsq.targets.accel.bits import Layout, RowLayout
from kwsq.targets.accel.codes import Scheme
from kwsq.targets.accel.format import ElementType, Role, Section, Storage
from kwsq.targets.machine import Opcode

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class PackTensor:
    """An activation in the arena, or a constant operand.

    Args:
        shape: physical shape.
        dtype: element type.
        scale: an exact float32; 0.0 for float32 tensors.
        zero_point: code of real 0.
        storage: arena or constants section.
        offset: byte offset in it.
    """

    shape: Shape
    dtype: ElementType
    scale: float
    zero_point: int
    storage: Storage
    offset: int

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def size_bytes(self) -> int:
        """Bytes of the tensor."""
        return self.size * self.dtype.size_bytes


@dataclass(frozen=True, slots=True)
class PackLayer:
    """Weights of one layer and where its per-channel numbers begin.

    Args:
        scheme: meaning of a bit field.
        layout: rows and bits.
        kernel: (height, width); (1, 1) for a dense layer.
        weights_offset: bytes into the weights section.
        levels_offset: bytes into the codebooks section.
        level_count: number of levels, 0 for a uniform grid.
        per_channel: whether every row has its own multiplier and scale.
        bias_index: first bias, None without biases.
        multiplier_index: first multiplier and shift.
        scale_index: first scale, None where the scales follow from the multipliers.
    """

    scheme: Scheme
    layout: RowLayout
    kernel: tuple[int, int]
    weights_offset: int
    levels_offset: int
    level_count: int
    per_channel: bool
    bias_index: int | None
    multiplier_index: int
    scale_index: int | None

    @property
    def channel_count(self) -> int:
        """Number of multipliers, shifts and scales."""
        return self.layout.rows if self.per_channel else 1


@dataclass(frozen=True, slots=True)
class PackOperator:
    """One operator on numbered tensors."""

    code: Opcode
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    attributes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class PackGraph:
    """The network as numbered records."""

    tensors: tuple[PackTensor, ...]
    layers: tuple[PackLayer, ...]
    operators: tuple[PackOperator, ...]
    arena_bytes: int


@dataclass(frozen=True, slots=True)
class PackIo:
    """An input or output of the model.

    Args:
        name: as in the source model.
        tensor: its number.
        role: input or output.
        partner: for a state input, the number of the io entry whose output it takes at the next step.
    """

    name: str
    tensor: int
    role: Role
    partner: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Pack:
    """A verified pack.

    Args:
        data: the whole file.
        sections: section -> its bytes; an absent section is empty.
        manifest: the JSON manifest.
        graph: decoded records.
        io: inputs and outputs in order.
        digest: SHA-256 of the whole, hexadecimal.
    """

    data: memoryview
    sections: Mapping[Section, memoryview]
    manifest: Mapping[str, Any]
    graph: PackGraph
    io: tuple[PackIo, ...]
    digest: str

    def entries(self, role: Role) -> tuple[PackIo, ...]:
        """Returns the inputs or the outputs."""
        return tuple(entry for entry in self.io if entry.role is role)

    def tensor(self, entry: PackIo) -> PackTensor:
        """Returns the tensor of an input or output."""
        return self.graph.tensors[entry.tensor]


def row_layout(rows: int, columns: int, bits: int, row_align_bits: int, layout: int) -> RowLayout:
    """Returns the row layout of a layer record."""
    return RowLayout(rows, columns, bits, row_align_bits, Layout(layout))
