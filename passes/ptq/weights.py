"""Weight grids and codes of one layer under one scheme.

per_channel: uniform levels -(2^(b-1) - 1) .. 2^(b-1) - 1, a scale per output channel, drawn in from the largest
    weight to where the layer's output error (53) is least;
per_tensor: the same with one scale;
codebook: Lloyd-Max levels shared by the whole tensor, snapped to int8, a scale per output channel. Channels are
    brought to the same largest weight first; each weight counts with the power of its input and its channel's scale.

At 1 bit every scheme is the codebook (-1, +1) with a scale per channel, the mean magnitude of the channel.

Source: 1 bit: M. Rastegari et al., "XNOR-Net", ECCV 2016, section 3.1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from kwsq.ir.quant import Affine, Codebook, IntRange, PerAxis, PerTensor
from kwsq.passes.ptq.lloyd_max import lloyd_max, snap_to_int8
from kwsq.passes.ptq.rounding import (
    WeightGrid,
    coordinate_descent,
    error_feedback,
    output_error,
    round_to_nearest,
)

Float64 = npt.NDArray[np.float64]
GridScheme = Literal["per_channel", "per_tensor", "codebook"]

CLIP_FACTORS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6, 0.55, 0.5)
WIDE_BITS = 7  # from here on clipping costs more than resolution gains
WIDE_CLIP_FACTORS = (1.0, 0.95, 0.9)


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
    weight: Float64, hessian: Float64, scheme: GridScheme, bits: int, *, feedback: bool = True
) -> QuantizedRows:
    """Returns the weights on the best grid of a scheme.

    Args:
        weight: (G, R, K) real weights.
        hessian: (G, K, K) second moments of the inputs, positive definite.
        scheme: kind of grid.
        bits: width of a code, 1 to 8.
        feedback: round with error feedback, else to nearest.
    """
    if bits == 1:
        return _finish(weight, hessian, _binary_grid(weight), "per_channel", bits, feedback)
    match scheme:
        case "per_channel":
            grid = _clipped_grid(weight, hessian, bits, feedback, per_row=True)
        case "per_tensor":
            grid = _clipped_grid(weight, hessian, bits, feedback, per_row=False)
        case "codebook":
            grid = _codebook_grid(weight, hessian, bits)
    return _finish(weight, hessian, grid, scheme, bits, feedback)


def _finish(
    weight: Float64, hessian: Float64, grid: WeightGrid, scheme: GridScheme, bits: int, feedback: bool
) -> QuantizedRows:
    values = round_to_nearest(weight, grid)
    error = output_error(weight, values, hessian)
    if feedback:
        for start in (values, error_feedback(weight, hessian, grid)):
            tried = coordinate_descent(weight, start, hessian, grid)
            tried_error = output_error(weight, tried, hessian)
            better = tried_error < error
            values, error = np.where(better[..., None], tried, values), np.where(better, tried_error, error)
    return QuantizedRows(values, grid, scheme, bits, error)


def _clipped_grid(weight: Float64, hessian: Float64, bits: int, feedback: bool, *, per_row: bool) -> WeightGrid:
    """Tries each clip factor and keeps the one of least output error, per row or for all rows together."""
    top = 2 ** (bits - 1) - 1
    levels = np.arange(-top, top + 1, dtype=np.int8)
    largest = np.abs(weight).max(axis=2)
    largest = largest if per_row else np.full_like(largest, largest.max())
    full = _positive_float32(largest / top)
    best_scale, best_error = full, np.full(full.shape, np.inf)
    for factor in CLIP_FACTORS if bits < WIDE_BITS else WIDE_CLIP_FACTORS:
        scale = _positive_float32(full * factor)
        error = _rounding_error(weight, hessian, WeightGrid(levels, scale.ravel()), feedback)
        error = error if per_row else np.full_like(error, error.sum())
        better = error < best_error
        best_scale, best_error = np.where(better, scale, best_scale), np.where(better, error, best_error)
    return WeightGrid(levels, best_scale.ravel())


def _rounding_error(weight: Float64, hessian: Float64, grid: WeightGrid, feedback: bool) -> Float64:
    rounding: Callable[[], Float64] = (
        (lambda: error_feedback(weight, hessian, grid)) if feedback else (lambda: round_to_nearest(weight, grid))
    )
    return output_error(weight, rounding(), hessian)


def _codebook_grid(weight: Float64, hessian: Float64, bits: int) -> WeightGrid:
    largest = _positive_float32(np.abs(weight).max(axis=2))[..., None]
    power = np.diagonal(hessian, axis1=1, axis2=2)[:, None, :]
    importance = (power * np.square(largest)).ravel()
    levels, scale = snap_to_int8(lloyd_max((weight / largest).ravel(), importance, 2**bits))
    return WeightGrid(levels, _positive_float32(largest * scale).ravel())


def _binary_grid(weight: Float64) -> WeightGrid:
    scale = _positive_float32(np.abs(weight).mean(axis=2))
    return WeightGrid(np.array([-1, 1], np.int8), scale.ravel())


def _positive_float32(scale: Float64) -> Float64:
    """Scales as the artefact holds them, float32; a row of zeros gets scale 1."""
    return np.where(scale > 0, scale, 1.0).astype(np.float32).astype(np.float64)
