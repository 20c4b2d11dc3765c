"""Every operator kwsq reads, in models as exporters write them, from bytes to LiteRT.

A case passes when the artefact keeps names, order and shapes, when LiteRT's reference kernels agree with the integer
reference bit for bit and its default kernels within one rounding (`kwsq.converter.parity`), and when the integer
reference is within the case's bound of onnxruntime, optimisations off, on the same quantised model.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from ai_edge_litert.interpreter import Interpreter
from conversion import assert_close, assert_faithful, assert_interface, codes_of, convert, real_of
from operator_cases.case import Case
from operator_cases.every import CASES
from operator_cases.refused import REFUSED
from qdq_models import Arrays, Scheme, float_model, quantized, random_feeds, run_onnx, shape_of
from quantizer_dialects import as_arithmetic, as_qonnx, integer_io

from kwsq.ir.errors import UnsupportedModelError
from kwsq.ir.execute.integer import run_integer
from kwsq.ir.lowered import DType

VECTORS = 16
SCHEMES = {
    "int8": Scheme(),
    "uint8_w4": Scheme(unsigned=True, weight_bits=4, float_weights=True),
    "symmetric": Scheme(symmetric=True, integer_bias=True, operands=True),
}


def prepared(case: Case, scheme: Scheme) -> tuple[onnx.ModelProto, Arrays]:
    """Return the annotated model of a case and its calibration vectors."""
    model = float_model(case.text, case.opset, constants=case.constants)
    feeds = random_feeds(model, VECTORS)
    return quantized(model, feeds, replace(scheme, skip=case.skip)), feeds


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", CASES)
def test_operator_in_standard_annotations(name: str, scheme: str) -> None:
    case = CASES[name]
    model, feeds = prepared(case, SCHEMES[scheme])
    converted = convert(model, feeds)
    graph = converted.graph
    assert_interface(graph, model)
    codes = codes_of(graph, feeds)
    assert_faithful(converted, codes)
    assert_close(graph, codes, run_onnx(model, real_of(graph, codes)), case.lsb)


@pytest.mark.parametrize("name", [name for name in CASES if name.startswith("reduce_")])
def test_the_runtime_gives_a_reduction_the_shape_of_the_source(name: str) -> None:
    """LiteRT computes shapes itself: what the file declares says nothing of an output whose dimensions are reduced."""
    model, feeds = prepared(CASES[name], SCHEMES["int8"])
    interpreter = Interpreter(model_content=convert(model, feeds).artefact, num_threads=1)
    interpreter.allocate_tensors()
    (found,) = interpreter.get_output_details()
    assert tuple(found["shape"]) == shape_of(model.graph.output[0])


# Noise of 8-bit inputs, weights and outputs, each uniform in a step of 1/255 of a range of 6 standard deviations:
# 10 log10(12 (255/6)^2) = 43 dB each; a chain of a dozen of them, and ranges with outliers, take 20 dB.
FLOAT_SQNR_DB = 20


@pytest.mark.parametrize("name", CASES)
def test_operator_in_a_float_model(name: str) -> None:
    """Quantised after training, with defaults, on its own data."""
    case = CASES[name]
    model = float_model(case.text, case.opset, constants=case.constants)
    feeds = random_feeds(model, VECTORS)
    # Nothing but the user tells a state from a tensor of the same shape in a float model.
    states = None if name.startswith("streaming") else {}
    graph = (converted := convert(model, feeds, states=states)).graph
    assert_interface(graph, model)
    codes = codes_of(graph, feeds)
    assert_faithful(converted, codes)
    expected = run_onnx(model, real_of(graph, codes))
    found = real_of(graph, {key: np.asarray(array) for key, array in run_integer(graph, codes).items()})
    for output in graph.outputs:
        noise = np.square(found[output].reshape(expected[output].shape) - expected[output]).sum()
        assert 10 * np.log10(np.square(expected[output]).sum() / max(noise, 1e-9)) >= FLOAT_SQNR_DB, output


QONNX_CASES = (
    "conv1d_depthwise",
    "conv2d_asymmetric_pads",
    "conv_relu",
    "gemm_trans_b",
    "matmul_rank3",
    "attention",
    "add_squeeze_excite",
    "mul_squeeze_excite",
    "concat_axis1",
    "max_pool_pads",
    "global_average_pool",
    "softmax_last",
    "sigmoid",
    "streaming_conv",
)


@pytest.mark.parametrize("name", QONNX_CASES)
def test_operator_in_qonnx_annotations(name: str) -> None:
    """The QONNX twin of a standard model; its ties may round apart, which is one more rounding."""
    case = CASES[name]
    model, feeds = prepared(case, Scheme(weight_bits=4))
    converted = convert(as_qonnx(model), feeds)
    codes = codes_of(converted.graph, feeds)
    assert_interface(converted.graph, model)
    assert_faithful(converted, codes)
    assert_close(converted.graph, codes, run_onnx(model, real_of(converted.graph, codes)), case.lsb)


# Clip takes its bounds as inputs from opset 11 on.
@pytest.mark.parametrize("name", [name for name in CASES if CASES[name].opset >= 11])
def test_operator_in_written_out_annotations(name: str) -> None:
    """LSQ's Div, Clip, Round, Mul, 4-bit weights; every scale of an output is the annotated one."""
    case = CASES[name]
    annotated, feeds = prepared(case, Scheme(symmetric=True, weight_bits=4))
    model = as_arithmetic(annotated)
    graph = (converted := convert(model, feeds)).graph
    assert_interface(graph, model)
    codes = codes_of(graph, feeds)
    assert_faithful(converted, codes)
    assert_close(graph, codes, run_onnx(model, real_of(graph, codes)), case.lsb)
    scales = {init.name: onnx.numpy_helper.to_array(init) for init in model.graph.initializer}
    states = {pair.output for pair in graph.states}
    assert all(graph[n].scale[0] == scales[f"{n}_s"] for n in graph.outputs if n not in states)


