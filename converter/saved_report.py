"""Reading a report that kwsq wrote: of a conversion or of a gate."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

from kwsq.converter.gate.report import KIND as GATE
from kwsq.converter.gate.report import checked_report
from kwsq.converter.input_file import read_file
from kwsq.converter.json_schema import violations
from kwsq.converter.report import SCHEMA_VERSION
from kwsq.ir.errors import Problem, UsageError

Json = dict[str, Any]
MOST_VIOLATIONS = 3


def read_saved(path: Path) -> Json:
    """Returns the report of a conversion or of a gate, its structure checked.

    Raises:
        UsageError: not JSON, not a report of kwsq, of another version, or not as its schema says.
    """
    where = f"report {path.name!r}"
    try:
        document = json.loads(read_file(path, "report"))
    except (ValueError, RecursionError) as error:
        raise UsageError(Problem(where, str(error), "JSON", "name a report.json of kwsq")) from error
    if is_gate(document):
        return checked_report(document, where)
    return _checked_conversion(document, where)


def is_gate(document: Any) -> bool:
    """Returns whether a document says it is a gate's report."""
    return isinstance(document, dict) and document.get("kind") == GATE


def _checked_conversion(document: Any, where: str) -> Json:
    if not isinstance(document, dict) or document.get("generator") != "kwsq" or "result" not in document:
        remedy = "name the report.json of a conversion or the report of kwsq gate"
        raise UsageError(Problem(where, "another document", "a report of kwsq", remedy))
    version = document.get("schema_version")
    if version != SCHEMA_VERSION:
        remedy = "convert again with this version of kwsq, or use the version that wrote it"
        raise UsageError(Problem(where, f"schema version {version!r}", str(SCHEMA_VERSION), remedy))
    schema = json.loads(files("kwsq.converter").joinpath("report.schema.json").read_text(encoding="utf-8"))
    broken = (violations(document, schema) or _inconsistencies(document["result"]))[:MOST_VIOLATIONS]
    if broken:
        remedy = "use the report as kwsq wrote it"
        raise UsageError([Problem(where, text, "what report.schema.json says", remedy) for text in broken])
    return document


def _inconsistencies(result: Json) -> list[str]:
    """Returns what a schema cannot say: that the timeline has a step for the inputs and one per operator."""
    footprint = result["footprint"]
    plan, steps = footprint["activations"], 1 + len(footprint["layers"])
    if plan is None or len(plan["live_bytes_per_step"]) == steps:
        return []
    return [f"$.result.footprint: {steps - 1} operators and {len(plan['live_bytes_per_step'])} steps of memory"]
