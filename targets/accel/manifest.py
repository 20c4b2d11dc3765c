"""The JSON manifest: where a pack came from, and by which conventions its weights are packed.

Public conventions contradict each other on bit polarity and order, so every one of them is stated. What holds for all
tensors is said once under `packing`; the entry of a tensor adds the rest. A reader recomputes both from the binary
records and refuses a manifest that says something else.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from kwsq.targets.accel.codes import Coding, Scheme
from kwsq.targets.accel.format import VERSION
from kwsq.targets.accel.records import PackLayer

Json = dict[str, Any]

CONVENTIONS: Mapping[str, object] = {
    "bit_order": "lsb_first",
    "group": 1,
    "pack_axis": "input",
    "pad_value": 0,
    "word_bytes": 1,
}
"""What is the same in every pack: fields run along the inputs of an output channel, one field per weight, in bytes
whose least significant bit comes first; gaps are zero bits, which are no weights."""


def packing(layers: Sequence[PackLayer]) -> Json:
    """Returns the conventions of a pack.

    Args:
        layers: records of all layers, which share layout and row alignment.
    """
    if not layers:
        return dict(CONVENTIONS)
    layout = layers[0].layout
    return {**CONVENTIONS, "layout": layout.order.name.lower(), "row_align_bits": layout.row_align_bits}


def tensor_entry(name: str, shape: Sequence[int], layer: PackLayer, coding: Coding) -> Json:
    """Returns the entry of one weight tensor.

    Args:
        name: tensor name.
        shape: physical shape: O, H, W, I; 1, H, W, O for a depthwise layer; O, I for a dense one.
        layer: its record.
        coding: its codes.
    """
    entry: Json = {"name": name, "shape": list(shape), "bits": coding.bits, "scheme": coding.scheme.name.lower()}
    if coding.scheme is Scheme.CODEBOOK:
        entry["levels"] = layer.level_count
    if coding.bits == 1:
        entry["bit1_means"] = coding.bit1_means
    return entry


def encode_manifest(facts: Mapping[str, object], tensors: Sequence[Json], layers: Sequence[PackLayer]) -> bytes:
    """Returns the manifest's bytes: compact JSON with sorted keys.

    Args:
        facts: origin: name of the model, version of kwsq, SHA-256 of the source, remarks.
        tensors: from `tensor_entry`, in layer order.
        layers: records of the layers.
    """
    own = {"format": "kwsq pack", "version": list(VERSION), "packing": packing(layers), "tensors": list(tensors)}
    return json.dumps({**facts, **own}, separators=(",", ":"), sort_keys=True, ensure_ascii=False).encode()


def full_entries(manifest: Mapping[str, Any]) -> list[Json]:
    """Returns the entry of every tensor with the conventions all of them share."""
    return [{**manifest["packing"], **entry} for entry in manifest["tensors"]]
