"""A trained network as plain arrays: what the exporter reads, free of TensorFlow.

Axis letters: K taps, C_in and C_out channels, T frames.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kwsq.ir.numerics.accumulator import Accumulator
from kwsq.ir.quant import Affine, QuantSpec

CLASSES_KEY, FEATURES_KEY = "kwsq.classes", "kwsq.features"
"""Metadata of an exported file: its classes as a JSON list, in the order of its outputs, and what it takes."""


@dataclass(frozen=True, slots=True, eq=False)
class WeightTensor:
    """A weight with its grid.

    Args:
        values: float32 where the grid is Unquantized, int8 codes if Affine, int8 levels if a Codebook.
        spec: the grid.
    """

    values: NDArray[np.generic]
    spec: QuantSpec


@dataclass(frozen=True, slots=True, eq=False)
class BiasTensor:
    """A bias as int32 codes (C_out,) on the scale of the accumulator."""

    codes: NDArray[np.int32]
    scale: np.float32


@dataclass(frozen=True, slots=True, eq=False)
class SplicedDenseRecord:
    """A dense layer over K neighbouring frames: weight (K, C_in, C_out), no padding, bias only in fixed point."""

    name: str
    weight: WeightTensor
    stride: int
    bias: BiasTensor | None = None
    accumulator: Accumulator | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Conv2DRecord:
    """A convolution: weight (K_t, K_f, C_in, C_out), or (K_t, K_f, C_in, 1) if depthwise; bias only in fixed point.

    `pads` counts zeros as ONNX orders them: both starts, then both ends.
    """

    name: str
    weight: WeightTensor
    stride: tuple[int, int]
    pads: tuple[int, int, int, int]
    is_depthwise: bool
    bias: BiasTensor | None = None
    accumulator: Accumulator | None = None


@dataclass(frozen=True, slots=True, eq=False)
class DenseRecord:
    """A dense layer: weight (C_in, C_out), bias (C_out,) float32 or codes."""

    name: str
    weight: WeightTensor
    bias: NDArray[np.float32] | BiasTensor
    accumulator: Accumulator | None = None


@dataclass(frozen=True, slots=True, eq=False)
class RecurrentRecord:
    """One step of h' = tanh(x W + b + h U): W (C_in, C_out), U (C_out, C_out), bias (C_out,) float32.

    `driven`, `recalled`, `total` and `state` are the grids of x W + b, h U, their sum and h; None where it has none.
    """

    name: str
    input_weight: WeightTensor
    state_weight: WeightTensor
    bias: NDArray[np.float32]
    driven: Affine | None
    recalled: Affine | None
    total: Affine | None
    state: Affine | None


@dataclass(frozen=True, slots=True, eq=False)
class BatchNormRecord:
    """gamma (x - mean) / sqrt(variance + epsilon) + beta over the channels; four (C,) float32."""

    name: str
    gamma: NDArray[np.float32]
    beta: NDArray[np.float32]
    mean: NDArray[np.float32]
    variance: NDArray[np.float32]
    epsilon: float


@dataclass(frozen=True, slots=True)
class ReluRecord:
    """max(x, 0)."""

    name: str


@dataclass(frozen=True, slots=True)
class MeanOverTimeRecord:
    """Mean over the T frames: (N, T, C) to (N, C)."""

    name: str


@dataclass(frozen=True, slots=True)
class MeanOverMapRecord:
    """Mean over T frames and F bands: (N, T, F, C) to (N, C)."""

    name: str


@dataclass(frozen=True, slots=True)
class FakeQuantizeRecord:
    """Activations rounded to a grid and back."""

    name: str
    spec: Affine


LayerRecord = (
    SplicedDenseRecord
    | Conv2DRecord
    | DenseRecord
    | RecurrentRecord
    | BatchNormRecord
    | ReluRecord
    | MeanOverTimeRecord
    | MeanOverMapRecord
    | FakeQuantizeRecord
)
