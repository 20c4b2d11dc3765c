"""A gate's report as text, as Markdown for a job summary, as JUnit XML and as a page.

File names and notes come from whoever ran the gate: every renderer escapes them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from kwsq.converter.gate.report import amount
from kwsq.converter.gate_summaries import gate_blocks
from kwsq.converter.junit import Case, Outcome, document
from kwsq.converter.markdown import capped, folded, markdown_table, shown
from kwsq.converter.safe_text import printable
from kwsq.converter.terminal import plain

Json = Mapping[str, Any]
_SIGNS = {"PASS": "✅", "FAIL": "❌", "INCONCLUSIVE": "❔", "SKIPPED": "⏭"}
Format = Literal["text", "md", "junit", "html"]


def render(report: Json, to: Format) -> str:
    """Returns the report in a format."""
    if to == "text":
        return plain(gate_blocks(report))
    if to == "html":
        from kwsq.converter.gate_html import gate_page

        return gate_page(report)
    return markdown(report) if to == "md" else junit(report)


def markdown(report: Json) -> str:
    """Returns Markdown, verdict first, tables folded away, at most 60 kB."""
    result = report["result"]
    verdict, sources = result["verdict"], result["sources"]
    names = f"{shown(sources['candidate']['file'])} against {shown(sources['reference']['file'])}"
    lines = [f"### {_SIGNS[verdict['status']]} {shown(verdict['status'])}: {names}", ""]
    lines += [f"- {shown(reason)}" for reason in verdict["reasons"]]
    lines += ["", *folded("Checks", check_table(result["checks"])), ""]
    if budget := result.get("budget", {}).get("lines"):
        lines += [*folded("Budget", budget_rows(budget)), ""]
    lines += [f"> {shown(note)}" for note in result["notes"]]
    return capped(lines)


def check_table(checks: Sequence[Json]) -> list[str]:
    """Returns checks as a Markdown table."""
    rows = []
    for check in checks:
        measured = check["point"] is not None
        bounds = [amount(check[key], check["unit"]) if measured else "" for key in ("point", "lower", "upper")]
        margin = amount(check["margin"], check["unit"]) if check["unit"] else ""
        status = f"{_SIGNS[check['status']]} {check['status']}"
        rows.append((status, check["id"], check["question"], *bounds, margin))
    return markdown_table(("", "check", "worse in", "measured", "lower", "upper", "margin"), rows, left=3)


def junit(report: Json) -> str:
    """Returns JUnit XML: one test case per check; an inconclusive one fails unless the settings let it pass."""
    result = report["result"]
    cases = check_cases(result, lenient=result["settings"]["on_inconclusive"] == "warn")
    cases += budget_cases(result.get("budget", {}).get("lines", ()))
    return document(str(result["sources"]["candidate"]["file"]), cases)


def check_cases(result: Json, *, lenient: bool) -> list[Case]:
    """Returns a test case per check.

    Args:
        result: of the gate.
        lenient: whether inconclusive checks pass; where the verdict only informs, all do.
    """
    informs = not result.get("enforced", True)
    return [_case(check, lenient=lenient, informs=informs) for check in result["checks"]]


def _case(check: Json, *, lenient: bool, informs: bool) -> Case:
    point, lower, upper, margin = (amount(check[k], check["unit"]) for k in ("point", "lower", "upper", "margin"))
    found = f"measured {point}, bounds {lower} to {upper}, margin {margin}; " if check["point"] is not None else ""
    text = printable(f"{check['question']}: {found}{check['reason']}").rstrip("; ")
    status = check["status"]
    failed = not informs and (status == "FAIL" or (status == "INCONCLUSIVE" and not lenient))
    outcome = Outcome.FAILED if failed else Outcome.SKIPPED if status == "SKIPPED" else Outcome.PASSED
    return Case("kwsq.gate", str(check["id"]), outcome, status, text)


def budget_rows(lines: Sequence[Json]) -> list[str]:
    """Returns a budget as a Markdown table."""
    keys = ("measured", "limit", "baseline")
    rows = [(x["metric"], *("" if x[key] is None else f"{x[key]:g}" for key in keys), x["status"]) for x in lines]
    return markdown_table(("metric", *keys, ""), rows, left=1)


def budget_cases(lines: Sequence[Json]) -> list[Case]:
    """Returns a test case per limit of a budget."""
    return [
        Case(
            "kwsq.budget",
            str(line["metric"]),
            Outcome.FAILED if line["status"] == "fail" else Outcome.PASSED,
            str(line["status"]),
            "; ".join(line["exceeded"]) or f"measured {line['measured']:g} {line['unit']}",
        )
        for line in lines
    ]
