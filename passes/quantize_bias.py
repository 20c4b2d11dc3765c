"""Integer biases: bias_q = round(bias / (scale_x * scale_w)), int32, equation (40)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kwsq.ir.graph import Tensor
from kwsq.ir.quant import Affine

BIAS_LIMIT = 2**30
"""Largest bias code: half of int32 is left to the products."""

BIAS_CODES = 2.0**20
"""Bias code, at an input scale of 1, of a channel whose scale is taken from its bias: exact to 20 bits, and input
scales from 2**-10 up leave it within BIAS_LIMIT (smaller ones take the scale from the bias again)."""

NEAR_CODE = 1 / 64
"""A bias this near a code in every channel was put there by training; float32 parameters of a folded batch norm leave
no more of it. By chance it happens to one layer of n channels in 32**n."""


def scale_from_bias(bias: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """Returns weight scales for channels without weights, so that their bias keeps its precision.

    Args:
        bias: (n,) real bias; a zero needs no precision.
    """
    scale = np.abs(bias) / BIAS_CODES
    return np.where(scale > np.finfo(np.float32).tiny, scale, 1.0).astype(np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class LayerCodes:
    """Codes, scales and bias of one layer.

    Args:
        codes: int8, axis 0 is the output channel.
        scale: (1,) or (C_out,) float32 weight scale.
        bias: (C_out,) int32.
        bias_scale: float32, scale_x * scale_w.
        zeroed: channels whose codes were zeroed because their bias would not fit int32.
        real_bias: (C_out,) float64 value that was rounded to `bias`; None where the source gave the codes, as integers
            or as values that lie on them.
    """

    codes: npt.NDArray[np.int8]
    scale: npt.NDArray[np.float32]
    bias: npt.NDArray[np.int32]
    bias_scale: npt.NDArray[np.float32]
    zeroed: tuple[int, ...] = ()
    real_bias: npt.NDArray[np.float64] | None = None


def integer_bias(
    codes: npt.NDArray[np.int8],
    weight_scale: npt.NDArray[np.float32],
    input_scale: np.float32,
    bias: Tensor | None,
    channels: int,
) -> LayerCodes:
    """Returns the layer with its bias on the grid scale_x * scale_w.

    A bias the source already holds as codes on exactly that grid, or as values on them, is kept code for code. A
    channel whose scale is so small that its bias leaves int32 has lost its weights in any case: its codes become zero
    and its scale is taken from the bias.

    Args:
        codes: weight codes, axis 0 the output channel.
        weight_scale: (1,) or (C_out,).
        input_scale: of the layer's input.
        bias: constant (C_out,), real or codes, or None.
        channels: C_out.
    """
    bias_scale = (np.float32(input_scale) * weight_scale).astype(np.float32)
    if bias is None:
        zeros = np.zeros(channels)
        return LayerCodes(codes, weight_scale, _frozen(zeros), bias_scale, (), zeros)
    kept = _annotated_codes(bias, bias_scale)
    if kept is not None:
        return LayerCodes(codes, weight_scale, _frozen(kept), bias_scale)
    real = _real64(bias)
    product = np.float64(input_scale) * weight_scale.astype(np.float64)
    quotient = real / product
    # A product that underflows float32 has no bias scale; like an overflow, it means that the weights have vanished.
    over = (np.abs(quotient) > BIAS_LIMIT) | np.broadcast_to(bias_scale < np.finfo(np.float32).tiny, quotient.shape)
    if not over.any():
        nearest = np.rint(quotient)
        is_given = bool(nearest.any()) and bool(np.all(np.abs(quotient - nearest) <= NEAR_CODE))
        return LayerCodes(codes, weight_scale, _frozen(nearest), bias_scale, (), None if is_given else real)
    return _rescued(codes, weight_scale, np.float64(input_scale), real, over)


def _rescued(
    codes: npt.NDArray[np.int8],
    weight_scale: npt.NDArray[np.float32],
    input_scale: np.float64,
    real: npt.NDArray[np.float64],
    over: npt.NDArray[np.bool_],
) -> LayerCodes:
    scale = np.array(np.broadcast_to(weight_scale, real.shape), np.float32)
    scale[over] = scale_from_bias(real[over] * (2 * BIAS_CODES / BIAS_LIMIT) / input_scale)
    new_codes = np.array(codes)
    new_codes[over] = 0
    quotient = real / (input_scale * scale.astype(np.float64))
    bias_scale = (np.float32(input_scale) * scale).astype(np.float32)
    zeroed = tuple(np.flatnonzero(over).tolist())
    return LayerCodes(new_codes, scale, _frozen(np.rint(quotient)), bias_scale, zeroed, real)


def _annotated_codes(bias: Tensor, bias_scale: npt.NDArray[np.float32]) -> npt.NDArray[np.generic] | None:
    """Returns the source's own bias codes when they are on the grid of the accumulator, bit for bit."""
    quant = bias.quant
    if not isinstance(quant, Affine) or quant.zero_point.any() or bias.data is None:
        return None
    same = np.array_equal(np.broadcast_to(quant.scale, bias.shape), np.broadcast_to(bias_scale, bias.shape))
    return bias.data if same else None


def _real64(bias: Tensor) -> npt.NDArray[np.float64]:
    assert bias.data is not None
    if not isinstance(bias.quant, Affine):
        return bias.real().astype(np.float64)
    # int32 codes do not survive float32; equation (1) in float64.
    return (bias.data.astype(np.float64) - bias.quant.zero_point) * bias.quant.scale.astype(np.float64)


def _frozen(values: npt.NDArray[np.generic]) -> npt.NDArray[np.int32]:
    codes: npt.NDArray[np.int32] = np.ascontiguousarray(values.astype(np.int64), np.int32)
    codes.setflags(write=False)
    return codes
