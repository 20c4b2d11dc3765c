"""Fixed point: Keras computes the integers of `kwsq.ir`, in training and out of it, and the file says which."""

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import tensorflow as tf
import tf_keras
from conversion import convert
from keyword_cases import BANDS, FRAMES, synthetic_keywords
from numpy.typing import NDArray

from kwsq.ir.execute.narrow import METADATA_KEY, overflow_proofs, run_narrow
from kwsq.ir.numerics.accumulator import Accumulator, saturating_sums
from kwsq.ir.quant import Affine
from kwsq.models.data.clips import LABELS
from kwsq.models.export_onnx import ACCUMULATOR_KEY, export_onnx
from kwsq.models.layers.fixed_point import FEATURE_GAIN, FixedPointInput, FixedPointLayer, FixedPointMean
from kwsq.models.layers.over_maps import AddChannel, MeanOverMap, QuantizedConv2D
from kwsq.models.layers.over_time import MeanOverTime, QuantizedDense, SplicedDense
from kwsq.models.layers.sequential import adopt_weights, layer_records
from kwsq.models.quantizers.activation import ActivationQuantizer
from kwsq.models.records import FakeQuantizeRecord
from kwsq.models.schemes import FixedPoint, FloatWeights

HELD_OUT = synthetic_keywords(48, seed=2)
MAP_LAYERS = ((12, (4, 4), (4, 2)), (20, (3, 3), (2, 2)))


def float_model() -> Any:
    """A small network with batch norms that do something."""
    tf_keras.utils.set_random_seed(3)
    layers: list[Any] = [tf_keras.Input((FRAMES, BANDS)), ActivationQuantizer()]
    for number, (units, stride) in enumerate(((24, 3), (20, 2)), start=1):
        layers.append(SplicedDense(units, taps=5, stride=stride, scheme=FloatWeights(), name=f"splice{number}"))
        layers += [tf_keras.layers.BatchNormalization(name=f"splice{number}_norm"), tf_keras.layers.ReLU()]
    layers += [MeanOverTime(), QuantizedDense(len(LABELS), scheme=FloatWeights(), name="classifier")]
    model = tf_keras.Sequential(layers)
    fit(model, steps=40, rate=1e-2)
    return model


def float_map_model() -> Any:
    """The same over a map; its first layer has few products, its second an odd number of positions."""
    tf_keras.utils.set_random_seed(4)
    layers: list[Any] = [tf_keras.Input((FRAMES, BANDS)), AddChannel(), ActivationQuantizer()]
    for number, (units, kernel, stride) in enumerate(MAP_LAYERS, start=1):
        options: dict[str, Any] = {"kernel": kernel, "stride": stride, "scheme": FloatWeights()}
        layers.append(QuantizedConv2D(units, **options, name=f"conv{number}"))
        layers += [tf_keras.layers.BatchNormalization(name=f"conv{number}_norm"), tf_keras.layers.ReLU()]
    layers += [MeanOverMap(), QuantizedDense(len(LABELS), scheme=FloatWeights(), name="classifier")]
    model = tf_keras.Sequential(layers)
    fit(model, steps=40, rate=1e-2)
    return model


def fixed_point_map_model(scheme: FixedPoint) -> Any:
    layers: list[Any] = [tf_keras.Input((FRAMES, BANDS)), AddChannel(), FixedPointInput(name="in")]
    for number, (units, kernel, stride) in enumerate(MAP_LAYERS, start=1):
        gain = FEATURE_GAIN if number == 1 else 1.0
        options: dict[str, Any] = {"kernel": kernel, "stride": stride, "input_gain": gain, "scheme": scheme}
        layers.append(FixedPointLayer(units, **options, name=f"conv{number}"))
    last = FixedPointLayer(len(LABELS), scheme=scheme, relu=False, name="classifier")
    return tf_keras.Sequential([*layers, FixedPointMean(name="mean"), last])


