"""ACosR in fixed point: on the grid of its codes, ramped by a count that goes on where training does."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from gradients import Floats, numeric_gradient
from keyword_cases import BANDS, FRAMES, synthetic_keywords
from numpy.typing import NDArray

from kwsq.models.data.augmentation import Augmentation
from kwsq.models.data.clips import LABELS
from kwsq.models.layers.fixed_point import FEATURE_GAIN, FixedPointInput, FixedPointLayer, FixedPointMean
from kwsq.models.recipe import Phase, Recipe
from kwsq.models.schemes import FixedPoint
from kwsq.models.training.fitting import Epoch, fit
from kwsq.models.training.state import TrainingState

COSINE = 0.1
EXAMPLES = synthetic_keywords(64, seed=1)
STILL = Augmentation(max_shift_frames=0, max_gain_db=0.0, noise_share=0.0, time_mask_frames=0, band_mask_bands=0)


def layer_of(bits: int, parameter: NDArray[Any], **options: Any) -> FixedPointLayer:
    """A dense layer past its ramp; 32-bit sums, which need no compiler."""
    scheme = FixedPoint(bits, accumulator_bits=32, cosine=COSINE, ramp_steps=1)
    layer = FixedPointLayer(parameter.shape[1], scheme=scheme, **options)
    layer.build((None, parameter.shape[0]))
    layer.parameter.assign(parameter)
    return layer


def penalty_of(layer: FixedPointLayer) -> Any:
    layer(tf.zeros((1, layer.parameter.shape[0]), layer.dtype), training=True)
    return layer.losses[-1]


def at_codes(ratio: NDArray[np.floating], bits: int) -> Floats:
    """P of weights given in codes."""
    return np.arctanh(ratio / 2.0 ** (bits - 1)).astype(np.float64).reshape(1, -1)


@pytest.mark.parametrize("bits", range(3, 9))
def test_it_is_nothing_on_codes_and_whole_on_thresholds(bits: int) -> None:
    top = 2 ** (bits - 1) - 1
    codes = np.arange(-top, top + 1)
    # atanh and tanh of at most 1 - 2^-7, float64: a phase of pi B times a few roundings.
    slack = 1e-12 * codes.size * COSINE
    assert abs(float(penalty_of(layer_of(bits, at_codes(codes, bits), dtype="float64")))) < slack
    between = at_codes(codes[:-1] + 0.5, bits)
    whole = float(penalty_of(layer_of(bits, between, dtype="float64")))
    # One distance of codes per weight; the factor is that of a float32 ramp.
    np.testing.assert_allclose(whole, COSINE * (codes.size - 1) / (top + 1), rtol=2.0**-22)
    beyond = at_codes(np.array([-top - 0.4, top + 0.7]), bits)
    assert abs(float(penalty_of(layer_of(bits, beyond, dtype="float64")))) < slack


# |f'''| <= 8 cosine pi^3 B^2 < 4e5 at 8 bits; h = 1e-7: 7e-10. The sum of 60 terms is below 2, their phases are rounded
# by pi B < 500 units: 1.1e-16 * 500 / 1e-7 < 6e-7. The float32 ramp times cosine is off by 2^-23 of slopes below 0.4.
STEP, NUMERIC_ERROR = 1e-7, 1e-6


@pytest.mark.parametrize("bits", [3, 4, 8])
def test_its_gradient_is_numerically_right(bits: int) -> None:
    parameter = np.random.default_rng(bits).normal(0, 1.0, size=(12, 5))
    layer = layer_of(bits, parameter, dtype="float64")

    def written_out(values: Floats) -> Floats:
        size = 2.0 ** (bits - 1)
        ratio = np.clip(size * np.tanh(values), 1 - size, size - 1)
        return COSINE / size * np.abs(np.sin(np.pi * ratio))

    with tf.GradientTape() as tape:
        penalty = penalty_of(layer)
    found = tape.gradient(penalty, layer.parameter)
    expected = numeric_gradient(written_out, parameter, np.ones(parameter.shape), STEP)
    np.testing.assert_allclose(found, expected, rtol=0, atol=NUMERIC_ERROR)
    half_a_code_off = numeric_gradient(
        lambda values: COSINE * np.abs(np.cos(np.pi * 2.0 ** (bits - 1) * np.tanh(values))) / 2.0 ** (bits - 1),
        parameter,
        np.ones(parameter.shape),
        STEP,
    )
    assert np.abs(found - half_a_code_off).max() > 0.01


def small_model(scheme: FixedPoint) -> Any:
    tf_keras.utils.set_random_seed(3)
    first = FixedPointLayer(16, scheme=scheme, kernel=(5,), stride=(6,), input_gain=FEATURE_GAIN, name="splice1")
    last = FixedPointLayer(len(LABELS), scheme=scheme, relu=False, name="classifier")
    inputs = tf_keras.Input((FRAMES, BANDS))
    return tf_keras.Sequential([inputs, FixedPointInput(name="in"), first, FixedPointMean(name="mean"), last])


def layers_of(model: Any) -> list[FixedPointLayer]:
    return [layer for layer in model.layers if isinstance(layer, FixedPointLayer)]


def plan_of(batch_size: int) -> tuple[Phase, Recipe]:
    phase = Phase(epochs=4, learning_rate=5e-3, weight_decay=0.0)
    plan = Recipe(
        architecture="small",
        dataset="synthetic",
        train_split="train",
        report_split="val",
        batch_size=batch_size,
        calibration_clips=16,
        float_phase=phase,
        augmentation=STILL,
        variants=(),
    )
    return phase, plan


def trained(scheme: FixedPoint, **options: Any) -> Any:
    """Four epochs of four steps."""
    model, (phase, plan) = small_model(scheme), plan_of(16)
    fit(model, EXAMPLES, phase, plan, np.random.default_rng(5), **options)
    return model


def mean_distance(model: Any) -> float:
    """Of weights from their codes, in codes."""
    ratios = [8.0 * np.tanh(layer.parameter.numpy()) for layer in layers_of(model)]
    return float(np.mean(np.concatenate([np.abs(ratio - np.clip(np.rint(ratio), -7, 7)).ravel() for ratio in ratios])))


def test_training_with_it_brings_weights_nearer_to_their_codes() -> None:
    plain, drawn = (trained(FixedPoint(4, accumulator_bits=32, cosine=c, ramp_steps=4)) for c in (0.0, COSINE))
    assert 0.2 < mean_distance(plain) < 0.3  # a quarter: anywhere between two codes
    assert mean_distance(drawn) < 0.8 * mean_distance(plain)


def test_it_grows_with_the_training_steps_counted_and_is_off_elsewhere() -> None:
    scheme = FixedPoint(4, accumulator_bits=32, cosine=COSINE, ramp_steps=4)
    layer = FixedPointLayer(6, scheme=scheme)
    layer.build((None, 10))
    inputs, sizes = tf.zeros((1, 10)), []
    for _ in range(6):
        layer(inputs, training=True)
        sizes.append(float(layer.losses[-1]))
        layer(inputs, training=False)
        assert layer.losses == []
    np.testing.assert_allclose(sizes, [sizes[3] * share for share in (0.25, 0.5, 0.75, 1, 1, 1)], rtol=2.0**-22)
    assert int(layer.trained_steps) == 6


def test_without_it_a_layer_has_the_variables_it_had() -> None:
    plain, drawn = small_model(FixedPoint(4, ramp_steps=3)), small_model(FixedPoint(4, cosine=COSINE))
    names = [variable.name.split("/")[-1] for variable in layers_of(plain)[0].weights]
    assert names == ["parameter:0", "bias:0", "output_steps:0", "output_gain:0", "saturated:0"]
    assert len(drawn.weights) == len(plain.weights) + 2
    plain(EXAMPLES.features[:2], training=True)
    assert plain.losses == []


class StoppedError(Exception):
    """Ends a run after an epoch."""


def resumed(path: Path, *, forget: bool) -> Any:
    """Training stopped after its second epoch, and gone on with by another process's model."""

    def stop(epoch: Epoch) -> None:
        if epoch.done == 2:
            raise StoppedError

    scheme, state = FixedPoint(4, accumulator_bits=32, cosine=COSINE, ramp_steps=12), TrainingState(path, "one run")
    with pytest.raises(StoppedError):
        trained(scheme, state=state, observe=stop)
    if forget:
        with np.load(path) as stored:
            arrays = {name: stored[name] for name in stored.files}
        counts = [name for name, array in arrays.items() if name.startswith("model") and array.dtype == np.int64]
        for name in counts:
            arrays[name] = np.zeros_like(arrays[name])
        np.savez(path, **arrays)
    return trained(scheme, state=state)


def test_a_resumed_run_goes_on_with_the_ramp(tmp_path: Path) -> None:
    whole = trained(FixedPoint(4, accumulator_bits=32, cosine=COSINE, ramp_steps=12))
    assert [int(layer.trained_steps) for layer in layers_of(whole)] == [16, 16]
    same, other = (resumed(tmp_path / f"{forget}.npz", forget=forget) for forget in (False, True))
    for one, two in zip(whole.get_weights(), same.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)
    assert (whole.layers[-1].parameter.numpy() != other.layers[-1].parameter.numpy()).any()
