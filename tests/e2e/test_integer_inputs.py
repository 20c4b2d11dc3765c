"""Models whose own inputs are codes: kept as they are, and proven, scored and run on codes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from ai_edge_litert.interpreter import Interpreter
from cli_runs import kwsq_convert, save
from onnx import TensorProto, helper, numpy_helper
from qdq_models import run_onnx

from kwsq.converter.verify import verify

DTYPES = {"int8": (TensorProto.INT8, 5), "uint8": (TensorProto.UINT8, 131)}
FORMS = ("dequantize", "cast")
STEP, OUTPUT_STEP = np.float32(0.02), np.float32(0.01)


def decoded(form: str, zero_point: np.generic) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """Nodes from the input `x` to the real tensor `a`."""
    if form == "dequantize":
        values = [numpy_helper.from_array(np.asarray(STEP), "s"), numpy_helper.from_array(np.asarray(zero_point), "z")]
        return [helper.make_node("DequantizeLinear", ["x", "s", "z"], ["a"])], values
    return [helper.make_node("Cast", ["x"], ["a"], to=TensorProto.FLOAT)], []


def dense(dtype: str, form: str, *, softmax: bool = False) -> onnx.ModelProto:
    rng = np.random.default_rng(3)
    kind, zero_point = DTYPES[dtype]
    nodes, values = decoded(form, np.dtype(dtype).type(zero_point))
    weight_step = np.float32(0.1 if form == "dequantize" else 0.002)
    values += [
        numpy_helper.from_array(array, name)
        for name, array in {
            "w": rng.integers(-7, 8, (12, 4)).astype(np.int8), "ws": np.asarray(weight_step),
            "os": np.asarray(OUTPUT_STEP), "oz": np.asarray(np.int8(3)),
        }.items()
    ]  # fmt: skip
    nodes += [
        helper.make_node("DequantizeLinear", ["w", "ws"], ["wr"]),
        helper.make_node("MatMul", ["a", "wr"], ["m"]),
        helper.make_node("QuantizeLinear", ["m", "os", "oz"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "os", "oz"], ["l" if softmax else "y"]),
        *([helper.make_node("Softmax", ["l"], ["y"], axis=-1)] if softmax else []),
    ]
    inputs = [helper.make_tensor_value_info("x", kind, [1, 12])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])]
    graph = helper.make_graph(nodes, "dense", inputs, outputs, values)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def codes(dtype: str, count: int) -> np.ndarray:
    limits = np.iinfo(dtype)
    return np.random.default_rng(4).integers(limits.min, limits.max + 1, (count, 12)).astype(dtype)


def artefact_outputs(path: Path, x: np.ndarray) -> np.ndarray:
    """Output codes of the file in LiteRT, given the source's own codes."""
    interpreter = Interpreter(str(path), num_threads=1)
    interpreter.allocate_tensors()
    (taken,), (given,) = interpreter.get_input_details(), interpreter.get_output_details()
    assert taken["dtype"] == x.dtype
    outputs = []
    for row in x:
        interpreter.set_tensor(taken["index"], row[None])
        interpreter.invoke()
        outputs.append(interpreter.get_tensor(given["index"])[0])
    return np.array(outputs)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_codes_go_in_as_they_are(dtype: str, form: str, tmp_path: Path) -> None:
    model = dense(dtype, form)
    outcome = kwsq_convert(save(model, tmp_path / "m.onnx"), "--target", "neon", "-o", tmp_path / "out")
    assert outcome.code == 0, outcome.stderr
    x = codes(dtype, 50)
    found = artefact_outputs(tmp_path / "out" / "model.tflite", x).astype(int)
    wanted = np.array([run_onnx(model, {"x": row[None]})["y"][0] for row in x])
    np.testing.assert_allclose(found, np.rint(wanted / OUTPUT_STEP) + 3, atol=1)


@pytest.mark.parametrize("target", ["neon", "accel"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_samples_of_codes_calibrate_and_score(dtype: str, target: str, tmp_path: Path) -> None:
    x = codes(dtype, 60)
    np.savez(tmp_path / "data.npz", x=x, y=np.arange(60) % 4)
    path, data = save(dense(dtype, "dequantize"), tmp_path / "m.onnx"), tmp_path / "data.npz"
    out = tmp_path / "out"
    outcome = kwsq_convert(path, "--target", target, "--calibration", data, "--data", data, "-o", out)
    assert outcome.code in (0, 1, 3), outcome.stderr  # the gate judges random labels as it likes
    accuracy = json.loads((out / "report.json").read_text())["result"]["accuracy"]
    found = np.array([run_onnx(dense(dtype, "dequantize"), {"x": row[None]})["y"][0].argmax() for row in x])
    assert accuracy["source_top1"] == np.mean(found == np.arange(60) % 4)


def test_the_float_executor_is_given_real_numbers_too(tmp_path: Path) -> None:
    path = save(dense("int8", "dequantize", softmax=True), tmp_path / "m.onnx")
    outcome = kwsq_convert(path, "--target", "neon", "--drop-softmax", "-o", tmp_path / "out")
    assert outcome.code == 0, outcome.stderr


def test_verify_feeds_codes_too(tmp_path: Path) -> None:
    path = save(dense("int8", "dequantize"), tmp_path / "m.onnx")
    assert kwsq_convert(path, "--target", "neon", "-o", tmp_path / "out").code == 0
    assert verify(path, tmp_path / "out" / "model.tflite").passed