def fixed_point_model(scheme: FixedPoint) -> Any:
    first = FixedPointLayer(24, scheme=scheme, kernel=(5,), stride=(3,), input_gain=FEATURE_GAIN, name="splice1")
    second = FixedPointLayer(20, scheme=scheme, kernel=(5,), stride=(2,), name="splice2")
    last = FixedPointLayer(len(LABELS), scheme=scheme, relu=False, name="classifier")
    inputs = tf_keras.Input((FRAMES, BANDS))
    return tf_keras.Sequential([inputs, FixedPointInput(name="in"), first, second, FixedPointMean(name="mean"), last])


def fit(model: Any, *, steps: int, rate: float) -> None:
    examples, optimizer = synthetic_keywords(96, seed=1), tf_keras.optimizers.Adam(rate)
    for _ in range(steps):
        with tf.GradientTape() as tape:
            logits = model(examples.features, training=True)
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(examples.labels, logits))
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))


SCHEMES = [FixedPoint(4), FixedPoint(8), FixedPoint(4, accumulator_bits=32), FixedPoint(8, accumulator_bits=32)]
NETWORKS = {"frames": (float_model, fixed_point_model), "map": (float_map_model, fixed_point_map_model)}
CASES = [(network, scheme) for network in NETWORKS for scheme in SCHEMES]


@pytest.fixture(scope="module", params=CASES, ids=lambda case: f"{case[0]} w{case[1].bits} {case[1].accumulator}")
def trained(request: pytest.FixtureRequest) -> Any:
    network, scheme = request.param
    floats, fixed = NETWORKS[network]
    model = fixed(scheme)
    adopt_weights(model, floats())
    fit(model, steps=3, rate=1e-3)
    return model


def codes_of(model: Any, logits: Any) -> NDArray[np.int64]:
    return np.rint(np.asarray(logits) * 128.0 / float(model.layers[-1].output_gain)).astype(np.int64)


def exported(model: Any) -> onnx.ModelProto:
    return onnx.load_from_string(export_onnx(layer_records(model), (FRAMES, BANDS), name="fixed"))


def features_of(file: onnx.ModelProto) -> NDArray[np.float32]:
    """The features of the held-out clips in the order and rank of the file's input: time comes last but in maps."""
    rank = len(file.graph.input[0].type.tensor_type.shape.dim)
    return HELD_OUT.features.transpose(0, 2, 1) if rank == 3 else HELD_OUT.features[:, None]


def lowered(model: Any) -> tuple[Any, NDArray[np.int8], Accumulator]:
    """The integer graph of the exported file, features on its input grid, and the accumulator the file names."""
    file = exported(model)
    named = {entry.key: entry.value for entry in file.metadata_props}[METADATA_KEY]
    steps = np.rint(features_of(file) * (128.0 / FEATURE_GAIN))
    return convert(file, None).graph, np.clip(steps, -128, 127).astype(np.int8), Accumulator.parse(named)


def test_the_executor_reproduces_keras_bit_for_bit(trained: Any) -> None:
    graph, codes, accumulator = lowered(trained)
    run = run_narrow(graph, {graph.inputs[0]: codes}, accumulator)
    for layer in trained.layers:
        if isinstance(layer, FixedPointLayer):
            layer.saturated.assign(0)
    expected = codes_of(trained, trained(HELD_OUT.features, training=False))
    np.testing.assert_array_equal(run.outputs[graph.outputs[0]].reshape(expected.shape), expected)
    assert np.unique(expected).size > (20 if len(graph[graph.inputs[0]].shape) == 3 else 12)
    counted = [int(layer.saturated) for layer in trained.layers if isinstance(layer, FixedPointLayer)]
    assert list(run.saturated.values()) == counted


