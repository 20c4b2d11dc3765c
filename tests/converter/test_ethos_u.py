"""`--target ethos-u`: everything on the NPU, about b bits per weight, and no claim beyond the file before Vela."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from checkout import ROOT
from cli_runs import kwsq, kwsq_convert, left, quantized_dense, save
from qdq_models import Scheme, float_model, quantized, random_feeds

from kwsq.converter.json_schema import violations
from kwsq.ir.errors import UnsupportedModelError
from kwsq.targets.neon import ethos_u, vela
from kwsq.targets.neon.reader import read
from kwsq.targets.neon.schema_names import NPU_OPERATOR

needs_vela = pytest.mark.skipif(
    not vela.is_installed(), reason="Vela is absent; enable with: pip install 'kwsq[ethos-u]'"
)
SCHEMA = json.loads((ROOT / "converter" / "report.schema.json").read_text("utf-8"))
MODELS = ROOT / "models" / "kws_ff"
DENSE = """(float[1,256] x, float[256,256] w1, float[256] b1, float[256,256] w2, float[256] b2, float[256,256] w3,
float[256] b3) => (float[1,256] y) { h = Gemm(x, w1, b1) r = Relu(h) i = Gemm(r, w2, b2) s = Relu(i)
y = Gemm(s, w3, b3) }"""


def dense(folder: Path, bits: int) -> Path:
    model = float_model(DENSE)
    return save(quantized(model, random_feeds(model, 64), Scheme(weight_bits=bits)), folder / f"dense_w{bits}.onnx")


def result_of(folder: Path) -> dict[str, Any]:
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    assert violations(report, SCHEMA) == []
    result: dict[str, Any] = report["result"]
    return result


@needs_vela
@pytest.mark.parametrize(("bits", "most"), [(8, 8.5), (5, 5.3), (4, 4.3)])
def test_dense_layers_run_on_the_npu_at_their_own_width(bits: int, most: float, tmp_path: Path) -> None:
    outcome = kwsq_convert(dense(tmp_path, bits), "--target", "ethos-u", "--wbits", bits, "-o", tmp_path / "out")
    assert outcome.code == 0, outcome.stderr
    result = result_of(tmp_path / "out")
    assert result["artefact"]["operators"] == {"CUSTOM:ethos-u": 1}
    estimates = result["artefact"]["estimates"]
    assert estimates["original_weight_bytes"] == 3 * 256 * 256
    # Below the width where codes are not equally frequent: the encoder is an entropy coder behind its palette.
    assert bits - 1 < estimates["encoded_bits_per_weight"] <= most
    assert {weight["distinct_codes"] <= 2**bits for weight in result["weights"]} == {True}


@needs_vela
@pytest.mark.parametrize(("name", "bits"), [("kws_ff_w5_codebook", 5), ("kws_ff_w4", 4)])
def test_the_bundled_models_leave_both_files_and_the_estimates(name: str, bits: int, tmp_path: Path) -> None:
    outcome = kwsq_convert(MODELS / f"{name}.onnx", "--target", "ethos-u", "--wbits", bits, "-o", tmp_path / "out")
    assert outcome.code == 0, outcome.stderr
    assert left(tmp_path / "out") == [
        "manifest.json",
        "model.tflite",
        "model_int8.tflite",
        "report.html",
        "report.json",
    ]
    assert "Vela's estimate" in outcome.stdout
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "s estimates</h2>" in page
    assert "the file before Vela, on which parity is proven" in page
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text(encoding="utf-8"))
    result = result_of(tmp_path / "out")
    assert all("model_int8.tflite, before Vela" in check["question"] for check in result["parity"]["checks"])
    assert manifest["compiler"] == result["artefact"]["estimates"]["compiler"]
    assert result["runtimes"][-1] == {
        "name": "Ethos-U",
        "accepted": None,
        "detail": "not tried: the compiled file needs the NPU or its simulator",
        "arena": None,
    }
    compiled = (tmp_path / "out" / "model.tflite").read_bytes()
    assert [op.name for op in read(compiled, "m").main.operators] == [NPU_OPERATOR]
    assert result["artefact"]["bytes"] == len(compiled)
    # 44 KB of int8 weights are 5/8 and 4/8 of that after encoding; the file says so, not only Vela.
    assert len(compiled) < 0.72 * len((tmp_path / "out" / "model_int8.tflite").read_bytes())
    assert result["footprint"]["totals"]["activation_ram_bytes"] == result["artefact"]["estimates"]["sram_bytes"]


@needs_vela
def test_sizes_are_those_of_the_file_that_is_flashed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not of the int8 file before Vela, which is half as large again."""
    monkeypatch.chdir(tmp_path)
    convert = (MODELS / "kws_ff_w4.onnx", "--target", "ethos-u", "-o", "out", "--force")
    assert kwsq_convert(*convert).code == 0
    size = (tmp_path / "out" / "model.tflite").stat().st_size
    for most, code in ((size, 0), (size - 1, 1)):
        (tmp_path / "kwsq.toml").write_text(f"[budget]\nflash_total = {{ max = {most} }}\n", encoding="utf-8")
        assert kwsq_convert(*convert, "--update-baseline").code == code
        if code == 0:
            baseline = json.loads((tmp_path / "kwsq-baseline.json").read_text("utf-8"))
            assert baseline["artefact_sha256"] == result_of(tmp_path / "out")["artefact"]["sha256"]
            assert kwsq("attest", "out").code == 0
            card, bom = ((tmp_path / "out" / name).read_text("utf-8") for name in ("MODEL_CARD.md", "model.cdx.json"))
            assert f"| flash | {size:,} B |" in card
            assert {"name": "kwsq:flash_bytes", "value": str(size)} in list(_properties(json.loads(bom)))


