"""Scales per output channel: each channel's own grid, values and gradients, as if it were a tensor of its own."""

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from gradients import Floats, numeric_gradient
from numpy.typing import NDArray

from kwsq.ir.quant import PerAxis, PerTensor, Unquantized, dequantize
from kwsq.ir.uniform_grid import UniformGrid
from kwsq.models.layers.over_maps import QuantizedConv2D
from kwsq.models.layers.over_time import QuantizedDense, SplicedDense
from kwsq.models.layers.recurrent import QuantizedKernel
from kwsq.models.layers.sequential import set_schemes
from kwsq.models.quantizers.by_scheme import weight_quantizer
from kwsq.models.quantizers.uniform import (
    SMALLEST_CHANNEL,
    LearnedStepQuantizer,
    MaxAbsQuantizer,
    TwoStageQuantizer,
    UniformQuantizer,
)
from kwsq.models.schemes import FloatWeights, LearnedStep, MaxAbs, TwoStage, weight_scheme

# The axis of channels, in a weight over frames and in a depthwise one.
SHAPES = {2: (5, 7, 3), -2: (3, 3, 4, 1)}
KINDS: dict[str, type[UniformQuantizer]] = {
    "two_stage": TwoStageQuantizer,
    "learned_step": LearnedStepQuantizer,
    "max_abs": MaxAbsQuantizer,
}
CASES = [(name, bits, axis) for name in KINDS for bits in (1, 2, 4, 8) for axis in SHAPES]


def along(axis: int, values: NDArray[Any]) -> NDArray[np.float32]:
    """A number per channel, as it broadcasts against the weight and its scales."""
    shape = [1] * len(SHAPES[axis])
    shape[axis] = -1
    return values.astype(np.float32).reshape(shape)


def weights(axis: int) -> NDArray[np.float32]:
    """Channels of different spread, none around zero."""
    spread = along(axis, 0.1 * 0.3 ** np.arange(SHAPES[axis][axis]))
    return np.random.default_rng(0).normal(0.4, 1.0, size=SHAPES[axis]).astype(np.float32) * spread


def upstream(axis: int) -> Floats:
    return np.random.default_rng(1).normal(size=SHAPES[axis])


def built(name: str, bits: int, axis: int | None, shape: tuple[int, ...], **options: Any) -> Any:
    layer = KINDS[name](UniformGrid.of(bits), channel_axis=axis, **options)
    layer.build(shape)
    return layer


def scale_variable(layer: Any) -> Any:
    return layer.gain if isinstance(layer, TwoStageQuantizer) else layer.step


@pytest.mark.parametrize("power_of_two", [False, True])
@pytest.mark.parametrize(("name", "bits", "axis"), CASES)
def test_weights_are_exactly_their_codes_with_a_scale_per_channel(
    name: str, bits: int, axis: int, power_of_two: bool
) -> None:
    layer = built(name, bits, axis, SHAPES[axis], power_of_two=power_of_two)
    parameter = tf.Variable(layer.adopt(weights(axis)))
    stored = layer.weight_tensor(parameter)
    assert not isinstance(stored.spec, Unquantized)
    assert stored.spec.granularity == PerAxis(2)
    assert stored.spec.bits == bits
    assert np.unique(stored.spec.scale).size == SHAPES[axis][axis]
    assert set(stored.values.ravel().tolist()) <= set(UniformGrid.of(bits).codes.tolist())
    np.testing.assert_array_equal(layer(parameter).numpy(), dequantize(stored.values, stored.spec))
    assert bool(np.all(np.frexp(stored.spec.scale)[0] == 0.5)) == power_of_two


def slices(name: str, bits: int, axis: int, layer: Any, **options: Any) -> list[Any]:
    """A quantizer per channel, each with one scale, that of the channel."""
    channels = []
    for number in range(SHAPES[axis][axis]):
        single = built(name, bits, None, np.delete(SHAPES[axis], axis), **options)
        if name != "max_abs":
            scale_variable(single).assign(scale_variable(layer).numpy().ravel()[number])
        single.steps.assign(layer.steps)
        channels.append(single)
    return channels


def outcome(layer: Any, parameter: NDArray[np.float32], above: Floats) -> tuple[Any, Any, Any, Any]:
    """Weight, penalty and the gradients of upstream * weight + penalty by the parameter and the scales."""
    value = tf.constant(parameter)
    with tf.GradientTape() as tape:
        tape.watch(value)
        weight = layer(value, training=True)
        penalty = tf.add_n(layer.losses) if layer.losses else tf.constant(0.0)
        total = tf.reduce_sum(weight * above.astype(np.float32)) + penalty
    by_parameter, *by_scale = tape.gradient(total, [value, *layer.trainable_variables])
    return weight.numpy(), penalty.numpy(), by_parameter.numpy(), np.ravel(by_scale)


