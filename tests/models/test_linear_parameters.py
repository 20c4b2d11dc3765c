"""Few-bit biases, gains and batch norms: on a power-of-two grid, straight-through, and exported as they compute."""

from typing import Any

import numpy as np
import onnx
import pytest
import tensorflow as tf
from conversion import assert_faithful, codes_of, convert
from keyword_cases import BANDS, FRAMES, synthetic_keywords

from kwsq.models.export_onnx import export_onnx
from kwsq.models.kws_ff.model import build
from kwsq.models.layer_records import BatchNormRecord, DenseRecord
from kwsq.models.layers import QuantizedDense, adopt_weights, layer_records
from kwsq.models.linear_parameters import QuantizedBatchNorm, on_linear_grid
from kwsq.models.schemes import FloatWeights, TwoStage
from kwsq.models.train import calibrate


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("largest", [1.0, 0.37, 1000.0, 2.0**-7 * 127])
def test_values_are_symmetric_codes_of_the_smallest_fitting_power_of_two(bits: int, largest: float) -> None:
    top = 2 ** (bits - 1) - 1
    values = np.append(np.random.default_rng(bits).uniform(-largest, largest, 50), largest).astype(np.float32)
    scale = 2.0 ** np.ceil(np.log2(np.float64(np.float32(largest)) / top) - 1e-12)
    found = on_linear_grid(tf.constant(values), bits).numpy()
    np.testing.assert_array_equal(found, scale * np.clip(np.rint(values / scale), -top, top))


def test_gradients_pass_the_rounding() -> None:
    values = tf.constant([0.3, -0.7, 1.0])
    with tf.GradientTape() as tape:
        tape.watch(values)
        total = tf.reduce_sum(on_linear_grid(values, 4) * [1.0, 2.0, 3.0])
    np.testing.assert_array_equal(tape.gradient(total, values), [1.0, 2.0, 3.0])


def norm() -> QuantizedBatchNorm:
    layer = QuantizedBatchNorm(8)
    layer.build((None, 6))
    rng = np.random.default_rng(3)
    arrays = [rng.uniform(0.5, 2, 6), rng.normal(size=6), rng.normal(size=6), rng.uniform(0.5, 2, 6)]
    layer.set_weights([*(array.astype(np.float32) for array in arrays), np.float32(0.0)])
    return layer


def test_a_quantized_batch_norm_is_near_the_plain_one_and_ignores_the_batch() -> None:
    layer, inputs = norm(), np.random.default_rng(5).normal(size=(40, 6)).astype(np.float32)
    plain = layer(inputs, training=False).numpy()
    layer.quantize()
    merged = layer(inputs, training=True).numpy()
    np.testing.assert_array_equal(merged, layer(inputs, training=False))
    gain, offset = (array.numpy() for array in layer.gain_and_offset())
    # A grid of step at most 2 max / 127 moves each by half a step.
    step = np.abs(gain).max() / 127 * np.abs(inputs).max() + np.abs(offset).max() / 127
    assert 0 < np.abs(merged - plain).max() < 1.1 * step


@pytest.fixture(scope="module")
def everything() -> Any:
    model = build(TwoStage(4, parameter_bits=8))
    adopt_weights(model, build(FloatWeights()))
    calibrate(model, synthetic_keywords(24, seed=1).features, 100.0)
    return model


def test_everything_of_kws_ff_is_on_few_bits_and_converts(everything: Any) -> None:
    records = layer_records(everything)
    for record in records:
        if isinstance(record, BatchNormRecord):
            assert (record.mean == 0).all()
            assert (record.variance == 1).all()
        for values in few_bit_values(record):
            np.testing.assert_array_equal(values, on_linear_grid(tf.constant(values), 8))
    converted = convert(onnx.load_from_string(export_onnx(records, (FRAMES, BANDS), name="all")), None, weight_bits=4)
    held_out = synthetic_keywords(4, seed=2).features.transpose(0, 2, 1)
    assert_faithful(converted, codes_of(converted.graph, {"features": np.ascontiguousarray(held_out)}))


def few_bit_values(record: Any) -> list[Any]:
    if isinstance(record, BatchNormRecord):
        return [record.gamma, record.beta]
    return [record.bias] if isinstance(record, DenseRecord) else []


def test_a_dense_bias_is_quantized_after_calibration_only() -> None:
    layer = QuantizedDense(3, scheme=TwoStage(4, parameter_bits=4))
    layer.build((None, 2))
    layer.bias.assign([0.11, 0.52, -0.93])
    zeros = np.zeros((1, 2), np.float32)
    np.testing.assert_array_equal(layer(zeros)[0], np.float32([0.11, 0.52, -0.93]))
    layer.quantize()
    np.testing.assert_array_equal(layer(zeros)[0], on_linear_grid(layer.bias, 4))
