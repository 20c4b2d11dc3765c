"""Ranges of activations: candidates, and the choice among them by output loss."""

from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray

from kwsq.ir.errors import UnsupportedModelError
from kwsq.passes.ptq.ranges import (
    Range,
    affine_of,
    ladder,
    least_squares,
    minmax,
    percentile,
    range_of,
    squared_error,
)
from kwsq.passes.ptq.search import search_range, within_noise


def heavy_tailed() -> NDArray[np.float32]:
    values = np.random.default_rng(0).normal(size=20_000).astype(np.float32)
    values[0] = -80
    return values


def test_ranges_contain_zero() -> None:
    assert minmax([np.array([2.0, 3.0], np.float32)]) == Range(0.0, 3.0)
    assert minmax([np.array([-2.0, -1.0], np.float32)]) == Range(-2.0, 0.0)
    assert percentile([np.array([2.0, 3.0], np.float32)]).low == 0.0


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_undefined_values_are_refused_by_name(bad: float) -> None:
    with pytest.raises(UnsupportedModelError, match=r"logits.*finite"):
        minmax([np.ones(2, np.float32), np.array([0.0, bad], np.float32), np.ones(2, np.float32)], "logits")


def test_an_outlier_is_kept_by_minmax_and_dropped_by_the_others() -> None:
    chunks = np.split(heavy_tailed(), 4)
    assert minmax(chunks).low == -80
    assert percentile(chunks, 99.9).low > -5
    clipped = least_squares(chunks)
    assert squared_error(heavy_tailed(), affine_of(clipped)) <= squared_error(heavy_tailed(), affine_of(minmax(chunks)))


@pytest.mark.parametrize("interval", [Range(-247.1, 37.3), Range(0.0, 6.0), Range(-3.0, 0.0), Range(-1e-3, 5.0)])
def test_the_grid_spans_its_range_and_holds_zero(interval: Range) -> None:
    grid = affine_of(interval)
    spanned, step = range_of(grid), float(grid.scale[0])
    assert abs(spanned.low - interval.low) <= step / 2 * (1 + 1e-6)
    assert abs(spanned.high - interval.high) <= step / 2 * (1 + 1e-6)
    assert grid.range.low <= grid.zero_point[0] <= grid.range.high


def test_a_tensor_of_zeros_has_a_grid() -> None:
    chosen, _ = search_range(minmax([np.zeros(4, np.float32)]), lambda _: np.zeros(10))
    assert affine_of(chosen).scale[0] > 0


def test_the_ladder_draws_in_one_side() -> None:
    rungs = ladder(Range(-8.0, 2.0), "low")
    assert rungs[0] == Range(-8.0, 2.0)
    assert all(a.low < b.low < 0 and b.high == 2.0 for a, b in pairwise(rungs))
    assert ladder(Range(0.0, 2.0), "low") == [Range(0.0, 2.0)]


def test_the_search_finds_the_valley_past_a_bump() -> None:
    """Loss falls with the step, rises where clipping begins, and has a bump on the way as real ones have."""
    noise = np.random.default_rng(0).normal(0, 1e-3, 100)

    def loss(candidate: Range) -> NDArray[np.float64]:
        width = candidate.high - candidate.low
        bump = 0.06 if 190 < -candidate.low < 210 else 0.0
        return width / 2000 + bump + max(0.0, 50 + candidate.low) / 20 + noise

    chosen, losses = search_range(Range(-247.0, 30.0), loss)
    assert -66 < chosen.low <= -50
    assert chosen.high < 30.0
    np.testing.assert_array_equal(losses, loss(chosen))


def test_what_the_clips_cannot_tell_apart_stays_wide() -> None:
    rng = np.random.default_rng(1)
    chosen, _ = search_range(Range(0.0, 8.0), lambda r: np.abs(rng.normal(0.1, 1e-9, 100)) + (r.high < 3))
    assert chosen.high >= 3
    base = rng.normal(1, 0.1, 100)
    assert within_noise([base + 0.1, base]) == [1]
    assert within_noise([base, base, base]) == [0, 1, 2]
