"""Unary functions of one int8 code as 256-entry tables, built as the kernels build theirs.

LOGISTIC, TANH, EXP, LOG and GELU evaluate a float32 function once per code, equation (26). The kernel
calls the C library's float32 ``expf``, ``tanhf``, ...; here the function is computed in double and rounded to
float32, so an entry can differ by 1 LSB where the C library's last bit moves a value across a rounding
boundary. Figures are in docs/quantization.md.

Source: published behaviour of LiteRT ``LUTPopulate`` and the Prepare functions that call it; compared in
tests/ir/numerics/test_lookup.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kwsq.ir.numerics.affine import Grid
from kwsq.ir.numerics.fixed_point import (
    INT8_MAX,
    INT8_MIN,
    Int8Array,
    KernelRangeError,
    round_half_away,
    saturate,
)

Float32Array = NDArray[np.float32]

ALL_CODES: Int8Array = np.arange(INT8_MIN, INT8_MAX + 1).astype(np.int8)
ALL_CODES.flags.writeable = False

LOGISTIC_OUTPUT = Grid(1.0 / 256.0, -128)
"""The grid converters give LOGISTIC and SOFTMAX; the LOGISTIC kernel refuses any other scale."""
TANH_OUTPUT = Grid(1.0 / 128.0, 0)
"""The grid converters give TANH; the kernel takes any."""


def look_up(codes: Int8Array, table: NDArray[Any]) -> NDArray[Any]:
    """Apply a table to every code.

    Args:
        codes: int8, any shape.
        table: (256,) any dtype; entry ``q + 128`` belongs to code ``q``.

    Returns:
        array of the table's dtype and the codes' shape.

    Source: docs/quantization.md (26).
    """
    # Reinterpreted as uint8 the codes run 0..127, -128..-1: half a turn from the table's order.
    return np.take(np.roll(table, 128), codes.view(np.uint8))


def _table(function: Callable[[Float32Array], Float32Array], source: Grid, target: Grid) -> Int8Array:
    """Equation (26), every step rounded to float32 as in the kernel."""
    steps = (ALL_CODES.astype(np.int32) - source.zero_point).astype(np.float32)
    real = np.float32(source.scale) * steps
    inverse = np.float32(1.0) / np.float32(target.scale)
    with np.errstate(over="ignore"):
        scaled = function(real) * inverse
    if not (np.abs(scaled) < 2.0**31).all():
        raise KernelRangeError(
            f"lookup table: found {float(np.abs(scaled).max())} output steps, expected less than 2**31, "
            "beyond which the kernel's cast is undefined; enlarge the output scale or narrow the input range"
        )
    shifted = round_half_away(scaled).astype(np.float32) + np.float32(target.zero_point)
    return saturate(np.trunc(shifted), INT8_MIN, INT8_MAX).astype(np.int8)


def _rounded(function: Callable[[NDArray[np.float64]], NDArray[np.float64]], x: Float32Array) -> Float32Array:
    with np.errstate(over="ignore"):
        return function(x.astype(np.float64)).astype(np.float32)


def logistic_table(source: Grid, target: Grid) -> Int8Array:
    """Tabulate 1 / (1 + exp(-x)).

    Args:
        source: input grid.
        target: output grid; its scale must be 1/256.

    Returns:
        (256,) int8 for `look_up`.

    Raises:
        KernelRangeError: another output scale, which the runtime refuses.

    Source: LiteRT LOGISTIC Prepare; docs/quantization.md (26).
    """
    if target.scale != LOGISTIC_OUTPUT.scale:
        raise KernelRangeError(f"LOGISTIC: found output scale {target.scale}, expected 1/256; requantize after it")
    one = np.float32(1.0)
    return _table(lambda x: one / (one + _rounded(np.exp, -x)), source, target)


def tanh_table(source: Grid, target: Grid) -> Int8Array:
    """Tabulate tanh.

    Args:
        source: input grid.
        target: output grid.

    Returns:
        (256,) int8 for `look_up`.

    Raises:
        KernelRangeError: an entry is beyond 2**31 output steps.

    Source: LiteRT TANH Prepare; docs/quantization.md (26).
    """
    return _table(lambda x: _rounded(np.tanh, x), source, target)


def exp_table(source: Grid, target: Grid) -> Int8Array:
    """Tabulate exp.

    Args:
        source: input grid.
        target: output grid.

    Returns:
        (256,) int8 for `look_up`.

    Raises:
        KernelRangeError: an entry is beyond 2**31 output steps.

    Source: LiteRT EXP Prepare; docs/quantization.md (26).
    """
    return _table(lambda x: _rounded(np.exp, x), source, target)


def log_table(source: Grid, target: Grid) -> Int8Array:
    """Tabulate the natural logarithm; x <= 0 gives the lowest code.

    Args:
        source: input grid.
        target: output grid.

    Returns:
        (256,) int8 for `look_up`.

    Raises:
        KernelRangeError: an entry is beyond 2**31 output steps.

    Source: LiteRT LOG Prepare; docs/quantization.md (26).
    """
    lowest = np.float32(INT8_MIN - target.zero_point) * np.float32(target.scale)

    def logarithm(x: Float32Array) -> Float32Array:
        positive = np.where(x > 0, x, np.float32(1.0))
        return np.where(x > 0, _rounded(np.log, positive), lowest)

    return _table(logarithm, source, target)


def gelu_table(source: Grid, target: Grid, *, approximate: bool) -> Int8Array:
    """Tabulate GELU.

    Args:
        source: input grid.
        target: output grid.
        approximate: use the tanh form instead of erfc.

    Returns:
        (256,) int8 for `look_up`.

    Raises:
        KernelRangeError: an entry is beyond 2**31 output steps.

    Source: LiteRT ``reference/gelu.h``; docs/quantization.md (26).
    """
    return _table(_gelu_tanh if approximate else _gelu_erfc, source, target)


def _gelu_erfc(x: Float32Array) -> Float32Array:
    argument = x * np.float32(-math.sqrt(0.5))
    complement = np.array([math.erfc(float(value)) for value in argument], dtype=np.float32)
    return np.float32(0.5) * x * complement


def _gelu_tanh(x: Float32Array) -> Float32Array:
    inner = x + np.float32(0.044715) * x * x * x
    saturated = _rounded(np.tanh, np.float32(math.sqrt(2.0 / math.pi)) * inner)
    return np.float32(0.5) * x * (np.float32(1.0) + saturated)
