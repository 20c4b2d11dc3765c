"""Budgets and baselines: what is refused, what fails, what is only said, and that like is compared with like."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from cli_runs import Outcome, kwsq_convert, quantized_dense, samples

from kwsq.converter import report as report_package
from kwsq.converter.baseline import Baseline, comparable, read_baseline, write_baseline
from kwsq.converter.budget import Amount, judge_budget, parse_amount, read_budget
from kwsq.converter.json_schema import violations
from kwsq.ir.errors import UsageError

MEASURED = {"flash_total": 1000.0, "ram_peak": 64.0, "macs": 500.0, "accuracy": 0.90}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("96KiB", Amount(98304.0)),
        ("96KB", Amount(96000.0)),
        ("1MiB", Amount(1048576.0)),
        ("512B", Amount(512.0)),
        ("512", Amount(512.0)),
        (512, Amount(512.0)),
        ("2%", Amount(0.02, is_share=True)),
    ],
)
def test_amounts(text: Any, value: Amount) -> None:
    assert parse_amount(text, "flash_total", "") == value


@pytest.mark.parametrize("text", ["", "12 KiBB", "-1B", True, "nan", [1], "inf"])
def test_amounts_of_another_form_are_refused(text: Any) -> None:
    with pytest.raises(UsageError, match="96KiB"):
        parse_amount(text, "flash_total", "here")


def test_counts_take_no_byte_suffix() -> None:
    with pytest.raises(UsageError):
        parse_amount("2KiB", "macs", "here")


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"flash_totl": {"max": 1}}, "did you mean flash_total"),
        ({"ram_peak": {"maxx": 1}}, "did you mean max"),
        ({"ram_peak": {"max": 1, "level": "errors"}}, "off, warn, error"),
        ({"ram_peak": 3}, "write a table"),
        ({"ram_peak": {"level": "warn"}}, "no limit"),
        ({"ram_peak": {"max": "5%"}}, "max_increase alone"),
        ({"accuracy": {"max": 0.9}}, "unknown key 'max'"),
        ({"fdr": {"max": 5}}, "a fraction up to 1; 5 % is written 0.05"),
        ({"accuracy": {"min": 90}}, "a fraction up to 1"),
        ({"accuracy": {"max_decrease": 1.5}}, "a fraction up to 1"),
    ],
)
def test_wrong_settings_are_refused(table: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read_budget(table)


@pytest.mark.parametrize(
    ("metric", "entry", "before", "exceeded"),
    [
        ("flash_total", {"max": 1000}, None, False),
        ("flash_total", {"max": 999}, None, True),
        ("flash_total", {"max_increase": "24B"}, 976.0, False),
        ("flash_total", {"max_increase": "23B"}, 976.0, True),
        ("flash_total", {"max_increase": "0B"}, 1200.0, False),
        ("macs", {"max_increase": "25%"}, 400.0, False),
        ("macs", {"max_increase": "24%"}, 400.0, True),
        ("accuracy", {"min": 0.90}, None, False),
        ("accuracy", {"min": 0.901}, None, True),
        ("accuracy", {"max_decrease": 0.02}, 0.915, False),
        ("accuracy", {"max_decrease": 0.01}, 0.915, True),
        ("accuracy", {"max_decrease": 0.0}, 0.80, False),
    ],
)
def test_a_limit_holds_up_to_itself_and_no_further(
    metric: str, entry: dict[str, Any], before: float | None, exceeded: bool
) -> None:
    baseline = {} if before is None else {metric: before}
    (line,) = judge_budget(read_budget({metric: entry}), MEASURED, baseline)
    assert bool(line.exceeded) == line.is_failure == exceeded
    (warned,) = judge_budget(read_budget({metric: {**entry, "level": "warn"}}), MEASURED, baseline)
    assert (bool(warned.exceeded), warned.is_failure) == (exceeded, False)
    assert judge_budget(read_budget({metric: {**entry, "level": "off"}}), MEASURED, baseline) == ()


def test_a_change_without_a_baseline_is_refused_unless_it_is_being_renewed() -> None:
    limits = read_budget({"macs": {"max_increase": "0%"}})
    with pytest.raises(UsageError, match="--update-baseline"):
        judge_budget(limits, MEASURED, {})
    (line,) = judge_budget(limits, MEASURED, None)
    assert line.exceeded == ()


def test_what_was_not_measured_is_not_passed_over() -> None:
    with pytest.raises(UsageError, match="--data"):
        judge_budget(read_budget({"accuracy": {"min": 0.5}}), {"macs": 1.0}, {})


def test_a_baseline_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "b.json"
    now = Baseline("neon int8", "a", "b", "data", {"accuracy": 0.9, "macs": 5})
    write_baseline(now, path)
    assert read_baseline(path) == now
    assert comparable(now, Baseline("neon int8", "other", "b", "data", now.metrics), path) == now.metrics
    with pytest.raises(UsageError, match="neon int4"):
        comparable(now, Baseline("neon int4", "a", "b", "data", now.metrics), path)
    with pytest.raises(UsageError, match="SHA-256"):
        comparable(now, Baseline("neon int8", "a", "b", "more data", now.metrics), path)
    assert comparable(now, Baseline("neon int8", "a", "b", None, {"macs": 6}), path) == now.metrics


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.pop("target"),
        lambda d: d.update(schema_version=2),
        lambda d: d["metrics"].update(macs="5"),
        lambda d: d["metrics"].update(macs=math.nan),
        lambda d: d["metrics"].update(macs=math.inf),
        lambda d: d["metrics"].update(macs=10**400),
        lambda d: d["metrics"].update(speed=5),
        lambda d: d.update(extra=1),
        lambda d: d.update(target=5),
    ],
)
def test_a_damaged_baseline_is_refused(tmp_path: Path, change: Any) -> None:
    path = tmp_path / "b.json"
    document = Baseline("neon int8", "a", "b", None, {"macs": 5}).to_json()
    change(document)
    path.write_text(json.dumps(document))
    with pytest.raises(UsageError, match=r"--update-baseline|write it again"):
        read_baseline(path)


def converted(here: Path, *options: object, bits: int = 4) -> Outcome:
    model = quantized_dense(here, bits)
    return kwsq_convert(model, "--target", "neon", "-o", here / "out", "--force", "--json", *options)


def test_a_conversion_over_budget_keeps_no_artefact(here: Path) -> None:
    (here / "kwsq.toml").write_text('[budget]\nflash_total = { max = "1B" }\nmacs = { max = 1, level = "warn" }\n')
    outcome = converted(here)
    assert outcome.code == 1
    result = json.loads(outcome.stdout)["result"]
    assert result["verdict"]["status"] == "fail"
    assert result["verdict"]["reasons"][0].startswith("budget flash_total: ")
    assert [line["status"] for line in result["budget"]] == ["fail", "warn"]
    assert any(note["source"] == "budget" and note["level"] == "warning" for note in result["notes"])
    assert not (here / "out" / "model.tflite").exists()
    (here / "kwsq.toml").write_text('[budget]\nflash_total = { max = "1MiB" }\n')
    assert converted(here).code == 0
    assert (here / "out" / "model.tflite").exists()


def test_growth_against_a_committed_baseline(here: Path) -> None:
    (here / "kwsq.toml").write_text('[budget]\nflash_total = { max_increase = "0B" }\n')
    refused = converted(here)
    assert refused.code == 2
    assert "--update-baseline" in refused.stderr
    assert converted(here, "--update-baseline").code == 0
    first = (here / "kwsq-baseline.json").read_bytes()
    assert converted(here).code == 0
    assert converted(here, "--update-baseline").code == 0
    assert (here / "kwsq-baseline.json").read_bytes() == first
    document = json.loads(first)
    document["metrics"]["flash_total"] -= 1
    (here / "smaller.json").write_text(json.dumps(document))
    grown = converted(here, "--baseline", "smaller.json")
    assert grown.code == 1
    assert "1 B more than the baseline's" in grown.stderr
    assert converted(here, "--baseline", "absent.json").code == 2


def test_the_summary_and_the_page_show_the_budget(here: Path) -> None:
    (here / "kwsq.toml").write_text('[budget]\nmacs = { max = 1, level = "warn" }\n')
    model = quantized_dense(here)
    shown = kwsq_convert(model, "--target", "neon", "-o", here / "out").stdout
    assert "Budget" in shown
    assert shown.count("warn") >= 2
    assert "budget macs: " in (here / "out" / "report.html").read_text("utf-8")


def test_the_report_keeps_its_schema(here: Path) -> None:
    (here / "kwsq.toml").write_text('[budget]\nflash_total = { max = "1B" }\nram_peak = { max = "1MiB" }\n')
    report = json.loads(converted(here).stdout)
    schema = json.loads((Path(report_package.__file__).parent / "report.schema.json").read_text("utf-8"))
    assert violations(report, schema) == []
    report["result"]["budget"][0]["status"] = "maybe"
    assert violations(report, schema)


def test_a_failing_conversion_does_not_become_the_baseline(here: Path) -> None:
    (here / "kwsq.toml").write_text('[budget]\nflash_total = { max = "1B" }\n')
    assert converted(here, "--update-baseline").code == 1
    assert not (here / "kwsq-baseline.json").exists()


def test_accuracy_against_other_data_is_refused(here: Path) -> None:
    (here / "kwsq.toml").write_text("[budget]\naccuracy = { max_decrease = 0.0 }\n")
    data = samples(here)
    assert converted(here, "--data", data, "--update-baseline").code == 0
    assert converted(here, "--data", data).code == 0
    other = converted(here, "--data", samples(here, seed=6))
    assert other.code == 2
    assert "SHA-256" in other.stderr
    assert converted(here).code == 2


def test_wrong_settings_are_refused_before_any_work(here: Path) -> None:
    (here / "pyproject.toml").write_text("[tool.kwsq.budget]\nram_pek = { max = 1 }\n")
    outcome = converted(here)
    assert outcome.code == 2
    assert "did you mean ram_peak" in outcome.stderr
    assert not (here / "out").exists()
    for text, expected in (("tool = 3", "tool: found 3"), ("[tool]\nkwsq = 5", "kwsq: found 5")):
        (here / "pyproject.toml").write_text(f"{text}  # kwsq\n")
        outcome = converted(here)
        assert (outcome.code, expected in outcome.stderr) == (2, True)
    (here / "kwsq.toml").write_text(f"[gate]\nthreshold = 1{'0' * 400}\n")
    assert "[gate] threshold: found 1000" in converted(here).stderr
    (here / "kwsq.toml").unlink()
    (here / "pyproject.toml").write_text("[tool.other]\nx = 1\n")
    assert converted(here).code == 0


@pytest.mark.parametrize(
    "text", ["[tool]\nkwsq.budget.macs = {{ max = {0} }}", "tool.kwsq = {{ budget = {{ macs = {{ max = {0} }} }} }}"]
)
def test_settings_are_found_however_toml_writes_them(here: Path, text: str) -> None:
    (here / "pyproject.toml").write_text(text.format(1))
    assert converted(here).code == 1
    (here / "pyproject.toml").write_text(text.format(10**6))
    assert converted(here).code == 0
    (here / "pyproject.toml").write_text('[project]\ndependencies = ["kwsq"]\n')
    assert json.loads(converted(here).stdout)["result"]["budget"] == []
