"""What a network would take at other weight widths: the projection P * b / 8 beside the bytes of a real pack.

projected = sum over layers of weights * bits / 8                                           (M6)
packed    = aligned rows, tensor by tensor, at the pack's own rule of alignment             (M7)

(M7) is what the writer would write: at the pack's own widths it is the size of the weights section. A codebook keeps
at most 2**bits of its levels; all one-bit tensors share the levels -1 and +1. Everything else in the file stays.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kwsq.converter.footprint import FLOAT_BYTES
from kwsq.targets.accel.bits import RowLayout, choose_alignment
from kwsq.targets.accel.format import ENTRY, HEADER, Section, aligned
from kwsq.targets.accel.records import Pack, PackLayer

WIDTHS = (8, 5, 4, 2, 1)


@dataclass(frozen=True, slots=True)
class Projection:
    """A network at one weight width.

    Args:
        bits: width of every weight; None for the widths the pack has.
        projected_bytes: equation (M6), rounded up.
        packed_bytes: equation (M7), padding included.
        codebooks_bytes: levels.
        scales_bytes: stored scales.
        padding_bytes: bits of the weights section that hold no weight, rounded up.
        file_bytes: the whole pack.
        reduction: float32 parameters over the whole pack.
    """

    bits: int | None
    projected_bytes: int
    packed_bytes: int
    codebooks_bytes: int
    scales_bytes: int
    padding_bytes: int
    file_bytes: int
    reduction: float

    def to_json(self) -> dict[str, object]:
        """Returns the fields."""
        return {name: getattr(self, name) for name in self.__slots__}


def project(pack: Pack) -> tuple[Projection, ...]:
    """Returns the network as it is, then at 8, 5, 4, 2 and 1 bits; nothing for one without weights.

    Args:
        pack: the real pack.
    """
    if not pack.graph.layers:
        return ()
    return tuple(_projection(pack, bits) for bits in (None, *WIDTHS))


def _projection(pack: Pack, bits: int | None) -> Projection:
    layers = pack.graph.layers
    widths = [layer.layout.bits if bits is None else bits for layer in layers]
    count_bits = sum(
        layer.layout.rows * layer.layout.columns * width for layer, width in zip(layers, widths, strict=True)
    )
    packed = len(pack.sections[Section.WEIGHTS]) if bits is None else _packed_bytes(layers, bits)
    codebooks = len(pack.sections[Section.CODEBOOKS]) if bits is None else _codebooks_bytes(layers, bits)
    scales = len(pack.sections[Section.SCALES])
    file_bytes = _file_bytes(pack, {Section.WEIGHTS: packed, Section.CODEBOOKS: codebooks})
    parameters = sum(layer.layout.rows * (layer.layout.columns + (layer.bias_index is not None)) for layer in layers)
    return Projection(
        bits=bits,
        projected_bytes=-(-count_bits // 8),
        packed_bytes=packed,
        codebooks_bytes=codebooks,
        scales_bytes=scales,
        padding_bytes=-(-(8 * packed - count_bits) // 8),
        file_bytes=file_bytes,
        reduction=round(FLOAT_BYTES * parameters / file_bytes, 3),
    )


def _codebooks_bytes(layers: tuple[PackLayer, ...], bits: int) -> int:
    return 2 if bits == 1 else sum(min(layer.level_count, 1 << bits) for layer in layers)


def _file_bytes(pack: Pack, changed: Mapping[Section, int]) -> int:
    """Returns the size of the pack with sections of other sizes; an empty one is left out of the table."""
    sizes = {section: len(data) for section, data in pack.sections.items()} | dict(changed)
    table = HEADER.size + ENTRY.size * sum(bool(size) for size in sizes.values())
    return aligned(table) + sum(aligned(size) for size in sizes.values())


def _pinned_alignment(layers: tuple[PackLayer, ...]) -> int | None:
    """Returns the row alignment of a pack where it is not the writer's own choice: somebody's DMA needs it."""
    layouts = [layer.layout for layer in layers]
    own = choose_alignment([(layout.rows, layout.columns, layout.bits) for layout in layouts], layouts[0].order)
    return None if layouts[0].row_align_bits == own else layouts[0].row_align_bits


def _packed_bytes(layers: tuple[PackLayer, ...], bits: int) -> int:
    """Returns the size of the weights section as the writer would lay it out."""
    order = layers[0].layout.order
    shapes = [(layer.layout.rows, layer.layout.columns, bits) for layer in layers]
    align = _pinned_alignment(layers) or choose_alignment(shapes, order)
    end = 0
    for rows, columns, width in shapes:
        start = aligned(end)
        end = start + RowLayout(rows, columns, width, align, order).size_bytes
    return end
