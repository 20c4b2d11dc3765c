"""Bit fields of 1 to 8 bits in rows, as the weights section stores them (docs/pack-format.md).

A row is one output channel. In a *stream* the fields of a row follow each other, the least significant bit of the
first field in the least significant bit of the first byte. In *planes* a row holds bit 0 of all its fields, then bit 1,
and so on. Rows, and the planes of a row, start at multiples of `row_align_bits`; the bits between are zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

Fields = npt.NDArray[np.uint8]


class Layout(IntEnum):
    """Order of the bits within a row."""

    STREAM = 1
    PLANES = 2


@dataclass(frozen=True, slots=True)
class RowLayout:
    """Where the fields of a tensor lie.

    Args:
        rows: output channels.
        columns: fields per row.
        bits: width of a field, 1 to 8.
        row_align_bits: rows and planes start at multiples of this, a power of two; 1 leaves no gap at all.
        order: stream or planes.
    """

    rows: int
    columns: int
    bits: int
    row_align_bits: int = 8
    order: Layout = Layout.STREAM

    @property
    def _runs(self) -> tuple[int, int]:
        """Returns how many aligned runs of bits a row has, and the bits used in each."""
        if self.order is Layout.PLANES:
            return self.bits, self.columns
        return 1, self.columns * self.bits

    @property
    def run_stride_bits(self) -> int:
        """Bits from one run (a row of a stream, a plane of a row) to the next."""
        return -(-self._runs[1] // self.row_align_bits) * self.row_align_bits

    @property
    def row_stride_bits(self) -> int:
        """Bits from one row to the next."""
        return self._runs[0] * self.run_stride_bits

    @property
    def size_bytes(self) -> int:
        """Bytes of all rows; the last byte is filled up with zero bits."""
        return -(-self.rows * self.row_stride_bits // 8)

    @property
    def padding_bits(self) -> int:
        """Bits that hold no weight."""
        return 8 * self.size_bytes - self.rows * self.columns * self.bits


def pack_rows(fields: Fields, layout: RowLayout) -> bytes:
    """Returns the bytes of a matrix of bit fields.

    Args:
        fields: (rows, columns) uint8, each below 2**bits.
        layout: where they go.

    Raises:
        ValueError: the matrix has another shape, or a field needs more bits.

    >>> pack_rows(np.array([[1, 0, 1, 1], [0, 1, 0, 0]], np.uint8), RowLayout(2, 4, 1)).hex()
    '0d02'
    """
    if fields.shape != (layout.rows, layout.columns):
        raise ValueError(f"found fields of shape {fields.shape}, expected {(layout.rows, layout.columns)}")
    if fields.size and int(fields.max()) >> layout.bits:
        raise ValueError(f"found the field {int(fields.max())}, expected at most {2**layout.bits - 1}")
    single = np.unpackbits(fields[..., None], axis=2, count=layout.bits, bitorder="little")
    runs = _in_runs(single, layout)
    padding = layout.run_stride_bits - runs.shape[2]
    padded = np.pad(runs, ((0, 0), (0, 0), (0, padding)))
    return np.packbits(padded.reshape(-1), bitorder="little").tobytes()


def unpack_rows(data: bytes | memoryview, layout: RowLayout) -> Fields:
    """Returns the (rows, columns) uint8 fields of packed bytes.

    Args:
        data: exactly `layout.size_bytes` bytes.
        layout: where the fields lie.

    Raises:
        ValueError: another number of bytes, or a padding bit is set.

    >>> unpack_rows(bytes.fromhex("0d02"), RowLayout(2, 4, 1)).tolist()
    [[1, 0, 1, 1], [0, 1, 0, 0]]
    """
    if len(data) != layout.size_bytes:
        raise ValueError(f"found {len(data)} bytes, expected {layout.size_bytes}")
    everything = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")
    end = layout.rows * layout.row_stride_bits
    count, used = layout._runs
    runs = everything[:end].reshape(layout.rows, count, layout.run_stride_bits)
    if runs[:, :, used:].any() or everything[end:].any():
        raise ValueError("found a padding bit that is set, expected zeros")
    single = runs[:, :, :used]
    if layout.order is Layout.PLANES:
        single = single.transpose(0, 2, 1)
    single = single.reshape(layout.rows, layout.columns, layout.bits)
    return np.packbits(single, axis=2, bitorder="little")[..., 0]


def _in_runs(single: Fields, layout: RowLayout) -> Fields:
    """Turns (rows, columns, bits) single bits into (rows, runs, bits of a run)."""
    if layout.order is Layout.PLANES:
        return single.transpose(0, 2, 1)
    return single.reshape(layout.rows, 1, layout.columns * layout.bits)


ALIGNMENTS_BITS = (128, 64, 32, 16, 8, 1)
"""Row alignments the writer chooses from, widest DMA first."""
MAX_PADDING_SHARE = 0.02
"""Share of a pack's weight bits that row alignment may cost; docs/pack-format.md says why."""


def choose_alignment(shapes: Sequence[tuple[int, int, int]], order: Layout) -> int:
    """Returns the widest row alignment whose padding costs at most `MAX_PADDING_SHARE` of all weights.

    Args:
        shapes: (rows, columns, bits) of every tensor.
        order: stream or planes.

    >>> choose_alignment([(104, 560, 5), (12, 80, 5)], Layout.STREAM), choose_alignment([(64, 9, 1)], Layout.STREAM)
    (128, 1)
    """
    limit = MAX_PADDING_SHARE * sum(rows * columns * bits for rows, columns, bits in shapes)
    for align in ALIGNMENTS_BITS:
        layouts = (RowLayout(rows, columns, bits, align, order) for rows, columns, bits in shapes)
        if sum(layout.padding_bits for layout in layouts) <= limit:
            return align
    return 1
