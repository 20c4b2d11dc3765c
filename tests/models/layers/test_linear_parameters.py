"""Few-bit biases, gains and batch norms: on a power-of-two grid, straight-through, and exported as they compute."""

from importlib import import_module
from typing import Any

import numpy as np
import onnx
import pytest
import tensorflow as tf
import tf_keras
from conversion import assert_faithful, codes_of, convert
from keyword_cases import BANDS, FRAMES, synthetic_keywords

from kwsq.models.export_onnx import export_onnx
from kwsq.models.kws_ff.model import build
from kwsq.models.layers.calibration import calibrate
from kwsq.models.layers.linear_parameters import QuantizedBatchNorm, on_linear_grid
from kwsq.models.layers.over_time import QuantizedDense
from kwsq.models.layers.sequential import adopt_weights, layer_records
from kwsq.models.quantizers.activation import use_ranges
from kwsq.models.records import BatchNormRecord, DenseRecord, FakeQuantizeRecord, SplicedDenseRecord
from kwsq.models.schemes import ActivationRanges, FloatWeights, TwoStage


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
    gain, bias = (np.abs(array.numpy()).max() for array in layer.gain_and_bias())
    # A grid of step at most 2 max / 127 moves each by half a step: (g + dg)(x + b + db) - g (x + b).
    step = gain / 127 * (np.abs(inputs).max() + bias + bias / 127) + gain * bias / 127
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
            assert (record.beta == 0).all()
            assert (record.variance == 1).all()
        for values in few_bit_values(record):
            np.testing.assert_array_equal(values, on_linear_grid(tf.constant(values), 8))
    converted = convert(onnx.load_from_string(export_onnx(records, (FRAMES, BANDS), name="all")), None, weight_bits=4)
    held_out = synthetic_keywords(4, seed=2).features.transpose(0, 2, 1)
    assert_faithful(converted, codes_of(converted.graph, {"features": np.ascontiguousarray(held_out)}))


@pytest.mark.parametrize("bits", [1, 4, 8])
def test_with_power_of_two_scales_every_bias_is_a_whole_number_of_accumulator_steps(bits: int) -> None:
    source = build(FloatWeights())
    for layer in source.layers:
        if layer.name.endswith("_norm"):
            rng = np.random.default_rng(bits)
            width = layer.gamma.shape[0]
            layer.gamma.assign(rng.uniform(0.5, 2.0, width))
            layer.beta.assign(rng.normal(size=width))
    source.layers[-2].bias.assign(np.random.default_rng(1).normal(size=12))
    model = build(TwoStage(bits, parameter_bits=8, power_of_two=True))
    adopt_weights(model, source)
    use_ranges(model, ActivationRanges.POWER_OF_TWO)
    calibrate(model, synthetic_keywords(24, seed=1).features, 100.0)
    counted, step, input_scale = 0, 0.0, 0.0
    for record in layer_records(model):
        if isinstance(record, FakeQuantizeRecord):
            input_scale = float(record.spec.scale[0])
        elif isinstance(record, SplicedDenseRecord | DenseRecord):
            step = input_scale * float(record.weight.spec.scale[0])
        bias = bias_before_the_gain(record)
        if bias is not None:
            codes = bias.astype(np.float64) / step
            np.testing.assert_array_equal(codes, np.rint(codes))
            assert np.abs(codes).max() > 0
            counted += 1
    assert counted == 6


def bias_before_the_gain(record: Any) -> Any:
    if isinstance(record, BatchNormRecord):
        return record.mean
    return record.bias if isinstance(record, DenseRecord) else None


def test_no_gain_is_coded_zero() -> None:
    values = tf.constant([1.0, 1e-5, -1e-5, 0.0])
    step = float(on_linear_grid(values, 8, has_zero=False)[1])
    np.testing.assert_array_equal(on_linear_grid(values, 8, has_zero=False) / step, [64, 1, -1, 1])
    assert (on_linear_grid(values, 8)[1:].numpy() == 0).all()


@pytest.mark.parametrize("architecture", ["kws_ff", "kws_cnn", "ds_cnn"])
def test_no_network_leaves_a_batch_norm_in_float(architecture: str) -> None:
    model = import_module(f"kwsq.models.{architecture}.model").build(TwoStage(4, parameter_bits=8))
    norms = [layer for layer in model.layers if isinstance(layer, tf_keras.layers.BatchNormalization)]
    assert norms
    assert all(isinstance(norm, QuantizedBatchNorm) and norm.bits == 8 for norm in norms)


def few_bit_values(record: Any) -> list[Any]:
    if isinstance(record, BatchNormRecord):
        return [record.gamma, record.mean]
    return [record.bias] if isinstance(record, DenseRecord) else []


def test_a_dense_bias_is_quantized_after_calibration_only() -> None:
    layer = QuantizedDense(3, scheme=TwoStage(4, parameter_bits=4))
    layer.build((None, 2))
    layer.bias.assign([0.11, 0.52, -0.93])
    zeros = np.zeros((1, 2), np.float32)
    np.testing.assert_array_equal(layer(zeros)[0], np.float32([0.11, 0.52, -0.93]))
    layer.quantize()
    np.testing.assert_array_equal(layer(zeros)[0], on_linear_grid(layer.bias, 4))
