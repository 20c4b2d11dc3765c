"""What happens to weights over training steps: penalties pull, compression snaps on time, soft assignment hardens."""

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from numpy.typing import NDArray

from kwsq.models.layers.over_time import QuantizedDense
from kwsq.models.quantizers.by_scheme import weight_quantizer
from kwsq.models.quantizers.codebook import CompressedQuantizer
from kwsq.models.quantizers.soft_assignment import SoftToHardQuantizer
from kwsq.models.schemes import Compressed, SoftToHard, TwoStage

SHAPE = (16, 8)


def weights() -> NDArray[np.float32]:
    return np.random.default_rng(5).normal(0, 0.1, size=SHAPE).astype(np.float32)


def adopted(quantizer: Any) -> tuple[Any, Any]:
    quantizer.build(SHAPE)
    return quantizer, tf.Variable(quantizer.adopt(weights()))


def test_the_hard_compressor_fires_every_n_steps_and_only_then() -> None:
    layer, parameter = adopted(CompressedQuantizer(Compressed(3, snap_steps=3)))
    nearest = layer.nearest(weights()).numpy()
    seen = []
    for _ in range(6):
        parameter.assign(weights())
        layer.advance(parameter)
        seen.append(bool((parameter.numpy() == nearest).all()))
    assert seen == [False, False, True, False, False, True]


def test_compressed_weights_train_as_floats_and_run_as_levels() -> None:
    layer, parameter = adopted(CompressedQuantizer(Compressed(3)))
    np.testing.assert_array_equal(layer(parameter, training=True), weights())
    np.testing.assert_array_equal(layer(parameter, training=False), layer.nearest(weights()))


@pytest.mark.parametrize(
    ("scheme", "rate"),
    [(Compressed(3, cosine=0.1, ramp_steps=1), 0.02), (TwoStage(3, cosine=0.1, ramp_steps=1), 0.2)],
)
def test_the_penalty_alone_brings_weights_to_their_levels(scheme: Compressed | TwoStage, rate: float) -> None:
    layer = QuantizedDense(SHAPE[1], scheme=scheme)
    layer.build((None, SHAPE[0]))
    layer.adopt(weights())

    def mean_distance() -> float:
        exact = layer.quantizer(layer.parameter, training=False)
        given = layer.parameter if isinstance(scheme, Compressed) else layer.quantizer.gain * tf.tanh(layer.parameter)
        return float(tf.reduce_mean(tf.abs(exact - given)))

    before = mean_distance()
    for _ in range(60):
        with tf.GradientTape() as tape:
            layer(tf.zeros((1, SHAPE[0])), training=True)
            loss = tf.add_n(layer.losses)
        layer.parameter.assign_sub(rate * tape.gradient(loss, layer.parameter))
    assert mean_distance() < 0.5 * before


def test_no_penalty_outside_training_and_none_where_it_is_off() -> None:
    off, parameter = adopted(weight_quantizer(TwoStage(3)))
    off(parameter, training=True)
    on, parameter = adopted(weight_quantizer(TwoStage(3, cosine=0.1)))
    on(parameter, training=False)
    assert off.losses == on.losses == []


def test_the_penalty_ramps_with_the_steps_counted() -> None:
    layer, parameter = adopted(weight_quantizer(TwoStage(3, cosine=0.1, ramp_steps=4)))
    sizes = []
    for steps in (0, 2, 4, 8):
        layer.steps.assign(steps)
        with tf.GradientTape():
            layer(parameter, training=True)
        sizes.append(float(layer.losses[-1]))
    # Ramp and product are rounded once each.
    np.testing.assert_allclose(sizes, [0.0, sizes[2] / 2, sizes[2], sizes[2]], rtol=4 * 2.0**-24)


def test_soft_weights_harden_to_exactly_the_exported_levels() -> None:
    layer, parameter = adopted(SoftToHardQuantizer(SoftToHard(2, anneal_steps=10)))
    hard = layer(parameter, training=False).numpy()
    gaps = []
    for steps in (0, 5, 9, 10):
        layer.steps.assign(steps)
        gaps.append(float(np.abs(layer(parameter, training=True).numpy() - hard).mean()))
    assert gaps[1] > gaps[2] > gaps[3] == 0.0


def test_soft_assignment_moves_weights_and_centroids() -> None:
    layer, parameter = adopted(SoftToHardQuantizer(SoftToHard(2)))
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(tf.square(layer(parameter, training=True) - 0.05))
    by_weight, by_centroid = tape.gradient(loss, [parameter, layer.centroids])
    # Beyond the outer centroids all distances change alike, so that the shares stay: no gradient there.
    levels = layer.weight_tensor(parameter).spec.levels * float(layer.gain.numpy()) / 127.0
    is_inside = (parameter.numpy() > levels[0] * 0.99) & (parameter.numpy() < levels[-1] * 0.99)
    is_outside = (parameter.numpy() < levels[0] * 1.01) | (parameter.numpy() > levels[-1] * 1.01)
    assert is_inside.sum() > is_outside.sum() > 0
    assert np.abs(by_weight.numpy()[is_inside]).min() > 0.0
    assert not by_weight.numpy()[is_outside].any()
    assert np.abs(by_centroid).min() > 0.0
