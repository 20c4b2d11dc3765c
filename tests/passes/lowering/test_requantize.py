"""Changes of grid: one rounding, with the cheapest operator that manages it."""

import numpy as np
import pytest
from builders import Model, assert_one_rounding, grid, kinds, lowered, texts
from hypothesis import given, settings
from hypothesis import strategies as st

from kwsq.ir import ops
from kwsq.ir.numerics import Grid, derive_requantize, requantize_table
from kwsq.ir.ops import Activation
from kwsq.passes.lowering.requantize import CODES, ROUNDING_BOUND, grid_error


@given(st.floats(0.002, 0.2), st.floats(0.002, 0.2), st.integers(-128, 127), st.integers(-128, 127))
@settings(max_examples=50)
def test_every_change_of_grid_errs_by_one_rounding(a: float, b: float, za: int, zb: int) -> None:
    model = Model()
    x = model.quantize(model.input("x", (1, 256), grid(a, za)), grid(b, zb))
    graph = model.graph(model.node(ops.Reshape((256,)), x))
    result = lowered(graph)
    assert set(kinds(result.graph)) <= {"Quantize", "Add", "Reshape"}
    assert_one_rounding(graph, result, share=1)  # ratios such as 1/2 make every second value a tie


def test_ratio_below_one_half_adds_zero_instead() -> None:
    model = Model()
    graph = model.graph(model.quantize(model.input("x", (1, 256), grid(0.013)), grid(0.0473)))
    result = lowered(graph)
    assert kinds(result.graph) == ["Add"]
    assert "would round twice" in texts(result)
    assert_one_rounding(graph, result, share=0.01)


def test_plain_requantisation_where_it_rounds_once() -> None:
    model = Model()
    graph = model.graph(model.quantize(model.input("x", (1, 256), grid(0.0473)), grid(0.0331, 5)))
    result = lowered(graph)
    assert kinds(result.graph) == ["Quantize"]
    assert_one_rounding(graph, result, share=0.02)


@pytest.mark.parametrize("clamp", [ops.Relu(), ops.Clip(0.0, 6.0), ops.Clip(-1.0, 1.0)])
@pytest.mark.parametrize("target", [0.013, 0.0473, 0.21])
def test_clamp_between_two_grids(clamp: ops.Clip, target: float) -> None:
    model = Model()
    y = model.node(clamp, model.input("x", (1, 256), grid(0.0611, 7)))
    graph = model.graph(model.quantize(y, grid(target, -3)))
    assert set(kinds(lowered(graph).graph)) <= {"Rectify", "Add"}
    assert_one_rounding(graph, share=0.02)


@pytest.mark.parametrize("low", [-8, 0])
def test_change_to_a_narrow_grid_clamps(low: int) -> None:
    model = Model()
    graph = model.graph(model.quantize(model.input("x", (1, 256), grid(0.0473)), grid(0.31, 0, low, low + 15)))
    assert_one_rounding(graph, share=0.02)


def test_error_of_a_grid_is_measured_in_output_codes() -> None:
    source, target = Grid(0.0625, 3), Grid(0.125, -4)
    exact = np.clip((CODES.astype(float) - 3) / 2 - 4, -128, 127)
    table = np.floor(exact + 0.5).astype(np.int8)
    assert grid_error(table, source, target, Activation.NONE) == pytest.approx(0.5, abs=1e-6)
    worse = table.copy()
    worse[100] += 2
    assert grid_error(worse, source, target, Activation.NONE) >= 1.5
    source, target = Grid(float(np.float32(0.013)), 0), Grid(float(np.float32(0.0473)), 0)
    doubled = requantize_table(derive_requantize(source, target))
    assert grid_error(doubled, source, target, Activation.NONE) > ROUNDING_BOUND