def test_without_narrowing_and_cuts_onnx_runtime_gives_the_same_codes(trained: Any) -> None:
    graph, codes, accumulator = lowered(trained)
    narrow = run_narrow(graph, {graph.inputs[0]: codes}, accumulator)
    model = exported(trained)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found = codes_of(trained, session.run(None, {session.get_inputs()[0].name: features_of(model)})[0])
    equal = np.array_equal(narrow.outputs[graph.outputs[0]].reshape(found.shape), found)
    assert equal == (accumulator.shift == 0)
    assert sum(narrow.saturated.values()) == 0


def test_training_and_inference_see_the_same_integers(trained: Any) -> None:
    in_training = trained(HELD_OUT.features, training=True)
    np.testing.assert_array_equal(in_training, trained(HELD_OUT.features, training=False))


def test_the_overflow_proof_holds_or_names_channels(trained: Any) -> None:
    graph, _, accumulator = lowered(trained)
    proofs = overflow_proofs(graph, accumulator)
    assert len(proofs) == 3
    for proof in proofs.values():
        assert proof.proven == (proof.worst <= accumulator.high) == (not proof.channels)
    assert all(proof.proven for proof in proofs.values()) or accumulator.bits == 16


def test_plain_weights_start_as_squashed_ones_do_and_pass_gradients_whole() -> None:
    layers = [FixedPointLayer(3, scheme=FixedPoint(4, squash=squash), name="dense") for squash in (True, False)]
    codes = np.linspace(-7.9, 7.9, 15).reshape(5, 3)
    for layer in layers:
        layer.build((None, 5))
        layer.adopt(codes, np.zeros(3))
    squashed, plain = (weights_of(layer) for layer in layers)
    np.testing.assert_array_equal(plain, squashed)
    np.testing.assert_array_equal(plain.T, np.clip(np.rint(codes), -7, 7))
    slopes = []
    for layer in layers:
        with tf.GradientTape() as tape:
            total = tf.reduce_sum(layer.weight_codes())
        slopes.append(tape.gradient(total, layer.parameter).numpy() / 8.0)
    inside = np.abs(codes) <= 7
    np.testing.assert_array_equal(slopes[1], inside)
    np.testing.assert_allclose(slopes[0], np.where(inside, 1.0 - (codes / 8.0) ** 2, 0.0), atol=1e-6)


@pytest.mark.parametrize("network", NETWORKS)
def test_adoption_keeps_what_the_float_model_decides(network: str) -> None:
    floats, fixed = NETWORKS[network]
    source, model = floats(), fixed(FixedPoint(8))
    adopt_weights(model, source)
    wanted = source(HELD_OUT.features, training=False).numpy().argmax(axis=1)
    found = model(HELD_OUT.features, training=False).numpy().argmax(axis=1)
    # Eight bits throughout: a few close calls of 48 may differ; chance is 4 of 48.
    assert (wanted == found).mean() > 0.8


@pytest.mark.parametrize("network", NETWORKS)
def test_an_output_step_is_a_whole_number_of_steps_of_sums_whatever_the_weights(network: str) -> None:
    """Weights a thousand times as large ask for less than one."""
    floats, fixed = NETWORKS[network]
    source, model = floats(), fixed(FixedPoint(3))
    for layer in source.layers:
        if hasattr(layer, "parameter"):
            layer.parameter.assign(layer.parameter * 1000.0)
    adopt_weights(model, source)
    layers = [layer for layer in model.layers if isinstance(layer, FixedPointLayer)]
    assert all(float(layer.output_steps.numpy()) >= 2.0**layer.accumulator.shift for layer in layers)
    assert exported(model).graph.node


