"""What a vendor's compiler estimates of an artefact, beside what kwsq counts itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kwsq.converter.terminal import Block, Table, number

Json = Mapping[str, Any]
HEADERS = ("", "kwsq, file before Vela", "Vela's estimate")


def estimate_blocks(artefact: Json, footprint: Json) -> list[Block]:
    """Returns Vela's figures beside ours; empty for an artefact that no other compiler made."""
    found = artefact["estimates"]
    if found is None:
        return []
    title = f"{found['compiler']} for {found['accelerator']} ({found['system_config']}, {found['memory_mode']})"
    rows = tuple((name, ours, vela) for name, ours, vela in estimate_rows(artefact, footprint))
    return [Table(title, HEADERS, rows)]


def estimate_rows(artefact: Json, footprint: Json) -> list[tuple[str, str, str]]:
    """Returns what Vela estimates beside what kwsq counts on the file before it."""
    found, totals = artefact["estimates"], footprint["totals"]
    weights = sum(w["elements"] for layer in footprint["layers"] for w in layer["weights"])
    return [
        ("activation RAM, SRAM", number(totals["activation_ram_bytes"], "B"), number(found["sram_bytes"], "B")),
        ("file, flash", number(footprint["file_bytes"], "B"), number(found["flash_bytes"], "B")),
        ("compiled file", "", number(artefact["bytes"], "B")),
        ("weights", number(weights, "B"), f"{number(found['encoded_weight_bytes'], 'B')} encoded"),
        ("bits per weight", number(footprint["declared_bits_per_weight"]), number(found["encoded_bits_per_weight"])),
        ("MACs", number(footprint["macs"]), number(found["macs"])),
        ("cycles", "", f"{number(found['total_cycles'])}, NPU alone {number(found['npu_cycles'])}"),
        ("time", "", f"{1e3 * found['inference_seconds']:.3f} ms at {found['clock_hz'] / 1e6:.0f} MHz"),
    ]
