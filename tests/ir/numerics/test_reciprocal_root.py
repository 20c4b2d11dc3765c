import numpy as np
import pytest
from numerics_cases import assert_identical, cases, grid_spec, random_grid
from one_op import one_op_model, run_model

from kwsq.ir.numerics import Grid, derive_rsqrt, rsqrt
from kwsq.ir.numerics.reciprocal_root import inverse_square_root


def _runtime(x: np.ndarray, source: Grid, target: Grid) -> np.ndarray:
    (runtime,) = run_model(one_op_model("RSQRT", [grid_spec(x.shape, source)], [grid_spec(x.shape, target)]), [x])
    return runtime


def test_rsqrt_is_bit_exact() -> None:
    compared = 0
    for rng in cases(100, 250):
        source, target = random_grid(rng, -6, 1), random_grid(rng, -3, 1)
        x = np.arange(source.zero_point, 128).astype(np.int8)
        if 1.0 / (source.scale**0.5 * target.scale) >= 2.0**20:  # the kernel's left shift leaves int32
            continue
        compared += 1
        assert_identical(rsqrt(x, derive_rsqrt(source, target)), _runtime(x, source, target), (source, target))
    assert compared > 200


def test_the_root_is_close() -> None:
    # five Newton steps leave 2**-24 or so; Q3.28 rounding is below that
    steps = np.arange(1, 256, dtype=np.int32)
    multiplier, shift = inverse_square_root(steps)
    roots = multiplier * 2.0 ** (shift - 31.0)
    np.testing.assert_allclose(roots, steps**-0.5, rtol=2.0**-18, atol=0)


def test_codes_below_zero_are_refused_as_by_the_runtime() -> None:
    source, target = Grid(0.5, 3), Grid(0.125, 0)
    x = np.array([2], dtype=np.int8)
    with pytest.raises(ValueError, match="put the zero point at -128"):
        rsqrt(x, derive_rsqrt(source, target))
    with pytest.raises(RuntimeError, match="only defined for positive values"):
        _runtime(x, source, target)


def test_a_vanishing_multiplier_is_refused() -> None:
    with pytest.raises(ValueError, match="use a smaller output scale"):
        derive_rsqrt(Grid(2.0**10, -128), Grid(2.0**10, 0))
