"""The exported QAT models of ../shared as packs, in lookup tables and compiled for Ethos-U."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from cli_runs import kwsq_convert, left

from kwsq.converter.runtimes import tflm
from kwsq.targets.accel.format import Section
from kwsq.targets.accel.reader import read
from kwsq.targets.neon import vela

FIXTURES = (
    "dscnn_w4_pc_relu6_qonnx_op13",
    "dscnn_w5_res_signed_qcdq_op17",
    "mlp_w1_bipolar_qonnx_op13",
    "mlp_w4_pt_qcdq_op13",
    "mlp_w5_pt_po2_qonnx_op17",
    "stream_tdnn_w5_state_qcdq_op17",
)
pytestmark = pytest.mark.shared


def convert(name: str, shared: Path, folder: Path, *target: str) -> dict[str, object]:
    source = shared / "fixtures" / "dialects" / f"{name}.onnx"
    calibration = ("--calibration", source.with_suffix(".npz"))
    outcome = kwsq_convert(source, "--target", *target, *calibration, "-o", folder / "out")
    assert outcome.code == 0, outcome.stderr
    result: dict[str, object] = json.loads((folder / "out" / "report.json").read_text("utf-8"))["result"]
    return result


@pytest.mark.parametrize("name", FIXTURES)
def test_a_fixture_becomes_a_pack_of_its_own_width(name: str, shared_dir: Path, tmp_path: Path) -> None:
    convert(name, shared_dir, tmp_path, "accel")
    pack = read((tmp_path / "out" / "model.kwsq").read_bytes())
    ideal = sum(layer.layout.rows * layer.layout.columns * layer.layout.bits for layer in pack.graph.layers) / 8
    # 15 bytes before each tensor at most, besides the 3 %: these networks are small.
    assert len(pack.sections[Section.WEIGHTS]) <= 1.03 * ideal + 15 * len(pack.graph.layers)
    match = re.search(r"_w(\d)_", name)
    assert match is not None
    assert min(layer.layout.bits for layer in pack.graph.layers) == int(match[1])


@pytest.mark.skipif(not tflm.is_installed(), reason="TFLite Micro is absent; enable with: pip install 'kwsq[tflm]'")
@pytest.mark.parametrize("name", FIXTURES)
def test_a_fixture_runs_in_micro_from_lookup_tables(name: str, shared_dir: Path, tmp_path: Path) -> None:
    convert(name, shared_dir, tmp_path, "neon", "--container", "lut", "--runtime", "tflm")


@pytest.mark.skipif(not vela.is_installed(), reason="Vela is absent; enable with: pip install 'kwsq[ethos-u]'")
@pytest.mark.parametrize("name", FIXTURES)
def test_a_fixture_compiles_for_the_npu(name: str, shared_dir: Path, tmp_path: Path) -> None:
    result = convert(name, shared_dir, tmp_path, "ethos-u")
    assert result["artefact"]["operators"] == {"CUSTOM:ethos-u": 1}  # type: ignore[index]
    assert "model_int8.tflite" in left(tmp_path / "out")
