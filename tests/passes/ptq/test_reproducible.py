"""Exact sums: no order of addition changes a bit of a linear operator."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kwsq.ir import ops
from kwsq.ir.graph import Op
from kwsq.passes.ptq.reproducible import evaluate_reproducibly, grid_step, product_bits, snap

FLOAT32_STEP = 2.0**-23


@given(st.integers(1, 10**6))
def test_bits_leave_room_for_the_sum(terms: int) -> None:
    first, second = product_bits(terms)
    assert terms * 2 ** (first + second) <= 2**53
    assert min(first, second) >= 16


@given(st.integers(0, 2**32 - 1), st.integers(4, 24))
def test_snapped_values_are_multiples_and_close(seed: int, bits: int) -> None:
    x = np.random.default_rng(seed).normal(size=50).astype(np.float32)
    largest = float(np.abs(x).max())
    step = grid_step(largest, bits)
    snapped = snap(x, bits)
    assert np.all(snapped / step == np.rint(snapped / step))
    assert np.abs(snapped - x).max() <= step / 2
    assert np.abs(snapped / step).max() <= 2**bits


def test_zeros_stay() -> None:
    assert not snap(np.zeros(3, np.float32), 10).any()
    assert snap(np.zeros((0, 3), np.float32), 10).shape == (0, 3)


CASES: dict[str, tuple[Op, tuple[int, ...], tuple[int, ...]]] = {
    "dense": (ops.Dense(), (4, 300), (5, 300)),
    "conv": (ops.Conv((1, 1), ((1, 1), (0, 0)), (1, 1)), (2, 20, 7, 5), (6, 20, 3, 3)),
    "grouped": (ops.Conv((1,), ((0, 0),), (1,), 2), (2, 20, 30), (6, 10, 9)),
    "matmul": (ops.MatMul(), (3, 4, 200), (3, 200, 5)),
}


@pytest.mark.parametrize("case", CASES)
def test_the_order_of_the_terms_does_not_matter(case: str) -> None:
    """Permuting the summed dimension changes the order in which any BLAS adds."""
    op, x_shape, w_shape = CASES[case]
    rng = np.random.default_rng(0)
    x, w = (rng.lognormal(0, 3, shape).astype(np.float32) * rng.choice([-1, 1], shape) for shape in (x_shape, w_shape))
    x, w = x.astype(np.float32), w.astype(np.float32)
    axis_x, axis_w = {"dense": (1, 1), "conv": (1, 1), "grouped": (2, 2), "matmul": (2, 1)}[case]
    if case == "grouped":
        order = np.arange(x_shape[2])[::-1]
        mirrored = evaluate_reproducibly(op, (x[:, :, order], w[:, :, ::-1]))[0][:, :, ::-1]
        np.testing.assert_array_equal(mirrored, evaluate_reproducibly(op, (x, w))[0])
        return
    order = rng.permutation(x_shape[axis_x])
    shuffled = evaluate_reproducibly(op, (np.take(x, order, axis_x), np.take(w, order, axis_w)))[0]
    np.testing.assert_array_equal(shuffled, evaluate_reproducibly(op, (x, w))[0])


@pytest.mark.parametrize("case", CASES)
def test_close_to_float32(case: str) -> None:
    op, x_shape, w_shape = CASES[case]
    rng = np.random.default_rng(1)
    x, w = (rng.uniform(-1, 1, shape).astype(np.float32) for shape in (x_shape, w_shape))
    terms = x_shape[-1] if case in ("dense", "matmul") else int(np.prod(w_shape[1:]))
    # Operands move by at most 2**-20 of 1, float32 sums lose `terms` roundings of sums below `terms`.
    tolerance = terms * (2 * 2.0**-20 + terms * 2.0**-24)
    exact, plain = evaluate_reproducibly(op, (x, w))[0], op.evaluate(x, w)[0]
    assert exact.dtype == np.float32
    assert np.abs(exact - plain).max() <= tolerance


def test_depthwise_and_transcendental_operators_keep_their_meaning() -> None:
    rng = np.random.default_rng(2)
    x = rng.normal(size=(2, 4, 6, 5)).astype(np.float32)
    depthwise = ops.Conv((1, 1), ((1, 1), (1, 1)), (1, 1), 4)
    weight = rng.normal(size=(4, 1, 3, 3)).astype(np.float32)
    np.testing.assert_array_equal(evaluate_reproducibly(depthwise, (x, weight))[0], depthwise.evaluate(x, weight)[0])
    for op in (ops.Softmax(1), ops.Sigmoid(), ops.Tanh()):
        close = evaluate_reproducibly(op, (x,))[0]
        np.testing.assert_allclose(close, op.evaluate(x)[0], rtol=8 * FLOAT32_STEP, atol=8 * FLOAT32_STEP)


def test_a_reciprocal_root_of_zero_saturates_and_others_stay() -> None:
    (y,) = evaluate_reproducibly(ops.Rsqrt(), [np.array([0.25, 0, 4], np.float32)])
    assert y.tolist() == [2, 2, 0.5]
    (y,) = evaluate_reproducibly(ops.Rsqrt(), [np.array([0.25, 4], np.float32)])
    assert y.tolist() == [2, 0.5]
