"""Layers as XNNPACK computes them, LiteRT's default on CPUs: one rounding, in float32, ties to even.

Not an oracle: the integer executor follows the reference kernels. This is for passes that must do well by both kernel
sets. Only operators that may differ from the reference on more than a few codes in a thousand, and always to the same
side, are here: convolutions, which round once where the reference rounds twice, averages, and changes of scale.

Source: published behaviour of XNNPACK's qs8 operators with float32 requantization; compared with the default kernels
of ai-edge-litert 2.3.0 in tests/ir/numerics/test_xnnpack.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kwsq.ir.numerics.affine import Grid
from kwsq.ir.numerics.fixed_point import INT8_MAX, INT8_MIN, Int8Array

_CODES = np.arange(INT8_MIN, INT8_MAX + 1)


@dataclass(frozen=True, slots=True, eq=False)
class SingleParams:
    """Constants of a convolution that rounds once; see `derive_single`.

    Attributes:
        effective_scale: (1,) or (C_out,) float32.
        low: smallest output code, after any fused activation.
        high: largest output code.
    """

    input_zero_point: int
    output_zero_point: int
    effective_scale: NDArray[np.float32]
    low: int = INT8_MIN
    high: int = INT8_MAX


def derive_single(
    source: Grid, weight_scale: ArrayLike, target: Grid, *, low: int = INT8_MIN, high: int = INT8_MAX
) -> SingleParams:
    """Derive the constants of a convolution, product and quotient in float32.

    Args:
        source: input grid.
        weight_scale: scalar or (C_out,), exact float32 values.
        target: output grid.
        low: smallest output code, from `affine.activation_range`.
        high: largest output code.

    Returns:
        the constants.

    Source: XNNPACK; docs/quantization.md (14c).
    """
    scale = np.float32(source.scale) * np.ravel(np.asarray(weight_scale, np.float32)) / np.float32(target.scale)
    return SingleParams(source.zero_point, target.zero_point, scale, low, high)


def requantize_single(accumulator: NDArray[Any], params: SingleParams) -> Int8Array:
    """Scale int32 accumulators in float32, round once to even, add the output zero point, clamp.

    Args:
        accumulator: (..., C_out) int32.
        params: from `derive_single`.

    Returns:
        int8 codes, same shape.

    Source: XNNPACK; docs/quantization.md (15c).
    """
    steps = accumulator.astype(np.float32)
    steps *= params.effective_scale
    np.rint(steps, out=steps)
    steps += np.float32(params.output_zero_point)
    return np.clip(steps, params.low, params.high, out=steps).astype(np.int8)


def mean_single(x: Int8Array, source: Grid, target: Grid, *, axis: tuple[int, ...], keepdims: bool) -> Int8Array:
    """Average over axes with one rounding.

    Args:
        x: int8, any shape.
        source: input grid.
        target: output grid.
        axis: axes to reduce.
        keepdims: keep them with length 1.

    Returns:
        int8; where the real result is within float32 error of a tie, XNNPACK may decide it otherwise.

    Source: XNNPACK's mean; docs/quantization.md, section 9.
    """
    count = math.prod(x.shape[index] for index in axis)
    total = x.sum(axis=axis, dtype=np.int64, keepdims=keepdims) - count * source.zero_point
    scale = np.float32(source.scale) / np.float32(target.scale) * (np.float32(1) / np.float32(count))
    codes = np.rint(total.astype(np.float32) * scale) + target.zero_point
    result: Int8Array = np.clip(codes, INT8_MIN, INT8_MAX).astype(np.int8)
    return result


def requantize_coarse_table(source: Grid, target: Grid) -> Int8Array:
    """Tabulate an int8 to int8 change of grid, whose multiplier has 8 fractional bits.

    Args:
        source: input grid.
        target: output grid.

    Returns:
        (256,) output codes of the input codes -128 .. 127.

    Source: XNNPACK's qs8 conversion; docs/quantization.md, section 9.
    """
    multiplier = int(np.rint(np.float32(256) * (np.float32(source.scale) / np.float32(target.scale))))
    steps = ((_CODES - source.zero_point) * multiplier + 128) >> 8
    result: Int8Array = np.clip(steps + target.zero_point, INT8_MIN, INT8_MAX).astype(np.int8)
    return result
