"""Grids from observed values, seeded inputs, and states carried along a stream."""

import numpy as np
import pytest
from builders import Model, grid
from hypothesis import given
from hypothesis import strategies as st

from kwsq.ir import ops
from kwsq.ir.errors import UnsupportedModelError
from kwsq.ir.execute import run_float
from kwsq.ir.quant import dequantize, fake_quantize
from kwsq.passes.observe import Observer, affine_from_range, carry_states, input_spec, seeded_inputs, spread_inputs


@given(st.floats(-1e6, 1e6), st.floats(0, 1e6))
def test_observed_grid_spans_the_range_and_holds_zero(low: float, width: float) -> None:
    spec = affine_from_range(low, low + width)
    scale = float(spec.scale[0])
    assert fake_quantize(np.zeros(1, np.float32), spec)[0] == 0
    ends = dequantize(np.array([-128, 127]), spec)
    # The zero point is rounded to a code, so each end may move by half a step (and float32's own rounding of it).
    if max(low + width, 0) - min(low, 0) > 1e-30:
        assert ends[0] <= min(low, 0) + 0.51 * scale + 1e-6 * abs(low)
        assert ends[1] >= max(low + width, 0) - 0.51 * scale - 1e-6 * abs(low + width)
        assert ends[1] - ends[0] <= (max(low + width, 0) - min(low, 0)) * (1 + 1e-6)


def test_constant_zero_gets_a_usable_grid() -> None:
    assert affine_from_range(0.0, 0.0).scale[0] > 0


def test_input_grid_is_found_through_moves_only() -> None:
    model = Model()
    a, b = model.input("a", (1, 8)), model.input("b", (1, 8))
    moved = model.quantize(model.node(ops.Reshape((8,)), a), grid(0.05))
    computed = model.quantize(model.node(ops.Tanh(), b), grid(0.07))
    graph = model.graph(moved, computed)
    found = input_spec(graph, "a")
    assert found is not None
    assert found.scale[0] == np.float32(0.05)
    assert input_spec(graph, "b") is None


def test_seeded_inputs_repeat_and_stay_on_the_grids_range() -> None:
    model = Model()
    y = model.node(ops.Tanh(), model.input("x", (2, 8), grid(0.05, 0, -10, 10)))
    graph = model.graph(y)
    first, again, other = (seeded_inputs(graph, seed, 7)["x"] for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert first.shape == (14, 8)
    assert not np.array_equal(first, other)
    assert np.abs(first).max() <= 0.5 + 1e-6
    assert np.abs(first).max() > 0.4


def test_spread_inputs_move_means_that_white_noise_leaves_alone() -> None:
    model = Model()
    x = model.input("x", (1, 49, 10), grid(0.05))
    graph = model.graph(model.node(ops.Mean((1, 2), keepdims=False), x))
    white, spread = (draw(graph, 0, 256)["x"] for draw in (seeded_inputs, spread_inputs))
    assert white.shape == spread.shape
    assert np.array_equal(spread, spread_inputs(graph, 0, 256)["x"])
    for first in (64, 128, 129, 256):
        assert np.array_equal(spread[: first * graph["x"].shape[0]], spread_inputs(graph, 0, 256, first=first)["x"])
    # Half of the inputs are the same noise; of the others, a third or so is common to all 490 values.
    np.testing.assert_array_equal(spread[:128], seeded_inputs(graph, 0, 128)["x"])
    # A mean of 490 independent values has 1/22 of their deviation.
    assert np.ptp(spread.mean(axis=(1, 2))) > 5 * np.ptp(white.mean(axis=(1, 2)))
    assert 0.8 < spread.std() / white.std() < 1.2
    for mean in (spread[128:].mean(axis=1), spread[128:].mean(axis=2)):
        assert mean.std() > 0.4 * spread.std()


def test_observer_runs_for_what_it_has_not_seen() -> None:
    model = Model()
    x = model.input("x", (1, 8))
    graph = model.graph(model.node(ops.Relu(), model.node(ops.Tanh(), x)))
    inputs = seeded_inputs(graph, 0, 9)
    observer = Observer(graph, inputs)
    values = run_float(graph, inputs, keep=["tanh.out"])
    for name in ("tanh.out", "relu.out"):
        assert observer.ranges([name])[name] == (values[name].min(), values[name].max())
    assert set(observer.ranges(["tanh.out", "relu.out"])) == {"tanh.out", "relu.out"}


def test_values_without_a_range_are_refused_by_name() -> None:
    model = Model()
    graph = model.graph(model.node(ops.Sqrt(), model.input("x", (1, 8))))
    with pytest.raises(UnsupportedModelError, match=r"tensor 'sqrt.out': found values in \[nan, nan\]"):
        Observer(graph, seeded_inputs(graph, 0, 9)).ranges(["sqrt.out"])


def test_states_are_carried_from_zero() -> None:
    model = Model()
    x, s = model.input("x", (1, 3)), model.input("s", (1, 3))
    total = model.node(ops.Add(), x, s)
    graph = model.graph(model.node(ops.Tanh(), total), total, states=(("s", total),))
    steps = np.arange(12, dtype=np.float32).reshape(4, 3)
    carried = carry_states(graph, {"x": steps})
    np.testing.assert_array_equal(carried["s"], np.cumsum(steps, 0) - steps)
    given_states = {"x": steps, "s": np.ones((4, 3), np.float32)}
    np.testing.assert_array_equal(carry_states(graph, given_states)["s"], 1)
