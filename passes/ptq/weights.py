"""Weight grids and codes of one layer under one scheme.

per_channel: uniform levels -(2^(b-1) - 1) .. 2^(b-1) - 1, a scale per output channel;
per_tensor: the same with one scale;
codebook: Lloyd-Max levels shared by the whole tensor, snapped to int8, a scale per output channel. Channels are
    brought to the same largest weight first; each weight counts with the power of its input and its channel's scale.

At 1 bit every scheme is the codebook (-1, +1) with a scale per channel.

A scale starts where the largest weight meets the outermost level (1 bit: at the mean magnitude), is drawn in or out to
where the layer's output error (53) is least, and is at last fitted to the codes v / s found with it, which in turn are
rounded once more:

    s' = (w H v^T) / (v H v^T) s                                                                                 (60)

Source: 1 bit: M. Rastegari et al., "XNOR-Net", ECCV 2016, section 3.1; (60) is the least-squares scale of fixed codes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from kwsq.ir.quant import Affine, Codebook, IntRange, PerAxis, PerTensor
from kwsq.passes.ptq.lloyd_max import lloyd_max, snap_to_int8
from kwsq.passes.ptq.rounding import (
    Factors,
    WeightGrid,
    coordinate_descent,
    error_feedback,
    output_error,
    round_to_nearest,
    times_hessian,
)

Float64 = npt.NDArray[np.float64]
GridScheme = Literal["per_channel", "per_tensor", "codebook"]

FITS = 2
SMALLEST_ROW = 2.0**-16
NEGLIGIBLE = 1024 * float(np.finfo(np.float32).tiny) / SMALLEST_ROW
"""A row that stays below it counts as zero: 127 levels, a fifth of the range and the floor of its neighbours down,
float32 scales underflow."""
# Smallest and largest clip factor tried, and how many: the fewer levels, the more is gained by clipping.
CLIP_FACTORS = {
    2: (0.2, 1.0, 17),
    3: (0.3, 1.0, 15),
    4: (0.5, 1.0, 11),
    5: (0.6, 1.0, 9),
    6: (0.7, 1.0, 7),
    7: (0.9, 1.0, 3),
    8: (0.9, 1.0, 3),
}
BINARY_FACTORS = (0.6, 1.4, 17)
CODEBOOK_FACTORS = (0.8, 1.1, 7)


@dataclass(frozen=True, slots=True, eq=False)
class QuantizedRows:
    """A layer's weights on a grid.

    Args:
        values: (G, R, K) real values, each scale * level.
        grid: the grid.
        scheme: how the grid was made.
        bits: width of a code or index.
        error: (G, R) output error (53) per row on the calibration inputs.
    """

    values: Float64
    grid: WeightGrid
    scheme: GridScheme
    bits: int
    error: Float64

    @property
    def label(self) -> str:
        """What the report calls the grid."""
        return "binary" if self.bits == 1 else self.scheme

    def spec(self) -> Affine | Codebook:
        """Returns the grid as the tensor's annotation."""
        shared = self.scheme == "per_tensor"
        scale = self.grid.scale[:1] if shared else self.grid.scale
        granularity = PerTensor() if shared else PerAxis(0)
        if self.scheme == "codebook" or self.bits == 1:
            return Codebook(self.grid.levels, scale.astype(np.float32), self.bits, granularity)
        zero_point = np.zeros(scale.shape, np.int32)
        span = IntRange.of(self.bits, signed=True, narrow=True)
        return Affine(scale.astype(np.float32), zero_point, span, granularity)


def quantize_rows(
    weight: Float64, hessian: Float64, scheme: GridScheme, bits: int, *, factors: Factors | None
) -> QuantizedRows:
    """Returns the weights on the best grid of a scheme.

    Args:
        weight: (G, R, K) real weights.
        hessian: (G, K, K) second moments of the inputs, positive definite.
        scheme: kind of grid.
        bits: width of a code, 1 to 8.
        factors: of `hessian`, to round with error feedback; None rounds to nearest.
    """
    shared = scheme == "per_tensor" and bits > 1
    weight = np.where(np.abs(weight).max(axis=2, keepdims=True) < NEGLIGIBLE, 0.0, weight)
    start, clips = _starting_grid(weight, hessian, scheme, bits)
    grid = _best_clip(weight, hessian, factors, start, clips, shared=shared)
    values, error = _round(weight, hessian, factors, grid)
    for _ in range(FITS if factors else 0):
        grid, values, error = _fit(weight, hessian, grid, values, error, shared=shared)
    return QuantizedRows(values, grid, "per_channel" if bits == 1 else scheme, bits, error)


