"""Every weight scheme, trained a few steps, exported and converted on the exact path: what four executors say."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tensorflow as tf
import tf_keras
from conversion import assert_faithful, codes_of, convert, real_of
from keyword_cases import BANDS, FRAMES, synthetic_keywords
from numpy.typing import NDArray
from onnx import numpy_helper

from kwsq.converter.config import ConvertOptions
from kwsq.converter.driver import run_conversion
from kwsq.ir.execute.integer import run_integer
from kwsq.models.data.clips import LABELS
from kwsq.models.export_onnx import QONNX_DOMAIN, export_onnx
from kwsq.models.layers.calibration import calibrate
from kwsq.models.layers.over_time import MeanOverTime, QuantizedDense, SplicedDense, batch_norm
from kwsq.models.layers.sequential import adopt_weights, layer_records
from kwsq.models.quantizers.activation import ActivationQuantizer
from kwsq.models.records import DenseRecord, SplicedDenseRecord
from kwsq.models.schemes import FloatWeights, WeightScheme, weight_scheme
from kwsq.models.scoring.accuracy import logits
from kwsq.targets.neon.reader import read

ONE_BIT = ("two_stage", "learned_step", "max_abs", "dorefa")
HELD_OUT = synthetic_keywords(48, seed=2)
TRAINING = synthetic_keywords(96, seed=1)
CASES = [
    *(("two_stage", bits) for bits in (1, 2, 4, 8)),
    *(("learned_step", bits) for bits in (1, 2, 3)),
    *((name, bits) for name in ("max_abs", "dorefa") for bits in (1, 4)),
    *((name, bits) for name in ("lloyd_max", "s8bqat", "gq") for bits in (2, 4)),
]
PER_CHANNEL = {"per_channel": True}
PER_CHANNEL_CASES = [
    *(("two_stage", bits, PER_CHANNEL) for bits in (1, 2, 4, 8)),
    *(("learned_step", bits, PER_CHANNEL) for bits in (1, 3)),
    *(("max_abs", bits, PER_CHANNEL) for bits in (1, 4)),
    ("learned_step", 4, PER_CHANNEL | {"power_of_two": True}),
    ("two_stage", 4, PER_CHANNEL | {"power_of_two": True, "parameter_bits": 8}),
]


def build(scheme: WeightScheme) -> Any:
    layers: list[Any] = [tf_keras.Input((FRAMES, BANDS)), ActivationQuantizer(name="in")]
    layers.append(SplicedDense(24, taps=5, stride=3, scheme=scheme, name="splice"))
    norm = batch_norm(scheme, "norm")
    norm.momentum = 0.8
    layers += [norm, tf_keras.layers.ReLU(name="relu")]
    layers += [ActivationQuantizer(name="hidden"), MeanOverTime(name="mean"), ActivationQuantizer(name="means")]
    layers += [QuantizedDense(len(LABELS), scheme=scheme, name="classifier"), ActivationQuantizer(name="out")]
    return tf_keras.Sequential(layers)


def fit(model: Any, *, steps: int, rate: float) -> None:
    optimizer = tf_keras.optimizers.Adam(rate)
    for _ in range(steps):
        with tf.GradientTape() as tape:
            scores = model(TRAINING.features, training=True)
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(TRAINING.labels, scores))
            loss += tf.add_n(model.losses) if model.losses else 0.0
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))


@pytest.fixture(scope="module")
def float_model() -> Any:
    tf_keras.utils.set_random_seed(3)
    model = build(FloatWeights())
    fit(model, steps=30, rate=1e-2)
    return model


def channels_first() -> NDArray[np.float32]:
    return np.ascontiguousarray(HELD_OUT.features.transpose(0, 2, 1))


def undecided(scores: NDArray[np.float32], step: float) -> NDArray[np.bool_]:
    """Clips whose two best scores are so close that both moving by two codes may swap them."""
    best = np.sort(scores, axis=1)[:, ::-1]
    return np.asarray(best[:, 0] - best[:, 1] <= 4 * step)


def trained(float_model: Any, name: str, bits: int, *, steps: int = 4, **options: Any) -> Any:
    """Train a scheme a few steps, as a recipe would."""
    model = build(weight_scheme(name, bits, **options))
    adopt_weights(model, float_model)
    if "per_channel" in options:
        for layer in ("splice", "classifier"):
            model.get_layer(layer).adopt(uneven(float_model.get_layer(layer).parameter.numpy()))
    fit(model, steps=steps, rate=1e-3)
    calibrate(model, TRAINING.features, 100.0)
    return model


def uneven(weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """Every other output channel at a quarter of its size: scales then differ where they are powers of two as well."""
    return weight * np.where(np.arange(weight.shape[-1]) % 2, np.float32(0.25), np.float32(1.0))


def is_qonnx(file: bytes) -> bool:
    return QONNX_DOMAIN in {opset.domain for opset in onnx.load_from_string(file).opset_import}


@pytest.mark.parametrize(("name", "bits", "options"), [*((*case, {}) for case in CASES), *PER_CHANNEL_CASES])
def test_four_executors_decide_alike(
    float_model: Any, name: str, bits: int, options: dict[str, Any], tmp_path: Path
) -> None:
    model = trained(float_model, name, bits, **options)
    records = layer_records(model)
    file = export_onnx(records, (FRAMES, BANDS), name="small")
    converted = convert(onnx.load_from_string(file), None, weight_bits=bits)

    dense = next(record for record in records if isinstance(record, DenseRecord))
    stored = np.asarray(converted.graph["classifier.weight"].data)
    np.testing.assert_array_equal(stored, dense.weight.values.T)
    np.testing.assert_array_equal(converted.graph["classifier.weight"].scale, dense.weight.spec.scale)
    assert np.unique(dense.weight.spec.scale).size > 1 or "per_channel" not in options

    codes = codes_of(converted.graph, {"features": channels_first()})
    assert_faithful(converted, {"features": codes["features"][:8]})
    integers = real_of(converted.graph, dict(run_integer(converted.graph, codes)))["logits"]
    (tmp_path / "small.onnx").write_bytes(file)
    runtime, keras = (
        logits(tmp_path / "small.onnx", HELD_OUT.features),
        model(HELD_OUT.features, training=False).numpy(),
    )
    close = undecided(runtime, float(np.asarray(converted.graph["logits"].scale)[0]))
    for other in (integers.reshape(runtime.shape), keras):
        assert (close | (other.argmax(axis=1) == runtime.argmax(axis=1))).all()
    assert (integers.reshape(runtime.shape).argmax(axis=1) == runtime.argmax(axis=1)).mean() > 0.8
    assert is_qonnx(file) == (name in ONE_BIT and bits == 1)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_a_network_with_an_empty_channel_converts(float_model: Any, bits: int) -> None:
    """Scales far below the others would leave no room for its bias, and one-bit codes have no zero to take instead."""
    source = build(FloatWeights())
    adopt_weights(source, float_model)
    classifier = source.get_layer("classifier")
    classifier.parameter.assign(classifier.parameter * np.where(np.arange(len(LABELS)) == 3, 0.0, 1.0))
    classifier.bias.assign(np.ones(len(LABELS)))
    model = trained(source, "learned_step", bits, steps=0, per_channel=True)
    converted = convert(onnx.load_from_string(export_onnx(layer_records(model), (FRAMES, BANDS), name="small")), None)
    scale = np.asarray(converted.graph["classifier.weight"].scale)
    assert scale[3] == scale.max() * 2.0**-16
    assert_faithful(converted, {"features": codes_of(converted.graph, {"features": channels_first()})["features"][:8]})


def with_negated_sign(file: bytes, name: str) -> bytes:
    """The file with the first stored sign of a weight turned."""
    model = onnx.load_from_string(file)
    stored = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    signs = numpy_helper.to_array(stored).copy()
    signs.flat[0] *= -1
    stored.CopyFrom(numpy_helper.from_array(signs, name))
    return model.SerializeToString()


@pytest.mark.parametrize(
    ("name", "options"), [*((name, {}) for name in ONE_BIT), ("learned_step", PER_CHANNEL), ("max_abs", PER_CHANNEL)]
)
def test_every_one_bit_scheme_reaches_the_artefact_through_qonnx(
    float_model: Any, name: str, options: dict[str, Any], tmp_path: Path
) -> None:
    model = trained(float_model, name, 1, **options)
    records, path = layer_records(model), tmp_path / "w1.onnx"
    path.write_bytes(export_onnx(records, (FRAMES, BANDS), name="w1"))
    weights = {r.name: r.weight for r in records if isinstance(r, SplicedDenseRecord | DenseRecord)}
    stored = {t.name: numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}
    for layer, weight in weights.items():
        assert stored[f"{layer}.weight.signs"].dtype == np.float32
        np.testing.assert_array_equal(stored[f"{layer}.weight.signs"], weight.values.transpose())
        assert stored[f"{layer}.weight.scale"].tobytes() == weight.spec.scale.tobytes()

    # The driver's parity: the emitted bytes against the file read again, the integer reference and the QONNX source.
    conversion = run_conversion(ConvertOptions(model=path, target="neon", weight_bits=1, parity_inputs=8))
    assert conversion.exit_code == 0
    emitted = {tensor.name: tensor for tensor in read(conversion.artefact.proven_bytes, "w1").main.tensors}
    for layer, weight in weights.items():
        codes = np.frombuffer(emitted[f"{layer}.weight"].data, np.int8)
        # (K, C_in, C_out) and (C_in, C_out), channels of the output first.
        np.testing.assert_array_equal(codes, np.moveaxis(weight.values, -1, 0).reshape(-1))
        assert set(codes.tolist()) == {-1, 1}


def test_a_turned_sign_is_noticed_before_and_after_conversion(float_model: Any, tmp_path: Path) -> None:
    path, model = tmp_path / "w1.onnx", trained(float_model, "max_abs", 1)
    file = export_onnx(layer_records(model), (FRAMES, BANDS), name="w1")
    changed = with_negated_sign(file, "classifier.weight.signs")
    plain, turned = (convert(onnx.load_from_string(each), None, weight_bits=1).graph for each in (file, changed))
    codes = [np.asarray(graph["classifier.weight"].data) for graph in (plain, turned)]
    assert (codes[0] != codes[1]).sum() == 1
    scores = []
    for each in (file, changed):
        path.write_bytes(each)
        scores.append(logits(path, HELD_OUT.features))
    differs = scores[0] != scores[1]
    assert differs[:, 0].any()
    assert not differs[:, 1:].any()
