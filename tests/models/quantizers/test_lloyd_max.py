"""Lloyd-Max centroids: the published signal-to-noise ratios, the two optimality conditions, the int8 table."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from kwsq.ir.quant import Codebook
from kwsq.models.quantizers.lloyd_max import lloyd_max, nearest_index, snapped_codebook, thresholds

GAUSSIAN = np.random.default_rng(5).standard_normal(200_000)


def sqnr_db(weights: NDArray[np.float64], quantized: NDArray[np.float64]) -> float:
    return float(10 * np.log10((weights**2).mean() / ((weights - quantized) ** 2).mean()))


def real_weights(weights: NDArray[np.float64], codebook: Codebook) -> NDArray[np.float64]:
    levels = codebook.levels.astype(np.float64) * float(codebook.scale[0])
    return levels[nearest_index(weights, codebook)]


# Max 1960, table I: mean squared errors 0.1175, 0.009497 and 0.002499 at 4, 16 and 32 levels. With 2e5 samples the
# relative standard error of a mean square is sqrt(2 / 2e5) = 0.3 % = 0.014 dB for signal and error each, and Lloyd's
# iteration may stop at a local optimum; 0.1 dB leaves room for both.
@pytest.mark.parametrize(("bits", "published_mse"), [(2, 0.1175), (4, 0.009497), (5, 0.002499)])
def test_a_gaussian_reaches_the_published_error(bits: int, published_mse: float) -> None:
    centroids = lloyd_max(GAUSSIAN, 2**bits)
    quantized = centroids[np.searchsorted(thresholds(centroids), GAUSSIAN)]
    assert abs(sqnr_db(GAUSSIAN, quantized) + 10 * np.log10(published_mse)) < 0.1


def test_uniform_levels_miss_the_published_error() -> None:
    """The check above can fail: 32 uniform levels over the range of the data."""
    uniform = np.linspace(GAUSSIAN.min(), GAUSSIAN.max(), 32)
    quantized = uniform[np.searchsorted(thresholds(uniform), GAUSSIAN)]
    assert abs(sqnr_db(GAUSSIAN, quantized) + 10 * np.log10(0.002499)) > 0.1


def test_snapping_to_int8_adds_no_more_than_its_own_rounding_error() -> None:
    centroids = lloyd_max(GAUSSIAN, 32)
    quantized = centroids[np.searchsorted(thresholds(centroids), GAUSSIAN)]
    codebook = snapped_codebook(GAUSSIAN, 5)
    # Each level moves by at most scale / 2, so the error's root mean square grows by at most scale / 2.
    bound = np.sqrt(((GAUSSIAN - quantized) ** 2).mean()) + float(codebook.scale[0]) / 2
    assert np.sqrt(((GAUSSIAN - real_weights(GAUSSIAN, codebook)) ** 2).mean()) <= bound


def test_every_centroid_is_the_mean_of_its_cell() -> None:
    weights = GAUSSIAN[:2_000]
    centroids = lloyd_max(weights, 8)
    cell = np.searchsorted(thresholds(centroids), weights)
    means = [weights[cell == index].mean() for index in range(8)]
    # Cumulative sums of 2000 values below 4 err by at most 2000 * 2^-53 * 8000 per cell of >= 10 weights.
    np.testing.assert_allclose(centroids, means, rtol=0, atol=2e-10)


@given(st.integers(0, 2**31), st.integers(1, 7), st.integers(2, 300))
def test_a_codebook_has_all_its_levels_in_order(seed: int, bits: int, count: int) -> None:
    weights = np.random.default_rng(seed).standard_t(2, size=count)
    codebook = snapped_codebook(weights, bits)
    levels = codebook.levels.astype(int)
    assert levels.size == 2**bits
    assert (np.diff(levels) > 0).all()
    assert levels.min() >= -128
    assert levels.max() <= 127


@given(st.integers(0, 2**31))
def test_the_index_names_the_nearest_level(seed: int) -> None:
    weights = np.random.default_rng(seed).normal(0, 0.1, size=200)
    codebook = snapped_codebook(weights, 3)
    levels = codebook.levels.astype(np.float64) * float(codebook.scale[0])
    distance = np.abs(weights[:, None] - levels[None, :])
    chosen = distance[np.arange(200), nearest_index(weights, codebook)]
    # Thresholds are rounded once, so at a tie either neighbour may win: a few ulps of the largest level.
    assert (chosen <= distance.min(axis=1) + 4 * 2.0**-53).all()


@pytest.mark.parametrize(("weights", "levels"), [(np.ones(9), 4), (np.array([0.0, np.inf]), 2), (np.arange(9.0), 1)])
def test_unusable_weights_are_refused(weights: NDArray[np.float64], levels: int) -> None:
    with pytest.raises(ValueError, match="weights"):
        lloyd_max(weights, levels)
