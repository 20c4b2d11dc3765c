"""Fake quantizers: values exactly on the grid, gradients those of the stated surrogates."""

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from gradients import Floats, numeric_gradient
from numpy.typing import NDArray

from kwsq.ir.quant import Affine, Codebook, Unquantized, dequantize
from kwsq.ir.uniform_grid import UniformGrid
from kwsq.models.quantizers.by_scheme import FloatWeightQuantizer, weight_quantizer
from kwsq.models.quantizers.codebook import CodebookQuantizer
from kwsq.models.quantizers.uniform import DorefaQuantizer, LearnedStepQuantizer, TwoStageQuantizer, nearest_code
from kwsq.models.schemes import weight_scheme

SHAPE = (5, 7, 3)


def weights(seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(0, 0.1, size=SHAPE).astype(np.float32)


def upstream(seed: int = 1) -> Floats:
    """A random gradient from above, so that no derivative can hide behind a sum."""
    return np.random.default_rng(seed).normal(size=SHAPE)


def built(quantizer: Any, dtype: str = "float32") -> Any:
    layer = quantizer(dtype)
    layer.build(SHAPE)
    return layer


def gradient(layer: Any, parameter: Floats, target: Any) -> Floats:
    """d sum(upstream * w) / d target by TensorFlow, float64; target None means the parameter."""
    value = tf.constant(parameter)
    with tf.GradientTape() as tape:
        tape.watch(value)
        loss = tf.reduce_sum(layer(value) * upstream())
    return np.asarray(tape.gradient(loss, value if target is None else target))


# Below, |f'''| <= 2 gain |upstream| < 8, the sum of 105 terms is below 200, h = 1e-5:
# 8e-10 / 6 + 1.1e-16 * 200 / 1e-5 < 3e-9.
STEP, NUMERIC_ERROR = 1e-5, 3e-9


@pytest.mark.parametrize("bits", [1, 2, 4, 5, 8])
def test_two_stage_gradient_is_that_of_the_squashed_weight(bits: int) -> None:
    layer = built(lambda dtype: TwoStageQuantizer(UniformGrid.of(bits), dtype=dtype), "float64")
    layer.gain.assign(0.7)
    parameter = np.random.default_rng(2).normal(0, 0.85, size=SHAPE)
    expected = numeric_gradient(lambda p: 0.7 * np.tanh(p), parameter, upstream(), STEP)
    np.testing.assert_allclose(gradient(layer, parameter, None), expected, rtol=0, atol=NUMERIC_ERROR)


def test_the_gradient_check_notices_a_missing_squash_derivative() -> None:
    layer = built(lambda dtype: TwoStageQuantizer(UniformGrid.of(4), dtype=dtype), "float64")
    layer.gain.assign(0.7)
    parameter = np.random.default_rng(2).normal(0, 0.85, size=SHAPE)
    without_squash = numeric_gradient(lambda p: 0.7 * p, parameter, upstream(), STEP)
    assert np.abs(gradient(layer, parameter, None) - without_squash).max() > NUMERIC_ERROR


def dorefa(values: Floats) -> Floats:
    """Equation (3) without its rounding, at a gain of 0.7."""
    squashed = np.tanh(values)
    return np.asarray(0.7 * squashed / np.abs(squashed).max())


@pytest.mark.parametrize("bits", [2, 3, 7])
def test_dorefa_gradient_is_that_of_tanh_over_its_maximum(bits: int) -> None:
    layer = built(lambda dtype: DorefaQuantizer(UniformGrid(bits, mid_rise=True), dtype=dtype), "float64")
    layer.gain.assign(0.7)
    parameter = np.random.default_rng(2).normal(0, 0.85, size=SHAPE)
    found = gradient(layer, parameter, None)
    # As above, over a maximum of more than 0.9, which moves all terms where the largest weight moves.
    np.testing.assert_allclose(
        found, numeric_gradient(dorefa, parameter, upstream(), STEP), rtol=0, atol=10 * NUMERIC_ERROR
    )
    largest, maximum = np.abs(parameter).argmax(), np.abs(np.tanh(parameter)).max()
    for wrong in (lambda p: 0.7 * np.tanh(p) / maximum, lambda p: 0.7 * p / np.abs(p).max()):
        distance = np.abs(found - numeric_gradient(wrong, parameter, upstream(), STEP))
        assert distance.flat[largest] > 1e3 * NUMERIC_ERROR


def test_two_stage_gain_gradient_is_the_quantized_unit_weight() -> None:
    layer = built(lambda dtype: TwoStageQuantizer(UniformGrid.of(4), dtype=dtype), "float64")
    parameter = np.random.default_rng(2).normal(0, 0.85, size=SHAPE)
    codes = np.rint(7 * np.tanh(parameter))
    # w is linear in the gain; 105 terms of size below 4 summed in float64 in another order.
    expected = (codes / 7 * upstream()).sum()
    np.testing.assert_allclose(gradient(layer, parameter, layer.gain), expected, rtol=0, atol=105 * 4 * 1e-15)


def test_learned_step_gradients_are_those_of_lsq() -> None:
    layer = built(lambda dtype: LearnedStepQuantizer(UniformGrid.of(3), dtype=dtype), "float64")
    layer.step.assign(0.05)
    ratio = weights().astype(np.float64) / 0.05
    inside = np.abs(ratio) < 3
    assert 0 < inside.sum() < inside.size
    per_weight = np.where(inside, np.rint(ratio) - ratio, 3 * np.sign(ratio))
    expected_step = (per_weight * upstream()).sum() / np.sqrt(ratio.size * 3)
    by_parameter = gradient(layer, weights().astype(np.float64), None)
    by_step = gradient(layer, weights().astype(np.float64), layer.step)
    # Products and quotients of a few roundings each, 105 terms below 12.
    np.testing.assert_allclose(by_parameter, np.where(inside, upstream(), 0.0), rtol=0, atol=1e-14)
    np.testing.assert_allclose(by_step, expected_step, rtol=0, atol=105 * 12 * 1e-15)


@pytest.mark.parametrize("power_of_two", [False, True])
@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("name", ["two_stage", "learned_step"])
def test_a_scale_trained_past_zero_is_its_magnitude(name: str, bits: int, power_of_two: bool) -> None:
    layer = built(lambda dtype: weight_quantizer(weight_scheme(name, bits, power_of_two=power_of_two)), "float32")
    parameter = layer.adopt(weights())
    scale = layer.gain if name == "two_stage" else layer.step
    expected = [layer(parameter).numpy(), layer.weight_tensor(parameter).values]
    scale.assign(-scale)
    np.testing.assert_array_equal(layer(parameter), expected[0])
    np.testing.assert_array_equal(layer.weight_tensor(parameter).values, expected[1])
    scale.assign(0.0)
    stored = layer.weight_tensor(parameter)
    assert not isinstance(stored.spec, Unquantized)
    assert 0.0 < stored.spec.scale[0] < 1e-7
    np.testing.assert_array_equal(layer(parameter), dequantize(stored.values, stored.spec).astype(np.float32))


def test_codebook_gradient_passes_inside_the_outer_levels_only() -> None:
    layer = built(lambda dtype: CodebookQuantizer(2, dtype=dtype), "float64")
    layer.levels.assign([-100.0, -20.0, 30.0, 127.0])
    layer.scale.assign(0.001)
    parameter = weights().astype(np.float64)
    inside = (parameter >= -0.1) & (parameter <= 0.127)
    assert 0 < inside.sum() < inside.size
    np.testing.assert_array_equal(gradient(layer, parameter, None), np.where(inside, upstream(), 0.0))


EVERY_SCHEME = [
    *((name, bits) for name in ("two_stage", "learned_step", "max_abs") for bits in range(1, 9)),
    *((name, bits) for name in ("dorefa", "lloyd_max", "s8bqat") for bits in (1, 2, 3, 5, 7)),
    *(("gq", bits) for bits in (1, 2, 4)),
]


POWER_OF_TWO_SCHEMES = [(name, bits) for name in ("two_stage", "learned_step", "max_abs") for bits in (1, 2, 4, 8)]


@pytest.mark.parametrize(("name", "bits"), POWER_OF_TWO_SCHEMES)
def test_power_of_two_scales_are_near_the_free_ones_and_move_no_gradient_elsewhere(name: str, bits: int) -> None:
    free, bound = (weight_quantizer(weight_scheme(name, bits, **options)) for options in ({}, {"power_of_two": True}))
    scales, gradients = [], []
    for layer in (free, bound):
        layer.build(SHAPE)
        parameter = tf.Variable(layer.adopt(weights()))
        stored = layer.weight_tensor(parameter)
        scales.append(float(stored.spec.scale[0]))
        np.testing.assert_array_equal(layer(parameter).numpy(), dequantize(stored.values, stored.spec))
        with tf.GradientTape() as tape:
            total = tf.reduce_sum(layer(parameter))
        gradients.append(tape.gradient(total, [parameter, *layer.trainable_variables]))
    exponent = np.log2(scales[1])
    assert exponent == round(exponent)
    # The nearest power by ratio is within sqrt 2; the next one up within 2.
    assert abs(exponent - np.log2(scales[0])) <= (1.0 if name == "max_abs" and bits > 1 else 0.5) + 1e-6
    assert all(gradient is not None and np.isfinite(gradient).all() for gradient in gradients[1])
    assert len(gradients[0]) == len(gradients[1])


@pytest.mark.parametrize("bits", [4, 8])
def test_two_stage_starts_from_the_same_weight_with_a_power_of_two_scale(bits: int) -> None:
    layer = weight_quantizer(weight_scheme("two_stage", bits, power_of_two=True))
    layer.build(SHAPE)
    parameter = layer.adopt(weights())
    # Half a step, and what the limit of the squash cuts of weights beyond 3 / sqrt 2 standard deviations.
    scale = float(layer.weight_tensor(tf.constant(parameter)).spec.scale[0])
    beyond = np.abs(weights()) > 0.99 * scale * layer.grid.top
    error = np.abs(layer(tf.constant(parameter)).numpy() - weights())
    assert beyond.mean() < 0.06
    assert error[~beyond].max() <= 0.501 * scale


@pytest.mark.parametrize(("name", "bits"), EVERY_SCHEME)
def test_weights_are_exactly_their_exported_codes_on_a_grid_of_the_ir(name: str, bits: int) -> None:
    layer = weight_quantizer(weight_scheme(name, bits))
    layer.build(SHAPE)
    parameter = tf.Variable(layer.adopt(weights()))
    stored = layer.weight_tensor(parameter)
    assert isinstance(stored.spec, Affine | Codebook)
    assert stored.spec.bits == bits
    if name in ("two_stage", "learned_step", "max_abs", "dorefa"):
        grid = UniformGrid(bits, mid_rise=bits < 3 or name == "dorefa")
        assert grid.spec(stored.spec.scale).same_as(stored.spec)
        assert set(stored.values.ravel().tolist()) <= set(grid.codes.tolist())
    else:
        assert isinstance(stored.spec, Codebook)
        assert set(stored.values.ravel().tolist()) <= set(stored.spec.levels.tolist())
    np.testing.assert_array_equal(layer(parameter, training=False).numpy(), dequantize(stored.values, stored.spec))


@pytest.mark.parametrize("bits", range(1, 9))
def test_tensorflow_and_the_ir_take_the_same_code(bits: int) -> None:
    grid = UniformGrid.of(bits)
    ratios = np.concatenate([np.random.default_rng(bits).normal(0, grid.top, 5000), np.arange(-300, 300) / 2.0])
    codes = nearest_code(tf.constant(ratios.astype(np.float32)), grid).numpy()
    np.testing.assert_array_equal(codes, grid.nearest(ratios.astype(np.float32)))
    assert set(np.unique(codes).astype(int).tolist()) == set(grid.codes.tolist())


@pytest.mark.parametrize("bits", [2, 3, 7])
def test_dorefa_is_the_published_formula_times_a_gain(bits: int) -> None:
    layer = weight_quantizer(weight_scheme("dorefa", bits))
    layer.build(SHAPE)
    squashed = np.tanh(layer.adopt(weights()).astype(np.float64))
    unit = squashed / (2 * np.abs(squashed).max()) + 0.5
    published = 2 * np.rint((2**bits - 1) * unit) / (2**bits - 1) - 1
    # Largest code 127 with a relative error of two float32 roundings.
    np.testing.assert_allclose(layer(weights()) / layer.gain, published, rtol=0, atol=4 * 2.0**-24)


def test_dorefa_of_one_bit_is_the_sign_times_the_mean_magnitude() -> None:
    layer = weight_quantizer(weight_scheme("dorefa", 1))
    layer.build(SHAPE)
    mean = np.abs(weights()).mean(dtype=np.float64)
    # A float32 mean of 105 terms in any order: relative error below 105 roundings.
    np.testing.assert_allclose(layer(weights()), np.sign(weights()) * mean, rtol=105 * 2.0**-24)


@pytest.mark.parametrize("bits", [1, 4])
def test_max_abs_passes_gradients_unchanged(bits: int) -> None:
    layer = weight_quantizer(weight_scheme("max_abs", bits))
    layer.build(SHAPE)
    value = tf.constant(weights())
    with tf.GradientTape() as tape:
        tape.watch(value)
        loss = tf.reduce_sum(layer(value) * upstream().astype(np.float32))
    # Divided and multiplied by the same float32 scale.
    np.testing.assert_allclose(tape.gradient(loss, value), upstream(), rtol=4 * 2.0**-24)


def test_two_stage_starts_from_the_float_weight() -> None:
    layer = built(lambda dtype: TwoStageQuantizer(UniformGrid.of(8), dtype=dtype))
    quantized = layer(layer.adopt(weights())).numpy()
    gain = layer.gain.numpy()
    cut = np.clip(weights(), -0.995 * gain, 0.995 * gain)
    # Half a step of the 8-bit grid, and float32 roundings of atanh and tanh near 1 (slope 1 / (1 - 0.995^2) = 100).
    np.testing.assert_allclose(quantized, cut, rtol=0, atol=float(gain) * (0.5 / 127 + 400 * 2.0**-24))


def test_a_float_weight_passes_unchanged() -> None:
    layer = built(lambda dtype: FloatWeightQuantizer(dtype=dtype))
    np.testing.assert_array_equal(layer(layer.adopt(weights())), weights())
