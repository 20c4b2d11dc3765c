"""Quantized weights are not tied to dense and convolutional layers: a recurrent layer trains with them."""

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from keyword_cases import remembered_bands
from numpy.typing import NDArray

from kwsq.ir.quant import Affine, Codebook, dequantize
from kwsq.models.layers.recurrent import QuantizedKernel, QuantizedRecurrent
from kwsq.models.schemes import Compressed, FloatWeights, SoftToHard, TwoStage, WeightScheme


@pytest.mark.parametrize("scheme", [FloatWeights(), TwoStage(4), Compressed(3, snap_steps=10), SoftToHard(3)], ids=str)
def test_a_recurrent_layer_learns_to_remember(scheme: WeightScheme) -> None:
    tf_keras.utils.set_random_seed(2)
    frames, labels = remembered_bands(seed=1, frames=6)
    layer = QuantizedRecurrent(12, scheme=scheme)
    layer.build(frames.shape)
    rng = np.random.default_rng(4)
    layer.input_kernel.adopt(rng.normal(0, 0.5, (2, 12)).astype(np.float32))
    layer.state_kernel.adopt((rng.normal(0, 0.25, (12, 12))).astype(np.float32))
    model = tf_keras.Sequential([tf_keras.Input((6, 2)), layer, tf_keras.layers.Dense(2)])
    optimizer = tf_keras.optimizers.Adam(0.01)
    for _ in range(60):
        step(model, optimizer, frames, labels)
    held_out, wanted = remembered_bands(seed=3, frames=6)
    found = model(held_out, training=False).numpy().argmax(axis=1)
    # Chance is 0.5 with a standard deviation of 0.03.
    assert (found == wanted).mean() > 0.8


def step(model: Any, optimizer: Any, frames: NDArray[np.float32], labels: NDArray[np.int64]) -> None:
    with tf.GradientTape() as tape:
        scores = model(frames, training=True)
        loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, scores))
        loss += tf.add_n(model.losses) if model.losses else 0.0
    gradients = tape.gradient(loss, model.trainable_variables)
    optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))


def test_a_kernel_is_exactly_what_it_exports() -> None:
    kernel = QuantizedKernel((5, 4), scheme=TwoStage(2))
    kernel.adopt(np.random.default_rng(1).normal(size=(5, 4)).astype(np.float32))
    stored = kernel.weight_tensor()
    assert isinstance(stored.spec, Affine | Codebook)
    np.testing.assert_array_equal(kernel.weight(), dequantize(stored.values, stored.spec))


@pytest.mark.parametrize("percentile", [90.0, 100.0])
def test_ranges_of_sums_follow_training_steps_unless_they_leave_outliers_out(percentile: float) -> None:
    tf_keras.utils.set_random_seed(5)
    frames, _ = remembered_bands(seed=1, frames=6)
    layer = QuantizedRecurrent(12, scheme=TwoStage(4))
    layer.build(frames.shape)
    layer.calibrate(frames, percentile)
    quantizers = (layer.driven, layer.recalled, layer.total)
    before = [quantizer.spec().scale for quantizer in quantizers]
    layer(3.0 * frames, training=True)
    moved = [quantizer.spec().scale != scale for quantizer, scale in zip(quantizers, before, strict=True)]
    assert moved == [percentile == 100.0] * 3
