from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from numerics_cases import assert_identical, cases, grid_spec, random_activation, random_codes, random_grid
from one_op import one_op_model, run_model

from kwsq.ir.numerics import (
    Grid,
    add,
    derive_add,
    derive_mul,
    derive_squared_difference,
    derive_sub,
    maximum,
    minimum,
    mul,
    squared_difference,
    sub,
)

SHAPES = [
    ((2, 64, 64), (2, 64, 64)),
    ((4, 5, 6, 8), (8,)),
    ((4, 5, 6, 8), (4, 1, 1, 8)),  # squeeze-excite
    ((1, 1, 1, 8), (4, 5, 6, 8)),
    ((2, 3, 4, 5, 6), (2, 3, 4, 5, 6)),
    ((2, 3, 4, 5, 6), (1, 3, 1, 5, 1)),
    ((7,), ()),
]
Kernel = Callable[..., Any]


def _run(operator: str, options: Any, a: np.ndarray, b: np.ndarray, grids: tuple[Grid, Grid, Grid]) -> np.ndarray:
    ga, gb, gy = grids
    shape = np.broadcast_shapes(a.shape, b.shape)
    model = one_op_model(
        operator,
        [grid_spec(a.shape, ga), grid_spec(b.shape, gb)],
        [grid_spec(shape, gy)],
        options=options,
        version=2,
    )
    (runtime,) = run_model(model, [a, b])
    return runtime


@pytest.mark.parametrize(
    ("operator", "options_type", "derive", "kernel"),
    [
        ("ADD", schema.AddOptionsT, derive_add, add),
        ("SUB", schema.SubOptionsT, derive_sub, sub),
        ("MUL", schema.MulOptionsT, derive_mul, mul),
    ],
)
def test_arithmetic_is_bit_exact(operator: str, options_type: Any, derive: Kernel, kernel: Kernel) -> None:
    for index, rng in enumerate(cases(30, 140)):
        shape_a, shape_b = SHAPES[index % len(SHAPES)]
        grids = (random_grid(rng), random_grid(rng), random_grid(rng))
        activation, low, high = random_activation(rng, scale=grids[2].scale, zero_point=grids[2].zero_point)
        options = options_type()
        options.fusedActivationFunction = activation
        a, b = random_codes(rng, shape_a), random_codes(rng, shape_b)
        ours = kernel(a, b, derive(*grids, low=low, high=high))
        assert_identical(ours, _run(operator, options, a, b, grids), (grids, activation, shape_a, shape_b))


def _every_pair() -> tuple[np.ndarray, np.ndarray]:
    codes = np.arange(-128, 128).astype(np.int8)
    return np.repeat(codes, 256), np.tile(codes, 256)


@pytest.mark.parametrize(
    ("operator", "options_type", "derive", "kernel"),
    [
        ("ADD", schema.AddOptionsT, derive_add, add),
        ("SUB", schema.SubOptionsT, derive_sub, sub),
        ("MUL", schema.MulOptionsT, derive_mul, mul),
        (
            "SQUARED_DIFFERENCE",
            schema.SquaredDifferenceOptionsT,
            derive_squared_difference,
            squared_difference,
        ),
    ],
)
def test_every_pair_of_codes(operator: str, options_type: Any, derive: Kernel, kernel: Kernel) -> None:
    a, b = _every_pair()
    for rng in cases(31, 25):
        grids = (random_grid(rng, -2), random_grid(rng, -2), random_grid(rng, -2, 1))
        assert_identical(kernel(a, b, derive(*grids)), _run(operator, options_type(), a, b, grids), grids)


def test_squared_difference_is_bit_exact_with_broadcasting() -> None:
    for index, rng in enumerate(cases(32, 40)):
        shape_a, shape_b = [pair for pair in SHAPES if len(pair[0]) <= 4][index % 5]
        grids = (random_grid(rng, -2), random_grid(rng, -2), random_grid(rng, -2, 1))
        a, b = random_codes(rng, shape_a), random_codes(rng, shape_b)
        ours = squared_difference(a, b, derive_squared_difference(*grids))
        runtime = _run("SQUARED_DIFFERENCE", schema.SquaredDifferenceOptionsT(), a, b, grids)
        assert_identical(ours, runtime, (grids, shape_a, shape_b))


@pytest.mark.parametrize(("operator", "kernel"), [("MAXIMUM", maximum), ("MINIMUM", minimum)])
def test_maximum_and_minimum_compare_codes(operator: str, kernel: Kernel) -> None:
    rng = np.random.default_rng(33)
    grid = random_grid(rng)
    a, b = random_codes(rng, (4, 5, 6)), random_codes(rng, (4, 1, 6))
    runtime = _run(operator, schema.MaximumMinimumOptionsT(), a, b, (grid, grid, grid))
    assert_identical(kernel(a, b), runtime, operator)


@pytest.mark.parametrize("derive", [derive_add, derive_sub, derive_squared_difference])
def test_an_output_scale_the_runtime_cannot_take_is_refused(derive: Kernel) -> None:
    one = Grid(1.0, 0)
    with pytest.raises(ValueError, match="expected below 1; enlarge the output scale"):
        derive(one, one, Grid(2.0**-22, 0))


def test_div_of_the_runtime_is_wrong() -> None:
    """Why DIV is not offered: with all scales 1 and zero points 0, 1 / 100 rounds to 0 and 100 / 7 to 14."""
    one = Grid(1.0, 0)
    a, b = np.array([1, 100], np.int8), np.array([100, 7], np.int8)
    runtime = _run("DIV", schema.DivOptionsT(), a, b, (one, one, one))
    assert runtime[1] == 14
    assert runtime[0] != 0
