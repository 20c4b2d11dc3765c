"""Codebooks: each step lowers the error, levels fit int8."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from kwsq.passes.ptq.lloyd_max import _Sorted, _starting_levels, _step, lloyd_max, snap_to_int8

Float64 = NDArray[np.float64]


def error(values: Float64, importance: Float64, levels: Float64) -> float:
    nearest = levels[np.searchsorted((levels[:-1] + levels[1:]) / 2, values)]
    return float((importance * np.square(values - nearest)).sum())


@given(st.integers(0, 2**32 - 1), st.integers(2, 40), st.integers(1, 200))
def test_no_step_raises_the_error(seed: int, count: int, size: int) -> None:
    rng = np.random.default_rng(seed)
    values, mass = np.sort(rng.standard_t(3, size)), rng.uniform(0.1, 10, size)
    levels, data = _starting_levels(values, count), _Sorted.of(values, mass)
    for _ in range(8):
        before = error(values, mass, levels)
        levels = _step(data, levels)
        # Prefix sums of `size` terms up to 10 * |value| lose at most size * 2**-52 of their total.
        assert error(values, mass, levels) <= before + size * 2.0**-52 * float((mass * values**2).sum())


def test_as_many_values_as_levels_are_reproduced() -> None:
    values = np.array([-3.0, 0.25, 1.0, 7.0])
    np.testing.assert_allclose(lloyd_max(values, np.ones(4), 4), values)


@given(st.integers(0, 2**32 - 1), st.integers(2, 128))
def test_every_level_is_used(seed: int, count: int) -> None:
    values = np.random.default_rng(seed).standard_t(2, 600)
    levels = lloyd_max(values, np.ones(600), count)
    assert levels.size == count
    assert np.all(np.diff(np.searchsorted(np.sort(values), (levels[:-1] + levels[1:]) / 2)) > 0)


def test_beats_the_uniform_grid_on_bell_shaped_weights() -> None:
    values = np.random.default_rng(0).laplace(size=5000)
    ones = np.ones(5000)
    uniform = np.linspace(values.min(), values.max(), 16)
    assert error(values, ones, lloyd_max(values, ones, 16)) < 0.5 * error(values, ones, uniform)


def test_important_values_draw_the_levels() -> None:
    values, importance = np.array([-1.0, -0.9, 0.9, 1.0]), np.array([1.0, 1000.0, 1.0, 1.0])
    assert lloyd_max(values, importance, 2)[0] == pytest.approx((-1 - 900) / 1001)


@given(st.lists(st.floats(-1e3, 1e3, allow_subnormal=False), min_size=2, max_size=32, unique=True))
def test_levels_fit_int8_and_stay_close(values: list[float]) -> None:
    levels = np.sort(np.asarray(values))
    snapped, scale = snap_to_int8(levels)
    assert snapped.dtype == np.int8
    assert 2 <= snapped.size <= max(2, levels.size)
    assert np.all(np.diff(snapped.astype(int)) > 0)
    assert np.abs(snapped.astype(int)).max() <= 127
    distance = np.abs(levels[:, None] - scale * snapped[None, :]).min(axis=1)
    assert distance.max() <= scale / 2 * (1 + 1e-9)


@pytest.mark.parametrize("values", [[0.0], [0.5], [-2.0]])
def test_a_single_level_gets_a_second(values: list[float]) -> None:
    snapped, scale = snap_to_int8(np.array(values))
    assert snapped.size == 2
    assert scale > 0
    assert values[0] in (scale * snapped)
