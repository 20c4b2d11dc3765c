import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from numerics_cases import assert_identical, cases, float32, grid_spec, random_codes, random_grid
from one_op import KernelSet, constant, one_op_model, run_model

from kwsq.ir.numerics import Grid, derive_mean, mean, mean_to_even, reduce_max, reduce_min

SHAPES = [
    ((2, 7, 5, 6), (1, 2)),
    ((2, 49, 10, 8), (1, 2)),
    ((5, 30), (1,)),
    ((4, 6, 9), (0, 2)),
    ((2, 1, 1, 3), (1, 2)),
]


def _runtime(
    operator: str,
    x: np.ndarray,
    axis: tuple[int, ...],
    keepdims: bool,
    grids: tuple[Grid, Grid],
    kernels: KernelSet = KernelSet.REFERENCE,
) -> np.ndarray:
    options = schema.ReducerOptionsT()
    options.keepDims = keepdims
    inputs = [grid_spec(x.shape, grids[0]), constant(np.array(axis, dtype=np.int32))]
    output = grid_spec(x.max(axis=axis, keepdims=keepdims).shape, grids[1])
    model = one_op_model(operator, inputs, [output], options=options, version=2)
    (runtime,) = run_model(model, [x], kernels=kernels)
    return runtime


@pytest.mark.parametrize("keepdims", [False, True])
def test_mean_is_bit_exact(keepdims: bool) -> None:
    for index, rng in enumerate(cases(80, 150)):
        shape, axis = SHAPES[index % len(SHAPES)]
        source = random_grid(rng)
        spread = 0.3 * 10.0 ** rng.uniform(-1, 1)
        target = source if rng.random() < 0.2 else Grid(float32(source.scale * spread), random_grid(rng).zero_point)
        x = random_codes(rng, shape)
        params = derive_mean(source, target, count=math.prod(shape[i] for i in axis))
        ours = mean(x, params, axis=axis, keepdims=keepdims)
        assert_identical(ours, _runtime("MEAN", x, axis, keepdims, (source, target)), (source, target, shape))


@pytest.mark.parametrize("count", [2, 3, 16, 28, 49])
def test_the_exact_mean_takes_ties_to_even(count: int) -> None:
    """Rounded as Python rounds fractions; even counts have ties."""
    rng = np.random.default_rng(count)
    for source, target in ((Grid(0.25, 3), Grid(0.25, 3)), (Grid(0.5, -7), Grid(0.125, 20))):
        x = rng.integers(-128, 128, size=(400, count), dtype=np.int8)
        ratio = Fraction(source.scale) / Fraction(target.scale)
        means = [Fraction(int(row.astype(int).sum()) - count * source.zero_point, count) * ratio for row in x]
        expected = [min(max(round(value) + target.zero_point, -128), 127) for value in means]
        assert mean_to_even(x, source, target, axis=(1,), keepdims=False).tolist() == expected
        if ratio == 1:
            assert any(value.denominator == 2 for value in means) == (count % 2 == 0)


def test_sum_of_the_reference_kernels_is_wrong() -> None:
    """Why SUM is not offered: scales equal, zero points 0, so every correct kernel returns the plain sum."""
    x = np.array([[1, 2, 3], [-4, 5, 6]], dtype=np.int8)
    grids = (Grid(0.5, 0), Grid(0.5, 0))
    assert _runtime("SUM", x, (1,), False, grids, KernelSet.BUILTIN).tolist() == [6, 7]
    assert _runtime("SUM", x, (1,), False, grids).tolist() != [6, 7]


def test_mean_of_extreme_ratios() -> None:
    for rng in cases(81, 60):
        source, target = random_grid(rng, -9, 3), random_grid(rng, -9, 3)
        x = random_codes(rng, (3, 40, 5))
        ours = mean(x, derive_mean(source, target, count=40), axis=(1,), keepdims=False)
        if abs(math.log2(source.scale / target.scale)) < 15:  # beyond, the kernel's int32 left shift is undefined
            assert_identical(ours, _runtime("MEAN", x, (1,), False, (source, target)), (source, target))


@pytest.mark.parametrize(("operator", "reduce"), [("REDUCE_MAX", reduce_max), ("REDUCE_MIN", reduce_min)])
def test_extrema_are_bit_exact(operator: str, reduce: Any) -> None:
    for index, rng in enumerate(cases(82, 10)):
        shape, axis = SHAPES[index % len(SHAPES)]
        grid, x = random_grid(rng), random_codes(rng, shape)
        ours = reduce(x, axis=axis, keepdims=True)
        assert_identical(ours, _runtime(operator, x, axis, True, (grid, grid)), (grid, shape))


def test_params_of_another_shape_are_refused() -> None:
    grid = Grid(1.0, 0)
    with pytest.raises(ValueError, match="found 6 elements, expected 5"):
        mean(np.zeros((2, 6), np.int8), derive_mean(grid, grid, count=5), axis=(1,), keepdims=False)
    with pytest.raises(ValueError, match="found 0 elements"):
        derive_mean(grid, grid, count=0)
