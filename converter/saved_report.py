"""Reading a report that kwsq wrote, of a conversion or of a gate: validated before anything is rendered from it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any, NoReturn

from kwsq.converter.gate.report import KIND as GATE
from kwsq.converter.gate.report import checked_report, gate_document
from kwsq.converter.input_file import read_file
from kwsq.converter.json_schema import violations
from kwsq.converter.safe_text import printable
from kwsq.ir.errors import Problem, UsageError

Json = dict[str, Any]
CONVERSION_SCHEMA, GATE_SCHEMA = "report.schema.json", "gate.schema.json"
MOST_VIOLATIONS = 3
MAX_BYTES = 2**25
MAX_DEPTH = 40
MAX_DIGITS = 20
"""Of an integer: a seed has up to 20; far more overflow where figures are drawn."""


def schema(name: str) -> Json:
    """Returns a schema that lies beside this file."""
    found: Json = json.loads(files("kwsq.converter").joinpath(name).read_text(encoding="utf-8"))
    return found


def read_saved(path: Path) -> Json:
    """Returns the report of a conversion or of a gate, its structure checked.

    Raises:
        UsageError: not JSON, not a report of kwsq, of another version, or not as its schema says.
    """
    where = f"report {path.name!r}"
    document = _parsed(read_file(path, "report"), where)
    kinds = {None: CONVERSION_SCHEMA, GATE: GATE_SCHEMA}
    is_ours = isinstance(document, dict) and document.get("generator") == "kwsq" and "result" in document
    kind = document.get("kind") if is_ours else ""
    if not (kind is None or isinstance(kind, str)) or kind not in kinds:
        remedy = "name the report.json of a conversion or the report of kwsq gate"
        raise UsageError(Problem(where, "another document", "a report of kwsq", remedy))
    known = schema(kinds[kind])
    _check_version(document.get("schema_version"), known["properties"]["schema_version"]["const"], where)
    broken = (violations(document, known) or list(_inconsistencies(document["result"])))[:MOST_VIOLATIONS]
    if broken:
        expected, remedy = f"what {kinds[kind]} says", "use the report as kwsq wrote it"
        raise UsageError([Problem(where, printable(text, 200), expected, remedy) for text in broken], "damaged report")
    if kind == GATE:
        return checked_report(document, where)
    _check_inner_gate(document, where)
    return dict(document)


def _check_inner_gate(document: Json, where: str) -> None:
    """Checks the gate in a conversion's report as strictly as one by itself."""
    inner = gate_document(document)
    if inner is document:
        return
    broken = list(violations(inner, schema(GATE_SCHEMA)))[:MOST_VIOLATIONS]
    broken = broken or list(_inconsistencies(inner["result"]))[:MOST_VIOLATIONS]
    if broken:
        expected, remedy = f"what {GATE_SCHEMA} says", "use the report as kwsq wrote it"
        raise UsageError(
            [Problem(f"{where}, gate", printable(text, 200), expected, remedy) for text in broken], "damaged report"
        )
    checked_report(inner, where)


def is_gate(document: Any) -> bool:
    """Returns whether a document says it is a gate's report."""
    return isinstance(document, dict) and document.get("kind") == GATE


def _parsed(data: bytes, where: str) -> Any:
    if len(data) > MAX_BYTES:
        raise UsageError(Problem(where, f"{len(data):,} bytes", f"at most {MAX_BYTES:,}", "name a report of kwsq"))
    try:
        document = json.loads(data, parse_int=_integer, parse_float=_number, parse_constant=_no_number)
        if _depth(document) > MAX_DEPTH:
            raise ValueError(f"values nested deeper than {MAX_DEPTH}")  # noqa: TRY301 - one message for all of these
    except (ValueError, RecursionError) as error:
        found = printable(str(error), 120)
        raise UsageError(Problem(where, found, "whole JSON", "name a report.json of kwsq")) from error
    return document


def _integer(text: str) -> int:
    if len(text.lstrip("-")) > MAX_DIGITS:
        raise ValueError(f"a number of {len(text)} digits")
    return int(text)


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"a number beyond a double: {text[:20]}")
    return value


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text}, which is not JSON")


def _depth(document: Any) -> int:
    """Returns how deep values are nested, without recursion; stops where it is too much."""
    depth, level = 0, [document]
    while level and depth <= MAX_DEPTH:
        depth += 1
        level = [c for v in level if isinstance(v, dict | list) for c in (v.values() if isinstance(v, dict) else v)]
    return depth


def _check_version(found: Any, known: int, where: str) -> None:
    if not isinstance(found, int) or isinstance(found, bool):
        raise UsageError(Problem(where, f"schema version {str(found)[:20]!r}", str(known), "use the report as written"))
    if found != known:
        age = "newer" if found > known else "older"
        remedy = "render it with the kwsq that wrote it (`run.versions` names it), or write it again with this one"
        raise UsageError(Problem(where, f"schema version {found}, {age} than this kwsq", str(known), remedy))


def _inconsistencies(result: Json) -> Iterator[str]:
    """Yields what a schema cannot say: lists that belong together and have different lengths."""
    if "footprint" in result:
        footprint = result["footprint"]
        plan, steps = footprint["activations"], 1 + len(footprint["layers"])
        if plan is not None and len(plan["live_bytes_per_step"]) != steps:
            found = len(plan["live_bytes_per_step"])
            yield f"$.result.footprint: {steps - 1} operators and {found} steps of memory"
        result = result.get("gate") or {}
        inner = {name: value for name, value in result.items() if name != "enforced"}
        gate = schema(GATE_SCHEMA)
        broken = violations(inner, gate["$defs"]["result"], gate, "$.result.gate") if inner else []
        yield from broken
        if broken:
            return
    for name, curve in result.get("det_curves", {}).items():
        if len({len(values) for values in curve.values()}) > 1:
            yield f"$.result.det_curves.{name}: lists of different lengths"
