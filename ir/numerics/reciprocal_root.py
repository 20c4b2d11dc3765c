"""RSQRT on int8 codes in the kernel's fixed point: a table of 256 entries, as layer normalisation needs it.

Formats: Q3.28 inside the Newton iteration, equation (35).

Source: published behaviour of LiteRT ``RsqrtEvalQuantizedInt8`` and ``GetInvSqrtQuantizedMultiplierExp``; compared
bit by bit in tests/ir/numerics/test_reciprocal_root.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kwsq.ir.numerics.affine import Grid
from kwsq.ir.numerics.fixed_point import (
    INT8_MAX,
    INT8_MIN,
    INT32_MAX,
    INT32_MIN,
    Int8Array,
    Int32Array,
    Int64Array,
    KernelRangeError,
    multiply_by_quantized_multiplier,
    quantize_multiplier,
    rounding_divide_by_pot,
    saturate,
    saturating_rounding_doubling_high_mul,
)
from kwsq.ir.numerics.lookup import look_up

_ONE_Q28 = 1 << 28
_THREE_HALVES_Q28 = (1 << 28) + (1 << 27)
_HALF_SQRT_2_Q31 = 1518500250
_RAISED_BITS = 20


def _times(a: Int64Array | int, b: Int64Array | int) -> Int64Array:
    return saturating_rounding_doubling_high_mul(a, b).astype(np.int64)


def inverse_square_root(steps: Int32Array) -> tuple[Int32Array, Int32Array]:
    """Return 1 / sqrt(steps) as multiplier and shift, by five Newton steps from 1.

    Args:
        steps: (n,) int32 in [1, 2**27).

    Returns:
        ``(multiplier_q31, shift)``, (n,) int32 each; shift is 0 or negative.

    Source: LiteRT ``GetInvSqrtQuantizedMultiplierExp``; docs/quantization.md (35).
    """
    values = steps.astype(np.int64)
    _, bits = np.frexp(values.astype(np.float64))
    pairs = (31 - bits.astype(np.int64)) // 2 - 1
    half = rounding_divide_by_pot((values << (2 * pairs)) >> 1, 1)
    x: Int64Array = np.full(values.shape, _ONE_Q28, dtype=np.int64)
    for _ in range(5):
        cube = saturate(_times(_times(x, x), x) << 6, INT32_MIN, INT32_MAX)
        x = saturate((_times(x, _THREE_HALVES_Q28) - _times(half, cube)) << 3, INT32_MIN, INT32_MAX)
    shift = 11 - pairs
    root = _times(x, _HALF_SQRT_2_Q31) << np.maximum(-shift, 0)
    one = values <= 1
    multiplier = np.where(one, INT32_MAX, root).astype(np.int32)
    return multiplier, np.where(one, 0, -np.maximum(shift, 0)).astype(np.int32)


@dataclass(frozen=True, slots=True, eq=False)
class RsqrtParams:
    """Constants of RSQRT; see `derive_rsqrt`.

    Attributes:
        table: (256,) int8; entries of codes below the input zero point are never read.
    """

    input_zero_point: int
    table: Int8Array


def derive_rsqrt(source: Grid, target: Grid) -> RsqrtParams:
    """Derive the table of RSQRT.

    Args:
        source: input grid.
        target: output grid.

    Returns:
        the constants for `rsqrt`.

    Raises:
        KernelRangeError: the effective scale needs a right shift beyond 31 bits, undefined in the kernel.

    Source: LiteRT ``SetRsqrtOutputMultiplier``, ``RsqrtEvalQuantizedInt8``; docs/quantization.md (36).
    """
    real = 1.0 / float(np.sqrt(np.float32(source.scale)) * np.float32(target.scale))
    multiplier, shift = quantize_multiplier(real)
    if shift < _RAISED_BITS - 31:
        raise KernelRangeError(
            f"RSQRT: found the output multiplier {real!r}, expected at least 2**-12; use a smaller output scale"
        )
    steps = np.arange(1, INT8_MAX - source.zero_point + 1, dtype=np.int32)
    roots, root_shifts = inverse_square_root(steps)
    raised = multiply_by_quantized_multiplier(np.ones_like(steps), roots, root_shifts + _RAISED_BITS)
    scaled = multiply_by_quantized_multiplier(raised, multiplier, shift - _RAISED_BITS)
    codes = saturate(scaled.astype(np.int64) + target.zero_point, INT8_MIN, INT8_MAX)
    # Real 0 gives the largest code; codes below it are refused by `rsqrt`.
    table = np.full(256, INT8_MAX, dtype=np.int8)
    table[256 - steps.size :] = codes
    return RsqrtParams(source.zero_point, table)


def rsqrt(x: Int8Array, params: RsqrtParams) -> Int8Array:
    """Return 1 / sqrt of every code; real 0 gives 127.

    Args:
        x: int8, any shape.
        params: from `derive_rsqrt`.

    Returns:
        int8, same shape.

    Raises:
        KernelRangeError: a code is below the zero point, at which the runtime fails to invoke.

    Source: LiteRT ``RsqrtEvalQuantizedInt8``; docs/quantization.md (36).
    """
    if x.size and int(x.min()) < params.input_zero_point:
        raise KernelRangeError(
            f"RSQRT: found code {int(x.min())}, expected at least the zero point {params.input_zero_point}; put the "
            "zero point at -128"
        )
    return look_up(x, params.table)
