"""Whether a layer's record stays within its sections."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from kwsq.targets.accel.codes import Scheme
from kwsq.targets.accel.format import ALIGNMENT_BYTES, Section
from kwsq.targets.accel.records import PackLayer
from kwsq.targets.accel.weights import coding_of_layer, layer_multipliers
from kwsq.targets.machine import MAX_COLUMNS, MAX_ELEMENTS

Sections = Mapping[Section, memoryview]
_RECORD_BYTES = {Section.SCALES: 4, Section.BIASES: 4, Section.REQUANTIZATION: 5}
_MAX_UNSIGNED_BITS = 7
_MAX_SHIFT = 31


def check_layer_sections(sections: Sections) -> None:
    """Checks that the sections of numbers hold whole numbers.

    Raises:
        ValueError: a section's length is no multiple of its records'.
    """
    for section, size in _RECORD_BYTES.items():
        if len(sections[section]) % size:
            found = f"{len(sections[section])} bytes of {section.label}"
            raise ValueError(f"found {found}, expected a multiple of {size}")


def check_layer(layer: PackLayer, where: str, sections: Sections) -> None:
    """Checks one layer's record.

    Raises:
        ValueError: "found ..., expected ...".
    """
    layout = layer.layout
    if not (layout.rows > 0 and 0 < layout.columns <= MAX_COLUMNS and layout.rows * layout.columns <= MAX_ELEMENTS):
        found = f"{layout.rows} rows of {layout.columns} weights in {where}"
        raise ValueError(f"found {found}, expected at most {MAX_COLUMNS} per row and {MAX_ELEMENTS} in all")
    room = len(sections[Section.WEIGHTS])
    if layer.weights_offset % ALIGNMENT_BYTES or layer.weights_offset + layout.size_bytes > room:
        found = f"{layout.size_bytes} bytes at {layer.weights_offset} in {where}"
        raise ValueError(f"found {found}, expected a multiple of {ALIGNMENT_BYTES} within {room} bytes of weights")
    _check_codebook(layer, where, sections)
    _check_channels(layer, where, sections)


def _check_codebook(layer: PackLayer, where: str, sections: Sections) -> None:
    count, bits = layer.level_count, layer.layout.bits
    if layer.scheme is not Scheme.CODEBOOK:
        if count or layer.levels_offset or (layer.scheme is Scheme.UNSIGNED and bits > _MAX_UNSIGNED_BITS):
            raise ValueError(f"found levels or 8 unsigned bits in {where}, expected a uniform grid within int8")
        return
    if not 2 <= count <= 2**bits or layer.levels_offset + count > len(sections[Section.CODEBOOKS]):
        raise ValueError(f"found {count} levels at {layer.levels_offset} in {where}, expected 2 to {2**bits}")
    levels = coding_of_layer(layer, sections).levels
    if levels is None or (np.diff(levels.astype(np.int16)) <= 0).any():
        raise ValueError(f"found levels of {where} out of order, expected them strictly increasing")


def _check_channels(layer: PackLayer, where: str, sections: Sections) -> None:
    count = layer.channel_count
    ranges = {
        "biases": (layer.bias_index, layer.layout.rows, len(sections[Section.BIASES]) // 4),
        "multipliers": (layer.multiplier_index, count, len(sections[Section.REQUANTIZATION]) // 5),
        "scales": (layer.scale_index, count, len(sections[Section.SCALES]) // 4),
    }
    for what, (first, needed, room) in ranges.items():
        if first is not None and first + needed > room:
            raise ValueError(f"found {needed} {what} at {first} in {where}, expected them within {room}")
    multipliers, shifts = layer_multipliers(layer, sections)
    if (multipliers < 0).any() or (np.abs(shifts) > _MAX_SHIFT).any():
        raise ValueError(f"found a multiplier or shift of {where} out of range, expected >= 0 and -31 to 31")
