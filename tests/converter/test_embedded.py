"""Constants in lookup tables from the command line: `--container lut`, and the file beside a pack."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkout import ROOT
from cli_runs import kwsq, kwsq_convert, left, quantized_dense

from kwsq.converter import embedded, neon_proof
from kwsq.converter.json_schema import violations
from kwsq.converter.runtimes import tflm
from kwsq.targets.neon import build
from kwsq.targets.neon.lookup import Lookup, compress

MODEL = ROOT / "models" / "kws_ff" / "kws_ff_w5_codebook.onnx"
WEIGHTS = (35_840, 58_240, 54_080, 54_080, 41_600, 960)
SCHEMA = json.loads((ROOT / "converter" / "report.schema.json").read_text("utf-8"))

needs_tflm = pytest.mark.skipif(
    not tflm.is_installed(), reason="TFLite Micro is absent; enable with: pip install 'kwsq[tflm]'"
)


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lut")
    for name, options in {"lut": ("neon", "--container", "lut", "--runtime", "tflm"), "pack": ("accel",)}.items():
        outcome = kwsq_convert(MODEL, "--target", *options, "-o", folder / name)
        assert outcome.code == 0, outcome.stderr
        assert violations(json.loads((folder / name / "report.json").read_text("utf-8")), SCHEMA) == []
    return folder


def report_of(folder: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((folder / "report.json").read_text(encoding="utf-8"))["result"]
    return result


@needs_tflm
def test_the_lut_container_is_proven_in_micro_and_its_arena_reported(converted: Path) -> None:
    result = report_of(converted / "lut")
    assert [check["name"] for check in result["parity"]["checks"]] == ["structure", "micro_kernels", "source"]
    assert {weight["container"] for weight in result["weights"]} == {"lut"}
    sizes = {c["container"]: c for c in result["containers"]}
    assert sizes["lut"]["weight_bytes"] == sum(-(-n * 5 // 8) for n in WEIGHTS)
    assert sizes["lut"]["file_bytes"] < 0.65 * sizes["int8"]["file_bytes"]
    # What decoding costs: the largest layer's constant is alive with its input and output.
    assert sizes["lut"]["arena_bytes"] > sizes["int8"]["arena_bytes"] + 50_000
    planned = result["footprint"]["activations"]["high_water_bytes"]
    assert planned < sizes["lut"]["arena_bytes"] < planned + 16_384
    assert result["artefact"]["minimum_runtime"] == "TensorFlow Lite Micro with TFLM_DECODE"
    verdicts = {r["name"]: r["accepted"] for r in result["runtimes"]}
    assert verdicts == {
        "LiteRT, reference kernels": None,
        "LiteRT, default kernels": None,
        "TensorFlow Lite Micro": True,
    }


@needs_tflm
def test_the_pack_has_its_embedded_form_beside_it(converted: Path) -> None:
    assert left(converted / "pack") == ["manifest.json", "model.kwsq", "model.tflite", "report.html", "report.json"]
    result, data = report_of(converted / "pack"), (converted / "pack" / "model.tflite").read_bytes()
    (beside,) = result["artefact"]["beside"]
    assert beside["file"] == "model.tflite"
    assert beside["sha256"] == hashlib.sha256(data).hexdigest()
    assert "arena there" in beside["what"]
    names = [check["name"] for check in result["parity"]["checks"]]
    assert names == ["structure", "executor", "source", "embedded_structure", "embedded_micro_kernels"]
    manifest = json.loads((converted / "pack" / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["files"]["model.tflite"]["bytes"] == len(data)
    assert data == (converted / "lut" / "model.tflite").read_bytes()


@needs_tflm
def test_run_footprint_and_inspect_take_the_file(converted: Path, tmp_path: Path) -> None:
    x = np.random.default_rng(3).integers(-128, 128, (3, 64, 98)).astype(np.int8)
    np.savez(tmp_path / "x.npz", features=x)
    for name in ("lut/model.tflite", "pack/model.kwsq"):
        target = tmp_path / f"{name[:3]}.npz"
        assert kwsq("run", converted / name, "--input", tmp_path / "x.npz", "--output", target).code == 0
    with np.load(tmp_path / "lut.npz") as lut, np.load(tmp_path / "pac.npz") as pack:
        # Micro rounds its products another way than the pack.
        assert np.abs(lut["logits"].astype(int) - pack["logits"]).max() <= 2
    measured = json.loads(kwsq("footprint", converted / "lut" / "model.tflite", "--json").stdout)
    assert measured["stored_bits_per_weight"] == 5
    assert measured["flash"]["total_bytes"] == measured["file_bytes"]
    assert "TFLM_DECODE" in kwsq("inspect", converted / "lut" / "model.tflite").stdout


@needs_tflm
def test_accuracy_is_measured_in_micro_in_portions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(8)
    x, y = rng.normal(size=(21, 64, 98)).astype(np.float32), rng.integers(0, 12, 21)
    np.savez(tmp_path / "data.npz", features=x, y=y)
    found = []
    for portion in (256, 8):
        monkeypatch.setattr(neon_proof, "MICRO_VECTORS", portion)
        options = (
            "--container",
            "lut",
            "--runtime",
            "tflm",
            "--data",
            tmp_path / "data.npz",
            "-o",
            tmp_path / f"{portion}",
        )
        assert kwsq_convert(MODEL, "--target", "neon", *options).code == 0
        found.append(report_of(tmp_path / f"{portion}")["accuracy"])
    assert found[0] == found[1]
    assert found[0]["samples"] == 21


@needs_tflm
def test_a_wrong_table_beside_a_pack_fails_the_conversion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = build._decode

    def corrupting(lookups: dict[int, Lookup], *rest: Any) -> Any:
        return honest({i: _flipped(lookup) for i, lookup in lookups.items()}, *rest)

    monkeypatch.setattr(build, "_decode", corrupting)
    outcome = kwsq_convert(MODEL, "--target", "accel", "-o", tmp_path / "out")
    assert outcome.code == 1
    assert left(tmp_path / "out") == ["report.html", "report.json"]
    checks = {check["name"]: check["passed"] for check in report_of(tmp_path / "out")["parity"]["checks"]}
    assert checks["executor"]
    assert not checks["embedded_structure"]
    assert not checks["embedded_micro_kernels"]


def _flipped(lookup: Lookup) -> Lookup:
    return Lookup(lookup.bits, lookup.indices[:-1] + bytes([lookup.indices[-1] ^ 1]), lookup.ancillary)


def test_a_missing_package_is_named_with_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tflm, "is_installed", lambda: False)
    monkeypatch.setattr(embedded, "is_installed", lambda: False)
    model = quantized_dense(tmp_path)
    lut = kwsq_convert(model, "--target", "neon", "--container", "lut", "--runtime", "tflm", "-o", tmp_path / "a")
    assert lut.code == 2
    assert "pip install 'kwsq[tflm]'" in lut.stderr
    pack = kwsq_convert(model, "--target", "accel", "-o", tmp_path / "b")
    assert pack.code == 0
    assert "model.tflite" not in left(tmp_path / "b")
    notes = {note["source"]: note["text"] for note in report_of(tmp_path / "b")["notes"]}
    assert "pip install 'kwsq[tflm]'" in notes["embedded_form"]


@needs_tflm
def test_tables_that_save_nothing_are_not_written(tmp_path: Path) -> None:
    model = quantized_dense(tmp_path)
    pack = kwsq_convert(model, "--target", "accel", "-o", tmp_path / "b")
    assert pack.code == 0
    assert "model.tflite" not in left(tmp_path / "b")
    notes = {note["source"]: note["text"] for note in report_of(tmp_path / "b")["notes"]}
    assert "makes no constant smaller" in notes["embedded_form"]
    lut = kwsq_convert(model, "--target", "neon", "--container", "lut", "--runtime", "tflm", "-o", tmp_path / "a")
    assert lut.code == 2
    assert "bytes would become" in lut.stderr


def test_litert_cannot_read_tables(tmp_path: Path) -> None:
    outcome = kwsq_convert(quantized_dense(tmp_path), "--target", "neon", "--container", "lut", "-o", tmp_path / "a")
    assert outcome.code == 2
    assert "--runtime tflm" in outcome.stderr


def test_a_dense_layer_of_five_four_and_one_bit() -> None:
    """256 x 256: the weights alone take 8/5, 2 and 8 times less."""
    for bits, size in ((5, 40_960), (4, 32_768), (1, 8_192)):
        codes = np.resize(np.arange(2**bits, dtype=np.int8), (256, 256))
        packed = compress(codes, channels=256)
        assert packed is not None
        assert len(packed.indices) == size
        assert len(packed.ancillary) == 16 + 2**bits


@needs_tflm
def test_a_gate_on_a_file_that_litert_does_not_run_is_unsupported_not_worse(converted: Path, tmp_path: Path) -> None:
    x = np.random.default_rng(8).normal(size=(24, 64, 98)).astype(np.float32)
    np.savez(tmp_path / "eval.npz", x=x, y=np.arange(24) % 12)
    candidate = converted / "lut" / "model.tflite"
    outcome = kwsq("gate", "--reference", MODEL, "--candidate", candidate, "--data", tmp_path / "eval.npz")
    assert (outcome.code, outcome.stdout) == (4, "")
    assert "'model.tflite': found " in outcome.stderr
    assert "expected a file that LiteRT runs; run it where it can be, and gate the score files" in outcome.stderr
