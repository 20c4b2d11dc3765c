"""The fixture `assert_parity`, run by pytest on a repository of its own: a faithful artefact, and altered ones."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cli_runs import float_dense, kwsq_convert, quantized_dense, samples

from kwsq.converter.parity import Check, Mismatch, ParityReport
from kwsq.converter.verify import failure_text, verify
from kwsq.ir.errors import UsageError
from kwsq.targets.neon.reader import read

TEST = """
def test_release(assert_parity):
    assert_parity({model!r}, {artefact!r}{settings})
"""


def pytest_on(folder: Path, model: Path, artefact: Path, settings: str = "") -> subprocess.CompletedProcess[str]:
    (folder / "test_release.py").write_text(TEST.format(model=str(model), artefact=str(artefact), settings=settings))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_release.py"]
    if "kwsq.converter.pytest_plugin" not in plugins():
        command[3:3] = ["-p", "kwsq.converter.pytest_plugin"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=300)


def plugins() -> list[str]:
    from importlib.metadata import entry_points

    return [entry.value for entry in entry_points(group="pytest11")]


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("release")
    model = quantized_dense(folder)
    assert kwsq_convert(model, "--target", "neon", "--wbits", 4, "-o", folder / "out").code == 0
    return model, folder / "out"


def test_a_faithful_artefact_passes(release: tuple[Path, Path], tmp_path: Path) -> None:
    model, out = release
    done = pytest_on(tmp_path, model, out / "model.tflite")
    assert done.returncode == 0, done.stdout
    assert "1 passed" in done.stdout


def test_without_a_report_the_settings_are_arguments(release: tuple[Path, Path], tmp_path: Path) -> None:
    model, out = release
    shutil.copy(out / "model.tflite", tmp_path / "shipped.tflite")
    assert pytest_on(tmp_path, model, tmp_path / "shipped.tflite", ", weight_bits=4").returncode == 0


def test_one_flipped_weight_code_fails_and_is_named(release: tuple[Path, Path], tmp_path: Path) -> None:
    model, out = release
    data = bytearray((out / "model.tflite").read_bytes())
    weight = next(
        t
        for t in read(bytes(data), "model").main.tensors
        if t.is_constant and t.dtype.lower() == "int8" and len(t.shape) == 2
    )
    codes = np.asarray(weight.data, np.int8).tobytes()
    data[bytes(data).index(codes)] ^= 1
    damaged = tmp_path / "model.tflite"
    damaged.write_bytes(bytes(data))
    done = pytest_on(tmp_path, model, damaged, ", weight_bits=4")
    assert done.returncode == 1
    assert "1 failed" in done.stdout
    first = next(line for line in done.stdout.splitlines() if "first difference: " in line)
    assert first.partition("first difference: ")[2].startswith(f"{weight.name}[")
    assert "Traceback" not in done.stdout


def test_another_model_fails(release: tuple[Path, Path], tmp_path: Path) -> None:
    _, out = release
    other = quantized_dense(tmp_path, bits=8)
    done = pytest_on(tmp_path, other, out / "model.tflite", ", weight_bits=8")
    assert done.returncode == 1


def test_unknown_settings_and_missing_files_are_errors(release: tuple[Path, Path], tmp_path: Path) -> None:
    model, out = release
    done = pytest_on(tmp_path, model, out / "model.tflite", ", weight_bit=4")
    assert done.returncode == 1
    assert "weight_bit" in done.stdout
    assert pytest_on(tmp_path, model, tmp_path / "none.tflite", ", weight_bits=4").returncode == 1


def test_data_and_floors_of_the_conversion_are_no_settings_of_the_proof(tmp_path: Path) -> None:
    model, data = quantized_dense(tmp_path), samples(tmp_path)
    options = ("--data", data, "--min-accuracy", "0.01", "--shape", "x=1,12")
    assert kwsq_convert(model, "--target", "neon", "--wbits", 4, "-o", tmp_path / "out", *options).code == 0
    assert verify(model, tmp_path / "out" / "model.tflite").passed


def test_a_model_quantized_after_training_needs_its_calibration(tmp_path: Path) -> None:
    model, data = float_dense(tmp_path), samples(tmp_path)
    options = ("--wbits", 8, "--calibration", data, "-o", tmp_path / "out")
    assert kwsq_convert(model, "--target", "neon", *options).code == 0
    artefact = tmp_path / "out" / "model.tflite"
    with pytest.raises(UsageError, match=r"calibration: found an artefact made with 'samples\.npz'"):
        verify(model, artefact)
    assert verify(model, artefact, calibration=str(data)).passed


def test_budgets_of_the_working_directory_judge_no_proof(
    release: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A limit on what only --data measures would be a usage error of a conversion."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "kwsq.toml").write_text("[budget]\naccuracy = { min = 0.9 }\n", encoding="utf-8")
    model, out = release
    assert verify(model, out / "model.tflite").passed


def test_a_thousand_differences_are_one_line_without_escapes() -> None:
    many = tuple(Mismatch(f"dense\x1b[2J{i}", "codes", "1", "2", (i,)) for i in range(1000))
    report = ParityReport((Check("structure", "the same codes", many), Check("source", "the same outputs")), 1)
    assert failure_text(report).count("\n") == 0
    assert failure_text(report).startswith("first difference: dense\\x1b[2J0[0]: codes 2, expected 1 (and 999 more")


def test_an_unused_plugin_loads_nothing() -> None:
    code = (
        "import sys, kwsq.converter.pytest_plugin; "
        "sys.exit(any(m in sys.modules for m in ('numpy', 'onnx', 'onnxruntime', 'typer')))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
