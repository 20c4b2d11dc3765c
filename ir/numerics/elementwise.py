"""Binary operators on int8 codes: ADD, SUB, MUL, SQUARED_DIFFERENCE, MAXIMUM, MINIMUM.

Broadcasting is NumPy's; the kernels' broadcast paths compute the same codes as their plain ones.

Operators with an int8 kernel in ai-edge-litert 2.3.0 (BUILTIN_REF), found by running each:

- here: ADD, SUB, MUL, SQUARED_DIFFERENCE, MAXIMUM, MINIMUM (the last two compare bare codes and do not look
  at the scales, so the three grids must be equal);
- `activation`: RELU, RELU6, RELU_N1_TO_1, RELU_0_TO_1, LEAKY_RELU, PRELU, HARD_SWISH, ABS, NEG;
- `lookup`: LOGISTIC, TANH, EXP, LOG, GELU; `softmax`: SOFTMAX; `reciprocal_root`: RSQRT;
- `pooling`: AVERAGE_POOL_2D, MAX_POOL_2D; `reduction`: MEAN, REDUCE_MAX, REDUCE_MIN;
- int8 kernels not modelled: SQRT, LOG_SOFTMAX, REDUCE_PROD, FLOOR_DIV, FLOOR_MOD;
- int8 kernels that return wrong codes: DIV (1 / 100 gives 127: a shift beyond 31 bits) and, in BUILTIN_REF,
  SUM (see `reduction`); tests show both;
- no int8 kernel: SQUARE, ELU, SIGN, POW, CEIL, FLOOR, ROUND, SIN, COS.

Source: published behaviour of LiteRT ``add.cc``, ``sub.cc``, ``mul.cc``, ``squared_difference.cc``; compared
bit by bit in tests/ir/numerics/test_elementwise.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kwsq.ir.numerics.affine import Grid
from kwsq.ir.numerics.fixed_point import (
    INT8_MAX,
    INT8_MIN,
    Int8Array,
    Int32Array,
    KernelRangeError,
    multiply_by_quantized_multiplier,
    quantize_multiplier,
)
from kwsq.ir.numerics.lookup import ALL_CODES, look_up

_SUM_LEFT_SHIFT = 20  # a 9-bit difference << 20, halved, leaves the sum of two inside int32
_SQUARE_LEFT_SHIFT = 7  # (a 9-bit difference << 7) squared fits int32


@dataclass(frozen=True, slots=True)
class Operand:
    """One input of a sum: its zero point and the multiplier to twice the larger input scale."""

    zero_point: int
    multiplier_q31: int
    shift: int


@dataclass(frozen=True, slots=True)
class SumParams:
    """Constants of ADD, SUB or SQUARED_DIFFERENCE; see `derive_add`, `derive_squared_difference`.

    Attributes:
        left_shift: bits both operands are raised by before their scales are matched.
        multiplier_q31: of the result.
        low: smallest output code.
        high: largest output code.
    """

    left_shift: int
    a: Operand
    b: Operand
    output_zero_point: int
    multiplier_q31: int
    shift: int
    low: int = INT8_MIN
    high: int = INT8_MAX


@dataclass(frozen=True, slots=True)
class MulParams:
    """Constants of MUL; see `derive_mul`."""

    a_zero_point: int
    b_zero_point: int
    output_zero_point: int
    multiplier_q31: int
    shift: int
    low: int = INT8_MIN
    high: int = INT8_MAX


def _below_one(real: float, operator: str) -> tuple[int, int]:
    """Quantize a multiplier >= 1 of which makes the kernel's Prepare abort the process."""
    multiplier, shift = quantize_multiplier(real)
    if real >= 1.0 or shift > 0:
        raise KernelRangeError(
            f"{operator}: found the output multiplier {real!r}, expected below 1; enlarge the output scale"
        )
    return multiplier, shift


def _operands(a: Grid, b: Grid) -> tuple[float, Operand, Operand]:
    twice_max = 2.0 * max(a.scale, b.scale)
    left = Operand(a.zero_point, *quantize_multiplier(a.scale / twice_max))
    right = Operand(b.zero_point, *quantize_multiplier(b.scale / twice_max))
    return twice_max, left, right


def derive_add(a: Grid, b: Grid, output: Grid, *, low: int = INT8_MIN, high: int = INT8_MAX) -> SumParams:
    """Derive the constants of ADD.

    Args:
        a: left grid.
        b: right grid.
        output: output grid.
        low: smallest output code, from `affine.activation_range`.
        high: largest output code.

    Returns:
        the constants for `add`.

    Raises:
        KernelRangeError: the output scale is so small that the runtime would abort.

    Source: LiteRT ADD Prepare; docs/quantization.md (18).
    """
    twice_max, left, right = _operands(a, b)
    scaled = _below_one(twice_max / (2.0**_SUM_LEFT_SHIFT * output.scale), "ADD")
    return SumParams(_SUM_LEFT_SHIFT, left, right, output.zero_point, *scaled, low, high)


def derive_sub(a: Grid, b: Grid, output: Grid, *, low: int = INT8_MIN, high: int = INT8_MAX) -> SumParams:
    """Derive the constants of SUB: those of ADD.

    Args:
        a: left grid.
        b: right grid.
        output: output grid.
        low: smallest output code, from `affine.activation_range`.
        high: largest output code.

    Returns:
        the constants for `sub`.

    Raises:
        KernelRangeError: the output scale is so small that the runtime would abort or shift by a negative amount.

    Source: LiteRT SUB Prepare; docs/quantization.md (18).
    """
    twice_max, left, right = _operands(a, b)
    scaled = _below_one(twice_max / (2.0**_SUM_LEFT_SHIFT * output.scale), "SUB")
    return SumParams(_SUM_LEFT_SHIFT, left, right, output.zero_point, *scaled, low, high)


