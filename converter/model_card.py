"""The model card: what a report knows of a model, and what only its makers can say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kwsq.converter.attested_gate import GateEvidence
from kwsq.converter.markdown import capped, markdown_table, shown
from kwsq.converter.terminal import number

Json = Mapping[str, Any]
_OPEN = (
    ("Training data", "Which recordings, which speakers, under which licence."),
    ("Intended use", "The keywords, languages and devices it is meant for, and what it is not meant for."),
    ("Detection rates", "False rejects and false accepts per hour at the operating point: see `kwsq gate`."),
)


def model_card(report: Json, gate: GateEvidence | None = None) -> str:
    """Returns the card as Markdown.

    Args:
        report: of a passed conversion.
        gate: on its artefact, if there was one.
    """
    result = report["result"]
    model, artefact = result["model"], result["artefact"]
    how = "after training" if model["quantization"] == "ptq" else "during training"
    facts = [
        ("source", model["name"]),
        ("source SHA-256", model["source_sha256"]),
        ("producer", model["producer"] or "not stated"),
        ("quantization", f"{how}, {model['weight_bits']}-bit weights, 8-bit activations"),
        ("dialects", ", ".join(model["dialects"]) or "none"),
        ("artefact", f"{artefact['file']}, {number(artefact['bytes'], 'B')}"),
        ("artefact SHA-256", artefact["sha256"]),
        ("container", artefact["container"]),
    ]
    lines = [f"# {shown(artefact['file'])}", "", *markdown_table(("", ""), facts, left=2), "", *_interface(result)]
    lines += ["## Evidence", "", *_parity(result["parity"]), "", _accuracy(result["accuracy"]), ""]
    if gate is not None:
        lines += [*gate.card_lines(), ""]
    lines += ["## Footprint", "", *_footprint(artefact["bytes"], result["footprint"]), ""]
    lines += ["## To be filled in by the makers", ""]
    still_open = _OPEN if gate is None else _OPEN[:-1]
    lines += [f"- **{title}.** {question}" for title, question in still_open]
    return capped(lines)


def _interface(result: Json) -> list[str]:
    rows = [
        (kind, tensor["name"], tensor["dtype"], tensor["shape"], _grid(tensor))
        for kind in ("inputs", "outputs")
        for tensor in result[kind]
    ]
    return ["## Interface", "", *markdown_table(("", "tensor", "type", "shape", "grid"), rows, left=5), ""]


def _grid(tensor: Json) -> str:
    return "" if tensor["scale"] is None else f"scale {tensor['scale']:.9g}, zero point {tensor['zero_point']}"


def _parity(parity: Json) -> list[str]:
    rows = [("passed" if check["passed"] else "FAILED", check["question"]) for check in parity["checks"]]
    return markdown_table((f"parity on {number(parity['vectors'])} inputs", "question"), rows, left=2)


def _accuracy(accuracy: Json) -> str:
    if not accuracy["assessed"]:
        return "Accuracy was not assessed: no labelled data were given."
    source, artefact = accuracy["source_top1"], accuracy["artefact_top1"]
    return f"Top-1 accuracy on {number(accuracy['samples'])} samples: source {source:.2%}, artefact {artefact:.2%}."


def _footprint(flash_bytes: int, footprint: Json) -> list[str]:
    totals = footprint["totals"]
    rows = [
        ("flash", number(flash_bytes, "B")),
        ("activation RAM", number(totals["activation_ram_bytes"], "B")),
        ("MACs per inference", number(footprint["macs"])),
        ("bits per weight as trained", number(footprint["declared_bits_per_weight"])),
    ]
    return markdown_table(("", ""), rows)
