"""PackContents -> the bytes of a pack."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np

from kwsq.targets.accel.build import PackContents
from kwsq.targets.accel.format import (
    ALIGNMENT_BYTES,
    DIGEST_BYTES,
    DIGEST_OFFSET,
    ENDIAN_MARK,
    ENTRY,
    GRAPH_HEADER,
    HEADER,
    IO,
    LAYER,
    MAGIC,
    NO_PARTNER,
    NONE,
    OPERATOR,
    REQUIRED,
    TENSOR,
    VERSION,
    Section,
    aligned,
)
from kwsq.targets.accel.manifest import encode_manifest, tensor_entry
from kwsq.targets.accel.records import PackGraph, PackIo, PackLayer, PackOperator


def write_pack(contents: PackContents, facts: Mapping[str, object]) -> bytes:
    """Returns the file.

    Args:
        contents: records and constants.
        facts: origin, for the manifest.
    """
    layers = contents.graph.layers
    entries = [tensor_entry(w.tensor, w.shape, layers[w.layer], w.coding) for w in contents.weights]
    sections = {
        **contents.sections,
        Section.MANIFEST: encode_manifest(facts, entries, layers),
        Section.GRAPH: encode_graph(contents.graph),
        Section.IO: encode_io(contents.io),
    }
    return assemble({section: sections[section] for section in Section if sections[section] or section in REQUIRED})


def assemble(sections: Mapping[Section, bytes]) -> bytes:
    """Returns header, table and sections as one file, digests filled in.

    Args:
        sections: contents in the order they are to have.
    """
    position = aligned(HEADER.size + ENTRY.size * len(sections))
    table, body = bytearray(), bytearray()
    body += bytes(position - HEADER.size - ENTRY.size * len(sections))
    for section, data in sections.items():
        table += ENTRY.pack(section, position, len(data), 0, hashlib.sha256(data).digest())
        body += data + bytes(aligned(len(data)) - len(data))
        position += aligned(len(data))
    counts = (len(sections), ALIGNMENT_BYTES, 0)
    header = HEADER.pack(MAGIC, *VERSION, ENDIAN_MARK, position, *counts, bytes(DIGEST_BYTES))
    return seal(header + table + body)


def seal(data: bytes) -> bytes:
    """Returns the file with the SHA-256 of the whole, computed with zeros in its own place."""
    blank = data[:DIGEST_OFFSET] + bytes(DIGEST_BYTES) + data[HEADER.size :]
    return data[:DIGEST_OFFSET] + hashlib.sha256(blank).digest() + data[HEADER.size :]


def encode_graph(graph: PackGraph) -> bytes:
    """Returns the graph section."""
    dimensions: list[int] = []
    firsts = [_place(dimensions, tensor.shape) for tensor in graph.tensors]
    counts = (len(graph.tensors), len(graph.operators), len(graph.layers))
    parts = [GRAPH_HEADER.pack(*counts, 0, len(dimensions), graph.arena_bytes)]
    for tensor, first in zip(graph.tensors, firsts, strict=True):
        grid = (tensor.scale, tensor.zero_point)
        parts.append(TENSOR.pack(tensor.dtype, len(tensor.shape), first, tensor.offset, *grid, tensor.storage, 0))
    parts.append(np.array(dimensions, "<u4").tobytes())
    parts += [_layer(layer) for layer in graph.layers]
    parts += [_operator(operator) for operator in graph.operators]
    return b"".join(parts)


def _place(dimensions: list[int], shape: Sequence[int]) -> int:
    """Returns where `shape` stands in the list of dimensions, after adding it where it is new."""
    wanted = list(shape)
    for start in range(len(dimensions) - len(wanted) + 1):
        if dimensions[start : start + len(wanted)] == wanted:
            return start
    dimensions += wanted
    return len(dimensions) - len(wanted)


def _layer(layer: PackLayer) -> bytes:
    layout = layer.layout
    align = layout.row_align_bits.bit_length() - 1
    indices = (layer.bias_index, layer.multiplier_index, layer.scale_index)
    return LAYER.pack(
        *(layout.bits, layer.scheme, layout.order, align, layout.rows, layout.columns),
        *(layer.weights_offset, layer.levels_offset, layer.level_count, layer.per_channel, 0),
        *(NONE if index is None else index for index in indices),
        *layer.kernel,
    )


def _operator(operator: PackOperator) -> bytes:
    tensors = (*operator.inputs, *operator.outputs)
    counts = (len(operator.inputs), len(operator.outputs), len(operator.attributes))
    numbers = np.array([*tensors, *([0] * (len(tensors) % 2))], "<u2").tobytes()
    return OPERATOR.pack(operator.code, *counts) + numbers + np.array(operator.attributes, "<i4").tobytes()


def encode_io(entries: Sequence[PackIo]) -> bytes:
    """Returns the io section: the number of entries, the entries, their names in UTF-8."""
    names = bytearray()
    records = bytearray(len(entries).to_bytes(4, "little"))
    start = len(records) + IO.size * len(entries)
    for entry in entries:
        name = entry.name.encode()
        partner = NO_PARTNER if entry.partner is None else entry.partner
        records += IO.pack(entry.tensor, entry.role, 0, partner, len(name), start + len(names))
        names += name
    return bytes(records + names)
