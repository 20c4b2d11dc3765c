"""Soft assignment by intervals against the softmax over all centroids, written out in float64."""

from collections.abc import Callable

import numpy as np
import pytest
import tensorflow as tf
from gradients import Floats, numeric_gradient
from numpy.typing import NDArray

from kwsq.models.quantizers.soft_assignment import HIGHEST_LEVEL, SoftToHardQuantizer
from kwsq.models.schemes import SoftToHard

SIZE = 4000


def quantizer(
    bits: int, share_annealed: float, *, dtype: str = "float32"
) -> tuple[SoftToHardQuantizer, NDArray[np.float32]]:
    """Centroids moved out of order, as training may; weights beyond the outer ones too."""
    rng = np.random.default_rng(bits)
    weight = (0.1 * rng.standard_normal(SIZE)).astype(np.float32)
    layer = SoftToHardQuantizer(SoftToHard(bits), dtype=dtype)
    layer.build(weight.shape)
    layer.adopt(weight)
    layer.centroids.assign(rng.permutation(layer.centroids.numpy() * 0.9 + 0.02))
    layer.steps.assign(round(share_annealed * 700))
    return layer, weight


def sharpness_of(layer: SoftToHardQuantizer) -> float:
    """Alpha."""
    first, last = layer.scheme.first_sharpness, layer.scheme.last_sharpness
    return float(first * (last / first) ** min(int(layer.steps.numpy()) / layer.scheme.anneal_steps, 1.0))


def expected(layer: SoftToHardQuantizer, weight: NDArray[np.float32]) -> NDArray[np.float64]:
    """Equation (1) as it reads."""
    gain, mu = float(layer.gain.numpy()), layer.scheme.mu
    centroids = layer.centroids.numpy().astype(np.float64)
    expanded = np.sign(centroids) * np.expm1(np.log1p(mu) * np.abs(centroids)) / mu
    real = np.clip(np.rint(expanded * HIGHEST_LEVEL), -HIGHEST_LEVEL, HIGHEST_LEVEL) * gain / HIGHEST_LEVEL
    ratio = weight.astype(np.float64) / gain
    unit = np.sign(ratio) * np.log1p(mu * np.abs(ratio)) / np.log1p(mu)
    sharpness = sharpness_of(layer)
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


def expanded(unit: Floats, mu: float) -> Floats:
    """Inverse of the compression."""
    return np.asarray(np.sign(unit) * np.expm1(np.log1p(mu) * np.abs(unit)) / mu)


def surrogate(layer: SoftToHardQuantizer) -> Callable[[Floats, Floats], Floats]:
    """Equation (1) as training differentiates it, of weights and centroids: what rounding adds to a level stays."""
    gain, mu, sharpness = float(layer.gain.numpy()), layer.scheme.mu, sharpness_of(layer)
    start = expanded(layer.centroids.numpy(), mu) * HIGHEST_LEVEL
    rounding = np.clip(np.rint(start), -HIGHEST_LEVEL, HIGHEST_LEVEL) - start

    def weight(values: Floats, centroids: Floats) -> Floats:
        unit = np.sign(values) * np.log1p(mu * np.abs(values / gain)) / np.log1p(mu)
        share = np.exp(-sharpness * np.abs(unit[:, None] - centroids))
        levels = (expanded(centroids, mu) * HIGHEST_LEVEL + rounding) * gain / HIGHEST_LEVEL
        return np.asarray((share @ levels) / share.sum(axis=1))

    return weight


def places(layer: SoftToHardQuantizer, rng: np.random.Generator) -> Floats:
    """Weights anywhere, beyond the outer centroids too, near the middles of two, where they are drawn, and at 0."""
    ordered = np.sort(layer.centroids.numpy())
    middles = rng.choice((ordered[:-1] + ordered[1:]) / 2, 30)
    unit = np.concatenate([rng.uniform(-1.1, 1.1, 30), middles + rng.normal(size=30) / sharpness_of(layer)])
    return np.append(float(layer.gain.numpy()) * expanded(unit, layer.scheme.mu), 0.0)


@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_gradients_are_numerically_those_of_the_softmax(bits: int, share: float) -> None:
    layer, _ = quantizer(bits, share, dtype="float64")
    rng, step = np.random.default_rng(bits), 1e-9
    values, centroids = places(layer, rng), layer.centroids.numpy()
    above, weight = rng.normal(size=values.shape), surrogate(layer)
    given = tf.constant(values)
    with tf.GradientTape() as tape:
        tape.watch(given)
        total = tf.reduce_sum(layer(given, training=True) * above)
    by_weight, by_centroid = tape.gradient(total, [given, layer.centroids])
    # A level's share changes by alpha <= 400 per unit of the compressed space, in which a weight moves 20 times as fast
    # at 0: h^2 (20 * 400)^3 * 0.4 / 6 < 4e-8; sums of 61 terms below 1: 61 * 2^-53 / h < 7e-6; at 0, where the space
    # bends, h mu / (2 gain) of a slope below 20 * 400 * 0.4.
    close = {"rtol": 0, "atol": 1e-4}
    expected = numeric_gradient(lambda at: weight(at, centroids), values, above, step)
    np.testing.assert_allclose(by_weight, expected, **close)
    np.testing.assert_allclose(
        by_centroid, numeric_gradient(lambda at: weight(values, at), centroids, above, step), **close
    )
    assert (np.abs(expected) > 0.1).sum() > 20
    assert (np.abs(by_centroid) > 0.01).mean() > 0.8


def test_another_sharpness_is_noticed() -> None:
    layer, weight = quantizer(4, 0.0)
    right = expected(layer, weight)
    layer.steps.assign(70)
    found = layer(tf.constant(weight), training=True).numpy()
    assert np.abs(found - right).max() > 2e-2 * float(layer.gain.numpy())
