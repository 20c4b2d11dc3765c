"""`kwsq report` on a conversion: every format from report.json alone, and a damaged document is refused or rendered."""

from __future__ import annotations

import copy
import json
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cli_runs import TEXT, kwsq, kwsq_convert, save
from qdq_models import Scheme, float_model, quantized, random_feeds

from kwsq.converter.markdown import MARKDOWN_MAX_BYTES, capped, shown
from kwsq.converter.report_render import junit, markdown, render_conversion
from kwsq.converter.saved_report import read_saved
from kwsq.ir.errors import UsageError

HOSTILE = "]]><b>|`x`\x1b[2J\ud800 & \u202e"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("report")
    model = float_model(TEXT)
    path = save(quantized(model, random_feeds(model, 64), Scheme(weight_bits=4)), out / "m.onnx")
    config = out / "kwsq.toml"
    config.write_text('[budget]\nflash_total = { max = 1_000_000 }\nmacs = { max = 1, level = "warn" }\n')
    outcome = kwsq_convert(path, "--target", "neon", "--wbits", 4, "--config", config, "-o", out / "out")
    assert outcome.code == 0, outcome.stderr
    return out / "out"


@pytest.fixture(scope="module")
def report(folder: Path) -> dict[str, Any]:
    return read_saved(folder / "report.json")


def test_the_page_is_the_one_of_the_conversion(folder: Path) -> None:
    outcome = kwsq("report", folder / "report.json", "--to", "html")
    assert outcome.code == 0
    assert outcome.stdout == (folder / "report.html").read_text(encoding="utf-8")


def test_text_is_what_the_conversion_printed(folder: Path) -> None:
    outcome = kwsq("report", folder / "report.json", "--to", "text")
    assert outcome.code == 0
    assert outcome.stdout.startswith("PASS  m.onnx to neon at 4-bit weights: parity proven")
    assert "Footprint" in outcome.stdout


def test_markdown_has_verdict_footprint_budget_and_parity(report: dict[str, Any]) -> None:
    text = markdown(report)
    assert text.startswith("### ✅ m.onnx to neon at 4-bit weights")
    flash = report["result"]["footprint"]["totals"]["total_flash_bytes"]
    assert f"{flash:,}" in text.split("<details>")[0]
    assert "| ⚠️ warn | macs |" in text
    for check in report["result"]["parity"]["checks"]:
        assert shown(check["question"]) in text


def test_junit_has_a_case_per_check_and_limit(report: dict[str, Any]) -> None:
    suite = ET.fromstring(junit(report))
    cases = {(case.get("classname"), case.get("name")): case for case in suite.iter("testcase")}
    parity = {("kwsq.parity", check["name"]) for check in report["result"]["parity"]["checks"]}
    budget = {("kwsq.budget", "flash_total"), ("kwsq.budget", "macs")}
    assert set(cases) == {("kwsq.convert", "verdict")} | parity | budget
    assert suite.get("failures") == "0"


def test_a_failed_check_is_a_failed_case_and_a_failed_verdict(report: dict[str, Any]) -> None:
    failed = copy.deepcopy(report)
    check = failed["result"]["parity"]["checks"][0]
    check["passed"] = False
    check["mismatches"] = [{"tensor": HOSTILE, "what": "scale", "expected": "1", "found": "2", "index": None}]
    failed["result"]["verdict"].update(passed=False, status="fail", exit_code=1, reasons=[HOSTILE])
    suite = ET.fromstring(junit(failed))
    assert suite.get("failures") == "2"
    assert markdown(failed).startswith("### ❌")


def test_names_cannot_break_out(report: dict[str, Any]) -> None:
    hostile = copy.deepcopy(report)
    hostile["result"]["options"]["model"] = HOSTILE
    hostile["result"]["verdict"]["headline"] = HOSTILE
    for layer in hostile["result"]["footprint"]["layers"]:
        layer["name"] = HOSTILE
    for weight in hostile["result"]["weights"]:
        weight["tensor"] = HOSTILE
    ET.fromstring(junit(hostile))
    text = markdown(hostile)
    text.encode()
    assert "<b>" not in text
    assert "\x1b" not in text
    assert "]]>" not in text
    for line in text.splitlines():
        if line.startswith("| "):
            assert line.replace("\\|", "").count("|") in (4, 5, 6, 7, 8), line


def test_markdown_is_capped(report: dict[str, Any]) -> None:
    long = copy.deepcopy(report)
    long["result"]["verdict"]["reasons"] = ["x" * 250] * 1000
    text = markdown(long)
    assert len(text.encode()) <= MARKDOWN_MAX_BYTES + 100
    assert text.endswith("(cut: the report is longer)\n")
    assert capped(["short"]) == "short\n"


# ---- documents that are not what kwsq wrote ----


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", "JSON"),
        ('{"generator": "kwsq"', "JSON"),
        ("[" * 100_000, "JSON"),
        ("[]", "another document"),
        ('{"generator": "other", "result": {}}', "another document"),
        ('{"generator": "kwsq", "schema_version": 99, "result": {}, "run": {}}', "schema version 99"),
        ('{"generator": "kwsq", "schema_version": 1, "result": {}, "run": {}}', "required"),
        ('{"generator": "kwsq", "kind": "gate", "schema_version": 1, "result": {}}', "required"),
    ],
)
def test_other_documents_are_refused(text: str, found: str, tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_text(text)
    outcome = kwsq("report", path)
    assert outcome.code == 2, outcome
    assert found in outcome.stderr
    assert "Traceback" not in outcome.stderr
    assert outcome.stdout == ""


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place of a document; of a list the first two."""
    yield path
    if isinstance(value, dict):
        for key in value:
            yield from places(value[key], (*path, key))
    elif isinstance(value, list):
        for i in range(min(len(value), 2)):
            yield from places(value[i], (*path, i))


@pytest.mark.parametrize("damage", [None, "text", -1, [], {}, [[]], 1e308])
def test_any_damage_is_refused_or_rendered(damage: Any, report: dict[str, Any], tmp_path: Path) -> None:
    refused = 0
    for place in places(report):
        damaged = copy.deepcopy(report)
        inner: Any = damaged
        for key in place[:-1]:
            inner = inner[key]
        if place:
            inner[place[-1]] = damage
        path = tmp_path / "r.json"
        path.write_text(json.dumps(damaged if place else damage))
        try:
            document = read_saved(path)
        except UsageError:
            refused += 1
            continue
        for to in ("text", "md", "junit", "html"):
            render_conversion(document, to, "out")  # type: ignore[arg-type]
    assert refused > 100