@pytest.mark.parametrize(("name", "bits", "axis"), CASES)
def test_every_channel_is_what_a_tensor_of_its_own_would_be(name: str, bits: int, axis: int) -> None:
    options = {} if name == "max_abs" else {"cosine": 0.3, "ramp_steps": 4}
    layer = built(name, bits, axis, SHAPES[axis], **options)
    layer.steps.assign(2)
    parameter, above = layer.adopt(weights(axis)), upstream(axis)
    whole = outcome(layer, parameter, above)
    parts = [
        outcome(single, np.take(parameter, number, axis), np.take(above, number, axis))
        for number, single in enumerate(slices(name, bits, axis, layer, **options))
    ]
    # Means and sums of 35 or 9 float32 terms, in another order.
    close = {"rtol": 105 * 2.0**-24, "atol": 105 * 2.0**-24 * float(np.abs(above).max())}
    np.testing.assert_allclose(whole[0], np.stack([part[0] for part in parts], axis), rtol=105 * 2.0**-24)
    np.testing.assert_allclose(whole[1], sum(part[1] for part in parts), **close)
    np.testing.assert_allclose(whole[2], np.stack([part[2] for part in parts], axis), **close)
    np.testing.assert_allclose(whole[3], np.concatenate([part[3] for part in parts]), **close)
    assert bool(whole[1] > 0) == (name != "max_abs")


def surrogate(layer: Any, parameter: Floats, scale: Floats) -> Any:
    """The weight as training differentiates it, written out: what rounding adds to r and to the scale stays as it is.

    Returns (parameter, trained scale variable) -> weight.
    """
    top, grid = layer.grid.top, layer.grid
    is_squashed = isinstance(layer, TwoStageQuantizer)
    shrink = 1.0 if is_squashed else 1.0 / np.sqrt(parameter.size / scale.size * top)

    def used(trained: Floats) -> Floats:
        """LSQ's scaling of the gradient, and the power of two that the scale is moved to."""
        free = trained / (top if is_squashed else 1.0)
        at = scale / (top if is_squashed else 1.0)
        moved = 2.0 ** np.rint(np.log2(at)) if layer.power_of_two else at
        return np.asarray(moved + (free - at) * shrink)

    def ratio(values: Floats, trained: Floats) -> Floats:
        return np.tanh(values) * top if is_squashed else np.clip(values / used(trained), -top, top)

    start = ratio(parameter, scale)
    rounding = grid.nearest(start) - start
    return lambda values, trained: (ratio(values, trained) + rounding) * used(trained)


# Linear but for tanh, whose |f'''| <= 2 gain |upstream| < 8; sums of 105 terms are below 200, h = 1e-6:
# 8e-12 / 6 + 1.1e-16 * 200 / 1e-6 < 3e-8.
STEP, NUMERIC_ERROR = 1e-6, 3e-8


@pytest.mark.parametrize("power_of_two", [False, True])
@pytest.mark.parametrize("axis", SHAPES)
@pytest.mark.parametrize("bits", [1, 3, 8])
@pytest.mark.parametrize("name", ["two_stage", "learned_step"])
def test_gradients_are_numerically_those_of_the_surrogate(name: str, bits: int, axis: int, power_of_two: bool) -> None:
    layer = built(name, bits, axis, SHAPES[axis], power_of_two=power_of_two, dtype="float64")
    parameter, above = layer.adopt(weights(axis)).astype(np.float64), upstream(axis)
    scale = scale_variable(layer).numpy()
    weight = surrogate(layer, parameter, scale)
    value = tf.constant(parameter)
    with tf.GradientTape() as tape:
        tape.watch(value)
        total = tf.reduce_sum(layer(value) * above)
    by_parameter, by_scale = tape.gradient(total, [value, scale_variable(layer)])
    expected = numeric_gradient(lambda at: weight(at, scale), parameter, above, STEP)
    np.testing.assert_allclose(by_parameter, expected, rtol=0, atol=NUMERIC_ERROR)
    expected = numeric_gradient(lambda at: weight(parameter, at), scale, above, STEP)
    np.testing.assert_allclose(by_scale, expected, rtol=0, atol=NUMERIC_ERROR)
    if name == "learned_step":  # by the size of the whole weight, as of one step, it would be noticed
        of_all = expected / np.sqrt(scale.size)
        assert np.abs(by_scale - of_all).max() > 100 * NUMERIC_ERROR


