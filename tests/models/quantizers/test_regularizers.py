"""Penalties: 0 on every grid value, 1 on every threshold, in phase with the grid, with the gradient of the formula."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from gradients import numeric_gradient
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from kwsq.ir.uniform_grid import UniformGrid
from kwsq.models.quantizers.regularizers import absolute_cosine, multi_regional_cosine, ramp

# |sin| near a multiple of pi: the argument, up to pi * 255 and rounded three times, is off by 3 u times itself.
FLOAT64_PHASE = 3 * 2.0**-53 * np.pi * 255
GRIDS = [UniformGrid.of(bits) for bits in range(1, 9)] + [UniformGrid(bits, mid_rise=True) for bits in range(3, 8)]
centroid_lists = st.lists(st.integers(-127, 127), min_size=2, max_size=32, unique=True).map(sorted)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_acosr_is_zero_on_codes_and_one_between_them(grid: UniformGrid) -> None:
    codes = grid.codes.astype(np.float64)
    np.testing.assert_allclose(absolute_cosine(tf.constant(codes), grid), 0.0, atol=FLOAT64_PHASE)
    between = (codes[:-1] + codes[1:]) / 2
    np.testing.assert_allclose(absolute_cosine(tf.constant(between), grid), 1.0, atol=FLOAT64_PHASE)
    beyond = tf.constant([-3.3 * grid.top, 2.7 * grid.top], tf.float64)
    np.testing.assert_allclose(absolute_cosine(beyond, grid), 0.0, atol=FLOAT64_PHASE)


def test_the_phase_of_the_other_grid_would_be_noticed() -> None:
    codes = tf.constant(UniformGrid(2, mid_rise=True).codes.astype(np.float64))
    assert absolute_cosine(codes / 2.0, UniformGrid(3, mid_rise=False)).numpy().min() > 0.99


@settings(max_examples=30, deadline=None)
@given(ratio=st.floats(-6.9, 6.9))
def test_acosr_gradient_is_numerically_right(ratio: float) -> None:
    grid, step = UniformGrid.of(4), 1e-6
    value = tf.constant(ratio, tf.float64)
    with tf.GradientTape() as tape:
        tape.watch(value)
        penalty = absolute_cosine(value, grid)
    if abs(ratio - round(ratio)) < 1e-5:
        return  # the corner of |sin|
    numeric = (absolute_cosine(value + step, grid) - absolute_cosine(value - step, grid)) / (2 * step)
    # h^2 pi^3 / 6 of central differences, and two values off by FLOAT64_PHASE over 2 h.
    np.testing.assert_allclose(tape.gradient(penalty, value), numeric, atol=6e-12 + FLOAT64_PHASE / step)


def apart_from_corners(values: NDArray[np.float64], corners: NDArray[np.floating]) -> NDArray[np.float64]:
    return values[np.abs(values[:, None] - corners).min(axis=1) > 1e-4]


def slopes(penalty: Callable[[Any], Any], at: NDArray[np.float64], upstream: NDArray[np.float64]) -> Any:
    """d sum(upstream * penalty) / d at by TensorFlow, float64."""
    values = tf.constant(at)
    with tf.GradientTape() as tape:
        tape.watch(values)
        total = tf.reduce_sum(penalty(values) * upstream)
    return tape.gradient(total, values).numpy()


@pytest.mark.parametrize("grid", [grid for grid in GRIDS if grid.mid_rise], ids=str)
def test_acosr_gradient_on_a_mid_rise_grid_is_numerically_right(grid: UniformGrid) -> None:
    rng, step = np.random.default_rng(grid.bits), 1e-6
    ratios = apart_from_corners(rng.uniform(-1.3, 1.3, 200) * grid.top, grid.codes.astype(np.float64))
    above = rng.normal(size=ratios.shape)
    found = slopes(lambda values: absolute_cosine(values, grid), ratios, above)

    def written_out(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.where(np.abs(values) < grid.top, np.abs(np.cos(np.pi * values / 2)), 0.0)

    # h^2 (pi / 2)^3 / 6 of central differences, times upstream; phases off by FLOAT64_PHASE in 200 terms over 2 h.
    close = {"rtol": 0, "atol": 4 * (1e-12 + 200 * FLOAT64_PHASE / step)}
    np.testing.assert_allclose(found, numeric_gradient(written_out, ratios, above, step), **close)
    is_inside = np.abs(ratios) < grid.top
    assert 0 < is_inside.sum() < ratios.size
    assert not found[~is_inside].any()
    of_the_other_grid = numeric_gradient(lambda r: np.abs(np.sin(np.pi * r / 2)), ratios, above, step)
    assert np.abs(found - of_the_other_grid)[is_inside].max() > 0.1


@pytest.mark.parametrize("levels", [[-127, 127], [-100, -20, 30, 127], [-90, -88, -3, 0, 4, 5, 60]])
def test_mracos_gradient_is_numerically_right_in_cells_and_beyond(levels: list[int]) -> None:
    rng, step, centroids = np.random.default_rng(len(levels)), 1e-7, np.array(levels) * 0.01
    weights = apart_from_corners(rng.uniform(-1.8, 1.8, 300), centroids)
    cells = np.clip(np.searchsorted(centroids, weights) - 1, 0, len(levels) - 2)
    weights = np.append(weights, (centroids[:-1] + centroids[1:]) / 2 + 0.2 * np.diff(centroids))  # every cell has one
    cells = np.append(cells, np.arange(len(levels) - 1))
    middle, distance = (centroids[cells] + centroids[cells + 1]) / 2, np.diff(centroids)[cells]
    above = rng.normal(size=weights.shape)

    def written_out(values: NDArray[np.float64]) -> NDArray[np.float64]:
        outside = np.maximum(centroids[0] - values, values - centroids[-1])
        return np.where(outside > 0, outside / distance, np.abs(np.cos(np.pi * (values - middle) / distance)))

    found = slopes(lambda values: multi_regional_cosine(values, tf.constant(centroids))[0], weights, above)
    # Cells are 0.01 wide at least: h^2 (pi / 0.01)^3 / 6 of central differences, times upstream; 300 terms below 60.
    np.testing.assert_allclose(
        found, numeric_gradient(written_out, weights, above, step), rtol=0, atol=4 * (6e-8 + 300 * 60 * 2.0**-53 / step)
    )
    is_beyond = np.abs(weights - np.clip(weights, centroids[0], centroids[-1])) > 0
    assert 0 < is_beyond.sum() < weights.size
    np.testing.assert_allclose(np.abs(found / above)[is_beyond], 1 / distance[is_beyond], rtol=1e-12)
    off_by_half = numeric_gradient(
        lambda values: np.abs(np.sin(np.pi * (values - middle) / distance)), weights, above, step
    )
    assert np.abs(found - off_by_half)[~is_beyond].max() > 0.1


@settings(max_examples=50, deadline=None)
@given(levels=centroid_lists)
def test_mracos_is_zero_on_centroids_and_one_on_thresholds(levels: list[int]) -> None:
    centroids = tf.constant(levels, tf.float64) * 0.01
    middles = (centroids[:-1] + centroids[1:]) / 2
    on, _ = multi_regional_cosine(centroids, centroids)
    between, distance = multi_regional_cosine(middles, centroids)
    # Within a cell the argument is at most pi / 2; the weight is off by its own rounding over the cell's width >= 0.01.
    slack = np.pi * 1.27 * 4 * 2.0**-53 / 0.01
    np.testing.assert_allclose(on, 0.0, atol=slack)
    np.testing.assert_allclose(between, 1.0, atol=slack)
    np.testing.assert_array_equal(distance, centroids[1:] - centroids[:-1])


def test_mracos_of_a_uniform_codebook_is_acosr() -> None:
    grid = UniformGrid.of(4)
    ratios = tf.constant(np.random.default_rng(3).uniform(-7, 7, 500))
    regional, distance = multi_regional_cosine(ratios, tf.constant(grid.codes.astype(np.float64)))
    np.testing.assert_allclose(regional, absolute_cosine(ratios, grid), atol=FLOAT64_PHASE)
    assert set(distance.numpy().tolist()) == {1.0}


def test_mracos_pulls_outliers_back() -> None:
    weights = tf.constant([-2.0, 3.0], tf.float64)
    with tf.GradientTape() as tape:
        tape.watch(weights)
        penalty, _ = multi_regional_cosine(weights, tf.constant([-1.0, 0.0, 2.0], tf.float64))
    np.testing.assert_array_equal(penalty, [1.0, 0.5])
    np.testing.assert_array_equal(tape.gradient(penalty, weights), [-1.0, 0.5])


def test_the_ramp_is_linear_and_stays() -> None:
    assert [float(ramp(step, 4)) for step in (0, 1, 4, 9)] == [0.0, 0.25, 1.0, 1.0]
    assert float(ramp(1, 0)) == 1.0
