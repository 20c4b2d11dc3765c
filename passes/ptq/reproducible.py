"""Arithmetic of the calibration runs that gives the same bits on every machine.

A matrix product in BLAS adds in an order that depends on the processor, and a last bit can decide a rounding. Here the
operands of every linear operator are first rounded to multiples of a power of two, so few bits that all products and
partial sums are integers below 2**53 (times a power of two): float64 then adds them without any rounding, in whatever
order. The rounding of the operands, 2**-21 of the largest value or better, is as fine as float32's own error.

Source: our construction; the exact integers of float64 are IEEE 754-2019, 3.4.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from kwsq.ir import ops
from kwsq.ir.graph import Op
from kwsq.ir.quant import FloatArray

Float64 = npt.NDArray[np.float64]

EXACT_BITS = 53
FLOAT32_BITS = 24
_TRANSCENDENTAL = (ops.Softmax, ops.LogSoftmax, ops.Sigmoid, ops.Tanh, ops.Sqrt, ops.Pow)


def snap(x: npt.NDArray[np.floating], bits: int, largest: float | None = None) -> Float64:
    """Returns `x` rounded to multiples of 2**(e - bits), where 2**e is the next power of two above `largest`.

    Args:
        x: values.
        bits: how many bits the integers may have.
        largest: bound of |x|; its maximum when not given.

    >>> snap(np.array([1.0, 1 / 3]), 4).tolist()
    [1.0, 0.375]
    """
    largest = float(max(x.max(initial=0), -x.min(initial=0))) if largest is None else largest
    if largest == 0 or not math.isfinite(largest):
        return x.astype(np.float64)
    step = grid_step(largest, bits)
    snapped = x * np.float64(1 / step)
    np.rint(snapped, out=snapped)
    snapped *= step
    return snapped


def grid_step(largest: float, bits: int) -> float:
    """Returns 2**(e - bits), where 2**e is the next power of two above `largest`; 1 for zero."""
    return math.ldexp(1.0, math.frexp(largest)[1] - bits) if largest > 0 else 1.0


def product_bits(terms: int) -> tuple[int, int]:
    """Returns how many bits the two operands of a sum of `terms` products may have for the sum to be exact."""
    total = EXACT_BITS - math.ceil(math.log2(max(terms, 2)))
    first = min(total // 2, FLOAT32_BITS)
    return first, min(total - first, FLOAT32_BITS)


def evaluate_reproducibly(op: Op, arguments: Sequence[FloatArray | None]) -> tuple[FloatArray, ...]:
    """Returns the operator's outputs: linear operators exact up to operand rounding, the others as they are.

    Elementwise arithmetic and NumPy's own sums are the same everywhere already; transcendental functions are computed
    in float64 so that their last bit is lost in float32.
    """
    if isinstance(op, (ops.Conv, ops.Dense, ops.MatMul)):
        return _linear(op, arguments)
    if isinstance(op, _TRANSCENDENTAL):
        return op.evaluate(*(None if a is None else a.astype(np.float64) for a in arguments))  # type: ignore[arg-type]  # wider on purpose
    if isinstance(op, ops.Rsqrt):
        (x,) = arguments
        assert x is not None
        return tuple(_saturated(y) for y in op.evaluate(x))
    return op.evaluate(*arguments)


def _saturated(y: FloatArray) -> FloatArray:
    """Returns 1 / sqrt(0), a small variance rounded to nothing, as integers have it: the largest value there is."""
    finite = y[np.isfinite(y)]
    return np.minimum(y, finite.max(initial=0)) if finite.size < y.size else y


def _linear(op: ops.Conv | ops.Dense | ops.MatMul, arguments: Sequence[FloatArray | None]) -> tuple[FloatArray, ...]:
    x, weight, *bias = arguments
    assert x is not None
    assert weight is not None
    if isinstance(op, ops.Conv) and op.groups == x.shape[1] == weight.shape[0] > 1:
        return op.evaluate(x, weight, *bias)  # depthwise: elementwise, in a fixed order
    terms = x.shape[-1] if not isinstance(op, ops.Conv) else math.prod(weight.shape[1:])
    x_bits, weight_bits = product_bits(terms)
    (y,) = op.evaluate(snap(x, x_bits), snap(weight, weight_bits), *bias)  # type: ignore[arg-type]  # float64 on purpose
    return (np.asarray(y, np.float32),)