@pytest.mark.parametrize("group", [1, 3, 16])
@pytest.mark.parametrize("training", [True, False])
def test_saturation_in_keras_is_that_of_the_reference(group: int, training: bool) -> None:
    """Positive products first: cut at the top, the sum then comes back into the range of the output."""
    scheme = FixedPoint(4, group=group)
    layer = FixedPointLayer(6, scheme=scheme, relu=False)
    layer.build((None, 120))
    rng = np.random.default_rng(group)
    signs = np.where(np.arange(120) < 67, 1.0, -1.0)[:, None]
    layer.parameter.assign((signs * rng.uniform(0.7, 1.8, size=(120, 6))).astype(np.float32))
    codes = np.clip(rng.normal(100, 10, size=(32, 120)), -128, 127).astype(np.int8)
    weights, found = weights_of(layer), layer(codes.astype(np.float32) / 128.0, training=training).numpy() * 128.0
    sums, cuts = saturating_sums(codes, weights, np.zeros(6, np.int32), scheme.accumulator)
    np.testing.assert_array_equal(found, rounded_once(sums / float(layer.output_steps)))
    assert int(layer.saturated) == (0 if training else cuts)
    plain = codes.astype(np.int64) @ weights.T.astype(np.int64)
    assert (found != rounded_once(plain / float(layer.output_steps))).any()


@pytest.mark.parametrize("training", [True, False])
def test_a_bias_that_leaves_the_accumulator_is_cut_as_in_the_reference(training: bool) -> None:
    """Output shift 9: bias codes beyond +-64 leave 16 bits."""
    scheme = FixedPoint(4)
    layer = FixedPointLayer(6, scheme=scheme, relu=False)
    layer.build((None, 120))
    layer.output_steps.assign(2.0**9)
    rng = np.random.default_rng(5)
    layer.parameter.assign(rng.uniform(-1.8, 1.8, size=(120, 6)).astype(np.float32))
    layer.bias.assign([127 / 128, -1.0, 65 / 128, -65 / 128, 0.25, 0.0])
    codes = rng.integers(-128, 128, size=(100, 120)).astype(np.int8)
    found = layer(codes.astype(np.float32) / 128.0, training=training).numpy() * 128.0
    bias = (layer.bias_codes().numpy() * 2**9).astype(np.int32)
    sums, cuts = saturating_sums(codes, weights_of(layer), bias, scheme.accumulator)
    np.testing.assert_array_equal(found, rounded_once(sums / 2.0**9))
    assert int(layer.saturated) == (0 if training else cuts)
    assert cuts >= 4 * 100


def rounded_once(steps: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ties go to even."""
    return np.clip(np.rint(steps), -128, 127)


def weights_of(layer: FixedPointLayer) -> NDArray[np.int8]:
    return np.ascontiguousarray(layer.weight_codes().numpy().T.astype(np.int8))


def test_gradients_stop_at_cut_outputs_and_pass_roundings() -> None:
    layer = FixedPointLayer(2, scheme=FixedPoint(4), relu=True)
    layer.build((None, 4))
    layer.parameter.assign(np.full((4, 2), 0.5, np.float32) * [1.0, -1.0])
    inputs = tf.constant(np.full((1, 4), 0.25, np.float32))
    with tf.GradientTape() as tape:
        outputs = layer(inputs, training=True)
    slope = tape.gradient(outputs, layer.parameter).numpy()
    # y = sum w x 2^-4 with w = 8 tanh P: dy/dP = x 8 (1 - tanh(P)^2) / 16.
    np.testing.assert_allclose(slope[:, 0], 0.25 * 8 * (1 - np.tanh(0.5) ** 2) / 16, rtol=1e-6)
    np.testing.assert_array_equal(slope[:, 1], 0.0)


def test_every_scale_is_a_power_of_two_and_the_file_names_the_accumulator(trained: Any) -> None:
    assert ACCUMULATOR_KEY == METADATA_KEY
    for record in layer_records(trained):
        specs = [record.spec] if isinstance(record, FakeQuantizeRecord) else []
        specs += [record.weight.spec] if hasattr(record, "weight") else []
        for spec in specs:
            assert isinstance(spec, Affine)
            assert np.log2(spec.scale[0]) % 1 == 0
            assert spec.zero_point[0] == 0
