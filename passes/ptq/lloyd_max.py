"""Codebooks by the Lloyd-Max algorithm, with levels that an int8 weight can hold.

    level_k = sum(h_i w_i) / sum(h_i)   over the w_i nearest to level_k                                        (51)
    boundaries half way between neighbouring levels                                                            (52)

alternate until they stand still; each step can only lower the weighted squared error sum h_i (w_i - level)^2.

Source: J. Max, "Quantizing for Minimum Distortion", IRE Trans. Information Theory, 1960; S. P. Lloyd, "Least Squares
Quantization in PCM", IEEE Trans. Information Theory, 1982.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]
Levels = npt.NDArray[np.int8]

MOST_STEPS = 200
LARGEST_LEVEL = 127


@dataclass(frozen=True, slots=True, eq=False)
class _Sorted:
    """Values in order with the prefix sums of h, h w and h w^2, from which any interval's mean and error follow."""

    values: Float64
    mass: Float64
    moment: Float64
    square: Float64

    @classmethod
    def of(cls, values: Float64, importance: Float64) -> _Sorted:
        """Sorts the values; an importance of 0 still counts a little."""
        order = np.argsort(values, kind="stable")
        ordered, mass = values[order], importance[order] + np.finfo(np.float64).tiny
        sums = (np.concatenate(([0.0], np.cumsum(a))) for a in (mass, mass * ordered, mass * ordered**2))
        return cls(ordered, *sums)

    def cells(self, levels: Float64) -> tuple[Float64, Float64, Float64]:
        """Returns mass, mean and squared error around the mean of the values nearest to each level; no empty cells."""
        edges = np.searchsorted(self.values, (levels[:-1] + levels[1:]) / 2)
        bounds = np.concatenate(([0], edges, [self.values.size]))
        bounds = bounds[np.concatenate(([True], np.diff(bounds) > 0))]
        mass, moment, square = (np.diff(total[bounds]) for total in (self.mass, self.moment, self.square))
        mean = moment / mass
        return mass, mean, np.maximum(square - moment * mean, 0.0)


def lloyd_max(values: Float64, importance: Float64, count: int) -> Float64:
    """Returns at most `count` increasing real levels for the values.

    A level that nothing is near to is dropped; the cells of largest error are then split until `count` is reached.

    Args:
        values: (n,) real values.
        importance: (n,) weights h, non-negative.
        count: number of levels wanted; fewer are returned when there are fewer distinct values.
    """
    data = _Sorted.of(values, importance)
    distinct = np.unique(values)
    if distinct.size <= count:
        return distinct
    levels = _settle(data, _starting_levels(data.values, count))
    while levels.size < count:
        more = _settle(data, _split(data, levels, count - levels.size))
        if more.size <= levels.size:
            break
        levels = more
    return levels


def _settle(data: _Sorted, levels: Float64) -> Float64:
    """Repeats equations (52) and (51) until the levels stand still."""
    for _ in range(MOST_STEPS):
        updated = _step(data, levels)
        if updated.size == levels.size and np.allclose(updated, levels, rtol=1e-9, atol=0):
            break
        levels = updated
    return levels


def _step(data: _Sorted, levels: Float64) -> Float64:
    return np.unique(data.cells(levels)[1])


def _split(data: _Sorted, levels: Float64, count: int) -> Float64:
    """Replaces the levels of the `count` worst cells by two each, a standard deviation apart on either side."""
    mass, mean, error = data.cells(levels)
    worst = np.argsort(-error, kind="stable")[:count]
    spread = np.sqrt(error[worst] / mass[worst])
    return np.unique(np.concatenate((np.delete(mean, worst), mean[worst] - spread, mean[worst] + spread)))


def _starting_levels(ordered: Float64, count: int) -> Float64:
    """Returns levels half way between a uniform and an equal-population grid, so that tails are reached."""
    positions = (np.arange(count) + 0.5) / count
    populated = ordered[(positions * (ordered.size - 1)).round().astype(int)]
    uniform = ordered[0] + positions * (ordered[-1] - ordered[0])
    return np.unique((populated + uniform) / 2)


def snap_to_int8(levels: Float64) -> tuple[Levels, float]:
    """Returns int8 levels and the scale with scale * level nearest to the real levels.

    The largest magnitude becomes 127, which keeps the relative rounding error of a level below 1/254 of it.
    """
    largest = float(np.abs(levels).max())
    scale = largest / LARGEST_LEVEL if largest > 0 else 1.0 / LARGEST_LEVEL
    snapped = np.unique(np.rint(levels / scale).astype(np.int8))
    if snapped.size == 1:  # a codebook has at least two levels
        snapped = np.unique(np.array([0, snapped[0] or 1], np.int8))
    return snapped, scale
