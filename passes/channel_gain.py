"""Multiplying a weight by one gain per output channel without touching its codes, equation (12).

real' = gain_c * real = (gain_c * scale) * code                 for gain_c > 0
real' = (|gain_c| * scale) * (-code)                            for gain_c < 0, when -code is in the range
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from kwsq.ir.graph import Tensor
from kwsq.ir.quant import Affine, Codebook, PerAxis, Unquantized

Float64 = npt.NDArray[np.float64]


class GainRefusedError(Exception):
    """A gain that the codes of a weight cannot absorb; carries the reason."""


@dataclass(frozen=True, slots=True, eq=False)
class GainedWeight:
    """A weight with gains folded in.

    Args:
        tensor: the new weight, same name.
        zeroed: output channels whose codes were set to zero because the gain vanished.
        negated: output channels whose codes were negated.
    """

    tensor: Tensor
    zeroed: tuple[int, ...]
    negated: tuple[int, ...]


def apply_gain(weight: Tensor, gain: Float64) -> GainedWeight:
    """Returns the weight times `gain` along axis 0.

    Args:
        weight: constant (C_out, ...), float or on a grid along axis 0 or per tensor.
        gain: (C_out,) float64, finite.

    Raises:
        GainRefusedError: a negative gain meets codes that have no negative in their range.
    """
    assert weight.data is not None
    match weight.quant:
        case Unquantized():
            data = weight.real() * gain.reshape(-1, *[1] * (weight.rank - 1))
            return GainedWeight(replace(weight, data=data.astype(np.float32)), (), ())
        case Affine() | Codebook() as spec:
            return _gain_codes(weight, spec, gain)


def _gain_codes(weight: Tensor, spec: Affine | Codebook, gain: Float64) -> GainedWeight:
    assert weight.data is not None
    if isinstance(spec.granularity, PerAxis) and spec.granularity.axis != 0:
        raise GainRefusedError(f"its scales run along axis {spec.granularity.axis}, the gain along axis 0")
    channels = weight.shape[0]
    scale = np.broadcast_to(spec.scale.astype(np.float64), (channels,)) * np.abs(gain)
    # A gain this small underflows float32 scales; such a channel contributes nothing (see Affine's scale > 0 rule).
    vanished = scale < np.finfo(np.float32).tiny
    negative = (gain < 0) & ~vanished
    codes: npt.NDArray[Any] = np.array(weight.data)
    _check_negatable(codes[negative], spec)
    np.negative(codes, out=codes, where=negative.reshape(-1, *[1] * (codes.ndim - 1)))
    codes[vanished] = _zero_codes(spec, vanished, codes.ndim)
    scale = np.where(vanished, 1.0, scale)
    quant = _rescaled(spec, scale.astype(np.float32), codes)
    tensor = replace(weight, data=codes, quant=quant)
    return GainedWeight(tensor, _indices(vanished), _indices(negative))


def _check_negatable(codes: npt.NDArray[np.generic], spec: Affine | Codebook) -> None:
    if codes.size == 0:
        return
    if isinstance(spec, Codebook):
        if not set((-spec.levels.astype(int)).tolist()) <= set(spec.levels.astype(int).tolist()):
            raise GainRefusedError("a negative gain meets a codebook that is not symmetric around zero")
        return
    if spec.zero_point.any():
        raise GainRefusedError("a negative gain meets asymmetric weight codes (zero point not 0)")
    if int(-codes.astype(np.int32).min()) > spec.range.high:
        raise GainRefusedError(f"a negative gain meets code {int(codes.min())}, whose negative is outside the range")


def _zero_codes(spec: Affine | Codebook, vanished: npt.NDArray[np.bool_], rank: int) -> npt.NDArray[np.integer]:
    """Returns the codes of real 0, one per vanished channel, broadcast to the weight's rank."""
    shape = (-1, *[1] * (rank - 1))
    if isinstance(spec, Affine):
        return np.broadcast_to(spec.zero_point, vanished.shape)[vanished].reshape(shape)
    if vanished.any() and 0 not in spec.levels:
        raise GainRefusedError("a vanishing gain meets a codebook without a zero level")
    return np.zeros(int(vanished.sum()), np.int8).reshape(shape)


def _rescaled(
    spec: Affine | Codebook, scale: npt.NDArray[np.float32], codes: npt.NDArray[np.generic]
) -> Affine | Codebook:
    if isinstance(spec, Codebook):
        return replace(spec, scale=scale, granularity=PerAxis(0))
    zero_point = np.broadcast_to(spec.zero_point, scale.shape)
    return replace(spec, scale=scale, zero_point=zero_point, granularity=PerAxis(0))


def _indices(mask: npt.NDArray[np.bool_]) -> tuple[int, ...]:
    return tuple(int(i) for i in np.flatnonzero(mask))
