"""Ordered sums in TensorFlow: the integers of `kwsq.ir`, and a gradient that stops where a sum was cut."""

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from kwsq.ir.numerics.accumulator import Accumulator, saturating_sums
from kwsq.models.layers.ordered_sums import Window, counted_sums, plain_sums, trained_sums

UNITS, PRODUCTS = 5, 42
SIZE = (11, 6)
WINDOWS = [Window(), Window((3,), (2,)), Window((3, 2), (2, 1), ((1, 0), (0, 1)))]
CONTRACTS = [Accumulator(16, 32), Accumulator(16, 8, 4), Accumulator(16, 1), Accumulator(16, 64, 2), Accumulator(32, 5)]


def name_of(window: Window) -> str:
    return ("dense", "frames", "map")[len(window.taps)]


def case(
    window: Window, *, largest: int, seed: int = 0
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Codes, weights and a start; with 127 some sums of 42 products are cut and some not."""
    rng = np.random.default_rng(seed)
    channels = PRODUCTS // int(np.prod(window.taps))
    codes = rng.integers(0, 128, (24 if not window.taps else 6, *SIZE[: len(window.taps)], channels))
    weights = rng.integers(-largest, largest + 1, (*window.taps, channels, UNITS))
    return tuple(array.astype(np.float32) for array in (codes, weights, rng.integers(-900, 900, UNITS)))


def patches_of(codes: NDArray[np.float32], window: Window) -> NDArray[np.float32]:
    """What each output sees, (N, outputs along each axis, products): channels vary fastest."""
    if not window.taps:
        return codes
    axes = range(1, 1 + len(window.taps))
    padded = np.pad(codes, [(0, 0), *(window.pads or [(0, 0)] * len(axes)), (0, 0)])
    views = np.moveaxis(sliding_window_view(padded, window.taps, axis=tuple(axes)), len(axes) + 1, -1)
    strided = views[(slice(None), *(slice(None, None, step) for step in window.stride))]
    return strided.reshape(*strided.shape[: 1 + len(axes)], -1)


@pytest.mark.parametrize("window", WINDOWS, ids=name_of)
@pytest.mark.parametrize("largest", [7, 127])
@pytest.mark.parametrize("contract", CONTRACTS, ids=str)
def test_both_ways_give_the_integers_of_the_executor(contract: Accumulator, largest: int, window: Window) -> None:
    codes, weights, start = case(window, largest=largest)
    bias = (start * 2**contract.shift).astype(np.int32)
    flat = np.ascontiguousarray(weights.reshape(-1, UNITS).T.astype(np.int8))
    patches = patches_of(codes, window).astype(np.int8)
    expected, cuts = saturating_sums(patches, flat, bias, contract)
    counted, cut = counted_sums(tf.constant(codes), tf.constant(weights), tf.constant(start), window, contract)
    trained = trained_sums(tf.constant(codes), tf.constant(weights), tf.constant(start), window, contract)
    np.testing.assert_array_equal(counted, expected)
    np.testing.assert_array_equal(trained, expected)
    assert int(cut) == cuts
    assert (cuts > 0) == (largest == 127 and contract.bits == 16 and contract.shift == 0)


# Channels whose bias leaves 16 bits at the top, at the bottom, fills them, or does not; products bring some back.
LARGE_BIAS = np.float32([33000, -65536, 32767, -32768, 900])


@pytest.mark.parametrize("window", WINDOWS, ids=name_of)
@pytest.mark.parametrize("contract", CONTRACTS, ids=str)
def test_a_bias_beyond_the_accumulator_is_cut_before_the_first_product(contract: Accumulator, window: Window) -> None:
    codes, weights, _ = case(window, largest=127, seed=3)
    bias = (LARGE_BIAS * 2**contract.shift).astype(np.int32)
    flat = np.ascontiguousarray(weights.reshape(-1, UNITS).T.astype(np.int8))
    patches = patches_of(codes, window).astype(np.int8)
    expected, cuts = saturating_sums(patches, flat, bias, contract)
    arguments = [tf.constant(array) for array in (codes, weights, LARGE_BIAS)]
    counted, cut = counted_sums(*arguments, window, contract)
    np.testing.assert_array_equal(counted, expected)
    np.testing.assert_array_equal(trained_sums(*arguments, window, contract), expected)
    assert int(cut) == cuts
    outputs = expected.size // UNITS
    assert cuts >= 2 * outputs if contract.bits == 16 else cuts == 0


@pytest.mark.parametrize("window", WINDOWS, ids=name_of)
def test_a_bias_beyond_the_accumulator_stops_its_channels_gradient(window: Window) -> None:
    variables = [tf.constant(array) for array in (*case(window, largest=7)[:2], LARGE_BIAS)]
    with tf.GradientTape() as tape:
        tape.watch(variables)
        sums = trained_sums(*variables, window, Accumulator(16, 64))
    _, by_weights, by_start = tape.gradient(sums, variables)
    assert (by_start.numpy()[:2] == 0).all()
    assert (by_weights.numpy()[..., :2] == 0).all()
    assert by_start.numpy()[4] == sums.shape.num_elements() / UNITS


@pytest.mark.parametrize("window", WINDOWS, ids=name_of)
@pytest.mark.parametrize("contract", CONTRACTS[:3], ids=str)
def test_the_gradient_is_that_of_the_plain_sum_where_nothing_was_cut_and_zero_elsewhere(
    contract: Accumulator, window: Window
) -> None:
    codes, weights, start = case(window, largest=127, seed=1)
    variables = [tf.constant(array) for array in (codes, weights, start)]
    with tf.GradientTape() as tape:
        tape.watch(variables)
        sums = trained_sums(*variables, window, contract)
    upstream = np.random.default_rng(2).normal(size=sums.shape).astype(np.float32)
    found = tape.gradient(sums, variables, output_gradients=upstream)

    cut = ever_cut(patches_of(codes, window), weights, start, contract)
    assert cut.any() == (contract.shift == 0)
    assert not cut.all()
    with tf.GradientTape() as tape:
        tape.watch(variables)
        plain = plain_sums(variables[0], variables[1], window) * 2.0**-contract.shift + variables[2]
    wanted = tape.gradient(plain, variables, output_gradients=upstream * ~cut)
    for mine, theirs in zip(found, wanted, strict=True):
        # A code's slope sums fewer terms than there are products, a weight's as many as outputs; each below 127 * 5.
        terms = max(PRODUCTS, int(np.prod(sums.shape[:-1])))
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=terms * 2.0**-23 * 127 * 5)


@pytest.mark.parametrize("window", WINDOWS, ids=name_of)
def test_a_traced_step_has_the_gradient_of_an_eager_one(window: Window) -> None:
    variables = [tf.constant(array) for array in case(window, largest=7, seed=1)]

    def gradient(*variables: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(variables)
            sums = trained_sums(*variables, window, CONTRACTS[0])
        return tape.gradient(sums, variables)

    # Sums of integers below 2^24 are exact in any order.
    for traced, eager in zip(tf.function(gradient)(*variables), gradient(*variables), strict=True):
        np.testing.assert_array_equal(traced, eager)


def ever_cut(
    patches: NDArray[np.float32], weights: NDArray[np.float32], start: NDArray[np.float32], contract: Accumulator
) -> NDArray[np.bool_]:
    """Whether any partial sum of an output left the accumulator, step by step."""
    half = 0.5 if contract.shift else 0.0
    columns, total = weights.reshape(-1, UNITS), start
    cut = np.zeros((*patches.shape[:-1], UNITS), bool)
    for first in range(0, len(columns), contract.group):
        part = slice(first, first + contract.group)
        moved = total + np.floor(patches[..., part] @ columns[part] / 2**contract.shift + half)
        total = np.clip(moved, contract.low, contract.high)
        cut |= moved != total
    return cut