INTEGER_CASES = ("conv2d", "gemm", "mul_squeeze_excite", "concat_axis1", "softmax_last", "identity_only", "relu")


@pytest.mark.parametrize("unsigned", [False, True], ids=["int8", "uint8"])
@pytest.mark.parametrize("name", INTEGER_CASES)
def test_integer_inputs_and_outputs_keep_type_and_codes(name: str, unsigned: bool) -> None:
    case = CASES[name]
    annotated, feeds = prepared(case, Scheme(unsigned=unsigned))
    model = integer_io(annotated)
    converted = convert(model, None)
    graph = converted.graph
    assert_interface(graph, model)
    wanted = DType.UINT8 if unsigned else DType.INT8
    assert {graph[name].dtype for name in (*graph.inputs, *graph.outputs)} == {wanted}
    codes = codes_of(graph, feeds)
    assert_faithful(converted, codes)
    expected, found = run_onnx(model, codes), run_integer(graph, codes)
    for output in graph.outputs:
        distance = np.abs(expected[output].astype(int) - np.asarray(found[output]).astype(int))
        assert distance.max() <= case.lsb, output


FLOAT_CASES = (
    "conv2d",
    "gemm",
    "concat_axis1",
    "streaming_conv",
    "two_inputs_two_outputs",
    "same_value_twice",
    "output_reshaped_and_added_to",
)


@pytest.mark.parametrize("name", FLOAT_CASES)
def test_float_inputs_and_outputs(name: str) -> None:
    """--io float32 keeps streaming states int8."""
    case = CASES[name]
    model, feeds = prepared(case, Scheme())
    graph = (converted := convert(model, feeds, float_io=True)).graph
    assert_interface(graph, model)
    states = {name for pair in graph.states for name in (pair.input, pair.output)}
    public = {name: graph[name].dtype for name in (*graph.inputs, *graph.outputs)}
    assert public == {name: DType.INT8 if name in states else DType.FLOAT32 for name in public}
    codes = codes_of(graph, feeds)
    assert_faithful(converted, codes)
    expected = run_onnx(model, real_of(graph, codes))
    plain = convert(model, feeds).graph
    found = real_of(graph, {key: np.asarray(array) for key, array in run_integer(graph, codes).items()})
    for output in graph.outputs:
        step = float(plain[output].scale[0])
        assert (
            np.abs(found[output].reshape(expected[output].shape) - expected[output]).max() <= (case.lsb + 0.01) * step
        )


@pytest.mark.parametrize("name", REFUSED)
def test_refused_by_name(name: str) -> None:
    case, part = REFUSED[name]
    model = float_model(case.text, case.opset, constants=case.constants)
    feeds = random_feeds(model, 4)
    try:
        model = quantized(model, feeds, Scheme())
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError):  # pragma: no cover - a broken case
        pytest.fail(f"{name} is not a model")
    with pytest.raises(UnsupportedModelError) as caught:
        convert(model, feeds)
    assert part in str(caught.value)
    assert all(problem.where and problem.expected and problem.remedy for problem in caught.value.problems)


def test_a_wrong_constant_is_noticed() -> None:
    """The comparison with onnxruntime can fail: one flipped weight is seen."""
    model, feeds = prepared(CASES["conv2d"], Scheme())
    graph = convert(model, feeds).graph
    codes = codes_of(graph, feeds)
    expected = run_onnx(model, real_of(graph, codes))
    weight = next(tensor for tensor in graph.tensors.values() if tensor.is_constant and len(tensor.shape) == 4)
    wrong = np.array(weight.data)
    wrong.reshape(-1)[int(np.abs(wrong).argmax())] *= -1
    broken = replace(graph, tensors={**graph.tensors, weight.name: replace(weight, data=wrong)})
    with pytest.raises(AssertionError, match="LSB"):
        assert_close(broken, codes, expected, CASES["conv2d"].lsb)
