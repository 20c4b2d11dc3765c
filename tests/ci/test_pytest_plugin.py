"""The fixture `assert_parity`, run by pytest on a repository of its own: a faithful artefact, and altered ones."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cli_runs import kwsq_convert, quantized_dense

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
    assert weight.name in done.stdout
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


def test_an_unused_plugin_loads_nothing() -> None:
    code = (
        "import sys, kwsq.converter.pytest_plugin; "
        "sys.exit(any(m in sys.modules for m in ('numpy', 'onnx', 'onnxruntime', 'typer')))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
