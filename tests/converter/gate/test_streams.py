"""P5 on recordings: keyword windows, trials of both models, detection times, and a late candidate caught."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_runs import Outcome, kwsq, save
from qdq_models import float_model

from kwsq.converter.det import Detector
from kwsq.converter.gate import GateConfig, Status, decide
from kwsq.converter.gate.streams import StreamPair, detector_of, stream_pair
from kwsq.ir.errors import UsageError

HOP, LENGTH, KEYWORDS = 0.1, 200, 8
LINEAR = "(float[1,4] x, float[4,2] w, float[2] b) => (float[1,2] z) { z = Gemm(x, w, b) }"


def recordings(delay: int, count: int = 40, seed: int = 0) -> tuple[StreamPair, np.ndarray]:
    """Recordings of eight keywords; the candidate's scores are the reference's, `delay` hops later."""
    rng = np.random.default_rng(seed)
    marked = np.zeros((count, LENGTH), bool)
    reference = rng.normal(0.0, 1.0, (count, LENGTH))
    for row in range(count):
        for at in 5 + 24 * np.arange(KEYWORDS):
            marked[row, at : at + 12] = True
            onset = at + rng.integers(1, 4)
            reference[row, onset : onset + 6] += 6.0
    candidate = np.roll(reference, delay, axis=1)
    index = np.repeat(np.arange(count), LENGTH)
    scores = ([reference.ravel()], [candidate.ravel()])
    pair = stream_pair(scores, [marked.ravel()], index, None, Detector(HOP))
    return pair, marked


def latency_of(delay: int) -> Any:
    pair, _ = recordings(delay)
    checks = decide(pair.trials(), GateConfig(replicates=300), streams=pair).checks
    return next(check for check in checks if check.id == "P5.latency")


@pytest.mark.parametrize(("delay", "expected"), [(0, "PASS"), (1, "PASS"), (2, "FAIL"), (4, "FAIL")])
def test_a_late_candidate_fails(delay: int, expected: str) -> None:
    """One hop on the grid of hops may be any delay below one hop; two hops cannot."""
    check = latency_of(delay)
    assert check.status is Status(expected)
    assert check.margin == pytest.approx(HOP)
    assert check.point == pytest.approx(delay * HOP, abs=1e-9)
    assert check.positives >= 300


def test_a_latency_check_that_ignores_the_candidate_would_be_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    pair, _ = recordings(4)
    blind = StreamPair(pair.reference, pair.reference, pair.group, pair.detector)
    checks = decide(pair.trials(), GateConfig(replicates=300), streams=blind).checks
    assert {c.id: c.status for c in checks}["P5.latency"] is not latency_of(4).status


def test_trials_are_windows_and_lockout_periods() -> None:
    pair, marked = recordings(0)
    trials = pair.trials()
    assert int(trials.label.sum()) == 40 * KEYWORDS
    outside = (~marked).sum() * HOP
    assert trials.reference.negative_hours * 3600 == pytest.approx(outside)
    assert np.unique(trials.cluster).size == 40


def test_few_keywords_leave_the_latency_open() -> None:
    pair, _ = recordings(0, count=10)
    check = decide(pair.trials(), GateConfig(replicates=100), streams=recordings(3, count=10)[0]).checks[-1]
    assert (check.status, "are needed" in check.reason) == (Status.INCONCLUSIVE, True)


def test_a_lockout_shorter_than_a_hop_is_refused() -> None:
    with pytest.raises(UsageError, match="lockout_seconds"):
        detector_of(0.1, 1, 0.05)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def evaluation(here: Path, **changed: Any) -> None:
    """Two models, one of which sees what was two hops ago, and recordings to run them on."""
    pair, marked = recordings(0)
    now = np.concatenate([track.score for track in pair.reference]).reshape(-1, LENGTH)
    x = np.stack([now, np.roll(now, 2, axis=1), np.zeros_like(now), np.zeros_like(now)], axis=-1)
    for name, row in (("now", 0), ("late", 1)):
        weight = np.zeros((4, 2), np.float32)
        weight[row, 1] = 1.0
        save(float_model(LINEAR, constants={"w": weight, "b": np.zeros(2, np.float32)}), here / f"{name}.onnx")
    arrays: dict[str, Any] = {
        "x": x.reshape(-1, 4).astype(np.float32),
        "y": marked.ravel().astype(np.int64),
        "recording": np.repeat([f"r{i}" for i in range(40)], LENGTH),
        "hop_seconds": HOP,
    }
    arrays = {name: value for name, value in (arrays | changed).items() if value is not None}
    np.savez(here / "eval.npz", **arrays)


def gated(candidate: str, *options: object) -> Outcome:
    pair = ("--reference", "now.onnx", "--candidate", candidate, "--data", "eval.npz")
    return kwsq("gate", *pair, "--keyword", 1, "--json", *options)


def test_models_are_run_along_recordings(here: Path) -> None:
    evaluation(here)
    same, late = gated("now.onnx"), gated("late.onnx", "-o", "late.json")
    assert (same.code, late.code) == (0, 1), late.stderr
    statuses = {c["id"]: c["status"] for c in json.loads(late.stdout)["result"]["checks"]}
    assert statuses["P5.latency"] == "FAIL"
    assert "SKIPPED" not in statuses.values()
    (here / "loose.toml").write_text("[gate]\nlatency_margin_hops = 3\n", encoding="utf-8")
    again = json.loads(kwsq("gate", "judge", "late.json", "--config", "loose.toml", "--json").stdout)["result"]
    check = next(c for c in again["checks"] if c["id"] == "P5.latency")
    assert (check["status"], check["margin"]) == ("PASS", pytest.approx(3 * HOP))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"hop_seconds": None}, "no hop_seconds"),
        ({"recording": None}, "no recording"),
        ({"hop_seconds": 0.0}, "one number above 0"),
        ({"hop_seconds": np.array([0.1, 0.1])}, "one number above 0"),
        ({"recording": np.tile(np.arange(2), 20 * LENGTH)}, "in one piece"),
        ({"recording": np.arange(7)}, "7 values"),
        ({"recording": np.full(40 * LENGTH, None, object)}, "plain arrays"),
        ({"speaker": np.full(40 * LENGTH, np.nan)}, "not finite"),
        ({"duration": np.full(40 * LENGTH, "long")}, "numbers"),
    ],
)
def test_columns_that_make_no_sense_end_with_2(here: Path, changed: dict[str, Any], message: str) -> None:
    evaluation(here, **changed)
    outcome = gated("now.onnx")
    assert outcome.code == 2
    assert message in outcome.stderr
    assert "Traceback" not in outcome.stderr
