"""What is said of a footprint: totals, the file by purpose, memory and traffic."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kwsq.converter.terminal import Block, Line, Table, number

Json = Mapping[str, Any]
PURPOSES = {
    "weights_bytes": "weights",
    "codebooks_bytes": "codebooks",
    "biases_bytes": "biases",
    "requant_tables_bytes": "requant tables",
    "other_constants_bytes": "other constants",
    "names_bytes": "names",
    "metadata_bytes": "metadata",
    "graph_tables_bytes": "graph tables",
    "padding_bytes": "padding",
}
"""Field of Flash -> what a reader calls it."""


def footprint_totals(footprint: Json) -> list[Block]:
    """Returns the six columns embedded tools compare, the file by purpose, and the float model beside them."""
    totals, floats = footprint["totals"], footprint["float_model"]
    headers = ("bytes", "act. RAM", "runtime RAM", "weights", "code", "total RAM", "total flash")
    this = tuple("-" if totals[key] is None else number(totals[key]) for key in totals)
    real, ram = number(floats["parameter_bytes"]), number(floats["activation_bytes"])
    float_row = ("float32 model", ram, "-", real, "-", ram, real)
    flash = footprint["flash"]
    purposes = tuple((PURPOSES[key], number(flash[key])) for key in PURPOSES)
    facts = (
        f"{number(footprint['macs'])} MACs, {number(footprint['parameters'])} parameters, "
        f"{number(footprint['declared_bits_per_weight'])} bits per weight as trained, "
        f"{number(footprint['stored_bits_per_weight'])} as stored"
    )
    return [
        *_projection_blocks(footprint),
        *(Line(text) for text in memory_facts(footprint)),
        Table("Flash by purpose", ("purpose", "bytes"), (*purposes, ("file", number(flash["total_bytes"])))),
        Line(""),
        Line(facts),
        Table("Footprint (-: not measured)", headers, (("this file", *this), float_row)),
    ]


def memory_facts(footprint: Json) -> list[str]:
    """Returns plan and recorded arena beside one another, and the traffic, in words."""
    plan, arena, traffic = footprint["activations"], footprint["recorded_arena"], footprint["traffic"]
    facts = []
    if plan is not None and arena is not None:
        facts.append(
            f"activations {number(plan['high_water_bytes'], 'B')} by our plan, {number(arena['head_bytes'], 'B')} as "
            f"TensorFlow Lite Micro recorded; runtime {number(arena['tail_bytes'], 'B')} with "
            f"{arena['pointer_bits']}-bit pointers; its arena {number(arena['total_bytes'], 'B')}"
        )
    if traffic is not None:
        parts = (traffic["constants_read_bytes"], traffic["activations_read_bytes"])
        moved = (
            f"traffic per inference at least {number(traffic['total_bytes'], 'B')}: constants {number(parts[0], 'B')}, "
            f"activations {number(parts[1], 'B')} read and {number(traffic['activations_written_bytes'], 'B')} written"
        )
        facts.append(moved)
        if None not in (traffic["hop_ms"], traffic["bytes_per_second"], traffic["macs_per_second"]):
            per_second = (number(round(traffic["bytes_per_second"]), "B/s"), number(round(traffic["macs_per_second"])))
            facts.append(f"every {traffic['hop_ms']:g} ms: {per_second[0]}, {per_second[1]} MAC/s")
    return facts


def _projection_blocks(footprint: Json) -> list[Block]:
    """Returns what other weight widths would take, for a pack."""
    rows = tuple(
        (
            "this pack" if p["bits"] is None else f"{p['bits']} bits",
            *(number(p[key]) for key in ("projected_bytes", "packed_bytes", "padding_bytes")),
            *(number(p[key]) for key in ("codebooks_bytes", "scales_bytes", "file_bytes")),
            f"{p['reduction']:.2f}x",
        )
        for p in footprint.get("projection", ())
    )
    headers = ("weights at", "P*b/8", "packed", "of it padding", "codebooks", "scales", "file", "float32/file")
    return [Table("Weight widths, projected and packed", headers, rows)] if rows else []
