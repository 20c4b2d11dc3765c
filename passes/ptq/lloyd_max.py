"""Codebooks by the Lloyd-Max algorithm, with levels that an int8 weight can hold.

    level_k = sum(h_i w_i) / sum(h_i)   over the w_i nearest to level_k                                        (51)
    boundaries half way between neighbouring levels                                                            (52)

alternate until they stand still; each step can only lower the weighted squared error sum h_i (w_i - level)^2.

Source: J. Max, "Quantizing for Minimum Distortion", IRE Trans. Information Theory, 1960; S. P. Lloyd, "Least Squares
Quantization in PCM", IEEE Trans. Information Theory, 1982.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]
Levels = npt.NDArray[np.int8]

MOST_STEPS = 200
LARGEST_LEVEL = 127


def lloyd_max(values: Float64, importance: Float64, count: int) -> Float64:
    """Returns at most `count` increasing real levels for the values.

    Args:
        values: (n,) real values.
        importance: (n,) weights h, non-negative.
        count: number of levels wanted; fewer are returned when there are fewer distinct values.
    """
    order = np.argsort(values, kind="stable")
    ordered, mass = values[order], importance[order] + np.finfo(np.float64).tiny
    levels = _quantile_levels(ordered, count)
    total_mass = np.concatenate(([0.0], np.cumsum(mass)))
    total_moment = np.concatenate(([0.0], np.cumsum(mass * ordered)))
    for _ in range(MOST_STEPS):
        updated = _step(ordered, total_mass, total_moment, levels)
        if updated.size == levels.size and np.allclose(updated, levels, rtol=1e-9, atol=0):
            break
        levels = updated
    return levels


def _quantile_levels(ordered: Float64, count: int) -> Float64:
    """Starting levels: half way between a uniform and an equal-population grid, so that tails are reached."""
    positions = (np.arange(count) + 0.5) / count
    populated = ordered[(positions * (ordered.size - 1)).round().astype(int)]
    uniform = ordered[0] + positions * (ordered[-1] - ordered[0])
    return np.unique((populated + uniform) / 2)


def _step(ordered: Float64, total_mass: Float64, total_moment: Float64, levels: Float64) -> Float64:
    """One round of equations (52) and (51); a level that nothing is near to is dropped."""
    edges = np.searchsorted(ordered, (levels[:-1] + levels[1:]) / 2)
    bounds = np.concatenate(([0], edges, [ordered.size]))
    occupied = np.diff(bounds) > 0
    mass, moment = np.diff(total_mass[bounds]), np.diff(total_moment[bounds])
    return np.unique(moment[occupied] / mass[occupied])


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
