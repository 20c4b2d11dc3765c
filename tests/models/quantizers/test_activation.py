"""Int8 activations: values exactly on the exported grid, gradients those stated, each way to a scale."""

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from numpy.typing import NDArray

from kwsq.ir.errors import UsageError
from kwsq.ir.quant import INT8, dequantize, fake_quantize
from kwsq.models.kws_ff.model import build
from kwsq.models.quantizers.activation import ActivationQuantizer, use_ranges
from kwsq.models.schemes import ActivationRanges, FloatWeights, choice

Floats = NDArray[np.float64]
SHAPE = (5, 7, 3)
SPAN_LOW, SPAN_HIGH = -0.1, 0.2


def weights() -> NDArray[np.float32]:
    return np.random.default_rng(0).normal(0, 0.1, size=SHAPE).astype(np.float32)


def calibrated(ranges: ActivationRanges, low: float, high: float, dtype: str = "float32") -> Any:
    layer = ActivationQuantizer(dtype=dtype)
    layer.build(SHAPE)
    layer.use(ranges)
    layer.calibrate(np.array([low, high]), 100.0)
    return layer


def gradients(layer: Any, inputs: Floats, upstream: Floats) -> list[Any]:
    """d sum(upstream * y) by inputs and by everything that trains."""
    value = tf.constant(inputs)
    with tf.GradientTape() as tape:
        tape.watch(value)
        total = tf.reduce_sum(layer(value) * upstream)
    return list(tape.gradient(total, [value, *layer.trainable_variables]))


@pytest.mark.parametrize("ranges", ActivationRanges)
def test_the_gradient_passes_inside_the_range_only(ranges: ActivationRanges) -> None:
    layer = calibrated(ranges, SPAN_LOW, SPAN_HIGH, "float64")
    inputs, upstream = 2.0 * weights().astype(np.float64), np.random.default_rng(1).normal(size=SHAPE)
    low, high = (dequantize(np.array([code]), layer.spec())[0] for code in (-128, 127))
    inside = (inputs > low) & (inputs < high)
    assert not (np.minimum(np.abs(inputs - low), np.abs(inputs - high)) < 1e-6).any()
    assert 0 < inside.sum() < inside.size
    # Scale divides and multiplies again: two roundings.
    np.testing.assert_allclose(gradients(layer, inputs, upstream)[0], np.where(inside, upstream, 0.0), rtol=1e-15)


def test_the_gradient_of_a_learned_scale_is_that_of_the_range_with_its_rounding_held() -> None:
    layer = calibrated(ActivationRanges.LEARNED, SPAN_LOW, SPAN_HIGH, "float64")
    layer.growth.assign(1.1)
    rng = np.random.default_rng(2)
    inputs, upstream = rng.uniform(-0.3, 0.4, SHAPE), rng.normal(size=SHAPE)
    start = (SPAN_HIGH - SPAN_LOW) / 255.0
    zero_point = round(-128 - SPAN_LOW / start)

    def surrogate(growth: float) -> Floats:
        place = inputs / (growth * start)
        return np.clip(place + zero_point, -128, 127)

    held = np.clip(np.rint(inputs / (1.1 * start)) + zero_point, -128, 127) - surrogate(1.1)

    def outputs(growth: float) -> float:
        return float((upstream * (surrogate(growth) + held - zero_point) * growth * start).sum())

    # Central differences err by h^2 |f'''| / 6 + u |f| / h with |f| < 105 * 3 * 0.4 and f''' of that size: below 1e-9.
    numeric = (outputs(1.1 + 1e-5) - outputs(1.1 - 1e-5)) / 2e-5
    found = gradients(layer, inputs, upstream)[1].numpy()
    assert abs(found - numeric) < 1e-8
    without_rounding = float((upstream * np.where(np.abs(surrogate(1.1)) < 127.5, 0.0, start)).sum())
    assert abs(found - without_rounding) > 1e-3


@pytest.mark.parametrize("largest", [0.3, 0.999 * 255 / 256, 255 / 256, 1.0, 40.0])
def test_a_power_of_two_scale_is_the_smallest_that_holds_the_range(largest: float) -> None:
    layer = calibrated(ActivationRanges.POWER_OF_TWO, 0.0, largest)
    scale = float(layer.spec().scale[0])
    assert scale == 2.0 ** np.ceil(np.log2(np.float32(largest) / np.float32(255.0)) - 1e-9)
    assert scale * 255 >= np.float32(largest) > scale * 255 / 2 * (1 - 1e-6)


