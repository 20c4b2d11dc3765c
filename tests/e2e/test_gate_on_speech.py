"""The gate on real speech: the MLPerf Tiny network on the clips of gsc12, whole and deliberately damaged.

The clips not calibrated on are scored by the float file and by kwsq's `.tflite` in LiteRT, gated on logits. Damage is
made in the bytes of the 8-bit file, in the pointwise convolution in the middle, so that nothing else changes.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_runs import kwsq, kwsq_convert
from tflite_mutations import mutated

LABELS = "down go left no off on right stop up yes _silence_ _unknown_".split()
CALIBRATED, SEED = 200, 0
pytestmark = pytest.mark.shared


def reference(shared_dir: Path) -> Path:
    return shared_dir / "models" / "mlcommons_tiny" / "kws_ref_model_truefloat.onnx"


@pytest.fixture(scope="module")
def folder(shared_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The clips split into calibration and trials, and the network converted at 8, 4 and 2 bits."""
    here = tmp_path_factory.mktemp("speech")
    with np.load(shared_dir / "data" / "gsc12_mfcc.npz") as clips:
        x, label, speaker, split = (clips[name] for name in ("ml", "label", "speaker", "split"))
    y = np.array([LABELS.index(text) for text in label])
    chosen = np.random.default_rng(SEED).choice(np.flatnonzero(split == "train"), CALIBRATED, replace=False)
    kept = np.setdiff1d(np.arange(y.size), chosen)
    np.savez(here / "calibration.npz", x=x[chosen])
    np.savez(here / "trials.npz", x=x[kept], y=y[kept], speaker=speaker[kept])
    common = ("--target", "neon", "--drop-softmax", "--calibration", here / "calibration.npz")
    for bits in (8, 4, 2):
        assert kwsq_convert(reference(shared_dir), *common, "--wbits", bits, "-o", here / f"w{bits}").code == 0
    whole = (here / "w8" / "model.tflite").read_bytes()
    for name, edit in (("shuffled", shuffle_codes), ("doubled", double_scale)):
        (here / f"{name}.tflite").write_bytes(mutated(whole, edit))
    return here


def middle_weights(model: Any) -> Any:
    """Return the weights of the pointwise convolution that has as many operators before as behind it."""
    graph = model.subgraphs[0]
    pointwise = [op for op in graph.operators if list(graph.tensors[op.inputs[1]].shape[:3]) == [64, 1, 1]]
    return graph.tensors[pointwise[len(pointwise) // 2].inputs[1]]


def shuffle_codes(model: Any) -> None:
    buffer = model.buffers[middle_weights(model).buffer]
    buffer.data = np.random.default_rng(1).permutation(np.array(buffer.data, np.uint8))


def double_scale(model: Any) -> None:
    grid = middle_weights(model).quantization
    grid.scale = 2 * np.array(grid.scale, np.float32)


def gated(shared_dir: Path, candidate: Path, trials: Path, output: Path) -> tuple[int, dict[str, Any]]:
    pair = ("--reference", reference(shared_dir), "--candidate", candidate, "--data", trials)
    code = kwsq("gate", *pair, "-o", output, "--force", "-q").code
    return code, json.loads(output.read_text("utf-8"))["result"]


@pytest.mark.parametrize("bits", [8, 4])
def test_a_good_conversion_does_not_fail(shared_dir: Path, folder: Path, tmp_path: Path, bits: int) -> None:
    output = tmp_path / "report.json"
    code, result = gated(shared_dir, folder / f"w{bits}" / "model.tflite", folder / "trials.npz", output)
    status = result["verdict"]["status"]
    assert (status, code) in {("PASS", 0), ("INCONCLUSIVE", 3)}
    for check in result["checks"]:
        assert check["status"] in ("PASS", "INCONCLUSIVE", "SKIPPED")
        needed = check["trials_needed"]
        assert (needed is not None) == (check["status"] == "INCONCLUSIVE")
        assert needed is None or needed["positives"] >= check["positives"]
    assert result["trials"]["groups_with_keyword"] > 100


@pytest.mark.parametrize("damage", ["shuffled.tflite", "doubled.tflite", "w2/model.tflite"])
def test_a_damaged_network_fails(shared_dir: Path, folder: Path, tmp_path: Path, damage: str) -> None:
    code, result = gated(shared_dir, folder / damage, folder / "trials.npz", tmp_path / "report.json")
    assert (code, result["verdict"]["status"]) == (1, "FAIL")
    failed = {check["id"] for check in result["checks"] if check["status"] == "FAIL"}
    assert "P1.fa_ratio" in failed


def test_damage_changes_one_tensor_alone(folder: Path) -> None:
    whole = (folder / "w8" / "model.tflite").read_bytes()
    unchanged = mutated(whole, lambda model: None)
    for name in ("shuffled", "doubled"):
        damaged = (folder / f"{name}.tflite").read_bytes()
        assert damaged != unchanged
        assert len(damaged) == len(unchanged)


@pytest.mark.parametrize("candidate", ["w4/model.tflite", "doubled.tflite"])
def test_the_report_is_the_same_bit_for_bit(shared_dir: Path, folder: Path, tmp_path: Path, candidate: str) -> None:
    outputs = [tmp_path / name for name in ("first.json", "second.json")]
    for output in outputs:
        gated(shared_dir, folder / candidate, folder / "trials.npz", output)
    first, second = (json.loads(output.read_text("utf-8"))["result"] for output in outputs)
    assert first == second


def test_too_little_speech_is_inconclusive_with_the_trials_needed(
    shared_dir: Path, folder: Path, tmp_path: Path, few: Callable[[int], Path]
) -> None:
    code, result = gated(shared_dir, folder / "w4" / "model.tflite", few(300), tmp_path / "report.json")
    assert (code, result["verdict"]["status"]) == (3, "INCONCLUSIVE")
    settled = {check["id"]: check["trials_needed"] for check in result["checks"] if check["trials_needed"]}
    assert settled["P2.frr"]["positives"] > 1000


@pytest.fixture
def few(folder: Path, tmp_path: Path) -> Callable[[int], Path]:
    """Write so many of the trials, drawn at random, to a file of their own."""

    def write(count: int) -> Path:
        with np.load(folder / "trials.npz") as trials:
            kept = np.random.default_rng(2).choice(trials["y"].size, count, replace=False)
            np.savez(tmp_path / "few.npz", **{name: trials[name][kept] for name in trials.files})
        return tmp_path / "few.npz"

    return write