def _properties(node: Any) -> Iterator[Any]:
    """Every property of a bill of materials, wherever it stands."""
    for key, value in node.items() if isinstance(node, dict) else enumerate(node):
        if key == "properties":
            yield from value
        if isinstance(value, dict | list):
            yield from _properties(value)


@needs_vela
def test_a_compiled_file_is_measured_by_its_own_plan_and_runs_nowhere_else(tmp_path: Path) -> None:
    model = MODELS / "kws_ff_w5_codebook.onnx"
    assert kwsq_convert(model, "--target", "ethos-u", "-o", tmp_path / "out").code == 0
    compiled = tmp_path / "out" / "model.tflite"
    measured = json.loads(kwsq("footprint", compiled, "--json").stdout)
    estimates = result_of(tmp_path / "out")["artefact"]["estimates"]
    assert measured["totals"]["activation_ram_bytes"] == estimates["sram_bytes"]
    assert measured["flash"]["total_bytes"] == measured["file_bytes"]
    assert "compiled for an accelerator" in measured["notes"][0]
    refused = kwsq("run", compiled, "--input", compiled, "--output", tmp_path / "y.npz")
    assert refused.code == 4
    assert "model_int8.tflite" in refused.stderr


@needs_vela
def test_the_int8_file_is_the_neon_targets_and_the_bytes_repeat(tmp_path: Path) -> None:
    model = quantized_dense(tmp_path, bits=5)
    for out, target in (("a", "ethos-u"), ("b", "ethos-u"), ("c", "neon")):
        assert kwsq_convert(model, "--target", target, "-o", tmp_path / out).code == 0
    first, second = ((tmp_path / out / "model.tflite").read_bytes() for out in "ab")
    assert first == second
    int8 = (tmp_path / "a" / "model_int8.tflite").read_bytes()
    assert int8 == (tmp_path / "c" / "model.tflite").read_bytes()


