"""Lloyd-Max centroids of a weight tensor, snapped to int8.

For sorted weights w and centroids c_0 < ... < c_{L-1}, until nothing moves:

  (1) t_i = (c_i + c_{i+1}) / 2                     thresholds
  (2) c_i = mean of the w in (t_{i-1}, t_i]         an empty cell keeps its centroid

then, with scale = max|c| / 127:

  (3) level_i = round(c_i / scale), made strictly increasing by moving later levels up (and back below 127)

so that weight = scale * levels[index] needs an int8 table and one float32 scale.

Source: (1), (2) Lloyd 1982 and Max 1960. That sub-8-bit training starts from such centroids of the float
checkpoint is stated by Zhen et al. 2022 (S8BQAT); the int8 snapping (3) is our reconstruction.
"""

import numpy as np
from numpy.typing import NDArray

from kwsq.ir.quant import Codebook

MOST_ITERATIONS = 500
HIGHEST_LEVEL = 127


def lloyd_max(weights: NDArray[np.floating], levels: int) -> NDArray[np.float64]:
    """Return the centroids that equations (1) and (2) settle on, from quantile starting points.

    Args:
        weights: any shape, finite, not all equal.
        levels: number of centroids, at least 2.

    Returns:
        (levels,) float64, non-decreasing.

    Raises:
        ValueError: fewer than two levels, weights that are all equal, or not finite.
    """
    flat = np.sort(weights.astype(np.float64).ravel())
    if levels < 2 or flat.size == 0 or not np.isfinite(flat).all() or flat[0] == flat[-1]:
        msg = f"{levels} levels for {flat.size} weights: expected at least 2, and finite weights that differ"
        raise ValueError(msg)
    sums = np.concatenate([[0.0], np.cumsum(flat)])
    centroids = np.quantile(flat, (np.arange(levels) + 0.5) / levels)
    for _ in range(MOST_ITERATIONS):
        moved = _cell_means(flat, sums, centroids)
        if np.array_equal(moved, centroids):
            break
        centroids = moved
    return centroids


def _cell_means(
    flat: NDArray[np.float64], sums: NDArray[np.float64], centroids: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Equations (1) and (2), by cumulative sums over the sorted weights."""
    inner = np.searchsorted(flat, thresholds(centroids), side="right")
    edges = np.concatenate([[0], inner, [flat.size]])
    counts = np.diff(edges)
    means = (sums[edges[1:]] - sums[edges[:-1]]) / np.maximum(counts, 1)
    return np.where(counts > 0, means, centroids)


def thresholds(centroids: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the decision thresholds between neighbouring centroids, equation (1): (L,) to (L - 1,) float64."""
    wide = centroids.astype(np.float64)
    return np.asarray((wide[:-1] + wide[1:]) / 2.0)


def snapped_codebook(weights: NDArray[np.floating], bits: int) -> Codebook:
    """Return the int8-snapped Lloyd-Max codebook of a weight tensor with all 2**bits levels, equation (3).

    Args:
        weights: any shape, finite, not all equal.
        bits: index width, 1..7.

    Returns:
        A per-tensor codebook; levels in [-127, 127].
    """
    centroids = lloyd_max(weights, 2**bits)
    scale = np.float32(np.abs(centroids).max() / HIGHEST_LEVEL)
    levels = np.clip(np.rint(centroids / scale), -HIGHEST_LEVEL, HIGHEST_LEVEL).astype(np.int16)
    return Codebook(strictly_increasing(levels).astype(np.int8), np.array([scale]), bits)


def strictly_increasing(levels: NDArray[np.int16]) -> NDArray[np.int16]:
    """Separate equal neighbours: up from the left, then down from the top where that left the int8 range.

    Args:
        levels: (L,) from -127 to 127, non-decreasing, L at most 255.

    Returns:
        (L,) strictly increasing, from -127 to 127.
    """
    step = np.arange(levels.size, dtype=np.int16)
    raised = np.maximum.accumulate(levels - step) + step
    ceiling = HIGHEST_LEVEL - step[::-1]
    return np.asarray(np.minimum(raised, ceiling), dtype=np.int16)


def nearest_index(weights: NDArray[np.floating], codebook: Codebook) -> NDArray[np.uint8]:
    """Return the index of the level nearest to each weight (the lower one at a tie).

    Args:
        weights: any shape, in real units.
        codebook: per-tensor levels and scale.

    Returns:
        Shape of the weights, in 0..levels - 1.
    """
    real = codebook.levels.astype(np.float64) * float(codebook.scale[0])
    return np.searchsorted(thresholds(real), weights.astype(np.float64), side="left").astype(np.uint8)
