"""A conversion's report as text, as Markdown for a job summary, as JUnit XML and as a page.

Names come from the model: every renderer escapes them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kwsq.converter.bisect_command import bisection_facts, bisection_table
from kwsq.converter.budget_summary import HEADERS, budget_rows
from kwsq.converter.footprint_summaries import memory_facts
from kwsq.converter.gate_render import Format, check_cases, check_table
from kwsq.converter.html import render_html
from kwsq.converter.junit import Case, Outcome, document
from kwsq.converter.markdown import capped, folded, markdown_table, shown
from kwsq.converter.summaries import conversion_blocks, largest_difference
from kwsq.converter.terminal import number, plain

Json = Mapping[str, Any]
_SIGNS = {"pass": "✅", "fail": "❌", "warn": "⚠️", "off": "⏭", "inconclusive": "❔"}
_COLUMNS = {
    "activation_ram_bytes": "activation RAM",
    "runtime_ram_bytes": "runtime RAM",
    "weights_flash_bytes": "weights",
    "code_flash_bytes": "code",
    "total_ram_bytes": "total RAM",
    "total_flash_bytes": "total flash",
}
MOST_LAYERS = 100


def render_conversion(report: Json, to: Format, directory: str) -> str:
    """Returns the report in a format.

    Args:
        report: of a conversion.
        to: format.
        directory: where the report was read, named in the text form.
    """
    match to:
        case "text":
            return plain(conversion_blocks(report, directory))
        case "html":
            return render_html(report)
        case "md":
            return markdown(report)
        case "junit":
            return junit(report)


def markdown(report: Json) -> str:
    """Returns Markdown, verdict first, long tables folded away, at most 60 kB."""
    result = report["result"]
    verdict, artefact = result["verdict"], result["artefact"]
    lines = [f"### {_SIGNS[verdict['status']]} {shown(verdict['headline'])}", ""]
    lines += [f"- {shown(reason)}" for reason in verdict["reasons"]]
    lines += [f"- {shown(fact)}" for fact in _facts(result)]
    warnings = [note for note in result["notes"] if note["level"] == "warning"]
    lines += [f"- ⚠️ {shown(note['where'])}: {shown(note['text'])}" for note in warnings]
    lines += ["", *_footprint_table(result["footprint"]), "", *_budget_table(result["budget"])]
    if gate := result["gate"]:
        lines += folded(f"Gate: {gate['verdict']['status']}{_counts(gate)}", check_table(gate["checks"]))
    lines += folded("Parity", _parity_table(result["parity"]))
    lines += folded("SQNR by layer", _noise_table(result["layer_noise"]))
    lines += _bisection(result["bisection"])
    lines += folded("Weights", _weights_table(result["weights"]))
    lines += folded("Operators", _layers_table(result["footprint"]["layers"]))
    lines += [f"Artefact: {shown(artefact['file'])}, sha256 {shown(artefact['sha256'])}"]
    return capped(lines)


def _counts(gate: Json) -> str:
    return "" if gate["enforced"] else " (for information)"


def _facts(result: Json) -> list[str]:
    accuracy, footprint, model = result["accuracy"], result["footprint"], result["model"]
    how = "after training (PTQ)" if model["quantization"] == "ptq" else "during training (QAT)"
    facts = [
        f"quantized {how}, {model['weight_bits']}-bit weights, container {result['artefact']['container']}",
        f"{number(footprint['macs'])} MACs, {number(footprint['parameters'])} parameters",
        *memory_facts(footprint),
    ]
    if accuracy["assessed"]:
        scores = f"source {accuracy['source_top1']:.2%}, artefact {accuracy['artefact_top1']:.2%}"
        facts.append(f"accuracy: {scores} top-1 on {number(accuracy['samples'])} samples")
    return facts


def _footprint_table(footprint: Json) -> list[str]:
    totals = footprint["totals"]
    cells = ["-" if totals[key] is None else number(totals[key]) for key in _COLUMNS]
    return markdown_table(("bytes", *_COLUMNS.values()), [("this file", *cells)])


def _budget_table(lines: list[Json]) -> list[str]:
    if not lines:
        return []
    rows = [(_status(line), *row) for line, row in zip(lines, budget_rows(lines), strict=True)]
    return [*markdown_table(("", "budget", *HEADERS[1:]), rows, left=2), ""]


def _status(line: Json) -> str:
    return f"{_SIGNS.get(line['status'], '')} {line['status']}"


def _parity_table(parity: Json) -> list[str]:
    rows = []
    for check in parity["checks"]:
        first = check["mismatches"][0] if check["mismatches"] else None
        found = "" if first is None else _mismatch(first)
        largest = largest_difference(check)
        status = "pass" if check["passed"] else "fail"
        rows.append(
            (f"{_SIGNS[status]} {status}", check["question"], found, "" if largest is None else number(largest))
        )
    return markdown_table(("", "question", "first difference", "largest LSB"), rows, left=3)


def _mismatch(mismatch: Json) -> str:
    return f"{mismatch['tensor']}: {mismatch['what']} {mismatch['found']}, expected {mismatch['expected']}"


def _bisection(found: Json | None) -> list[str]:
    if found is None:
        return []
    headers, rows = bisection_table(found)
    facts = [f"- {shown(fact)}" for fact in bisection_facts(found)]
    return folded("Cost of each layer's quantization", [*facts, "", *markdown_table(headers, rows)])


def _noise_table(rows: list[Json]) -> list[str]:
    cells = [
        (row["tensor"], row["operator"], f"{row['sqnr_db']:.1f}", f"{row['rmse_steps']:.2f}")
        for row in rows[:MOST_LAYERS]
    ]
    return markdown_table(("tensor", "operator", "SQNR dB", "rmse, steps"), cells, left=2)


def _weights_table(weights: list[Json]) -> list[str]:
    rows = [(w["tensor"], w["bits"], w["container"], number(w["elements"])) for w in weights[:MOST_LAYERS]]
    return markdown_table(("tensor", "bits", "container", "weights"), rows)


def _layers_table(layers: list[Json]) -> list[str]:
    rows = [
        (
            layer["name"],
            layer["operator"],
            *tuple(number(n) for n in (layer["flash"]["total_bytes"], layer["macs"], layer["live_activation_bytes"])),
        )
        for layer in layers[:MOST_LAYERS]
    ]
    return markdown_table(("operator", "type", "flash B", "MACs", "live B"), rows, left=2)


def junit(report: Json) -> str:
    """Returns JUnit XML: a test case per parity check, gate check and limit of the budget, and one for the verdict."""
    result = report["result"]
    verdict = result["verdict"]
    passed = Outcome.PASSED if verdict["passed"] else Outcome.FAILED
    reasons = "; ".join(verdict["reasons"]) or verdict["headline"]
    cases = [Case("kwsq.convert", "verdict", passed, verdict["status"], reasons)]
    cases += [_parity_case(check) for check in result["parity"]["checks"]]
    if gate := result["gate"]:
        cases += check_cases(gate, lenient=gate["settings"]["on_inconclusive"] == "warn")
    cases += [_budget_case(line) for line in result["budget"]]
    return document(result["options"]["model"], cases)


def _parity_case(check: Json) -> Case:
    outcome = Outcome.PASSED if check["passed"] else Outcome.FAILED
    found = [_mismatch(mismatch) for mismatch in check["mismatches"]]
    text = f"{check['question']}: {'; '.join(found) or 'holds'}"
    return Case("kwsq.parity", check["name"], outcome, "pass" if check["passed"] else "fail", text)


def _budget_case(line: Json) -> Case:
    outcomes = {"pass": Outcome.PASSED, "warn": Outcome.PASSED, "fail": Outcome.FAILED}
    text = f"measured {line['measured']}, limit {line['limit']}, baseline {line['baseline']}"
    return Case("kwsq.budget", line["metric"], outcomes.get(line["status"], Outcome.SKIPPED), line["status"], text)
