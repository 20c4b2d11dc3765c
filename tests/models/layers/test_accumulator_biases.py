"""Biases on the accumulator's steps: every offset an integer of steps, and then all executors add the same number."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from keyword_cases import synthetic_keywords
from numpy.typing import NDArray

from kwsq.models.ds_cnn.model import build
from kwsq.models.export_onnx import export_onnx
from kwsq.models.kws_ff.model import build as kws_ff
from kwsq.models.layers.accumulator_biases import round_biases
from kwsq.models.layers.calibration import calibrate
from kwsq.models.layers.linear_parameters import QuantizedBatchNorm, on_linear_grid
from kwsq.models.layers.over_time import QuantizedDense
from kwsq.models.layers.sequential import adopt_weights, layer_records
from kwsq.models.quantizers.activation import ActivationQuantizer, use_ranges
from kwsq.models.schemes import ActivationRanges, FloatWeights, weight_scheme
from kwsq.models.scoring.artefact import scored_artefact

CLIPS = synthetic_keywords(48, seed=2).features[:, ::2, :10]


def trained(bits: int, **options: Any) -> Any:
    """A network with quantized weights and activations; its norms as training leaves them, anywhere."""
    tf_keras.utils.set_random_seed(3)
    source = build(FloatWeights())
    rng = np.random.default_rng(5)
    for layer in source.layers:
        if isinstance(layer, tf_keras.layers.BatchNormalization):
            shape = layer.gamma.shape
            parts = rng.uniform(0.5, 1.5, shape), rng.normal(0, 0.3, shape), rng.normal(0, 0.3, shape)
            layer.set_weights([*parts, rng.uniform(0.5, 1.5, shape)])
    source.get_layer("classifier").bias.assign(rng.normal(0, 0.3, 12))
    model = build(weight_scheme("two_stage", bits, **options))
    adopt_weights(model, source)
    calibrate(model, CLIPS, 100.0)
    return model


def offsets_in_steps(model: Any) -> list[NDArray[np.float64]]:
    """Every layer's offset in steps of its accumulator, written out anew."""
    found, scale, steps = [], 1.0, np.ones(1)
    for layer in model.layers:
        if isinstance(layer, ActivationQuantizer):
            scale = float(layer.spec().scale[0])
        elif hasattr(layer, "parameter"):
            steps = scale * layer.quantizer.weight_tensor(layer.parameter).spec.scale.astype(np.float64)
            if hasattr(layer, "bias"):
                found.append(layer.bias.numpy() / steps)
        elif isinstance(layer, tf_keras.layers.BatchNormalization):
            gamma, beta, mean, variance = (np.asarray(part, np.float64) for part in layer.get_weights()[:4])
            root = np.sqrt(variance + layer.epsilon)
            found.append((beta * root / gamma - mean) / steps)
    return found


def distance_to_codes(model: Any) -> float:
    return max(float(np.abs(steps - np.rint(steps)).max()) for steps in offsets_in_steps(model))


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("bits", [4, 8])
def test_offsets_lie_on_codes_and_moved_by_half_a_step_at_most(bits: int, per_channel: bool) -> None:
    model = trained(bits, per_channel=per_channel)
    before = offsets_in_steps(model)
    assert distance_to_codes(model) > 0.4
    round_biases(model)
    # beta is stored as float32: of offsets below 2^11 steps it keeps 2^-13, mean and beta together.
    assert distance_to_codes(model) < 2.0**-10
    for old, new in zip(before, offsets_in_steps(model), strict=True):
        assert np.abs(old - new).max() < 0.5 + 2.0**-10


