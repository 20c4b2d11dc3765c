"""TensorFlow Lite Micro, in a process of its own."""

import sys

import numpy as np
import pytest
from lowered_cases import CASES, build
from lowered_models import emit, random_inputs

from kwsq.converter.runtimes import tflm
from kwsq.ir.errors import ParityError, UsageError
from kwsq.ir.execute import run_integer

needs_tflm = pytest.mark.skipif(
    not tflm.is_installed(), reason="TFLite Micro is absent; enable with: pip install 'kwsq[tflm]'"
)


def test_a_missing_package_is_a_usage_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.delitem(sys.modules, "tflite_micro", raising=False)
    with pytest.raises(UsageError, match="tflite-micro"):
        tflm.run_tflm(b"", [])


@needs_tflm
@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_single_operators_agree_within_a_rounding(name: str) -> None:
    graph, data = emit(build(name), runtime="tflm")
    inputs = random_inputs(graph, 2)
    found = tflm.run_tflm(data, [inputs[n] for n in graph.inputs]).outputs
    expected = run_integer(graph, inputs)
    for array, output in zip(found, graph.outputs, strict=True):
        assert np.abs(array.astype(np.float64) - expected[output]).max() <= 1


@needs_tflm
@pytest.mark.parametrize("name", ["relu6", "relu_n1_to_1"])
def test_clamps_need_another_form(name: str) -> None:
    graph, data = emit(build(name), runtime="tflm")
    inputs = random_inputs(graph, 2)
    (found,) = tflm.run_tflm(data, [inputs["x"]]).outputs
    assert np.abs(found.astype(int) - run_integer(graph, inputs)[graph.outputs[0]]).max() <= 1


@needs_tflm
def test_a_refused_operator_is_reported_with_a_reason() -> None:
    graph, data = emit(build("relu_n1_to_1"))
    with pytest.raises(ParityError, match="TensorFlow Lite Micro"):
        tflm.run_tflm(data, [random_inputs(graph)["x"]])


@needs_tflm
@pytest.mark.parametrize("name", ["dense 4 bits", "dense 4 bits per tensor", "conv 4 bits", "depthwise 4 bits"])
def test_int4_runs_when_asked_for_micro(name: str) -> None:
    graph, data = emit(build(name), container="int4", runtime="tflm")
    inputs = random_inputs(graph, 2)
    (found,) = tflm.run_tflm(data, [inputs["x"]]).outputs
    assert np.abs(found.astype(int) - run_integer(graph, inputs)[graph.outputs[0]]).max() <= 1
