import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from numerics_cases import assert_identical, cases, grid_spec, random_codes, random_grid
from one_op import constant, one_op_model, run_model

from kwsq.ir.numerics import Grid, concatenate, pad


def test_pad_fills_with_the_zero_point() -> None:
    for rng in cases(90, 20):
        grid, x = random_grid(rng), random_codes(rng, (2, 3, 4, 5))
        padding = rng.integers(0, 3, (4, 2)).astype(np.int32)
        ours = pad(x, [(int(before), int(after)) for before, after in padding], zero_point=grid.zero_point)
        model = one_op_model(
            "PAD",
            [grid_spec(x.shape, grid), constant(padding)],
            [grid_spec(ours.shape, grid)],
            options=schema.PadOptionsT(),
            version=2,
        )
        (runtime,) = run_model(model, [x])
        assert_identical(ours, runtime, (grid, padding.tolist()))


def _concatenation(parts: list[tuple[np.ndarray, Grid]], output: Grid, shape: tuple[int, ...]) -> np.ndarray:
    options = schema.ConcatenationOptionsT()
    options.axis = 1
    inputs = [grid_spec(codes.shape, grid) for codes, grid in parts]
    model = one_op_model("CONCATENATION", inputs, [grid_spec(shape, output)], options=options, version=2)
    (runtime,) = run_model(model, [codes for codes, _ in parts])
    return runtime


def test_concatenate_joins_codes_of_one_grid() -> None:
    rng = np.random.default_rng(91)
    grid = random_grid(rng)
    parts = [(random_codes(rng, (2, n, 3)), grid) for n in (1, 4, 2)]
    ours = concatenate(parts, axis=1, output=grid)
    assert_identical(ours, _concatenation(parts, grid, (2, 7, 3)), grid)


def test_concatenate_refuses_what_the_runtime_refuses() -> None:
    codes = np.zeros((2, 1, 3), np.int8)
    parts = [(codes, Grid(1.0, 0)), (codes, Grid(1.0, 1))]
    with pytest.raises(ValueError, match=r"on input 1, expected .*; requantize it first"):
        concatenate(parts, axis=1, output=Grid(1.0, 0))
    with pytest.raises(RuntimeError, match="zero_point"):
        _concatenation(parts, Grid(1.0, 0), (2, 2, 3))