def test_what_has_a_grid_of_its_own_or_none_is_left_alone() -> None:
    source = build(FloatWeights())
    untouched = [value.copy() for value in source.get_weights()]
    round_biases(source)
    for old, new in zip(untouched, source.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def everything(*, power_of_two: bool, **options: Any) -> tuple[Any, list[QuantizedBatchNorm | QuantizedDense]]:
    """A network whose biases have 8 bits of their own, and the layers that hold them; steps of channels differ."""
    tf_keras.utils.set_random_seed(3)
    model = kws_ff(weight_scheme("learned_step", 2, parameter_bits=8, power_of_two=power_of_two, **options))
    for layer in model.layers:
        if hasattr(layer, "quantizer") and layer.quantizer.channel_axis is not None:
            step = layer.quantizer.step
            step.assign(2.0 ** np.random.default_rng(7).integers(-14, 1, step.shape))
    if power_of_two:
        use_ranges(model, ActivationRanges.POWER_OF_TWO)
    layers = [layer for layer in model.layers if isinstance(layer, QuantizedBatchNorm | QuantizedDense)]
    rng = np.random.default_rng(5)
    for layer in layers:
        parameter = layer.bias if isinstance(layer, QuantizedDense) else layer.beta
        parameter.assign(rng.normal(0, 0.01, parameter.shape))
    calibrate(model, synthetic_keywords(24, seed=2).features, 100.0)
    return model, layers


def own_biases(layers: list[QuantizedBatchNorm | QuantizedDense]) -> list[NDArray[np.float64]]:
    return [np.asarray(layer.used_bias(), np.float64) for layer in layers]


def test_few_bit_biases_with_scales_of_other_kinds_are_left_alone() -> None:
    model, layers = everything(power_of_two=False)
    before = own_biases(layers)
    round_biases(model)
    assert len(layers) == 6
    for old, new in zip(before, own_biases(layers), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize("per_channel", [False, True])
def test_few_bit_biases_lie_on_codes_where_all_scales_are_powers_of_two(per_channel: bool) -> None:
    model, layers = everything(power_of_two=True, per_channel=per_channel)
    steps, scale = [], 1.0
    for layer in model.layers:
        if isinstance(layer, ActivationQuantizer):
            scale = float(layer.spec().scale[0])
        elif hasattr(layer, "parameter"):
            steps.append(scale * layer.quantizer.weight_tensor(layer.parameter).spec.scale.astype(np.float64))
    before, moved = own_biases(layers), 0
    round_biases(model)
    for old, new, step in zip(before, own_biases(layers), steps, strict=True):
        np.testing.assert_array_equal(new, step * np.rint(new / step))
        # A coarse channel's bias may be carried beyond the top code; the fine ones then lose a bit.
        grid = 2.0 ** np.ceil(np.log2(np.abs(old).max() / 127))
        assert (np.abs(new - old) <= np.where(step > grid, step / 2, grid if per_channel else 0.0)).all()
        np.testing.assert_array_equal(new, on_linear_grid(tf.constant(new), 8))
        moved += int(np.count_nonzero(old != new))
    assert moved
    assert all(step.size == (old.size if per_channel else 1) for old, step in zip(before, steps, strict=True))


def test_the_step_of_another_channel_would_be_noticed() -> None:
    model, layers = everything(power_of_two=True, per_channel=True)
    scales = model.get_layer("classifier").quantizer.weight_tensor(model.get_layer("classifier").parameter).spec.scale
    step = float(model.get_layer("mean_quantizer").spec().scale[0]) * scales.astype(np.float64)
    round_biases(model)
    codes = np.asarray(layers[-1].used_bias(), np.float64) / step
    np.testing.assert_array_equal(codes, np.rint(codes))
    others = np.asarray(layers[-1].used_bias(), np.float64) / np.roll(step, 1)
    assert (others != np.rint(others)).any()


@pytest.mark.parametrize("per_channel", [False, True])
def test_onnx_runtime_and_the_artefact_then_add_the_same(per_channel: bool, tmp_path: Path) -> None:
    """Single-rounding kernels repeat ONNX Runtime to a code here and there; before, half a step stood between them."""
    model = trained(4, per_channel=per_channel)
    apart = codes_apart(model, tmp_path)
    round_biases(model)
    assert codes_apart(model, tmp_path) < 0.05 < 0.3 < apart


def codes_apart(model: Any, folder: Path) -> float:
    """Mean distance of the logits, in codes, between ONNX Runtime and the file run by LiteRT's default kernels."""
    path = folder / "model.onnx"
    path.write_bytes(export_onnx(layer_records(model), model.input_shape[1:], name="m"))
    scored = scored_artefact(path, CLIPS, weight_bits=4)
    scale = float(model.get_layer("logits_quantizer").spec().scale[0])
    return float(np.abs(scored.logits - scored.source_logits).mean() / scale)