def _starting_grid(
    weight: Float64, hessian: Float64, scheme: GridScheme, bits: int
) -> tuple[WeightGrid, npt.NDArray[np.float64]]:
    """Returns the grid on which no weight is clipped, and the factors to try on its scale."""
    if bits == 1:
        scale = _with_floor(np.abs(weight).mean(axis=2))
        return WeightGrid(np.array([-1, 1], np.int8), scale.ravel()), np.linspace(*BINARY_FACTORS)
    largest = _with_floor(np.abs(weight).max(axis=2))
    if scheme == "codebook":
        levels, step = _lloyd_max_levels(weight / largest[..., None], hessian, largest, bits)
        return WeightGrid(levels, _float32(largest * step).ravel()), np.linspace(*CODEBOOK_FACTORS)
    top = 2 ** (bits - 1) - 1
    largest = np.full_like(largest, largest.max()) if scheme == "per_tensor" else largest
    grid = WeightGrid(np.arange(-top, top + 1, dtype=np.int8), _float32(largest / top).ravel())
    return grid, np.linspace(*CLIP_FACTORS[bits])


def _with_floor(magnitude: Float64) -> Float64:
    """A row of next to nothing keeps a scale that its bias can be counted in, and that rounds it to next to nothing."""
    return np.maximum(magnitude, (magnitude.max() or 1.0) * SMALLEST_ROW)


def _lloyd_max_levels(
    relative: Float64, hessian: Float64, largest: Float64, bits: int
) -> tuple[npt.NDArray[np.int8], float]:
    """Returns the levels of weights given relative to the largest of their row, and the real size of level 1."""
    power = np.diagonal(hessian, axis1=1, axis2=2)[:, None, :]
    importance = (power * np.square(largest[..., None])).ravel()
    return snap_to_int8(lloyd_max(relative.ravel(), importance, 2**bits))


def _best_clip(
    weight: Float64, hessian: Float64, factors: Factors | None, start: WeightGrid, clips: Float64, *, shared: bool
) -> WeightGrid:
    """Returns the grid with the scale factor of least output error, per row or one for all rows."""
    rows = weight.shape[:2]
    best_scale, best_error = start.scale, np.full(rows, np.inf)
    for clip in clips[::-1]:
        grid = WeightGrid(start.levels, _float32(start.scale * clip))
        values = error_feedback(weight, factors, grid) if factors else round_to_nearest(weight, grid)
        error = output_error(weight, values, hessian)
        error = np.full_like(error, error.sum()) if shared else error
        better = error < best_error
        best_scale = np.where(better.ravel(), grid.scale, best_scale)
        best_error = np.where(better, error, best_error)
    return WeightGrid(start.levels, best_scale)


def _round(weight: Float64, hessian: Float64, factors: Factors | None, grid: WeightGrid) -> tuple[Float64, Float64]:
    """Returns the weights rounded, and their output error per row: never above that of rounding to nearest."""
    values = round_to_nearest(weight, grid)
    error = output_error(weight, values, hessian)
    if factors:
        for start in (values, error_feedback(weight, factors, grid)):
            tried = coordinate_descent(weight, start, hessian, grid)
            tried_error = output_error(weight, tried, hessian)
            better = tried_error < error
            values, error = np.where(better[..., None], tried, values), np.where(better, tried_error, error)
    return values, error


def _fit(
    weight: Float64, hessian: Float64, grid: WeightGrid, values: Float64, error: Float64, *, shared: bool
) -> tuple[WeightGrid, Float64, Float64]:
    """Returns grid and values after equation (60) and another descent, where that lowers the output error."""
    product = times_hessian(values, hessian)
    numerator, denominator = (weight * product).sum(axis=2), (values * product).sum(axis=2)
    if shared:
        numerator, denominator = (np.full_like(a, a.sum()) for a in (numerator, denominator))
    usable = (denominator > 0) & (numerator > 0)
    ratio = np.where(usable, numerator, 1.0) / np.where(usable, denominator, 1.0)
    fitted = WeightGrid(grid.levels, _float32(grid.scale * ratio.ravel()))
    moved = grid.codes(values) * fitted.scale.reshape(*values.shape[:2], 1)
    tried = coordinate_descent(weight, moved, hessian, fitted)
    tried_error = output_error(weight, tried, hessian)
    better = np.full(error.shape, tried_error.sum() < error.sum()) if shared else tried_error < error
    return (
        WeightGrid(grid.levels, np.where(better.ravel(), fitted.scale, grid.scale)),
        np.where(better[..., None], tried, values),
        np.where(better, tried_error, error),
    )


def _float32(scale: Float64) -> Float64:
    """Returns scales as the artefact holds them."""
    return scale.astype(np.float32).astype(np.float64)
