"""Sums in narrow saturating accumulators, in a stated order, and proofs that none can saturate.

The K products of an output are taken in weight order (kernel row, column, input channel) in groups of G:

  z_0 = sat(b),  z_(g+1) = sat(z_g + (sum of group g + 2^(r-1) >> r)),  b >> r likewise          (46)

with sat() to the accumulator's range and r the narrowing shift, 0 for none. Saturating addition is not associative:
order and group size are part of what a model was trained for. No z can leave the range, in whatever order, when

  max(h_b + sum max(w lo, w hi), -(l_b + sum min(w lo, w hi))) <= 2^(A-1) - 1                      (47)

over inputs in [lo, hi], 0 included (for r > 0 each group's bound is shifted and rounded first).

Equation numbers refer to docs/quantization.md. Source: (46) our reconstruction of the transient variables of Macha et
al. 2023; (47) is the L1 bound that Colbert et al. 2023 (A2Q) train for, here per sign.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kwsq.ir.numerics.fixed_point import Int8Array, Int32Array, Int64Array
from kwsq.ir.numerics.linear import fold_zero_point

_TEXT = re.compile(r"int(16|32) group=(\d+) shift=(\d+)")


@dataclass(frozen=True, slots=True)
class Accumulator:
    """The contract of a layer's sums.

    Args:
        bits: width, 16 or 32.
        group: products summed exactly before they reach the accumulator.
        shift: bits dropped from a group's sum, rounding half up.
    """

    bits: int
    group: int
    shift: int = 0

    def __post_init__(self) -> None:
        if self.bits not in (16, 32) or self.group < 1 or self.shift < 0:
            raise ValueError(f"accumulator {self}: expected 16 or 32 bits, a group of at least 1 and no negative shift")

    def __str__(self) -> str:
        return f"int{self.bits} group={self.group} shift={self.shift}"

    @classmethod
    def parse(cls, text: str) -> Accumulator:
        """Returns the contract that `str` wrote.

        >>> Accumulator.parse("int16 group=32 shift=0")
        Accumulator(bits=16, group=32, shift=0)

        Raises:
            ValueError: any other text.
        """
        match = _TEXT.fullmatch(text)
        if match is None:
            raise ValueError(f"accumulator {text!r}: expected such as 'int16 group=32 shift=0'")
        return cls(*map(int, match.groups()))

    @property
    def high(self) -> int:
        """Largest value."""
        return int(2 ** (self.bits - 1) - 1)

    @property
    def low(self) -> int:
        """Smallest value."""
        return -self.high - 1


@dataclass(frozen=True, slots=True)
class OverflowProof:
    """What equation (47) says of a layer.

    Args:
        worst: largest magnitude any partial sum can reach.
        limit: largest value of the accumulator.
        channels: output channels whose bound exceeds the limit; empty if proven.
    """

    worst: int
    limit: int
    channels: tuple[int, ...]

    @property
    def proven(self) -> bool:
        """Whether no input can saturate the layer."""
        return not self.channels


def saturating_sums(
    patches: NDArray[Any],
    weights: Int8Array,
    bias: Int32Array | None,
    contract: Accumulator,
    *,
    input_zero_point: int = 0,
) -> tuple[Int32Array, int]:
    """Sum products as equation (46) says.

    Args:
        patches: (..., K) int8 inputs in weight order.
        weights: (C_out, K) int8.
        bias: (C_out,) int32 or None.
        contract: accumulator.
        input_zero_point: input code of real 0.

    Returns:
        (..., C_out) int32 in units of 2^shift products, and how many of the values z were cut.
    """
    folded = fold_zero_point(weights, bias, input_zero_point)
    clipped = np.clip(_narrowed(folded, contract), contract.low, contract.high)
    saturated = int((clipped != _narrowed(folded, contract)).sum()) * int(np.prod(patches.shape[:-1]))
    total = np.broadcast_to(clipped, (*patches.shape[:-1], len(weights)))
    for start in range(0, weights.shape[1], contract.group):
        part = slice(start, start + contract.group)
        # Exact in float64: groups are far below 2^53 / 2^14 products.
        products = patches[..., part].astype(np.float64) @ weights[:, part].astype(np.float64).T
        moved = total + _narrowed(products.astype(np.int64), contract)
        total = np.clip(moved, contract.low, contract.high)
        saturated += int((total != moved).sum())
    return total.astype(np.int32), saturated


def _narrowed(sums: Int64Array, contract: Accumulator) -> Int64Array:
    half = (1 << contract.shift) >> 1
    return (sums + half) >> contract.shift


def prove_no_overflow(
    weights: Int8Array, bias: Int32Array | None, contract: Accumulator, *, input_range: tuple[int, int] = (-128, 127)
) -> OverflowProof:
    """Evaluate equation (47) for every output channel.

    Args:
        weights: (C_out, K) int8.
        bias: (C_out,) int32 or None.
        contract: accumulator.
        input_range: smallest and largest input code minus zero point; holds 0.

    Returns:
        a proof, or the channels for which there is none.
    """
    low, high = input_range
    wide = weights.astype(np.int64)
    above, below = np.maximum(wide * low, wide * high), np.minimum(wide * low, wide * high)
    start = np.zeros(len(weights), np.int64) if bias is None else _narrowed(bias.astype(np.int64), contract)
    most, least = np.maximum(start, 0), np.minimum(start, 0)
    for at in range(0, weights.shape[1], contract.group):
        part = slice(at, at + contract.group)
        most = most + _narrowed(above[:, part].sum(axis=1), contract)
        least = least + _narrowed(below[:, part].sum(axis=1), contract)
    worst = np.maximum(most, -least)
    channels = tuple(np.flatnonzero(worst > contract.high).tolist())
    return OverflowProof(int(worst.max(initial=0)), contract.high, channels)


def safe_additions(weight_top: int, accumulator_bits: int = 16, input_top: int = 128) -> int:
    """Returns how many products of that size an accumulator holds whatever their signs.

    >>> [safe_additions(top) for top in (127, 15, 7)]
    [2, 17, 36]
    """
    return int((2 ** (accumulator_bits - 1) - 1) // (weight_top * input_top))