@needs_vela
def test_operators_left_on_the_cpu_are_named_with_velas_reason(tmp_path: Path) -> None:
    model = quantized_dense(tmp_path)
    outcome = kwsq_convert(model, "--target", "ethos-u", "--io", "float32", "-o", tmp_path / "out")
    assert outcome.code == 4
    assert "(QUANTIZE): found left on the CPU: Operation has tensor with unsupported DataType Float32" in outcome.stderr
    assert "(DEQUANTIZE): found left on the CPU: Unsupported opType" in outcome.stderr
    assert "--io int8" in outcome.stderr
    assert "out" not in left(tmp_path)


@needs_vela
def test_every_listed_accelerator_is_one_of_velas_and_none_is_missing() -> None:
    command = [sys.executable, "-P", "-m", "ethosu.vela", "--help"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    listed = text[text.index("--accelerator-config {") :].split("{")[1].split("}")[0].split(",")
    assert tuple(name.strip() for name in listed) == vela.ACCELERATORS


@needs_vela
@pytest.mark.parametrize("accelerator", ["ethos-u65-512", "ethos-u85-256"])
def test_other_accelerators_compile_too(accelerator: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    outcome = kwsq_convert(dense(tmp_path, 5), "--target", "ethos-u", "--accelerator", accelerator, "-o", out)
    assert outcome.code == 0, outcome.stderr
    assert result_of(out)["artefact"]["estimates"]["accelerator"] == accelerator


@needs_vela
def test_what_vela_cannot_read_is_a_refusal_not_a_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnsupportedModelError, match="Vela for ethos-u55-128") as caught:
        vela.compile_file(b"no such file format", "ethos-u55-128")
    assert "exit status" in str(caught.value.problems[0])
    monkeypatch.setattr(vela, "TIMEOUT_SECONDS", 0.01)
    with pytest.raises(UnsupportedModelError, match="no end within"):
        vela.compile_file(b"", "ethos-u55-128")


@needs_vela
def test_a_changed_interface_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = vela.compile_file

    def renaming(data: bytes, accelerator: str) -> vela.Compiled:
        compiled = honest(data, accelerator)
        return vela.Compiled(compiled.data.replace(b"\1\0\0\0y\0", b"\1\0\0\0z\0"), compiled.estimates, {})

    monkeypatch.setattr(ethos_u, "compile_file", renaming)
    outcome = kwsq_convert(quantized_dense(tmp_path), "--target", "ethos-u", "-o", tmp_path / "out")
    assert outcome.code == 4
    assert "defect of kwsq" in outcome.stderr


def test_a_missing_compiler_is_named_with_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vela, "is_installed", lambda: False)
    outcome = kwsq_convert(quantized_dense(tmp_path), "--target", "ethos-u", "-o", tmp_path / "out")
    assert outcome.code == 2
    assert "pip install 'kwsq[ethos-u]'" in outcome.stderr
    assert "out" not in left(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--target", "neon", "--accelerator", "ethos-u55-128"), "--target ethos-u"),
        (("--target", "ethos-u", "--accelerator", "ethos-u99"), "one of ethos-u55-32"),
        (("--target", "ethos-u", "--container", "int4"), "expected int8"),
        (("--target", "ethos-u", "--runtime", "tflm"), "--target neon"),
    ],
)
def test_options_of_other_targets_are_refused(arguments: tuple[str, ...], complaint: str, tmp_path: Path) -> None:
    outcome = kwsq_convert(quantized_dense(tmp_path), *arguments, "-o", tmp_path / "out")
    assert outcome.code == 2
    assert complaint in outcome.stderr


@needs_vela
def test_fewer_bits_give_smaller_files(tmp_path: Path) -> None:
    sizes = []
    for bits in (8, 5, 4, 2):
        assert kwsq_convert(dense(tmp_path, bits), "--target", "ethos-u", "-o", tmp_path / f"{bits}").code == 0
        sizes.append((tmp_path / f"{bits}" / "model.tflite").stat().st_size)
    assert all(a > b for a, b in pairwise(sizes))
