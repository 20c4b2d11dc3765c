"""Error feedback: codes in range, the output error never above that of rounding to nearest."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from kwsq.passes.ptq.rounding import (
    Factors,
    WeightGrid,
    coordinate_descent,
    error_feedback,
    output_error,
    round_to_nearest,
    solve,
)

Float64 = NDArray[np.float64]


def layer(seed: int, groups: int = 1, rows: int = 6, columns: int = 12) -> tuple[Float64, Float64, Float64]:
    """Weights, correlated inputs and their second moments."""
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(groups, columns, columns))
    x = mixing @ rng.normal(size=(groups, columns, 3 * columns))
    return rng.normal(size=(groups, rows, columns)), x, x @ x.swapaxes(1, 2) / x.shape[2]


def uniform(rows: int, top: int = 3, scale: float = 0.5) -> WeightGrid:
    return WeightGrid(np.arange(-top, top + 1, dtype=np.int8), np.linspace(scale, 1.5 * scale, rows))


GRIDS = {
    "uniform": uniform(6),
    "codebook": WeightGrid(np.array([-127, -60, -20, -3, 4, 25, 70, 127], np.int8), np.full(6, 0.02)),
    "binary": WeightGrid(np.array([-1, 1], np.int8), np.full(6, 0.8)),
}


@pytest.mark.parametrize("kind", GRIDS)
@given(seed=st.integers(0, 2**32 - 1))
def test_descent_only_lowers_the_output_error(kind: str, seed: int) -> None:
    weight, _, hessian = layer(seed)
    nearest = round_to_nearest(weight, GRIDS[kind])
    improved = coordinate_descent(weight, nearest, hessian, GRIDS[kind])
    # Both errors are sums of 12 * 12 products; 1e-9 of the error covers their float64 rounding many times.
    assert np.all(output_error(weight, improved, hessian) <= output_error(weight, nearest, hessian) * (1 + 1e-9))


@pytest.mark.parametrize("kind", GRIDS)
def test_feedback_beats_rounding_to_nearest_by_far(kind: str) -> None:
    ratios = []
    for seed in range(20):
        weight, x, hessian = layer(seed)
        nearest, fed = round_to_nearest(weight, GRIDS[kind]), error_feedback(weight, Factors.of(hessian), GRIDS[kind])
        ratios.append(np.square((weight - fed) @ x).sum() / np.square((weight - nearest) @ x).sum())
    assert np.median(ratios) < 0.8


@pytest.mark.parametrize("kind", GRIDS)
def test_every_value_is_a_level(kind: str) -> None:
    weight, _, hessian = layer(1)
    grid = GRIDS[kind]
    for values in (round_to_nearest(weight, grid), error_feedback(weight, Factors.of(hessian), grid)):
        codes = grid.codes(values)
        assert set(np.unique(codes)) <= set(grid.levels.tolist())
        np.testing.assert_array_equal(codes * grid.scale.reshape(1, 6, 1), values)


def test_equation_53_is_the_squared_output_error() -> None:
    weight, x, hessian = layer(2)
    rounded = round_to_nearest(weight, GRIDS["uniform"])
    expected = np.square((weight - rounded) @ x).mean(axis=2)
    np.testing.assert_allclose(output_error(weight, rounded, hessian), expected)


def test_uncorrelated_inputs_leave_nothing_to_feed_back() -> None:
    weight, _, _ = layer(3)
    hessian = np.diag(np.linspace(1, 2, 12))[None]
    grid = GRIDS["uniform"]
    np.testing.assert_array_equal(error_feedback(weight, Factors.of(hessian), grid), round_to_nearest(weight, grid))


def test_groups_do_not_influence_each_other() -> None:
    weight, _, hessian = layer(4, groups=3, rows=2)
    together = error_feedback(weight, Factors.of(hessian), uniform(6))
    for g in range(3):
        grid = WeightGrid(uniform(6).levels, uniform(6).scale[2 * g : 2 * g + 2])
        alone = error_feedback(weight[g : g + 1], Factors.of(hessian[g : g + 1]), grid)
        np.testing.assert_array_equal(together[g : g + 1], alone)


def test_factors_and_solve() -> None:
    weight, _, hessian = layer(5, groups=2)
    factors = Factors.of(hessian)
    unit = factors.feedback + np.eye(12)
    ordered = unit * factors.diagonal[:, None, :] @ unit.swapaxes(1, 2)
    np.testing.assert_allclose(factors.restored(factors.restored(ordered).swapaxes(1, 2)), hessian, atol=1e-9)
    assert np.all(np.tril(factors.feedback) == 0)
    power = np.take_along_axis(np.diagonal(hessian, axis1=1, axis2=2), factors.order, axis=1)
    assert np.all(np.diff(power) <= 0)
    np.testing.assert_array_equal(factors.restored(factors.ordered(weight)), weight)
    np.testing.assert_allclose(solve(weight, factors) @ hessian, weight, atol=1e-8)
