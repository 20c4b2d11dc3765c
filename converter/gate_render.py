"""A gate's report as text, as Markdown for a job summary, as JUnit XML and as a page.

File names and notes come from whoever ran the gate: every renderer escapes them.
"""

from __future__ import annotations

from collections.abc import Mapping
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
    lines += ["", *folded("Checks", _check_table(result["checks"])), ""]
    lines += [f"> {shown(note)}" for note in result["notes"]]
    return capped(lines)


def _check_table(checks: list[Json]) -> list[str]:
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
    lenient = result["settings"]["on_inconclusive"] == "warn"
    cases = [_case(check, lenient=lenient) for check in result["checks"]]
    return document(str(result["sources"]["candidate"]["file"]), cases)


def _case(check: Json, *, lenient: bool) -> Case:
    point, lower, upper, margin = (amount(check[k], check["unit"]) for k in ("point", "lower", "upper", "margin"))
    found = f"measured {point}, bounds {lower} to {upper}, margin {margin}; " if check["point"] is not None else ""
    text = printable(f"{check['question']}: {found}{check['reason']}").rstrip("; ")
    status = check["status"]
    failed = status == "FAIL" or (status == "INCONCLUSIVE" and not lenient)
    outcome = Outcome.FAILED if failed else Outcome.SKIPPED if status == "SKIPPED" else Outcome.PASSED
    return Case("kwsq.gate", str(check["id"]), outcome, status, text)
