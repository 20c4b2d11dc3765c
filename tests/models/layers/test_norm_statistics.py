"""Settled batch norms: statistics of the clips at hand, layer by layer, through the quantizers before them."""

from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras
from keyword_cases import synthetic_keywords

from kwsq.models.kws_ff.model import build
from kwsq.models.layers.calibration import calibrate
from kwsq.models.layers.linear_parameters import QuantizedBatchNorm
from kwsq.models.layers.norm_statistics import settle_norms
from kwsq.models.schemes import weight_scheme

CLIPS = synthetic_keywords(60, seed=4).features


def network(bits: int, **options: Any) -> Any:
    tf_keras.utils.set_random_seed(1)
    model = build(weight_scheme("two_stage", bits, **options))
    calibrate(model, CLIPS[:24], 100.0)
    return model


def norms(model: Any) -> list[Any]:
    return [layer for layer in model.layers if isinstance(layer, tf_keras.layers.BatchNormalization)]


def test_normalised_outputs_have_mean_beta_and_deviation_gamma() -> None:
    model = network(1)
    settle_norms(model, CLIPS)
    values = tf.constant(CLIPS)
    for layer in model.layers:
        values = layer(values, training=False)
        if layer in norms(model):
            flat = values.numpy().astype(np.float64).reshape(-1, values.shape[-1])
            # gamma is 1 and beta 0; epsilon 1e-3 in the variance, sums of thousands of float32 values.
            variance = layer.moving_variance.numpy().astype(np.float64)
            np.testing.assert_allclose(flat.mean(axis=0), 0.0, atol=1e-3)
            np.testing.assert_allclose(flat.var(axis=0), variance / (variance + 1e-3), rtol=1e-3)


def test_other_clips_give_other_statistics() -> None:
    first, second = network(4), network(4)
    settle_norms(first, CLIPS)
    settle_norms(second, 2.0 * CLIPS)
    assert np.abs(norms(first)[0].moving_variance - norms(second)[0].moving_variance).max() > 0.1


def test_merged_norms_and_everything_trained_stay() -> None:
    model = network(4, parameter_bits=8)
    before = model.get_weights()
    settle_norms(model, CLIPS)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert {type(layer) for layer in norms(model)} == {QuantizedBatchNorm}
    plain = network(4)
    trained = [value.numpy().copy() for value in plain.trainable_variables]
    settle_norms(plain, CLIPS)
    for old, new in zip(trained, plain.trainable_variables, strict=True):
        np.testing.assert_array_equal(old, new)
