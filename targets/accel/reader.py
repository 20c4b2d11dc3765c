"""Bytes -> a verified Pack. Nothing of a file is believed before it is checked, and no size is allocated unchecked."""

from __future__ import annotations

import hashlib
import json
import math
import mmap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from kwsq.ir.errors import InvalidModelError, Problem
from kwsq.targets.accel.format import (
    ALIGNMENT_BYTES,
    DIGEST_BYTES,
    DIGEST_OFFSET,
    ENDIAN_MARK,
    ENTRY,
    HEADER,
    MAGIC,
    MAX_MANIFEST_BYTES,
    REQUIRED,
    VERSION,
    Section,
    aligned,
)
from kwsq.targets.accel.graph_reader import read_graph, read_io
from kwsq.targets.accel.manifest import packing, tensor_entry
from kwsq.targets.accel.records import Pack, PackGraph
from kwsq.targets.accel.validate import check_graph, check_io
from kwsq.targets.accel.weights import coding_of_layer, layer_fields

_WEIGHT_RANK = 4
REMEDY = "get the file again, or convert the model again"
Refuse = Callable[[str, str, str], NoReturn]


def read(data: bytes | memoryview, path: str = "model.kwsq") -> Pack:
    """Reads and verifies a pack.

    Args:
        data: the file.
        path: its name, for messages.

    Raises:
        InvalidModelError: naming the section that is damaged.
    """

    def refuse(where: str, found: str, expected: str) -> NoReturn:
        raise InvalidModelError(Problem(f"{path}: {where}", found, expected, REMEDY))

    view = memoryview(data).toreadonly().cast("B")
    digest = _check_header(view, refuse)
    sections = _read_table(view, refuse)
    blank = hashlib.sha256(view[:DIGEST_OFFSET])
    blank.update(bytes(DIGEST_BYTES))
    blank.update(view[HEADER.size :])
    if blank.digest() != digest:
        refuse("header", "another SHA-256 of the whole", blank.hexdigest())
    graph = _decoded("graph", lambda: read_graph(sections[Section.GRAPH]), refuse)
    io = _decoded("io", lambda: read_io(sections[Section.IO], len(graph.tensors)), refuse)
    _decoded("io", lambda: check_io(graph, io), refuse)
    _decoded("graph", lambda: check_graph(graph, io, sections), refuse)
    _decoded("weights", lambda: _check_weights(graph, sections), refuse)
    manifest = _decoded("manifest", lambda: _read_manifest(sections, graph), refuse)
    return Pack(view, sections, manifest, graph, io, digest.hex())


def read_path(path: Path) -> Pack:
    """Maps and verifies a pack without copying it.

    Raises:
        InvalidModelError: the file is damaged.
    """
    with path.open("rb") as stream:
        if path.stat().st_size == 0:
            return read(b"", path.name)
        return read(memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)), path.name)


def _decoded(where: str, decode: Callable[[], Any], refuse: Refuse) -> Any:
    try:
        return decode()
    except ValueError as error:
        found, _, expected = str(error).partition(", expected ")
        refuse(f"section {where}", found.removeprefix("found "), expected or "a well-formed section")


def _check_header(view: memoryview, refuse: Refuse) -> bytes:
    if len(view) < HEADER.size:
        refuse("header", f"{len(view)} bytes", f"at least {HEADER.size}")
    magic, major, minor, mark, length, _, alignment, zero, digest = HEADER.unpack_from(view)
    facts = {
        "magic": (magic, MAGIC),
        "version": ((major, minor), VERSION),
        "endianness mark": (mark, ENDIAN_MARK),
        "total length": (length, len(view)),
        "section alignment": (alignment, ALIGNMENT_BYTES),
        "reserved field": (zero, 0),
    }
    for name, (found, expected) in facts.items():
        if found != expected:
            refuse("header", f"{name} {found!r}", repr(expected))
    return bytes(digest)


