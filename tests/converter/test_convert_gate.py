"""`kwsq-convert --data` feeds the gate: for information without `[gate]`, and deciding the exit code with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from cli_runs import Outcome, kwsq, kwsq_convert, left, samples, save
from qdq_models import float_model

from kwsq.converter import report as report_package
from kwsq.converter.gate.model_pairs import load_runnable
from kwsq.converter.json_schema import violations

WITH_SOFTMAX = """(float[1,12] x, float[12,16] w1, float[16] b1, float[16,4] w2, float[4] b2) => (float[1,4] p)
{ h = Gemm(x, w1, b1) r = Relu(h) y = Gemm(r, w2, b2) p = Softmax<axis=1>(y) }"""
CALIBRATED = ("--calibration", "cal.npz")
LOGITS = WITH_SOFTMAX.replace("=> (float[1,4] p)", "=> (float[1,4] y)").replace(" p = Softmax<axis=1>(y)", "")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def network(here: Path, text: str = LOGITS) -> Path:
    model = float_model(text)
    for tensor in model.graph.initializer:
        if tensor.name == "w2":  # far apart logits, so that a softmax saturates
            tensor.CopyFrom(onnx.numpy_helper.from_array(8 * onnx.numpy_helper.to_array(tensor), "w2"))
    return save(model, here / "net.onnx")


def evaluation(here: Path, model: Path, count: int = 4000, wrong: float = 0.05) -> Path:
    """Inputs labelled by the model itself, some wrongly, of a hundred speakers."""
    rng = np.random.default_rng(2)
    x = rng.normal(0.25, 1, (count, 12)).astype(np.float32)
    y = load_runnable(model, "model").run(x).argmax(1)
    y = np.where(rng.random(count) < wrong, rng.integers(0, 4, count), y)
    np.savez(here / "cal.npz", x=x[:400])
    np.savez(here / "eval.npz", x=x, y=y, speaker=np.arange(count) % 100)
    return here / "eval.npz"


def converted(here: Path, model: Path, bits: int, *options: object) -> Outcome:
    common = ("--target", "neon", *CALIBRATED, "--data", "eval.npz", "-o", "out", "--force")
    return kwsq_convert(model, *common, "--wbits", bits, "--json", *options)


def gate_of(outcome: Outcome) -> dict[str, Any]:
    gate: dict[str, Any] = json.loads(outcome.stdout)["result"]["gate"]
    return gate


def test_without_settings_the_verdict_is_information(here: Path) -> None:
    model = network(here)
    evaluation(here, model)
    outcome = converted(here, model, 2)
    assert outcome.code == 0
    gate = gate_of(outcome)
    assert (gate["enforced"], gate["verdict"]["status"]) == (False, "FAIL")
    assert (here / "out" / "model.tflite").exists()
    page = (here / "out" / "report.html").read_text("utf-8")
    assert page.index("<h2>Gate</h2>") < page.index("<h2>Parity</h2>")
    shown = kwsq_convert(model, "--target", "neon", *CALIBRATED, "--data", "eval.npz", "-o", "b").stdout
    assert "gate        " in shown
    assert "for information" in shown


@pytest.mark.parametrize(
    ("bits", "settings", "code"),
    [
        (2, "", 1),
        (8, "fa_ratio_margin = 1.0\nrelative_fdr_margin = 1.0\nfrr_margin_pp = 3\naccuracy_margin_pp = 3", 0),
        (8, "fa_ratio_margin = 0.1", 3),
        (8, 'fa_ratio_margin = 0.1\non_inconclusive = "warn"', 0),
    ],
)
def test_with_settings_the_verdict_decides(here: Path, bits: int, settings: str, code: int) -> None:
    model = network(here)
    evaluation(here, model)
    (here / "kwsq.toml").write_text(f"[gate]\n{settings}\n", encoding="utf-8")
    outcome = converted(here, model, bits)
    assert outcome.code == code, outcome.stdout[:3000] + outcome.stderr
    report = json.loads(outcome.stdout)
    verdict = report["result"]["verdict"]
    assert verdict["exit_code"] == code
    assert verdict["passed"] is (code == 0)
    assert verdict["status"] == {0: "pass", 1: "fail", 3: "inconclusive"}[code]
    assert (here / "out" / "model.tflite").exists() is (code == 0)
    assert report["result"]["gate"]["enforced"] is True
    if code:
        assert left(here / "out") == ["report.html", "report.json"]
        assert verdict["reasons"][0].startswith("gate P")
        assert outcome.stderr.startswith("kwsq: failed" if code == 1 else "kwsq: inconclusive")
    schema = json.loads((Path(report_package.__file__).parent / "report.schema.json").read_text("utf-8"))
    assert violations(report, schema) == []
    report["result"]["gate"]["checks"][0]["status"] = "MAYBE"
    assert violations(report, schema)


def test_two_conversions_give_the_same_result_block(here: Path) -> None:
    model = network(here)
    evaluation(here, model)
    first, second = (json.loads(converted(here, model, 4).stdout)["result"] for _ in range(2))
    assert first == second


def test_logits_are_gated_under_a_saturated_softmax(here: Path) -> None:
    """The int8 probabilities of the artefact have 256 levels and pile up at the top; its logits do not."""
    model = network(here, WITH_SOFTMAX)
    data = evaluation(here, model)
    gate = gate_of(converted(here, model, 8))
    assert "logits" in gate["sources"]["candidate"]["runtime"]
    assert gate["sources"]["candidate"]["lint"] is None
    assert all("score resolution" not in check["reason"] for check in gate["checks"])
    bare = kwsq("gate", "--reference", model, "--candidate", "out/model.tflite", "--data", data, "--json")
    assert json.loads(bare.stdout)["result"]["sources"]["candidate"]["lint"] is not None


def test_a_conversions_report_is_judged_again(here: Path) -> None:
    model = network(here)
    evaluation(here, model)
    converted(here, model, 4)
    before = json.loads((here / "out" / "report.json").read_text("utf-8"))["result"]["gate"]
    strict = kwsq("gate", "judge", "out/report.json", "--fa-margin", 0.0001, "--json")
    assert strict.code in (1, 3)
    after = json.loads(strict.stdout)["result"]
    assert [c["upper"] for c in after["checks"]] == [c["upper"] for c in before["checks"]]
    assert kwsq("gate", "judge", "out/report.json", "--fa-margin", 9, "--frr-margin", 50).code in (0, 1)


def test_the_budget_of_a_conversion_is_judged_again_with_its_gate(here: Path) -> None:
    model = network(here)
    evaluation(here, model)
    wide = "[gate]\nfa_ratio_margin = 50\nrelative_fdr_margin = 50\nfrr_margin_pp = 50\naccuracy_margin_pp = 90\n"
    (here / "kwsq.toml").write_text(f"{wide}[budget]\nmacs = {{ max = 1 }}\n", encoding="utf-8")
    assert converted(here, model, 4).code == 1
    for options in ((), ("--config", "kwsq.toml")):
        again = kwsq("gate", "judge", "out/report.json", *options, "--json")
        result = json.loads(again.stdout)["result"]
        assert (again.code, result["verdict"]["status"]) == (1, "FAIL")
        assert any(reason.startswith("budget macs: ") for reason in result["verdict"]["reasons"])
    (here / "kwsq.toml").write_text(f"{wide}[budget]\nmacs = {{ max = 1e9 }}\n", encoding="utf-8")
    assert kwsq("gate", "judge", "out/report.json").code == 0
    (here / "kwsq.toml").write_text(wide, encoding="utf-8")
    converted(here, model, 4)
    (here / "kwsq.toml").write_text(f"{wide}[budget]\nmacs = {{ max = 1 }}\n", encoding="utf-8")
    refused = kwsq("gate", "judge", "out/report.json")
    assert (refused.code, "a report without measurements" in refused.stderr) == (2, True)


def test_a_floor_that_the_report_knows_nothing_of_is_no_pass(here: Path) -> None:
    model = network(here)
    evaluation(here, model)
    converted(here, model, 4)
    (here / "floor.toml").write_text("[gate]\nmin_accuracy = 0.99\n", encoding="utf-8")
    refused = kwsq("gate", "judge", "out/report.json", "--config", "floor.toml")
    assert (refused.code, "a floor that was not set when the models ran" in refused.stderr) == (2, True)


def test_the_report_renders_and_a_damaged_gate_in_it_is_refused(here: Path) -> None:
    model = network(here)
    evaluation(here, model)
    converted(here, model, 4)
    path = here / "out" / "report.json"
    assert "<h2>Gate</h2>" in kwsq("report", path, "--to", "html").stdout
    assert "Gate: " in kwsq("report", path, "--to", "md").stdout
    junit = kwsq("report", path, "--to", "junit").stdout
    assert 'classname="kwsq.gate"' in junit
    assert "<failure" not in junit  # without [gate] the verdict informs
    for damage in ({"det_curves": {}}, {"operating_point": {}}, {"checks": [{}]}, {"settings": {"colour": 1}}):
        document = json.loads(path.read_text("utf-8"))
        document["result"]["gate"].update(damage)
        (here / "r.json").write_text(json.dumps(document), encoding="utf-8")
        for command in (("report", "r.json", "--to", "html"), ("gate", "judge", "r.json")):
            if command[0] == "report" or damage.keys() & {"checks", "settings"}:
                assert kwsq(*command).code == 2, (damage, command)


def test_data_that_allow_no_gate_measure_accuracy_alone(here: Path) -> None:
    """One class only: no operating point. Accuracy stands; a gate that the settings ask for is an error."""
    model = network(here)
    with np.load(evaluation(here, model)) as arrays:
        kept = arrays["y"] == 1
        np.savez(here / "eval.npz", x=arrays["x"][kept], y=arrays["y"][kept])
    outcome = converted(here, model, 8)
    result = json.loads(outcome.stdout)["result"]
    assert (outcome.code, result["accuracy"]["assessed"], result["gate"]) == (0, True, None)
    assert any(note["source"] == "gate" for note in result["notes"])
    (here / "kwsq.toml").write_text("[gate]\n", encoding="utf-8")
    assert converted(here, model, 8).code == 2


def test_a_gate_in_the_settings_without_data_is_not_silent(here: Path) -> None:
    (here / "kwsq.toml").write_text("[gate]\nfa_ratio = 1\n", encoding="utf-8")
    model = network(here)
    evaluation(here, model)
    assert kwsq_convert(model, "--target", "neon", "-o", "out", *CALIBRATED).code == 2
    (here / "kwsq.toml").write_text("[gate]\n", encoding="utf-8")
    outcome = kwsq_convert(model, "--target", "neon", "-o", "out", "--json", *CALIBRATED)
    notes = json.loads(outcome.stdout)["result"]["notes"]
    assert outcome.code == 0
    assert any(note["source"] == "gate" and note["level"] == "warning" for note in notes)


def test_the_false_discovery_rate_has_a_budget(here: Path) -> None:
    model = network(here)
    evaluation(here, model)
    (here / "kwsq.toml").write_text("[budget]\nfdr = { max = 0.9, max_increase = 0.0 }\n", encoding="utf-8")
    assert converted(here, model, 8, "--update-baseline").code == 0
    measured = json.loads((here / "kwsq-baseline.json").read_text("utf-8"))["metrics"]["fdr"]
    assert 0 < measured < 0.9
    assert converted(here, model, 8).code == 0
    worse = converted(here, model, 2)
    assert worse.code == 1
    assert "budget fdr: " in worse.stderr
    other = np.load(here / "eval.npz")
    np.savez(here / "eval.npz", x=other["x"], y=np.roll(other["y"], 1))
    refused = converted(here, model, 8)
    assert (refused.code, "SHA-256" in refused.stderr) == (2, True)
    assert kwsq_convert(model, "--target", "neon", *CALIBRATED, "-o", "out", "--force").code == 2


def test_samples_are_seen(here: Path) -> None:
    """Forty random samples, the smallest usage: works as before, with an open verdict."""
    samples(here)
    model = network(here)
    evaluation(here, model)
    outcome = kwsq_convert(model, "--target", "neon", *CALIBRATED, "--data", "samples.npz", "-o", "out", "--json")
    assert (outcome.code, gate_of(outcome)["enforced"]) == (0, False)
