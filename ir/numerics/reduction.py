"""MEAN, REDUCE_MAX and REDUCE_MIN on int8 codes.

SUM is left out on purpose: the int8 SUM of BUILTIN_REF in ai-edge-litert 2.3.0 returns wrong codes (a test
shows it), so no parity can be proven for it. A mean with the output scale times the count is the same real
number.

Source: published behaviour of LiteRT ``reduce.cc`` and ``reference/reduce.h``; compared bit by bit in
tests/ir/numerics/test_reduction.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from kwsq.ir.numerics.affine import Grid
from kwsq.ir.numerics.fixed_point import (
    INT8_MAX,
    INT8_MIN,
    Int8Array,
    KernelRangeError,
    multiply_by_quantized_multiplier,
    quantize_multiplier,
    saturate,
)


@dataclass(frozen=True, slots=True)
class MeanParams:
    """Constants of MEAN; see `derive_mean`.

    Attributes:
        count: elements averaged into one.
        multiplier_q31: below 2**31, with 1/count folded in; need not have its top bit set.
    """

    count: int
    input_zero_point: int
    output_zero_point: int
    multiplier_q31: int
    shift: int


def derive_mean(source: Grid, target: Grid, *, count: int) -> MeanParams:
    """Derive the constants of MEAN: s_x / s_y divided by the count.

    The quotient is truncated, after a left shift that keeps 30 significant bits where int32 allows.

    Args:
        source: input grid.
        target: output grid.
        count: elements averaged into one.

    Returns:
        the constants for `mean`.

    Raises:
        KernelRangeError: the ratio of the scales is out of range, or ``count`` < 1.

    Source: LiteRT ``PrepareMeanOrSum``, ``reference_ops::QuantizedMeanOrSum``; docs/quantization.md (33).
    """
    if count < 1:
        raise KernelRangeError(f"MEAN: found {count} elements, expected at least 1; check the axes")
    multiplier, shift = quantize_multiplier(source.scale / target.scale)
    raised = min(count.bit_length() - 1, 32, 31 + shift)
    folded = (multiplier << raised) // count
    return MeanParams(count, source.zero_point, target.zero_point, folded, shift - raised)


def mean_to_even(x: Int8Array, source: Grid, target: Grid, *, axis: tuple[int, ...], keepdims: bool) -> Int8Array:
    """Average over axes with one exact rounding, ties to even.

    Args:
        x: int8, any shape.
        source: input grid.
        target: output grid.
        axis: axes to reduce.
        keepdims: keep them with length 1.

    Returns:
        int8.

    Source: our construction; docs/quantization.md (46c).
    """
    count = math.prod(x.shape[index] for index in axis)
    total = x.sum(axis=axis, dtype=np.int64, keepdims=keepdims) - count * source.zero_point
    # One division: a reciprocal of the count would turn ties of even grids into something else.
    steps = np.rint(total * (source.scale / target.scale) / count) + target.zero_point
    result: Int8Array = np.clip(steps, INT8_MIN, INT8_MAX).astype(np.int8)
    return result


def mean(x: Int8Array, params: MeanParams, *, axis: tuple[int, ...], keepdims: bool) -> Int8Array:
    """Average over axes.

    Args:
        x: int8, any shape.
        params: from `derive_mean`; ``count`` is the product of the reduced dimensions.
        axis: axes to reduce.
        keepdims: keep them with length 1.

    Returns:
        int8.

    Raises:
        ValueError: ``params.count`` is not the number of elements reduced.

    Source: LiteRT ``reference_ops::QuantizedMeanOrSum``; docs/quantization.md (33).
    """
    count = math.prod(x.shape[index] for index in axis)
    if count != params.count:
        raise ValueError(f"MEAN: found {count} elements, expected {params.count}; derive it for this shape")
    total = x.sum(axis=axis, dtype=np.int64, keepdims=keepdims) - count * params.input_zero_point
    scaled = multiply_by_quantized_multiplier(total, params.multiplier_q31, params.shift)
    return saturate(scaled.astype(np.int64) + params.output_zero_point, INT8_MIN, INT8_MAX).astype(np.int8)


def reduce_max(x: Int8Array, *, axis: tuple[int, ...], keepdims: bool) -> Int8Array:
    """Take the largest code; input and output share one grid, which the runtime checks.

    Args:
        x: int8, any shape.
        axis: axes to reduce.
        keepdims: keep them with length 1.

    Returns:
        int8.

    Source: LiteRT REDUCE_MAX; docs/quantization.md (32).
    """
    return np.asarray(x.max(axis=axis, keepdims=keepdims))


def reduce_min(x: Int8Array, *, axis: tuple[int, ...], keepdims: bool) -> Int8Array:
    """Take the smallest code; input and output share one grid, which the runtime checks.

    Args:
        x: int8, any shape.
        axis: axes to reduce.
        keepdims: keep them with length 1.

    Returns:
        int8.

    Source: LiteRT REDUCE_MIN; docs/quantization.md (32).
    """
    return np.asarray(x.min(axis=axis, keepdims=keepdims))