def derive_squared_difference(a: Grid, b: Grid, output: Grid) -> SumParams:
    """Derive the constants of SQUARED_DIFFERENCE.

    Args:
        a: left grid.
        b: right grid.
        output: output grid.

    Returns:
        the constants for `squared_difference`.

    Raises:
        KernelRangeError: the output scale is so small that the runtime would abort.

    Source: LiteRT SQUARED_DIFFERENCE Prepare; docs/quantization.md (20).
    """
    twice_max, left, right = _operands(a, b)
    real = twice_max * twice_max / (4.0**_SQUARE_LEFT_SHIFT * output.scale)
    scaled = _below_one(real, "SQUARED_DIFFERENCE")
    return SumParams(_SQUARE_LEFT_SHIFT, left, right, output.zero_point, *scaled)


def derive_mul(a: Grid, b: Grid, output: Grid, *, low: int = INT8_MIN, high: int = INT8_MAX) -> MulParams:
    """Derive the constants of MUL; product and quotient of the scales both round to float32.

    Args:
        a: left grid.
        b: right grid.
        output: output grid.
        low: smallest output code, from `affine.activation_range`.
        high: largest output code.

    Returns:
        the constants for `mul`.

    Raises:
        KernelRangeError: the effective scale is out of range.

    Source: LiteRT MUL Prepare; docs/quantization.md (19).
    """
    real = float(np.float32(a.scale) * np.float32(b.scale) / np.float32(output.scale))
    return MulParams(a.zero_point, b.zero_point, output.zero_point, *quantize_multiplier(real), low, high)


def _matched(codes: Int8Array, operand: Operand, left_shift: int) -> Int32Array:
    """Bring codes to the common scale; one of 256 values each, hence a table."""
    steps = (ALL_CODES.astype(np.int32) - operand.zero_point) << left_shift
    table = multiply_by_quantized_multiplier(steps, operand.multiplier_q31, operand.shift)
    return look_up(codes, table)


def _finish(raw: Int32Array, params: SumParams | MulParams) -> Int8Array:
    scaled = multiply_by_quantized_multiplier(raw, params.multiplier_q31, params.shift)
    zero_point = params.output_zero_point
    np.clip(scaled, params.low - zero_point, params.high - zero_point, out=scaled)
    scaled += np.int32(zero_point)
    return scaled.astype(np.int8)


def add(a: Int8Array, b: Int8Array, params: SumParams) -> Int8Array:
    """Add codes of two grids.

    Args:
        a: int8, any shape.
        b: int8, broadcasts with ``a``.
        params: from `derive_add`.

    Returns:
        int8 of the broadcast shape.

    Source: LiteRT ``reference_integer_ops::Add``; docs/quantization.md (18).
    """
    raw = _matched(a, params.a, params.left_shift) + _matched(b, params.b, params.left_shift)
    return _finish(raw, params)


def sub(a: Int8Array, b: Int8Array, params: SumParams) -> Int8Array:
    """Subtract codes of two grids.

    Args:
        a: int8, any shape.
        b: int8, broadcasts with ``a``.
        params: from `derive_sub`.

    Returns:
        int8 of the broadcast shape.

    Source: LiteRT ``reference_ops::Sub``; docs/quantization.md (18).
    """
    raw = _matched(a, params.a, params.left_shift) - _matched(b, params.b, params.left_shift)
    return _finish(raw, params)


def squared_difference(a: Int8Array, b: Int8Array, params: SumParams) -> Int8Array:
    """Square the difference of codes of two grids.

    Args:
        a: int8, any shape.
        b: int8, broadcasts with ``a``.
        params: from `derive_squared_difference`.

    Returns:
        int8 of the broadcast shape.

    Source: LiteRT SQUARED_DIFFERENCE; docs/quantization.md (20).
    """
    difference = _matched(a, params.a, params.left_shift) - _matched(b, params.b, params.left_shift)
    return _finish(difference * difference, params)


def mul(a: Int8Array, b: Int8Array, params: MulParams) -> Int8Array:
    """Multiply codes of two grids.

    Args:
        a: int8, any shape.
        b: int8, broadcasts with ``a``.
        params: from `derive_mul`.

    Returns:
        int8 of the broadcast shape.

    Source: LiteRT ``reference_integer_ops::Mul``; docs/quantization.md (19).
    """
    left = np.subtract(a, params.a_zero_point, dtype=np.int32)
    right = np.subtract(b, params.b_zero_point, dtype=np.int32)
    return _finish(left * right, params)


def maximum(a: Int8Array, b: Int8Array) -> Int8Array:
    """Return the larger codes; both inputs and the output share one grid.

    Args:
        a: int8, any shape.
        b: int8, broadcasts with ``a``.

    Returns:
        int8 of the broadcast shape.

    Source: LiteRT MAXIMUM (compares codes); docs/quantization.md (21).
    """
    return np.maximum(a, b)


def minimum(a: Int8Array, b: Int8Array) -> Int8Array:
    """Return the smaller codes; both inputs and the output share one grid.

    Args:
        a: int8, any shape.
        b: int8, broadcasts with ``a``.

    Returns:
        int8 of the broadcast shape.

    Source: LiteRT MINIMUM (compares codes); docs/quantization.md (21).
    """
    return np.minimum(a, b)
