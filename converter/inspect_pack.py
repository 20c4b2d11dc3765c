"""What a kwsq pack says about itself: sections, boundary, operators and every convention of its weights."""

from __future__ import annotations

import hashlib
from typing import Any

from kwsq.targets.accel.execute import numpy_type
from kwsq.targets.accel.format import VERSION, Role
from kwsq.targets.accel.manifest import full_entries
from kwsq.targets.accel.reader import read
from kwsq.targets.accel.records import Pack, PackIo

Json = dict[str, Any]


def inspect_pack(data: bytes, path: str) -> Json:
    """Returns sections, inputs, outputs, operators and weight tensors of a pack.

    Raises:
        InvalidModelError: the file is damaged.
    """
    pack = read(data, path)
    manifest = {name: value for name, value in pack.manifest.items() if name not in ("tensors", "packing")}
    return {
        "format": "kwsq",
        "file_bytes": len(data),
        "version": list(VERSION),
        "sha256_of_contents": pack.digest,
        "manifest": manifest,
        "sections": [
            {"section": section.label, "bytes": len(part), "sha256": hashlib.sha256(part).hexdigest()}
            for section, part in pack.sections.items()
            if part
        ],
        "inputs": [_entry(pack, entry) for entry in pack.entries(Role.INPUT)],
        "outputs": [_entry(pack, entry) for entry in pack.entries(Role.OUTPUT)],
        "arena_bytes": pack.graph.arena_bytes,
        "operators": [
            {
                "operator": operator.code.name,
                "inputs": list(operator.inputs),
                "outputs": list(operator.outputs),
                "attributes": list(operator.attributes),
            }
            for operator in pack.graph.operators
        ],
        "tensors": full_entries(pack.manifest),
    }


def _entry(pack: Pack, entry: PackIo) -> Json:
    tensor = pack.tensor(entry)
    return {
        "name": entry.name,
        "shape": list(tensor.shape),
        "dtype": numpy_type(tensor).__name__,
        "scale": tensor.scale or None,
        "zero_point": tensor.zero_point,
        "state_from": None if entry.partner is None else pack.io[entry.partner].name,
    }
