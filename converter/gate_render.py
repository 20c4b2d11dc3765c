"""A gate's report as text, as Markdown for a job summary, and as JUnit XML.

File names and notes come from whoever ran the gate: every renderer escapes them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal
from xml.sax.saxutils import escape, quoteattr

from kwsq.converter.gate.report import amount
from kwsq.converter.gate_summaries import gate_blocks
from kwsq.converter.safe_text import printable
from kwsq.converter.terminal import plain

Json = Mapping[str, Any]
MARKDOWN_MAX_BYTES = 60_000
"""Below the 64 kB of a pull-request comment and the 1 MiB of a job summary."""
_CELL_CHARACTERS = 300
_MARKDOWN_SIGNS = "\\`*_{}[]()#+!|~@:"
_SIGNS = {"PASS": "✅", "FAIL": "❌", "INCONCLUSIVE": "❔", "SKIPPED": "⏭"}
Format = Literal["text", "md", "junit"]


def render(report: Json, to: Format) -> str:
    """Returns the report in a format."""
    if to == "text":
        return plain(gate_blocks(report))
    return markdown(report) if to == "md" else junit(report)


def markdown(report: Json) -> str:
    """Returns Markdown, verdict first, tables folded away, at most 60 kB."""
    result = report["result"]
    verdict, sources = result["verdict"], result["sources"]
    names = f"{_md(sources['candidate']['file'])} against {_md(sources['reference']['file'])}"
    lines = [f"### {_SIGNS[verdict['status']]} {_md(verdict['status'])}: {names}", ""]
    lines += [f"- {_md(reason)}" for reason in verdict["reasons"]]
    lines += ["", "<details><summary>Checks</summary>", "", *_check_table(result["checks"]), "", "</details>", ""]
    lines += [f"> {_md(note)}" for note in result["notes"]]
    return _capped(lines)


def _check_table(checks: list[Json]) -> list[str]:
    rows = ["| | check | worse in | measured | lower | upper | margin |", "|---|---|---|--:|--:|--:|--:|"]
    for check in checks:
        measured = check["point"] is not None
        bounds = [amount(check[key], check["unit"]) if measured else "" for key in ("point", "lower", "upper")]
        margin = amount(check["margin"], check["unit"]) if check["unit"] else ""
        cells = (f"{_SIGNS[check['status']]} {check['status']}", check["id"], check["question"], *bounds, margin)
        rows.append(f"| {' | '.join(_md(cell) for cell in cells)} |")
    return rows


def _md(text: object) -> str:
    """Returns text that Markdown and HTML show as it is."""
    clean = printable(str(text), _CELL_CHARACTERS)
    return "".join(f"\\{c}" if c in _MARKDOWN_SIGNS else escape(c) for c in clean)


def _capped(lines: list[str]) -> str:
    kept: list[str] = []
    size = 0
    for line in lines:
        size += len(line.encode()) + 1
        if size > MARKDOWN_MAX_BYTES:
            return "\n".join([*kept, "", "(cut: the report is longer)"]) + "\n"
        kept.append(line)
    return "\n".join(kept) + "\n"


def junit(report: Json) -> str:
    """Returns JUnit XML: one test case per check; an inconclusive one fails unless the settings let it pass."""
    result = report["result"]
    lenient = result["settings"]["on_inconclusive"] == "warn"
    cases = [_case(check, lenient=lenient) for check in result["checks"]]
    failures = sum("<failure" in case for case in cases)
    skipped = sum("<skipped" in case for case in cases)
    counts = f'tests="{len(cases)}" failures="{failures}" errors="0" skipped="{skipped}"'
    name = quoteattr(printable(str(result["sources"]["candidate"]["file"])))
    body = "\n".join(cases)
    head = '<?xml version="1.0" encoding="UTF-8"?>'
    return f"{head}\n<testsuites {counts}>\n<testsuite name={name} {counts}>\n{body}\n</testsuite>\n</testsuites>\n"


def _case(check: Json, *, lenient: bool) -> str:
    point, lower, upper, margin = (amount(check[k], check["unit"]) for k in ("point", "lower", "upper", "margin"))
    found = f"measured {point}, bounds {lower} to {upper}, margin {margin}; " if check["point"] is not None else ""
    text = printable(f"{check['question']}: {found}{check['reason']}").rstrip("; ")
    status, inner = check["status"], ""
    if status == "FAIL" or (status == "INCONCLUSIVE" and not lenient):
        # Numbers stand in the element's text too: some readers drop the attribute.
        inner = f'<failure type="{status}" message={quoteattr(text)}>{escape(text)}</failure>'
    elif status == "SKIPPED":
        inner = f"<skipped message={quoteattr(text)}/>"
    else:
        inner = f"<system-out>{escape(f'{status}: {text}')}</system-out>"
    return f'<testcase classname="kwsq.gate" name={quoteattr(printable(str(check["id"])))}>{inner}</testcase>'