def test_a_learned_scale_does_not_follow_the_batches() -> None:
    layer = calibrated(ActivationRanges.LEARNED, -1.0, 1.0)
    layer(np.array([-3.0, 5.0], dtype=np.float32), training=True)
    assert (layer.low.numpy(), layer.high.numpy()) == (-1.0, 1.0)


def test_every_scale_of_a_network_can_be_learned() -> None:
    model = build(FloatWeights())
    before = len(model.trainable_variables)
    use_ranges(model, ActivationRanges.LEARNED)
    quantizers = [layer for layer in model.layers if isinstance(layer, ActivationQuantizer)]
    assert len(model.trainable_variables) - before == len(quantizers) == 8


def test_ranges_of_another_name_are_refused() -> None:
    with pytest.raises(UsageError, match=r"variant\.activation_ranges.*'golden'.*one of moving, power_of_two, learned"):
        choice(ActivationRanges, "recipe: variant.activation_ranges", "golden")


@pytest.mark.parametrize("ranges", ActivationRanges)
@pytest.mark.parametrize(("low", "high"), [(0.0, 6.3), (-1.4, 3.9), (-2.5, 0.0)])
def test_activations_are_exactly_on_the_int8_grid(ranges: ActivationRanges, low: float, high: float) -> None:
    layer = calibrated(ranges, low, high)
    if ranges is ActivationRanges.LEARNED:
        layer.growth.assign(1.07)
    spec = layer.spec()
    inputs = np.random.default_rng(4).uniform(low - 0.5, high + 0.5, size=4000).astype(np.float32)
    inputs[0] = 0.0
    outputs = layer(inputs).numpy()
    assert spec.range == INT8
    assert outputs[0] == 0.0
    np.testing.assert_array_equal(outputs, fake_quantize(inputs, spec))


def test_a_relu_range_uses_every_code() -> None:
    layer = calibrated(ActivationRanges.MOVING, 0.0, 6.3)
    assert layer.spec().zero_point[0] == -128


def test_activations_pass_unchanged_and_without_a_grid_before_calibration() -> None:
    layer = ActivationQuantizer()
    layer.build(SHAPE)
    np.testing.assert_array_equal(layer(weights(), training=True), weights())
    assert layer.spec() is None


def test_the_range_follows_the_batches_only_in_training() -> None:
    layer = ActivationQuantizer(momentum=0.75)
    layer.build(SHAPE)
    layer.calibrate(np.array([-1.0, 1.0]), 100.0)
    layer(np.array([-3.0, 5.0], dtype=np.float32), training=False)
    assert (layer.low.numpy(), layer.high.numpy()) == (-1.0, 1.0)
    layer(np.array([-3.0, 5.0], dtype=np.float32), training=True)
    assert (layer.low.numpy(), layer.high.numpy()) == (-1.5, 2.0)


def test_a_percentile_leaves_outliers_out() -> None:
    layer = ActivationQuantizer()
    layer.build(SHAPE)
    layer.calibrate(np.concatenate([np.linspace(0, 1, 999), [100.0]]), 99.0)
    assert layer.high.numpy() < 1.0


@pytest.mark.parametrize("ranges", ActivationRanges)
def test_a_range_that_leaves_outliers_out_stays_so_in_training(ranges: ActivationRanges) -> None:
    layer = ActivationQuantizer()
    layer.build(SHAPE)
    layer.use(ranges)
    step = tf.function(lambda values: layer(values, training=True))
    values = np.concatenate([np.linspace(-1, 1, 998), [-100.0, 100.0]]).astype(np.float32)
    step(values)
    layer.calibrate(values, 99.0)
    low, high = layer.low.numpy(), layer.high.numpy()
    for _ in range(3):
        step(values)
    assert (layer.low.numpy(), layer.high.numpy()) == (low, high)
    assert -1.0 < low < high < 1.0


def test_a_restored_range_stays_or_follows_as_the_saved_one_did() -> None:
    batch = np.array([-3.0, 5.0], dtype=np.float32)
    for percentile in (99.0, 100.0):
        saved, restored = ActivationQuantizer(), ActivationQuantizer()
        saved.build(SHAPE)
        restored.build(SHAPE)
        saved.calibrate(np.linspace(-1, 1, 999), percentile)
        restored.set_weights(saved.get_weights())
        saved(batch, training=True)
        restored(batch, training=True)
        np.testing.assert_array_equal(restored.get_weights(), saved.get_weights())
        assert (restored.high.numpy() > 1.0) == (percentile == 100.0)
