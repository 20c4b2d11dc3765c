"""The exported kws_ff against Keras, quantizer by quantizer, within bounds from running error analysis.

Between two activation quantizers Keras is fed what ONNX Runtime computed there, so differences do not pile up. Both
sides evaluate the same float32 formula in their own order, and `rounding_bound` bounds how far each is from the
exact value; so a code may differ only where the value before rounding is that close to a tie.
"""

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import tensorflow as tf
import tf_keras
from keyword_cases import synthetic_keywords
from numpy.typing import NDArray
from onnx import numpy_helper

from kwsq.ir.quant import Affine, Unquantized, dequantize
from kwsq.models.export_onnx import export_onnx
from kwsq.models.kws_ff.model import build
from kwsq.models.layers.calibration import calibrate
from kwsq.models.layers.sequential import adopt_weights, layer_records
from kwsq.models.records import (
    BatchNormRecord,
    DenseRecord,
    FakeQuantizeRecord,
    LayerRecord,
    MeanOverTimeRecord,
    ReluRecord,
    SplicedDenseRecord,
)
from kwsq.models.schemes import FloatWeights, LearnedStep, LloydMax, TwoStage, WeightScheme

FLOAT32_UNIT = 2.0**-24
CLIPS = 64
FEATURES = synthetic_keywords(CLIPS, seed=3).features
SCHEMES: dict[str, WeightScheme] = {
    "w4 two-stage": TwoStage(4),
    "w2 learned step": LearnedStep(2),
    "w5 codebook": LloydMax(5),
    "w3 two-stage per channel": TwoStage(3, per_channel=True),
}


def seeded_float_model() -> Any:
    """kws_ff with seeded weights and batch norms that do something; nothing is trained."""
    tf_keras.utils.set_random_seed(4)
    rng = np.random.default_rng(4)
    model = build(FloatWeights())
    for layer in model.layers:
        if isinstance(layer, tf_keras.layers.BatchNormalization):
            size = layer.gamma.shape[0]
            spread = [rng.uniform(0.5, 1.5, size), rng.normal(0, 0.3, size)]
            layer.set_weights([*spread, rng.normal(0, 0.3, size), rng.uniform(0.5, 2.0, size)])
    return model


@pytest.fixture(scope="module")
def models() -> dict[str, Any]:
    float_model = seeded_float_model()
    result = {"float": float_model}
    for name, scheme in SCHEMES.items():
        result[name] = build(scheme)
        adopt_weights(result[name], float_model)
        calibrate(result[name], FEATURES[:32], 100.0)
    return result


def exported(model: Any) -> bytes:
    return export_onnx(layer_records(model), model.input_shape[1:], name="kws_ff")


def all_tensors(model_bytes: bytes, features: NDArray[np.float32]) -> dict[str, NDArray[np.generic]]:
    """Every tensor of the graph, run with optimisations off; features as (N, T, C)."""
    model = onnx.shape_inference.infer_shapes(onnx.load_from_string(model_bytes))
    known = {value.name for value in model.graph.output}
    model.graph.output.extend(value for value in model.graph.value_info if value.name not in known)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    feeds = {"features": np.ascontiguousarray(features.transpose(0, 2, 1))}
    return dict(zip(names, session.run(names, feeds), strict=True))


def float64_weight(record: SplicedDenseRecord | DenseRecord) -> NDArray[np.float64]:
    if isinstance(record.weight.spec, Unquantized):
        return record.weight.values.astype(np.float64)
    return dequantize(record.weight.values, record.weight.spec).astype(np.float64)


def gamma(terms: int) -> float:
    """Relative error of a float32 sum of `terms` products in any order (Higham, gamma_n)."""
    return terms * FLOAT32_UNIT / (1 - terms * FLOAT32_UNIT)


def spliced(value: NDArray[np.float64], record: SplicedDenseRecord, weight: NDArray[np.float64]) -> NDArray[np.float64]:
    windows = np.lib.stride_tricks.sliding_window_view(value, weight.shape[0], axis=1)
    return np.tensordot(windows[:, :: record.stride], weight, axes=((3, 2), (0, 1)))


