"""Narrow accumulators: the order is the stated one, cuts are counted, and a proof is never wrong."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kwsq.ir.numerics.accumulator import Accumulator, prove_no_overflow, safe_additions, saturating_sums


def by_hand(patch: list[int], row: list[int], bias: int, contract: Accumulator) -> tuple[int, int]:
    """Equation (46) in Python integers, one group after another."""

    def narrowed(value: int) -> int:
        return (value + (2**contract.shift // 2)) >> contract.shift

    def cut(value: int) -> int:
        return max(contract.low, min(contract.high, value))

    total, cuts = cut(narrowed(bias)), int(cut(narrowed(bias)) != narrowed(bias))
    for start in range(0, len(row), contract.group):
        products = zip(patch[start : start + contract.group], row[start : start + contract.group], strict=True)
        moved = total + narrowed(sum(x * w for x, w in products))
        total = cut(moved)
        cuts += total != moved
    return total, cuts


CONTRACTS = st.builds(Accumulator, st.sampled_from([16, 32]), st.integers(1, 9), st.integers(0, 5))
CODES = st.lists(st.integers(-127, 127), min_size=12, max_size=12)


@settings(max_examples=150, deadline=None)
@given(contract=CONTRACTS, patch=CODES, row=CODES, bias=st.integers(-60000, 60000))
def test_sums_are_those_of_the_stated_order(contract: Accumulator, patch: list[int], row: list[int], bias: int) -> None:
    sums, cuts = saturating_sums(
        np.array([patch], np.int8), np.array([row], np.int8), np.array([bias], np.int32), contract
    )
    assert (int(sums[0, 0]), cuts) == by_hand(patch, row, bias, contract)


def test_another_order_gives_another_sum() -> None:
    patch, row = np.full((1, 8), 127, np.int8), np.array([[127] * 4 + [-127] * 4], np.int8)
    contract = Accumulator(16, 1)
    forward, _ = saturating_sums(patch, row, None, contract)
    backward, _ = saturating_sums(patch, row[:, ::-1].copy(), None, contract)
    assert forward[0, 0] == 32767 - 4 * 127**2
    assert backward[0, 0] == -32768 + 4 * 127**2


@settings(max_examples=150, deadline=None)
@given(contract=CONTRACTS, patch=CODES, row=CODES, bias=st.integers(-30000, 30000))
def test_what_is_proven_does_not_saturate(contract: Accumulator, patch: list[int], row: list[int], bias: int) -> None:
    weights, offset = np.array([row], np.int8), np.array([bias], np.int32)
    _, cuts = saturating_sums(np.array([patch], np.int8), weights, offset, contract)
    assert not (prove_no_overflow(weights, offset, contract).proven and cuts)


@settings(max_examples=100, deadline=None)
@given(row=CODES)
def test_what_is_not_proven_does_saturate_for_some_input_and_order(row: list[int]) -> None:
    """The bound is tight: products of one sign come first and are as large as they can be."""
    contract, reached = Accumulator(16, 1), 0
    weights = np.array([row], np.int8)
    for sign in (1, -1):
        ordered = sign * np.sort(sign * weights)[:, ::-1]
        worst = np.where(sign * ordered > 0, 127, -128).astype(np.int8)
        reached += saturating_sums(np.where(sign > 0, worst, worst), ordered, None, contract)[1]
        reached += saturating_sums(np.where(ordered > 0, -128, 127).astype(np.int8), ordered, None, contract)[1]
    assert prove_no_overflow(weights, None, contract).proven == (reached == 0)


def test_an_input_range_that_is_half_as_wide_proves_more() -> None:
    weights = np.full((1, 30), 8, np.int8)
    weights[0, ::2] = -8
    contract = Accumulator(16, 4)
    assert prove_no_overflow(weights, None, contract, input_range=(0, 127)).worst == 15 * 8 * 127
    assert prove_no_overflow(weights, None, contract).worst == 15 * 8 * (127 + 128)
    wide = prove_no_overflow(np.repeat(weights, 3, axis=1), None, contract)
    assert not wide.proven
    assert wide.channels == (0,)


@pytest.mark.parametrize(("top", "additions"), [(127, 2), (63, 4), (31, 8), (15, 17), (7, 36), (3, 85), (1, 255)])
def test_the_table_of_safe_additions(top: int, additions: int) -> None:
    assert safe_additions(top) == additions


@pytest.mark.parametrize("text", ["int16 group=32 shift=0", "int32 group=1 shift=7"])
def test_a_contract_is_read_as_it_was_written(text: str) -> None:
    assert str(Accumulator.parse(text)) == text


@pytest.mark.parametrize("text", ["int8 group=32 shift=0", "int16 group=0 shift=0", "int16", "int16 group=32 shift=-1"])
def test_other_contracts_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"accumulator|Accumulator"):
        Accumulator.parse(text)
