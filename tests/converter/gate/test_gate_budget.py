"""Budgets and baselines of `kwsq gate`, and score files and reports from hostile hands."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_runs import Outcome, float_dense, kwsq, kwsq_convert

LINES = 4000


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def scores(here: Path, seed: int = 0, noise: float = 0.02) -> None:
    rng = np.random.default_rng(seed)
    label = (np.arange(LINES) < 400).astype(int)
    score = rng.normal(3.5 * label, 1.0)
    for name, values in (("ref", score), ("cand", score + noise * rng.standard_normal(LINES))):
        np.savez(here / f"{name}.npz", trial_id=[f"t{i}" for i in range(LINES)], label=label, score=values)


def gated(*options: object) -> Outcome:
    pair = ("--reference", "ref.npz", "--candidate", "cand.npz", "--on-inconclusive", "warn")
    return kwsq("gate", *pair, "--json", *options)


def settings(here: Path, text: str) -> None:
    (here / "kwsq.toml").write_text(text, encoding="utf-8")


def test_a_rate_over_budget_fails_and_is_rendered(here: Path) -> None:
    scores(here)
    assert gated().code == 0
    settings(here, "[budget]\nfdr = { max = 0.0001 }\nflash_total = { max = 1 }\n")
    outcome = gated("-o", "r.json")
    assert outcome.code == 1
    result = json.loads(outcome.stdout)["result"]
    assert result["verdict"]["status"] == "FAIL"
    assert any(reason.startswith("budget fdr: ") for reason in result["verdict"]["reasons"])
    assert result["budget"]["not_measured_here"] == ["flash_total"]
    assert "Budget" in kwsq("report", "r.json").stdout
    assert "| fdr |" in kwsq("report", "r.json", "--to", "md").stdout
    assert "<h2>Budget</h2>" in kwsq("report", "r.json", "--to", "html").stdout
    suite = ET.fromstring(kwsq("report", "r.json", "--to", "junit").stdout)
    assert [case.get("name") for case in suite.iter("testcase") if case.get("classname") == "kwsq.budget"] == ["fdr"]
    settings(here, "[budget]\nfdr = { max = 0.9 }\n")
    assert kwsq("gate", "judge", "r.json").code == 0
    settings(here, '[budget]\nfdr = { max = 0.0001, level = "warn" }\n')
    assert gated().code == 0
    settings(here, '[budget]\nfdr = { max = 0.0001, level = "off" }\n')
    assert json.loads(gated().stdout)["result"]["budget"]["lines"] == []


def test_the_baseline_is_of_the_same_trials_and_reference(here: Path) -> None:
    scores(here)
    settings(here, "[budget]\nfdr = { max_increase = 0.0 }\n")
    refused = gated()
    assert (refused.code, "--update-baseline" in refused.stderr) == (2, True)
    assert gated("--update-baseline").code == 0
    document = json.loads((here / "kwsq-gate-baseline.json").read_text("utf-8"))
    assert document["evalset_sha256"]
    assert gated().code == 0
    document["metrics"]["fdr"] -= 0.001
    (here / "kwsq-gate-baseline.json").write_text(json.dumps(document), encoding="utf-8")
    worse = gated()
    assert (worse.code, "more than the baseline's" in worse.stdout) == (1, True)
    for name in ("source_sha256", "evalset_sha256", "target"):
        (here / "other.json").write_text(json.dumps({**document, name: "0" * 64}), encoding="utf-8")
        other = gated("--baseline", "other.json")
        assert (other.code, "other.json" in other.stderr) == (2, True), name
    (here / "other.json").write_text(json.dumps({**document, "artefact_sha256": "0" * 64}), encoding="utf-8")
    assert gated("--baseline", "other.json").code == 1  # another candidate is what a release brings


def test_a_failing_candidate_does_not_become_the_baseline(here: Path) -> None:
    scores(here, noise=2.0)
    assert gated("--update-baseline").code == 1
    assert not (here / "kwsq-gate-baseline.json").exists()


def test_a_tflite_candidate_is_weighed(here: Path) -> None:
    reference = float_dense(here)
    rng = np.random.default_rng(3)
    x = rng.normal(0.25, 1, (400, 12)).astype(np.float32)
    np.savez(here / "data.npz", x=x, y=rng.integers(0, 4, 400))
    assert kwsq_convert(reference, "--target", "neon", "--calibration", "data.npz", "-o", "out").code == 0
    settings(here, '[budget]\nflash_total = { max = "1B" }\nmacs = { max = 1e9 }\naccuracy = { min = 0.01 }\n')
    pair = ("--reference", reference, "--candidate", "out/model.tflite", "--data", "data.npz")
    outcome = kwsq("gate", *pair, "--json")
    lines = {line["metric"]: line for line in json.loads(outcome.stdout)["result"]["budget"]["lines"]}
    assert outcome.code == 1
    assert lines["flash_total"]["measured"] == (here / "out" / "model.tflite").stat().st_size
    assert {name: line["status"] for name, line in lines.items()} == {
        "flash_total": "fail",
        "macs": "pass",
        "accuracy": "pass",
    }


def test_an_unknown_metric_is_named(here: Path) -> None:
    scores(here)
    settings(here, "[budget]\nfdrr = { max = 1 }\n")
    outcome = gated()
    assert (outcome.code, "did you mean fdr" in outcome.stderr) == (2, True)


ROWS = ["trial_id,label,score", "a,1,2.0", "b,0,1.0", "c,1,0.5", "d,0,0.1"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n\n",
        ROWS[0],
        "trial_id,label\na,1\nb,0",
        "\n".join([*ROWS, "a,1,3.0"]),
        "\n".join([*ROWS, "e,1,nan"]),
        "\n".join([*ROWS, "e,1,inf"]),
        "\n".join([*ROWS, "e,1,"]),
        "\n".join([*ROWS, "e,2,1.0"]),
        "\n".join([*ROWS, "e,yes,1.0"]),
        "\n".join([*ROWS, "e,nan,1.0"]),
        "\n".join([*ROWS, "e,1,1.0,7"]),
        "\n".join([*ROWS, ",1,1.0"]),
        "\n".join(["trial_id,label,score,score", "a,1,2,3", "b,0,1,1"]),
        "\n".join(["trial_id,label,score,duration", "a,1,2,-3", "b,0,1,1"]),
        "\n".join(["trial_id,label,score,duration", "a,1,2,1e999", "b,0,1,1"]),
        "\n".join(row.replace(",0,", ",1,") for row in ROWS),
        '"' + "x" * 200_000,
        "trial_id,label,score\n" + "a" * 200_000 + ",1,1\n",
        "\n".join([*ROWS, "e\x00,1,1.0", "e,1,1.0"]),
    ],
)
def test_hostile_text_ends_with_2_and_no_traceback(here: Path, text: str) -> None:
    (here / "x.csv").write_text(text, encoding="utf-8")
    outcome = kwsq("gate", "--reference", "x.csv", "--candidate", "x.csv")
    assert outcome.code == 2, outcome.stdout
    assert outcome.stderr.startswith("kwsq: ")
    assert "Traceback" not in outcome.stderr
    assert "internal" not in outcome.stderr


@pytest.mark.parametrize(
    "arrays",
    [
        {},
        {"trial_id": ["a"], "label": [1]},
        {"trial_id": ["a", "b"], "label": [1, 0], "score": [1.0]},
        {"trial_id": ["a", "b"], "label": [1, 0], "score": [1.0, np.nan]},
        {"trial_id": ["a", "b"], "label": [1, 0], "score": [1j, 1.0]},
        {"trial_id": ["a", "b"], "label": ["x", "y"], "score": [1.0, 0.0]},
        {"trial_id": np.array(["a", {}], object), "label": [1, 0], "score": [1.0, 0.0]},
        {"trial_id": ["a", "b"], "label": [1, 0], "score": np.array(["2026-01-01"] * 2, "datetime64[D]")},
        {"trial_id": np.zeros((0,), str), "label": np.zeros(0), "score": np.zeros(0)},
        {"trial_id": ["a", "b"], "label": [1, 0], "score": np.zeros(2, [("f", "<f8")])},
    ],
)
def test_hostile_arrays_end_with_2_and_no_traceback(here: Path, arrays: dict[str, Any]) -> None:
    np.savez(here / "x.npz", **arrays)
    outcome = kwsq("gate", "--reference", "x.npz", "--candidate", "x.npz")
    assert outcome.code == 2, outcome.stdout + outcome.stderr
    assert "Traceback" not in outcome.stderr
    assert "internal" not in outcome.stderr


def test_a_header_that_promises_terabytes_is_refused(here: Path) -> None:
    import zipfile

    with zipfile.ZipFile(here / "x.npz", "w") as archive:
        for name in ("trial_id", "label", "score"):
            header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,), }"
            archive.writestr(
                f"{name}.npy", b"\x93NUMPY\x01\x00" + (len(header) + 1).to_bytes(2, "little") + header + b"\n"
            )
    outcome = kwsq("gate", "--reference", "x.npz", "--candidate", "x.npz")
    assert outcome.code == 2, outcome.stderr
    assert "internal" not in outcome.stderr


def test_parquet_is_read_where_pyarrow_is(here: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    from pyarrow import parquet

    scores(here)
    for name in ("ref", "cand"):
        with np.load(here / f"{name}.npz") as arrays:
            parquet.write_table(pyarrow.table({k: arrays[k] for k in arrays.files}), here / f"{name}.parquet")
    outcome = kwsq("gate", "--reference", "ref.parquet", "--candidate", "cand.parquet", "--json")
    assert json.loads(outcome.stdout)["result"]["checks"] == json.loads(gated().stdout)["result"]["checks"]


def test_a_missing_pyarrow_is_named(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (here / "x.parquet").write_bytes(b"PAR1")
    outcome = kwsq("gate", "--reference", "x.parquet", "--candidate", "x.parquet")
    assert (outcome.code, "kwsq[parquet]" in outcome.stderr) == (2, True)


def test_baselines_of_conversions_and_gates_lie_beside_one_another(here: Path) -> None:
    """Neither is asked of the other, and neither replaces the other."""
    reference = float_dense(here)
    rng = np.random.default_rng(3)
    np.savez(here / "data.npz", x=rng.normal(0.25, 1, (400, 12)).astype(np.float32), y=rng.integers(0, 4, 400))
    scores(here)
    convert = (reference, "--target", "neon", "--calibration", "data.npz", "-o", "out", "--force")
    settings(here, "[budget]\nfdr = { max_increase = 0.0 }\n")
    assert gated("--update-baseline").code == 0
    settings(here, '[budget]\nflash_total = { max_increase = "0B" }\n')
    assert kwsq_convert(*convert, "--update-baseline").code == 0
    kept = [(here / name).read_bytes() for name in ("kwsq-baseline.json", "kwsq-gate-baseline.json")]
    assert kwsq_convert(*convert).code == 0
    settings(here, "[budget]\nfdr = { max_increase = 0.0 }\n")
    assert gated().code == 0
    assert gated("--update-baseline").code == 0
    assert kept == [(here / name).read_bytes() for name in ("kwsq-baseline.json", "kwsq-gate-baseline.json")]
    named = gated("--baseline", "kwsq-baseline.json")
    assert (named.code, "found measured for neon int8; expected gate of score files" in named.stderr) == (2, True)
