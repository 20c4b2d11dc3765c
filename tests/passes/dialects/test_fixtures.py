"""The exported fixtures: every weight and scale of the file is in the normalised graph, with its width."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnx_models import canonical, load, run_source

from kwsq.ir.quant import Codebook, quantize
from kwsq.passes.dialects import Normalized, normalize
from kwsq.passes.dialects.canonical import CANONICAL, CODES, FAKE_QUANT

pytestmark = pytest.mark.shared

F32 = np.float32
EXPECTED = {
    "dscnn_w4_pc_relu6_qonnx_op13": ("qonnx",),
    "dscnn_w5_res_signed_qcdq_op17": ("qcdq",),
    "lsq_mlp_w4_arith_op13": ("arithmetic",),
    "mlp_w1_bipolar_qonnx_op13": ("qonnx",),
    "mlp_w4_pt_qcdq_op13": ("qcdq",),
    "mlp_w5_pt_po2_qonnx_op17": ("qonnx",),
    "ort_qdq_dscnn_w8_pc_op13": ("qdq",),
    "ort_qdq_mlp_w4_int4type_op21": ("qdq",),
    "stream_tdnn_w5_state_qcdq_op17": ("qcdq",),
    "tf_fakequant_mlp_w4_op17": ("qdq",),
    "torch_fq_dscnn_w8_relu6_op13": ("qdq",),
    "torchao_pt2e_mlp_w8_op21": ("qdq",),
}


def fixture(shared_dir: Path, name: str) -> onnx.ModelProto:
    return onnx.load(shared_dir / "fixtures/dialects" / f"{name}.onnx")


def weight_bits(result: Normalized) -> list[int]:
    """Widths of the weights, matrices only."""
    bits = [node.attrs["spec"].bits for node in canonical(result, CODES) if node.attrs["codes"].ndim > 1]
    latent = [node for node in canonical(result, FAKE_QUANT) if hasattr(node.inputs[0], "values")]
    return bits + [node.attrs["spec"].bits for node in latent]


@pytest.mark.parametrize("name", EXPECTED)
def test_every_fixture_normalises_to_its_dialect_and_width(shared_dir: Path, name: str) -> None:
    result = normalize(load(fixture(shared_dir, name)))
    assert result.dialects == EXPECTED[name]
    stated = re.search(r"_w(\d)_", name)
    assert stated is not None
    widths = weight_bits(result)
    if name.startswith("tf_fakequant"):
        assert not widths
    else:
        assert int(stated.group(1)) in widths
        assert set(widths) <= {int(stated.group(1)), 8}


@pytest.mark.parametrize("name", EXPECTED)
def test_no_foreign_quantizer_is_left(shared_dir: Path, name: str) -> None:
    left = {node.op for node in normalize(load(fixture(shared_dir, name))).graph.nodes} - CANONICAL
    assert not left & {"QuantizeLinear", "DequantizeLinear", "Quant", "BipolarQuant", "Round", "Sign", "Constant"}


@pytest.mark.parametrize("name", [name for name in EXPECTED if "qdq" in name])
def test_integer_weights_and_scales_are_those_of_the_file(shared_dir: Path, name: str) -> None:
    model = fixture(shared_dir, name)
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant":
            arrays[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
    expected = set()
    for node in model.graph.node:
        if node.op_type != "DequantizeLinear":
            continue
        source = node.input[0]
        clip = next((n for n in model.graph.node if n.output[0] == source and n.op_type == "Clip"), None)
        codes = arrays.get(clip.input[0] if clip is not None else source)
        if codes is not None:
            expected.add((codes.astype(np.int64).tobytes(), arrays[node.input[1]].astype(F32).tobytes()))
    found = {
        (node.attrs["codes"].astype(np.int64).tobytes(), node.attrs["spec"].scale.tobytes())
        for node in canonical(normalize(load(model)), CODES)
    }
    assert expected
    assert found == expected


@pytest.mark.parametrize("name", ["dscnn_w4_pc_relu6_qonnx_op13", "mlp_w5_pt_po2_qonnx_op17"])
def test_latent_weights_are_quantized_by_the_operators_own_formula(shared_dir: Path, name: str) -> None:
    model = fixture(shared_dir, name)
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant":
            arrays[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
    expected = []
    for node in model.graph.node:
        if node.op_type == "Quant" and node.input[0] in arrays:
            weight, scale, _, bits = (arrays[item] for item in node.input)
            bound = 2 ** (int(bits) - 1) - 1
            expected.append(np.rint(np.clip(weight / scale, -bound, bound)))
    nodes = [n for n in canonical(normalize(load(model)), FAKE_QUANT) if hasattr(n.inputs[0], "values")]
    assert len(nodes) == len(expected) > 0
    for node, codes in zip(nodes, expected, strict=True):
        spec, rounding = node.attrs["spec"], node.attrs["rounding"]
        assert np.array_equal(quantize(node.inputs[0].values, spec, rounding), codes)


def test_bipolar_weights_are_one_bit(shared_dir: Path) -> None:
    codes = canonical(normalize(load(fixture(shared_dir, "mlp_w1_bipolar_qonnx_op13"))), CODES)
    assert len(codes) == 4
    assert all(isinstance(node.attrs["spec"], Codebook) and node.attrs["spec"].bits == 1 for node in codes)


SINGLE_INPUT = [name for name in EXPECTED if not name.startswith("stream")]


@pytest.mark.parametrize("name", SINGLE_INPUT)
def test_outputs_agree_with_the_recorded_ones(shared_dir: Path, name: str) -> None:
    """Float execution differs from the recorded run by summation order; where that moves a value across a rounding
    boundary of a hidden activation, by a step of it, which is a fraction of a step of 1/255 of the output range."""
    source = load(fixture(shared_dir, name))
    recorded = np.load(shared_dir / "fixtures/dialects" / f"{name}.npz")
    shape = tuple(source.graph.inputs[0].shape)
    x, y = recorded["x"].reshape(-1, *shape).astype(F32), recorded["y"].reshape(-1, recorded["y"].shape[-1])
    outputs = [run_source(load(fixture(shared_dir, name)), {source.graph.inputs[0].name: clip}) for clip in x[:8]]
    result = np.concatenate(outputs)
    step = (max(y.max(), 0) - min(y.min(), 0)) / 255
    assert np.max(np.abs(result - y[: len(result)])) <= step
    assert np.mean(np.abs(result - y[: len(result)]) <= step / 10) >= 0.9
