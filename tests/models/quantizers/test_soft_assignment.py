"""Soft assignment by intervals against the softmax over all centroids, written out in float64."""

import numpy as np
import pytest
import tensorflow as tf
from numpy.typing import NDArray

from kwsq.models.quantizers.soft_assignment import HIGHEST_LEVEL, SoftToHardQuantizer
from kwsq.models.schemes import SoftToHard

SIZE = 4000


def quantizer(bits: int, share_annealed: float) -> tuple[SoftToHardQuantizer, NDArray[np.float32]]:
    """Centroids moved out of order, as training may; weights beyond the outer ones too."""
    rng = np.random.default_rng(bits)
    weight = (0.1 * rng.standard_normal(SIZE)).astype(np.float32)
    layer = SoftToHardQuantizer(SoftToHard(bits))
    layer.build(weight.shape)
    layer.adopt(weight)
    layer.centroids.assign(rng.permutation(layer.centroids.numpy() * 0.9 + 0.02))
    layer.steps.assign(round(share_annealed * 700))
    return layer, weight


def expected(layer: SoftToHardQuantizer, weight: NDArray[np.float32]) -> NDArray[np.float64]:
    """Equation (1) as it reads."""
    gain, mu = float(layer.gain.numpy()), layer.scheme.mu
    centroids = layer.centroids.numpy().astype(np.float64)
    expanded = np.sign(centroids) * np.expm1(np.log1p(mu) * np.abs(centroids)) / mu
    real = np.clip(np.rint(expanded * HIGHEST_LEVEL), -HIGHEST_LEVEL, HIGHEST_LEVEL) * gain / HIGHEST_LEVEL
    ratio = weight.astype(np.float64) / gain
    unit = np.sign(ratio) * np.log1p(mu * np.abs(ratio)) / np.log1p(mu)
    first, last = layer.scheme.first_sharpness, layer.scheme.last_sharpness
    sharpness = first * (last / first) ** min(int(layer.steps.numpy()) / layer.scheme.anneal_steps, 1.0)
    distance = np.abs(unit[:, None] - centroids)
    if layer.steps.numpy() >= layer.scheme.anneal_steps:
        return real[distance.argmin(axis=1)]
    share = np.exp(-sharpness * (distance - distance.min(axis=1, keepdims=True)))
    return (share @ real) / share.sum(axis=1)


@pytest.mark.parametrize("bits", [1, 2, 4, 5])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.99, 1.0])
def test_the_closed_form_is_the_softmax_over_all_centroids(bits: int, share: float) -> None:
    layer, weight = quantizer(bits, share)
    found = layer(tf.constant(weight), training=True).numpy()
    # The exponent, up to 2 alpha = 800, is rounded to 2^-24 of it: 1e-4 of a level's share, levels up to 2 gain apart.
    np.testing.assert_allclose(found, expected(layer, weight), atol=2e-4 * float(layer.gain.numpy()))


def test_another_sharpness_is_noticed() -> None:
    layer, weight = quantizer(4, 0.0)
    right = expected(layer, weight)
    layer.steps.assign(70)
    found = layer(tf.constant(weight), training=True).numpy()
    assert np.abs(found - right).max() > 2e-2 * float(layer.gain.numpy())
