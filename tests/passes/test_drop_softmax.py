"""On request the final probabilities become logits, under the same name."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
from builders import Model, grid, kinds, texts
from onnx_models import build, node, normalized, run_normalized, run_onnxruntime

from kwsq.ir import ops
from kwsq.ir.errors import UnsupportedModelError, UsageError
from kwsq.ir.execute import run_float
from kwsq.ir.graph import Op
from kwsq.ir.lowered import DType
from kwsq.passes.drop_softmax import DropSoftmax
from kwsq.passes.pipeline import PipelineOptions, run_pipeline

X = {"x": np.linspace(-1, 1, 8, dtype=np.float32)[None]}


def logits(model: Model) -> str:
    return model.quantize(model.dense(model.input("x", (1, 8)), 4), grid(0.1), output="logits")


@pytest.mark.parametrize("op", [ops.Softmax(1), ops.LogSoftmax(1), ops.Sigmoid()])
@pytest.mark.parametrize("tail", ["plain", "quantised", "reshaped"])
def test_drops(op: Op, tail: str) -> None:
    model = Model()
    y = model.node(op, logits(model))
    if tail == "quantised":
        y = model.quantize(y, grid(1 / 255))
    elif tail == "reshaped":
        y = model.node(ops.Reshape((4,)), y)
    before = model.graph(y)
    result = DropSoftmax().run(before)
    assert result.graph.outputs == before.outputs
    assert op.name not in kinds(result.graph)
    assert kinds(result.graph).count("FakeQuant") == 1  # the one of the logits
    assert "carries logits" in texts(result)
    expected = run_float(before, X, keep=["logits"])["logits"]
    np.testing.assert_array_equal(run_float(result.graph, X)[y], expected.reshape(before[y].shape))


def test_logits_that_are_an_output_too_keep_their_name() -> None:
    model = Model()
    y = logits(model)
    before = model.graph(y, model.node(ops.Softmax(1), y))
    after = DropSoftmax().run(before).graph
    assert after.outputs == before.outputs
    values = run_float(after, X)
    np.testing.assert_array_equal(*(values[name] for name in after.outputs))


def test_probabilities_that_are_two_outputs() -> None:
    model = Model()
    y = model.node(ops.Softmax(1), logits(model))
    before = model.graph(y, model.node(ops.Reshape((4,)), y))
    after = DropSoftmax().run(before).graph
    assert after.outputs == before.outputs
    assert "Softmax" not in kinds(after)


def test_nothing_to_drop_is_a_usage_error() -> None:
    model = Model()
    with pytest.raises(UsageError, match=r"--drop-softmax: found outputs \['logits'\]"):
        DropSoftmax().run(model.graph(logits(model)))


def test_softmax_inside_stays() -> None:
    model = Model()
    with pytest.raises(UsageError, match="no Softmax, LogSoftmax or Sigmoid computes"):
        DropSoftmax().run(model.graph(model.dense(model.node(ops.Softmax(1), logits(model)), 2)))


@pytest.mark.parametrize("opset", [11, 13])
@pytest.mark.parametrize("tail", [[], ["Identity"], ["Flatten"], ["Reshape", "Identity"]])
def test_a_final_log_softmax_is_dropped_and_named_where_it_is_not(tail: list[str], opset: int) -> None:
    names = ["h", "p", *(f"t{i}" for i in range(len(tail)))]
    names[-1] = "y"
    nodes = [node("Gemm", ["x", "w"], ["h"]), node("LogSoftmax", ["h"], [names[1]], axis=1)]
    for op, x, y in zip(tail, names[1:], names[2:], strict=False):
        nodes.append(node(op, [x, "shape"] if op == "Reshape" else [x], [y]))
    constants = {"w": np.random.default_rng(0).normal(0, 1, (8, 4)).astype(np.float32)}
    constants |= {"shape": np.array([1, 4])} if "Reshape" in tail else {}
    model = build(nodes, inputs={"x": [1, 8]}, constants=constants, opset=opset)
    theirs = run_onnxruntime(model, X)
    np.testing.assert_allclose(run_normalized(model, X), theirs, rtol=1e-5, atol=1e-6)
    options = PipelineOptions(calibration={"x": np.random.default_rng(1).normal(0, 1, (64, 8)).astype(np.float32)})
    with pytest.raises(UnsupportedModelError, match=r"a LogSoftmax.*--drop-softmax"):
        run_pipeline(normalized(model), opset, options)
    result = run_pipeline(normalized(model), opset, replace(options, drop_softmax=True))
    assert "emits_logits" in result.source.facts
    np.testing.assert_allclose(run_float(result.source, X)["y"], X["x"] @ constants["w"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("quantised", [False, True])
def test_what_reads_probabilities_and_is_no_output_is_never_given_logits(quantised: bool) -> None:
    model = Model()
    y = model.node(ops.Softmax(1), logits(model), name="softmax")
    p = model.quantize(y, grid(1 / 255)) if quantised else y
    confidence = model.node(ops.ReduceMax((1,), True), p, name="confidence")
    with pytest.raises(UsageError, match=r"node 'confidence': found probabilities of .*leave the flag out"):
        DropSoftmax().run(model.graph(p, confidence))


def test_unsigned_codes_of_probabilities_become_signed_ones_of_logits() -> None:
    nodes = [
        node("QuantizeLinear", ["x", "s", "z"], ["xq"]), node("DequantizeLinear", ["xq", "s", "z"], ["xd"]),
        node("DequantizeLinear", ["wq", "s", "z"], ["w"]), node("Gemm", ["xd", "w"], ["h"]),
        node("QuantizeLinear", ["h", "sh", "z"], ["hq"]), node("DequantizeLinear", ["hq", "sh", "z"], ["hd"]),
        node("Softmax", ["hd"], ["p"], axis=1), node("QuantizeLinear", ["p", "sp", "zp"], ["y"]),
    ]  # fmt: skip
    rng = np.random.default_rng(0)
    constants = {
        "s": np.float32(0.02), "z": np.int8(0), "sh": np.float32(0.05), "sp": np.float32(1 / 256), "zp": np.uint8(0),
        "wq": rng.integers(-127, 128, (8, 4)).astype(np.int8),
    }  # fmt: skip
    model = build(nodes, inputs={"x": [1, 8]}, constants=constants, types={"y": onnx.TensorProto.UINT8})
    result = run_pipeline(normalized(model), 17, PipelineOptions(drop_softmax=True))
    assert result.source.integer_io == {"y": "int8"}
    tensor = result.lowered["y"]
    assert (tensor.dtype, tensor.zero_point) == (DType.INT8, 0)
