import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from hypothesis import given
from hypothesis import strategies as st
from numerics_cases import (
    assert_identical,
    cases,
    float32,
    grid_spec,
    random_codes,
    random_grid,
    random_scale,
)
from one_op import one_op_model, run_model

from kwsq.ir.numerics import LOGISTIC_OUTPUT, Grid, derive_softmax, exp_difference_table, softmax
from kwsq.ir.numerics.softmax import exp_on_negative_values, one_over_one_plus_x


def _runtime(x: np.ndarray, source: Grid, beta: float) -> np.ndarray:
    options = schema.SoftmaxOptionsT()
    options.beta = beta
    model = one_op_model(
        "SOFTMAX",
        [grid_spec(x.shape, source)],
        [grid_spec(x.shape, LOGISTIC_OUTPUT)],
        options=options,
        version=2,
    )
    (runtime,) = run_model(model, [x])
    return runtime


def test_softmax_is_bit_exact() -> None:
    for rng in cases(60, 200):
        source = random_grid(rng, -4, 1.5)
        beta = float32(rng.choice([1.0, 1.0, 0.5, 2.3]))
        x = random_codes(rng, (50, int(rng.integers(1, 40))))
        if rng.random() < 0.4:  # nearly equal logits: many classes share the sum
            x = (x // int(rng.integers(8, 64))).astype(np.int8)
        ours = softmax(x, derive_softmax(input_scale=source.scale, beta=beta))
        assert_identical(ours, _runtime(x, source, beta), (source, beta, x.shape))


def test_softmax_of_many_equal_classes() -> None:
    for classes in (1, 2, 3, 12, 35, 128, 257, 511):
        x = np.full((1, classes), 5, dtype=np.int8)
        source = Grid(0.25, 3)
        assert_identical(softmax(x, derive_softmax(input_scale=0.25)), _runtime(x, source, 1.0), classes)


def test_every_pair_of_logits() -> None:
    codes = np.arange(-128, 128).astype(np.int8)
    x = np.stack([np.repeat(codes, 256), np.tile(codes, 256)], axis=-1)
    for rng in cases(61, 8):
        source = Grid(random_scale(rng, -3, 0.5), 0)
        assert_identical(softmax(x, derive_softmax(input_scale=source.scale)), _runtime(x, source, 1.0), source)


@given(st.integers(-(2**31) + 1, 0))
def test_fixed_point_exp_is_close_to_exp(raw: int) -> None:
    # Taylor tail x**5/120 at |x| <= 1/8 is 2.6e-7; the rounding of about 10 Q0.31 products is below 1e-8
    exact = np.exp(raw * 2.0**-26)
    assert abs(exp_on_negative_values(np.array([raw], dtype=np.int32)).item() * 2.0**-31 - exact) < 3e-7


@given(st.integers(0, 2**31 - 1))
def test_fixed_point_reciprocal_is_close(raw: int) -> None:
    # Newton from error 1/17 converges to (1/17)**8 = 1.4e-10; four Q2.29 roundings add 2**-29 each
    exact = 1.0 / (1.0 + raw * 2.0**-31)
    assert abs(one_over_one_plus_x(np.array([raw], dtype=np.int32)).item() * 2.0**-31 - exact) < 4 * 2.0**-29 + 2e-10


def test_exp_difference_table_falls_to_zero() -> None:
    table = exp_difference_table(derive_softmax(input_scale=1.0))
    assert table[0] == 2**31 - 1
    assert (np.diff(table.astype(np.int64)) <= 0).all()
    assert table[32] == 0


def test_a_vanishing_scale_is_refused() -> None:
    with pytest.raises(ValueError, match="rescale it"):
        derive_softmax(input_scale=2.0**-26)


def test_too_many_classes_are_refused() -> None:
    with pytest.raises(ValueError, match="found 512 classes"):
        softmax(np.zeros((1, 512), np.int8), derive_softmax(input_scale=1.0))
