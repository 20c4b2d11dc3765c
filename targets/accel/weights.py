"""A layer's numbers, decoded from the sections of a pack."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from kwsq.ir.quant import FloatArray
from kwsq.targets.accel.bits import Fields, unpack_rows
from kwsq.targets.accel.codes import Coding
from kwsq.targets.accel.format import Section
from kwsq.targets.accel.implied import implied_scales
from kwsq.targets.accel.records import PackLayer

Sections = Mapping[Section, memoryview]
Int8Array = npt.NDArray[np.int8]
Int32Array = npt.NDArray[np.int32]


def coding_of_layer(layer: PackLayer, sections: Sections) -> Coding:
    """Returns how the fields of a layer become codes."""
    levels = None
    if layer.level_count:
        part = sections[Section.CODEBOOKS][layer.levels_offset : layer.levels_offset + layer.level_count]
        levels = np.frombuffer(part, np.int8)
    return Coding(layer.scheme, layer.layout.bits, levels)


def layer_fields(layer: PackLayer, sections: Sections) -> Fields:
    """Returns the (rows, columns) bit fields of a layer.

    Raises:
        ValueError: a padding bit is set.
    """
    start = layer.weights_offset
    return unpack_rows(sections[Section.WEIGHTS][start : start + layer.layout.size_bytes], layer.layout)


def layer_codes(layer: PackLayer, sections: Sections) -> Int8Array:
    """Returns the (rows, columns) int8 codes of a layer."""
    return coding_of_layer(layer, sections).to_codes(layer_fields(layer, sections))


def layer_biases(layer: PackLayer, sections: Sections) -> Int32Array | None:
    """Returns the (rows,) biases, None without."""
    if layer.bias_index is None:
        return None
    return _integers(sections[Section.BIASES], layer.bias_index, layer.layout.rows)


def layer_multipliers(layer: PackLayer, sections: Sections) -> tuple[Int32Array, Int32Array]:
    """Returns multipliers (Q0.31) and shifts, one per channel or one for all."""
    data = sections[Section.REQUANTIZATION]
    count, first = len(data) // 5, layer.multiplier_index
    shifts = np.frombuffer(data[4 * count :], np.int8)[first : first + layer.channel_count]
    return _integers(data, first, layer.channel_count), shifts.astype(np.int32)


def layer_scales(layer: PackLayer, sections: Sections, input_scale: float, output_scale: float) -> FloatArray:
    """Returns the weight scales, stored or implied by the multipliers.

    Args:
        layer: record.
        sections: of the pack.
        input_scale: scale of the layer's input.
        output_scale: scale of its output.
    """
    if layer.scale_index is None:
        return implied_scales(*layer_multipliers(layer, sections), input_scale, output_scale)
    count = layer.channel_count
    return np.frombuffer(sections[Section.SCALES], "<f4", count, 4 * layer.scale_index).astype(np.float32)


def _integers(data: memoryview, first: int, count: int) -> Int32Array:
    return np.frombuffer(data, "<i4", count, 4 * first).astype(np.int32)
