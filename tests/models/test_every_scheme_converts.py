"""Every weight scheme, trained a few steps, exported and converted on the exact path: what four executors say."""

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import tensorflow as tf
import tf_keras
from conversion import assert_faithful, codes_of, convert, real_of
from keyword_cases import BANDS, FRAMES, synthetic_keywords
from numpy.typing import NDArray

from kwsq.ir.execute.integer import run_integer
from kwsq.models.data import LABELS
from kwsq.models.export_onnx import export_onnx
from kwsq.models.layer_records import DenseRecord
from kwsq.models.layers import MeanOverTime, QuantizedDense, SplicedDense, adopt_weights, layer_records
from kwsq.models.quantizers import ActivationQuantizer
from kwsq.models.schemes import FloatWeights, WeightScheme, weight_scheme
from kwsq.models.train import calibrate

HELD_OUT = synthetic_keywords(48, seed=2)
TRAINING = synthetic_keywords(96, seed=1)
CASES = [
    *(("two_stage", bits) for bits in (1, 2, 4, 8)),
    *(("learned_step", bits) for bits in (1, 2, 3)),
    *((name, bits) for name in ("max_abs", "dorefa") for bits in (1, 4)),
    *((name, bits) for name in ("lloyd_max", "s8bqat", "gq") for bits in (2, 4)),
]


def build(scheme: WeightScheme) -> Any:
    layers: list[Any] = [tf_keras.Input((FRAMES, BANDS)), ActivationQuantizer(name="in")]
    layers.append(SplicedDense(24, taps=5, stride=3, scheme=scheme, name="splice"))
    layers += [tf_keras.layers.BatchNormalization(momentum=0.8, name="norm"), tf_keras.layers.ReLU(name="relu")]
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


def by_onnxruntime(file: bytes) -> NDArray[np.float32]:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"features": channels_first()})[0])


def channels_first() -> NDArray[np.float32]:
    return np.ascontiguousarray(HELD_OUT.features.transpose(0, 2, 1))


def undecided(scores: NDArray[np.float32], step: float) -> NDArray[np.bool_]:
    """Clips whose two best scores are so close that both moving by two codes may swap them."""
    best = np.sort(scores, axis=1)[:, ::-1]
    return np.asarray(best[:, 0] - best[:, 1] <= 4 * step)


@pytest.mark.parametrize(("name", "bits"), CASES)
def test_four_executors_decide_alike(float_model: Any, name: str, bits: int) -> None:
    model = build(weight_scheme(name, bits))
    adopt_weights(model, float_model)
    fit(model, steps=4, rate=1e-3)
    calibrate(model, TRAINING.features, 100.0)
    records = layer_records(model)
    file = export_onnx(records, (FRAMES, BANDS), name="small")
    converted = convert(onnx.load_from_string(file), None, weight_bits=bits)

    dense = next(record for record in records if isinstance(record, DenseRecord))
    stored = np.asarray(converted.graph["classifier.weight"].data)
    np.testing.assert_array_equal(stored, dense.weight.values.T)

    codes = codes_of(converted.graph, {"features": channels_first()})
    assert_faithful(converted, {"features": codes["features"][:8]})
    integers = real_of(converted.graph, dict(run_integer(converted.graph, codes)))["logits"]
    runtime, keras = by_onnxruntime(file), model(HELD_OUT.features, training=False).numpy()
    close = undecided(runtime, float(np.asarray(converted.graph["logits"].scale)[0]))
    for other in (integers.reshape(runtime.shape), keras):
        assert (close | (other.argmax(axis=1) == runtime.argmax(axis=1))).all()
    assert (integers.reshape(runtime.shape).argmax(axis=1) == runtime.argmax(axis=1)).mean() > 0.8
