"""Other people's networks, small: annotated as exporters do, and without any annotation.

The bound of a whole network is simulated: rounding differences are drawn at every operator and the outputs may be as
far apart as that makes them (`kwsq.converter.parity.noise`); a wrong operator is far outside.
"""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from conversion import assert_faithful, assert_interface, codes_of, convert, real_of
from operator_cases.networks import NETWORKS
from qdq_models import Arrays, Scheme, float_model, quantized, random_feeds, run_onnx

from kwsq.converter.parity import SourceReference, check
from kwsq.ir.execute.integer import run_integer
from kwsq.ir.lowered import LoweredGraph

VECTORS = 16
SCHEMES = {
    "int8": Scheme(fused=True),
    "uint8_w4": Scheme(fused=True, unsigned=True, weight_bits=4),
    "every_tensor": Scheme(),
}
# In steps of the output, several times what was measured (mean 1.7, of the network with most operators in a row).
MEAN_LSB = 3
# Transposes no storage order avoids: mixing over time stores features last for the layer norms and time last for the
# products, attention splits its heads, and every streaming state enters and leaves in the order of its file.
INNER_TRANSPOSES = {"mixer": 4, "transformer": 6, "streaming_tcn": 6}


def model_of(name: str) -> tuple[onnx.ModelProto, Arrays]:
    case = NETWORKS[name]
    model = float_model(case.text, case.opset, constants=case.constants)
    return model, random_feeds(model, VECTORS)


def without_states(graph: LoweredGraph, arrays: Arrays) -> Arrays:
    states = {pair.input for pair in graph.states}
    return {name: array for name, array in arrays.items() if name not in states}


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", NETWORKS)
def test_annotated_network(name: str, scheme: str) -> None:
    original, feeds = model_of(name)
    model = quantized(original, feeds, SCHEMES[scheme])
    converted = convert(model, feeds)
    graph = converted.graph
    assert_interface(graph, model)
    codes = codes_of(graph, feeds)
    source = SourceReference("onnxruntime", lambda arrays: run_onnx(model, arrays))
    report = check(graph, converted.artefact, source, without_states(graph, codes))
    assert report.passed, report.error().message()
    expected = run_onnx(model, real_of(graph, codes))
    found = real_of(graph, {key: np.asarray(array) for key, array in run_integer(graph, codes).items()})
    for output in graph.outputs:
        distance = np.abs(found[output].reshape(expected[output].shape) - expected[output]) / graph[output].scale[0]
        assert distance.mean() <= MEAN_LSB, output
    transposes = [node.name for node in graph.nodes if node.op.name == "Transpose"]
    assert len(transposes) <= INNER_TRANSPOSES.get(name, 1), transposes


# What 8-bit and 4-bit weights leave of networks with random weights calibrated on the same vectors; measured: 33, 23.
FLOAT_SQNR_DB = {8: 27, 4: 17}


@pytest.mark.parametrize("bits", FLOAT_SQNR_DB)
@pytest.mark.parametrize("name", NETWORKS)
def test_float_network(name: str, bits: int) -> None:
    """Quantised after training, all defaults."""
    model, feeds = model_of(name)
    converted = convert(model, feeds, weight_bits=bits)
    graph = converted.graph
    assert_interface(graph, model)
    codes = codes_of(graph, feeds)
    assert_faithful(converted, codes)
    expected = run_onnx(model, real_of(graph, codes))
    found = real_of(graph, {key: np.asarray(array) for key, array in run_integer(graph, codes).items()})
    for output in graph.outputs:
        noise = np.square(found[output].reshape(expected[output].shape) - expected[output]).sum()
        assert 10 * np.log10(np.square(expected[output]).sum() / max(noise, 1e-9)) >= FLOAT_SQNR_DB[bits], output


def test_a_swapped_operand_is_noticed() -> None:
    """The simulated bound is not wide enough for a wrong operator."""
    original, feeds = model_of("resnet")
    model = quantized(original, feeds, SCHEMES["int8"])
    converted = convert(model, feeds)
    codes = codes_of(converted.graph, feeds)

    def wrong(arrays: Arrays) -> Arrays:
        return {name: -array for name, array in run_onnx(model, arrays).items()}

    report = check(converted.graph, converted.artefact, SourceReference("onnxruntime", wrong), codes)
    assert not report["source"].passed
