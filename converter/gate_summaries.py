"""What the terminal shows of a gate's report and of a plan."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kwsq.converter.budget_summary import budget_table
from kwsq.converter.gate.report import amount
from kwsq.converter.safe_text import printable
from kwsq.converter.terminal import Block, Line, Table, name_cell

Json = Mapping[str, Any]
_STYLES = {"PASS": "good", "FAIL": "bad", "INCONCLUSIVE": "warning"}
_RATES = (
    ("FRR", "false_reject_rate"),
    ("FAR", "false_accept_rate"),
    ("FA/h", "false_accepts_per_hour"),
    ("FDR", "false_discovery_rate"),
)


def gate_blocks(report: Json) -> list[Block]:
    """Returns the gate's report, verdict first."""
    result = report["result"]
    verdict, trials, point = result["verdict"], result["trials"], result["operating_point"]
    sources = result["sources"]
    names = f"{sources['candidate']['file']} against {sources['reference']['file']}"
    size = f"{trials['positives']:,} keyword trials, {trials['negatives']:,} others, {trials['negative_hours']:,.2f} h"
    return [
        Line(f"{verdict['status']}  {printable(names)}", _STYLES[verdict["status"]]),
        *(Line(f"  {printable(reason)}") for reason in verdict["reasons"]),
        Line(f"  {size}; false reject rate {point['target_frr']:.2%}, threshold {point['frozen_threshold']:.6g}"),
        checks_table(result["checks"]),
        _models(point),
        *_budget(result.get("budget")),
        *(Line(f"note: {printable(note)}", "warning") for note in result["notes"]),
    ]


def checks_table(checks: list[Json]) -> Table:
    """Returns a row per check."""
    rows = []
    for check in checks:
        measured = check["point"] is not None
        bounds = [amount(check[key], check["unit"]) if measured else "" for key in ("point", "lower", "upper")]
        margin = amount(check["margin"], check["unit"]) if check["unit"] else ""
        rows.append((check["status"], check["id"], check["question"], *bounds, margin))
    headers = ("", "check", "is the candidate worse in", "measured", "lower 95 %", "upper 95 %", "margin")
    return Table("", headers, tuple(rows), left=3)


def _models(point: Json) -> Table:
    rows = []
    for name in ("reference", "candidate"):
        counts = point[name]["matched"]
        shares = ["" if counts[key] is None else f"{counts[key]:.4g}" for _, key in _RATES]
        numbers = [f"{counts[key]:,.1f}" for key in ("false_rejects", "true_accepts", "false_accepts")]
        rows.append((name_cell(name), f"{point[name]['threshold']:.6g}", *numbers, *shares))
    headers = ("at matched FRR", "threshold", "FR", "TA", "FA", *(title for title, _ in _RATES))
    return Table("", headers, tuple(rows))


def _budget(budget: Json | None) -> list[Block]:
    if budget is None:
        return []
    skipped = ", ".join(map(printable, budget["not_measured_here"]))
    missing = (
        [Line(f"note: limits on {skipped} are judged where they are measured, by kwsq-convert")] if skipped else []
    )
    return [*budget_table(budget["lines"]), *missing]


def gate_of_conversion(gate: Json) -> list[Block]:
    """Returns verdict and checks of a conversion; the reasons of a gate that counts stand at the top already."""
    counts = "" if gate["enforced"] else " (for information: no [gate] in the settings)"
    style = {"PASS": "good", "FAIL": "bad"}.get(gate["verdict"]["status"], "warning")
    reasons = [] if gate["enforced"] else gate["verdict"]["reasons"]
    return [
        Line(f"gate        {gate['verdict']['status']}{counts}", style),
        *(Line(f"  - {printable(reason)}") for reason in reasons),
        checks_table(gate["checks"]),
        *(Line(f"  note: {printable(note)}") for note in gate["notes"]),
    ]


def plan_blocks(facts: Json) -> list[Block]:
    """Returns data sizes by formula and the simulated chance to pass."""
    formulas, simulation = facts["formulas"], facts["simulation"]
    accepts, negatives = formulas["false_accepts_by_overlap"], formulas["negatives_by_overlap"]
    overlap = tuple((share, f"{accepts[share]:,}", f"{negatives[share]:,}") for share in accepts)
    passes = tuple((name, f"{share:.0%}") for name, share in simulation["pass_share"].items())
    size = f"{simulation['positives']:,} keyword and {simulation['negatives']:,} other trials"
    return [
        Line(f"P2 needs {formulas['positives_for_frr_margin']:,} keyword trials", "title"),
        Table(
            "P1 and P3 need", ("share of common false accepts", "reference's false accepts", "other trials"), overlap
        ),
        Table(f"chance to pass with {size}", ("check", "passes"), passes),
        Line(f"note: {formulas['remark']}"),
    ]
