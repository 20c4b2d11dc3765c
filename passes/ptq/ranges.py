"""Candidate ranges of an activation. The int8 grid of a range is equation (37), `kwsq.passes.observe`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kwsq.ir.errors import Problem, UnsupportedModelError
from kwsq.ir.quant import Affine, FloatArray, fake_quantize
from kwsq.passes.observe import affine_from_range

SHRINK = 0.8  # each step of the ladder drops a fifth of the range, about a third of a bit
LADDER_STEPS = 14  # down to 0.8**14 = 4 % of the extreme
PERCENTILE = 99.99


@dataclass(frozen=True, slots=True)
class Range:
    """A closed real interval that contains zero."""

    low: float
    high: float

    def including(self, other: Range) -> Range:
        """Returns the smallest range that contains both."""
        return Range(min(self.low, other.low), max(self.high, other.high))


def minmax(chunks: Sequence[FloatArray], name: str = "tensor") -> Range:
    """Returns the range of the values, extended to zero.

    Raises:
        UnsupportedModelError: a value is infinite or undefined.
    """
    # np.min, unlike min, never loses a NaN.
    low = float(np.min([chunk.min(initial=0) for chunk in chunks], initial=0))
    high = float(np.max([chunk.max(initial=0) for chunk in chunks], initial=0))
    if not math.isfinite(high - low):
        found = f"values in [{low}, {high}] on the calibration data"
        raise UnsupportedModelError(Problem(name, found, "finite values", "check the calibration data and the model"))
    return Range(low, high)


def percentile(chunks: Sequence[FloatArray], q: float = PERCENTILE) -> Range:
    """Returns the range that leaves 100 - q percent of the values outside, half of them on each side."""
    values = np.concatenate([chunk.ravel() for chunk in chunks])
    low, high = np.percentile(values, [(100 - q) / 2, (100 + q) / 2])
    return Range(min(float(low), 0.0), max(float(high), 0.0))


def least_squares(chunks: Sequence[FloatArray]) -> Range:
    """Returns the range of the ladder with the least squared error of the tensor itself."""
    values = np.concatenate([chunk.ravel() for chunk in chunks])
    best = minmax(chunks)
    for side in ("low", "high"):
        candidates = ladder(best, side)
        errors = [squared_error(values, affine_of(candidate)) for candidate in candidates]
        best = candidates[int(np.argmin(errors))]
    return best


def squared_error(values: FloatArray, grid: Affine) -> float:
    """Returns the sum of squared rounding and clipping errors."""
    return float(np.square((fake_quantize(values, grid) - values).astype(np.float64)).sum())


def ladder(start: Range, side: str) -> list[Range]:
    """Returns `start` and the ranges with one side drawn in step by step, widest first; [start] if that side is 0."""
    extreme = start.low if side == "low" else start.high
    if extreme == 0:
        return [start]
    sides = [extreme * SHRINK**step for step in range(LADDER_STEPS + 1)]
    return [Range(s, start.high) if side == "low" else Range(start.low, s) for s in sides]


def affine_of(interval: Range) -> Affine:
    """Returns the int8 grid of a range; its ends move by at most half a step."""
    return affine_from_range(interval.low, interval.high)


def clipped(values: FloatArray, grid: Affine) -> FloatArray:
    """Returns the values cut to the range of a grid, not rounded."""
    interval = range_of(grid)
    return np.clip(values, np.float32(interval.low), np.float32(interval.high))


def range_of(grid: Affine) -> Range:
    """Returns the real values of the lowest and highest code of a per-tensor grid."""
    scale, zero_point = float(grid.scale[0]), int(grid.zero_point[0])
    return Range(scale * (grid.range.low - zero_point), scale * (grid.range.high - zero_point))
