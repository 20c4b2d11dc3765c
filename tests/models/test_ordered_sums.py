"""Ordered sums in TensorFlow: the integers of `kwsq.ir`, and a gradient that stops where a sum was cut."""

import numpy as np
import pytest
import tensorflow as tf
from numpy.typing import NDArray

from kwsq.ir.numerics.accumulator import Accumulator, saturating_sums
from kwsq.models.ordered_sums import counted_sums, plain_sums, trained_sums

TAPS, CHANNELS, UNITS, FRAMES, STRIDE = 3, 14, 5, 11, 2
CONTRACTS = [Accumulator(16, 32), Accumulator(16, 8, 4), Accumulator(16, 1), Accumulator(16, 64, 2), Accumulator(32, 5)]


def case(*, largest: int, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Codes (N, T, C), weights (K, C, U) and a start; with 127 some sums of 42 products are cut and some not."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 128, (6, FRAMES, CHANNELS))
    weights = rng.integers(-largest, largest + 1, (TAPS, CHANNELS, UNITS))
    return tuple(array.astype(np.float32) for array in (codes, weights, rng.integers(-900, 900, UNITS)))


def patches_of(codes: NDArray[np.float32]) -> NDArray[np.float32]:
    """What each output sees, (N, T', K C)."""
    starts = range(0, FRAMES - TAPS + 1, STRIDE)
    return np.stack([codes[:, start : start + TAPS].reshape(len(codes), -1) for start in starts], axis=1)


@pytest.mark.parametrize("largest", [7, 127])
@pytest.mark.parametrize("contract", CONTRACTS, ids=str)
def test_both_ways_give_the_integers_of_the_executor(contract: Accumulator, largest: int) -> None:
    codes, weights, start = case(largest=largest)
    bias = (start * 2**contract.shift).astype(np.int32)
    flat = np.ascontiguousarray(weights.reshape(-1, UNITS).T.astype(np.int8))
    patches = patches_of(codes).astype(np.int8)
    expected, cuts = saturating_sums(patches, flat, bias, contract)
    counted, cut = counted_sums(tf.constant(codes), tf.constant(weights), tf.constant(start), STRIDE, contract)
    trained = trained_sums(tf.constant(codes), tf.constant(weights), tf.constant(start), STRIDE, contract)
    np.testing.assert_array_equal(counted, expected)
    np.testing.assert_array_equal(trained, expected)
    assert int(cut) == cuts
    assert (cuts > 0) == (largest == 127 and contract.bits == 16 and contract.shift == 0)


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("contract", CONTRACTS[:3], ids=str)
def test_the_gradient_is_that_of_the_plain_sum_where_nothing_was_cut_and_zero_elsewhere(
    contract: Accumulator, dense: bool
) -> None:
    codes, weights, start = case(largest=127, seed=1)
    if dense:
        codes, weights = codes[:, 0], weights[:1]
    variables = [tf.constant(array) for array in (codes, weights, start)]
    with tf.GradientTape() as tape:
        tape.watch(variables)
        sums = trained_sums(*variables, STRIDE, contract)
    upstream = np.random.default_rng(2).normal(size=sums.shape).astype(np.float32)
    found = tape.gradient(sums, variables, output_gradients=upstream)

    cut = ever_cut(codes, weights, start, contract)
    assert cut.any() == (contract.shift == 0)
    assert not cut.all()
    with tf.GradientTape() as tape:
        tape.watch(variables)
        plain = plain_sums(variables[0], variables[1], STRIDE) * 2.0**-contract.shift + variables[2]
    wanted = tape.gradient(plain, variables, output_gradients=upstream * ~cut)
    for mine, theirs in zip(found, wanted, strict=True):
        # Sums of at most 60 products in float32: 60 roundings of terms below 127 * 5.
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=60 * 2.0**-23 * 127 * 5)


def ever_cut(
    codes: NDArray[np.float32], weights: NDArray[np.float32], start: NDArray[np.float32], contract: Accumulator
) -> NDArray[np.bool_]:
    """Whether any partial sum of an output left the accumulator, step by step."""
    patches = codes if codes.ndim == 2 else patches_of(codes)
    half = 0.5 if contract.shift else 0.0
    columns, total = weights.reshape(-1, UNITS), start
    cut = np.zeros((*patches.shape[:-1], UNITS), bool)
    for first in range(0, len(columns), contract.group):
        part = slice(first, first + contract.group)
        moved = total + np.floor(patches[..., part] @ columns[part] / 2**contract.shift + half)
        total = np.clip(moved, contract.low, contract.high)
        cut |= moved != total
    return cut