@pytest.mark.parametrize("axis", SHAPES)
@pytest.mark.parametrize("name", KINDS)
def test_adopting_keeps_small_channels_that_one_scale_would_lose(name: str, axis: int) -> None:
    weight = weights(axis)
    others = tuple(other for other in range(weight.ndim) if other != axis % weight.ndim)
    size = np.sqrt(np.square(weight).mean(axis=others))

    def error(channel_axis: int | None) -> NDArray[np.float32]:
        layer = built(name, 8, channel_axis, weight.shape)
        distance = layer(tf.constant(layer.adopt(weight))).numpy() - weight
        return np.asarray(np.sqrt(np.square(distance).mean(axis=others)) / size)

    # At most what LSQ starts with: steps of 2 mean|w| / sqrt(127), which err by 1 / sqrt(12) of themselves.
    assert error(axis).max() < 2 / np.sqrt(127 * 12)
    assert error(None).max() > 2 * error(axis).max()


def test_a_channel_of_one_sign_starts_from_its_weights() -> None:
    """A depthwise mean: no deviation at all."""
    weight = np.full((3, 3, 2, 1), 0.3, np.float32) * np.array([1.0, -0.01], np.float32).reshape(2, 1)
    layer = built("two_stage", 8, 2, weight.shape)
    # Half a step of a span of 3 times the weight.
    np.testing.assert_allclose(layer(tf.constant(layer.adopt(weight))), weight, rtol=0.5 * 3 / 127)


@pytest.mark.parametrize("power_of_two", [False, True])
@pytest.mark.parametrize(("name", "bits", "axis"), CASES)
def test_an_empty_channel_keeps_a_scale_that_counts_as_nothing(
    name: str, bits: int, axis: int, power_of_two: bool
) -> None:
    kept = along(axis, np.arange(SHAPES[axis][axis]) != 1)
    layer = built(name, bits, axis, SHAPES[axis], power_of_two=power_of_two)
    parameter = layer.adopt(weights(axis) * kept)
    for trained in ([], layer.trainable_variables):  # adopted; and emptied in training
        for scale in trained:
            scale.assign(scale * kept)
        stored = layer.weight_tensor(parameter)
        assert not isinstance(stored.spec, Unquantized)
        assert stored.spec.scale[1] == stored.spec.scale.max() * np.float32(SMALLEST_CHANNEL)
        assert stored.values.take(1, axis).any() == (bits <= 2)  # codes of a mid-rise grid are never 0


SCHEMES = [TwoStage(4, per_channel=True), LearnedStep(1, per_channel=True), MaxAbs(4, per_channel=True)]


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_every_layer_has_a_scale_per_output_channel(scheme: Any) -> None:
    layers = [
        (SplicedDense(6, taps=5, stride=1, scheme=scheme), (None, 9, 4), PerAxis(2), 6),
        (QuantizedDense(6, scheme=scheme), (None, 4), PerAxis(1), 6),
        (QuantizedConv2D(6, kernel=(3, 2), stride=(1, 1), scheme=scheme), (None, 9, 8, 4), PerAxis(3), 6),
        (QuantizedConv2D(1, kernel=(3, 2), stride=(1, 1), scheme=scheme), (None, 9, 8, 4), PerAxis(3), 1),
        (QuantizedConv2D(None, kernel=(3, 2), stride=(1, 1), scheme=scheme), (None, 9, 8, 4), PerAxis(2), 4),
    ]
    for layer, shape, granularity, channels in layers:
        layer.build(shape)
        spec = layer.quantizer.weight_tensor(layer.parameter).spec
        assert (spec.granularity, spec.scale.size) == (granularity, channels)
    spec = QuantizedKernel((4, 6), scheme=scheme).weight_tensor().spec
    assert not isinstance(spec, Unquantized)
    assert (spec.granularity, spec.scale.size) == (PerAxis(1), 6)


def test_a_layer_given_a_scheme_of_its_own_keeps_its_channels() -> None:
    depthwise = QuantizedConv2D(None, kernel=(3, 3), stride=(1, 1), scheme=FloatWeights(), name="depthwise")
    model = tf_keras.Sequential([tf_keras.Input((9, 8, 4)), depthwise])
    set_schemes(model, {"depthwise": SCHEMES[0]})
    spec = depthwise.quantizer.weight_tensor(depthwise.parameter).spec
    assert (spec.granularity, spec.scale.size) == (PerAxis(2), 4)


def test_without_the_option_there_is_one_scale_and_the_same_variables() -> None:
    for name in KINDS:
        plain = weight_quantizer(weight_scheme(name, 4))
        plain.build(SHAPES[2])
        assert plain.weight_tensor(tf.constant(plain.adopt(weights(2)))).spec.granularity == PerTensor()
        assert all(variable.shape == () for variable in plain.weights)