def _read_table(view: memoryview, refuse: Refuse) -> dict[Section, memoryview]:
    """Returns every section after checking that they lie in order, gapless, and are what their digests say."""
    count = HEADER.unpack_from(view)[5]
    end = HEADER.size + ENTRY.size * count
    if not 0 < count <= len(Section) or end > len(view):
        refuse("header", f"{count} sections", f"1 to {len(Section)}, in a file that holds their table")
    sections = dict.fromkeys(Section, memoryview(b""))
    before, position = 0, end
    for i in range(count):
        kind, offset, length, zero, digest = ENTRY.unpack_from(view, HEADER.size + ENTRY.size * i)
        if not before < kind <= max(Section):
            refuse(f"section table, entry {i}", f"type {kind}", f"a type above {before}, at most {max(Section):d}")
        name = f"section {Section(kind).label}"
        start = aligned(position)
        if (offset, zero) != (start, 0) or length > len(view) - start:
            refuse(name, f"{length} bytes at {offset}", f"a section at {start} that ends within {len(view)} bytes")
        if any(view[position:start]):
            refuse(name, "padding before it that is not zero", "zero bytes")
        before, position = kind, offset + length
        sections[Section(kind)] = view[offset:position]
        if hashlib.sha256(sections[Section(kind)]).digest() != digest:
            refuse(name, "contents with another SHA-256 than the section table", "equal digests")
    if aligned(position) != len(view) or any(view[position:]):
        refuse("end of the file", f"{len(view) - position} bytes after the last section", "zeros up to the alignment")
    for section in REQUIRED:
        if not sections[section]:
            refuse(f"section {section.label}", "nothing", "a section of this type")
    return sections


def _check_weights(graph: PackGraph, sections: Mapping[Section, memoryview]) -> None:
    """Tensors follow each other, or are those of an earlier layer; whatever is between them is zero."""
    weights, end = sections[Section.WEIGHTS], 0
    for layer in graph.layers:
        start, stop = layer.weights_offset, layer.weights_offset + layer.layout.size_bytes
        if stop > end:
            if start != aligned(end) or any(weights[end:start]):
                raise ValueError(f"found a tensor at {start} after {end} bytes, expected zeros up to the next multiple")
            end = stop
    if end != len(weights):
        raise ValueError(f"found {len(weights)} bytes, expected {end}")
    for layer in graph.layers:
        coding_of_layer(layer, sections).to_codes(layer_fields(layer, sections))


def _read_manifest(sections: Mapping[Section, memoryview], graph: PackGraph) -> Mapping[str, Any]:
    data = sections[Section.MANIFEST]
    if len(data) > MAX_MANIFEST_BYTES:
        raise ValueError(f"found {len(data)} bytes, expected at most {MAX_MANIFEST_BYTES}")
    try:
        manifest = json.loads(bytes(data))
    except (ValueError, RecursionError) as error:
        raise ValueError("found text that is no JSON, expected a JSON object") from error
    match manifest:
        case {"tensors": [*entries]} if len(entries) == len(graph.layers):
            pass
        case _:
            raise ValueError(f"found no list of tensors of this length, expected {len(graph.layers)} entries")
    if manifest.get("packing") != packing(graph.layers) or manifest.get("version") != list(VERSION):
        raise ValueError("found other packing conventions or another version, expected those of this format")
    for layer, entry in zip(graph.layers, entries, strict=True):
        name, shape = _name_and_shape(entry, layer.layout.rows * layer.layout.columns)
        expected = tensor_entry(name, shape, layer, coding_of_layer(layer, sections))
        if entry != expected:
            raise ValueError(f"found {name!r} described otherwise than its record, expected {expected}")
    return dict(manifest)


def _name_and_shape(entry: object, size: int) -> tuple[str, list[int]]:
    """Returns what an entry says that no record does."""
    match entry:
        case {"name": str(name), "shape": [*shape]} if len(shape) <= _WEIGHT_RANK:
            sizes = [n for n in shape if type(n) is int and 1 <= n <= size]
            if len(sizes) == len(shape) and math.prod(sizes) == size:
                return name, sizes
    raise ValueError(f"found the tensor entry {str(entry)[:80]!r}, expected the name and shape of {size} weights")