def rounding_bound(segment: list[LayerRecord], inputs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Bound on |computed - exact| of a segment in float32, any summation order, by running error analysis.

    An error e of the input reaches a linear layer's output as |W| e. A dot product of n terms adds gamma(n) times
    sum |x| |w|, batch norm y = g c + (beta - g mean), g = gamma / sqrt(variance + epsilon), 8 roundings of its largest
    terms, a mean of T values gamma(T + 1) of the mean magnitude, ReLU nothing.
    """
    value, error = inputs, np.zeros_like(inputs)
    for record in segment:
        match record:
            case SplicedDenseRecord():
                weight = float64_weight(record)
                terms = weight.shape[0] * weight.shape[1]
                magnitude = spliced(np.abs(value) + error, record, np.abs(weight))
                error = spliced(error, record, np.abs(weight)) + gamma(terms) * magnitude
                value = spliced(value, record, weight)
            case DenseRecord():
                weight = float64_weight(record)
                magnitude = (np.abs(value) + error) @ np.abs(weight) + np.abs(record.bias)
                error = error @ np.abs(weight) + gamma(weight.shape[0] + 1) * magnitude
                value = value @ weight + record.bias
            case BatchNormRecord():
                gain = record.gamma / np.sqrt(record.variance.astype(np.float64) + record.epsilon)
                largest = np.abs(gain) * (np.abs(value) + error + np.abs(record.mean)) + np.abs(record.beta)
                error = np.abs(gain) * error + 8 * FLOAT32_UNIT * largest
                value = gain * (value - record.mean) + record.beta
            case ReluRecord():
                value = np.maximum(value, 0.0)
            case MeanOverTimeRecord():
                error = error.mean(axis=1) + gamma(value.shape[1] + 1) * (np.abs(value) + error).mean(axis=1)
                value = value.mean(axis=1)
            case FakeQuantizeRecord():
                pytest.fail("a segment ends before a quantizer")
    return error


def wrong_codes(model: Any, model_bytes: bytes) -> dict[str, int]:
    """Codes per quantizer that differ from Keras beyond what `rounding_bound` explains."""
    tensors = all_tensors(model_bytes, FEATURES)
    records = {record.name: record for record in layer_records(model)}
    wrong: dict[str, int] = {}
    segment: list[LayerRecord] = []
    given = FEATURES
    real = tf.constant(FEATURES)
    for layer in model.layers:
        record = records[layer.name]
        if not isinstance(record, FakeQuantizeRecord):
            segment.append(record)
            real = layer(real, training=False)
            continue
        codes = tensors[f"{layer.name}.codes"].astype(np.int32)
        codes = codes.transpose(0, 2, 1) if codes.ndim == 3 else codes
        bound = rounding_bound(segment, given.astype(np.float64))
        wrong[layer.name] = count_unexplained(record.spec, real.numpy(), codes, bound)
        given, segment = dequantize(codes, record.spec), []
        real = tf.constant(given)
    return wrong


def count_unexplained(
    spec: Affine, real: NDArray[np.float32], codes: NDArray[np.int32], bound: NDArray[np.float64]
) -> int:
    """Count codes to which no value within both sides' errors of Keras' value rounds."""
    scale, zero_point = float(spec.scale[0]), int(spec.zero_point[0])
    ratio = real.astype(np.float64) / scale
    # Both sides' errors, and one rounding of each side's quotient.
    reach = 2 * bound / scale + 2 * FLOAT32_UNIT * np.abs(ratio)
    lowest = np.clip(np.rint(ratio - reach) + zero_point, -128, 127)
    highest = np.clip(np.rint(ratio + reach) + zero_point, -128, 127)
    return int(((codes < lowest) | (codes > highest)).sum())


@pytest.mark.parametrize("name", SCHEMES)
def test_the_exported_file_computes_what_keras_computes(models: dict[str, Any], name: str) -> None:
    wrong = wrong_codes(models[name], exported(models[name]))
    assert len(wrong) == 8
    assert wrong == dict.fromkeys(wrong, 0)


@pytest.mark.parametrize("name", SCHEMES)
def test_the_bound_leaves_almost_every_code_decided(models: dict[str, Any], name: str) -> None:
    """A bound as wide as the grid would let anything pass: shifting every code by one must be seen nearly always."""
    layers = models[name].layers
    records = {record.name: record for record in layer_records(models[name])}
    tensors = all_tensors(exported(models[name]), FEATURES)
    segment = [records[layer.name] for layer in layers[1:4]]
    given = tensors["features_quantizer"].transpose(0, 2, 1)
    real = tensors["splice1_relu"].transpose(0, 2, 1)
    codes = tensors["splice1_quantizer.codes"].transpose(0, 2, 1).astype(np.int32)
    bound = rounding_bound(segment, given.astype(np.float64))
    seen = count_unexplained(records["splice1_quantizer"].spec, real, codes + 1, bound)
    assert seen > 0.95 * (codes < 127).sum()


@pytest.mark.parametrize("tensor", ["splice3.weight.codes", "splice2_quantizer.scale", "splice4_norm.beta"])
def test_the_comparison_notices_one_changed_number(models: dict[str, Any], tensor: str) -> None:
    model = onnx.load_from_string(exported(models["w4 two-stage"]))
    stored = next(initializer for initializer in model.graph.initializer if initializer.name == tensor)
    values = numpy_helper.to_array(stored).copy()
    flat = values.reshape(-1)
    flat[0] = flat[0] - np.sign(flat[0] + 0.5) if values.dtype == np.int8 else flat[0] * 1.01 + 0.1 * values.ndim
    stored.CopyFrom(numpy_helper.from_array(values, tensor))
    wrong = wrong_codes(models["w4 two-stage"], model.SerializeToString())
    assert sum(wrong.values()) > 0


def keras_axes(tensor: NDArray[np.generic]) -> NDArray[np.generic]:
    return tensor.transpose(0, 2, 1) if tensor.ndim == 3 else tensor


def float_excess(model: Any, model_bytes: bytes) -> dict[str, float]:
    """Largest |Keras - ONNX Runtime| over both sides' bounds, per layer, each layer fed what ONNX Runtime had."""
    tensors = all_tensors(model_bytes, FEATURES)
    excess = {}
    given: NDArray[np.generic] = FEATURES
    for record in layer_records(model):
        expected = keras_axes(tensors["logits" if record.name == "classifier" else record.name])
        computed = model.get_layer(record.name)(tf.constant(given), training=False).numpy()
        bound = 2 * rounding_bound([record], given.astype(np.float64))
        excess[record.name] = float((np.abs(computed - expected) - bound).max())
        given = expected
    return excess


def test_the_float_file_computes_what_keras_computes(models: dict[str, Any]) -> None:
    file = exported(models["float"])
    excess = float_excess(models["float"], file)
    assert {name for name, worst in excess.items() if worst > 0} == set()
    models["float"].get_layer("splice3_norm").beta.assign_add(tf.constant(1e-3, shape=(104,)))
    excess = float_excess(models["float"], file)
    assert {name for name, worst in excess.items() if worst > 0} == {"splice3_norm"}
