"""FULLY_CONNECTED and BATCH_MATMUL on int8 codes.

Axis letters: K inputs summed over, C_out outputs, M and N rows and columns of a product.

Source: published behaviour of LiteRT ``reference_integer_ops::FullyConnected`` and
``reference_ops::BatchMatMul``; compared bit by bit in tests/ir/numerics/test_dense.py.
"""

from __future__ import annotations

import numpy as np

from kwsq.ir.numerics.fixed_point import Int8Array, Int32Array
from kwsq.ir.numerics.linear import (
    FixedPointParams,
    RealParams,
    accumulator_bound,
    add_folded_bias,
    exact_float,
    fold_zero_point,
    requantize_fixed_point,
    requantize_real,
)


def fully_connected(x: Int8Array, weights: Int8Array, bias: Int32Array | None, params: RealParams) -> Int8Array:
    """Multiply rows of codes by a weight matrix.

    Args:
        x: (..., K) int8.
        weights: (C_out, K) int8, zero point 0.
        bias: (C_out,) int32 at scale s_x * s_w, or None.
        params: with ``effective_scale`` from `effective_scale_conv`.

    Returns:
        (..., C_out) int8.

    Raises:
        KernelRangeError: the accumulator bound exceeds int32.

    Source: LiteRT ``reference_integer_ops::FullyConnected``; docs/quantization.md (13), (14a), (15b).
    """
    return requantize_real(fully_connected_sums(x, weights, bias, params.input_zero_point), params)


def fully_connected_sums(
    x: Int8Array, weights: Int8Array, bias: Int32Array | None, input_zero_point: int
) -> Int32Array:
    """Return the accumulators `fully_connected` requantizes.

    Args:
        x: (..., K) int8.
        weights: (C_out, K) int8, zero point 0.
        bias: (C_out,) int32 at scale s_x * s_w, or None.
        input_zero_point: input code of real 0.

    Returns:
        (..., C_out) int32.

    Raises:
        KernelRangeError: the accumulator bound exceeds int32.

    Source: docs/quantization.md (13).
    """
    dtype = exact_float(accumulator_bound(weights))
    products = x.astype(dtype) @ weights.astype(dtype).T
    return add_folded_bias(products, fold_zero_point(weights, bias, input_zero_point))


def batch_matmul(a: Int8Array, b: Int8Array, params: FixedPointParams, *, b_zero_point: int) -> Int8Array:
    """Multiply two stacks of matrices of codes.

    Args:
        a: (..., M, K) int8; its zero point is ``params.input_zero_point``.
        b: (..., K, N) int8; leading axes broadcast.
        params: from `derive_fixed_point` with `effective_scale_matmul`.
        b_zero_point: code of real 0 in ``b``.

    Returns:
        (..., M, N) int8.

    Raises:
        KernelRangeError: the accumulator bound exceeds int32.

    Source: LiteRT ``reference_ops::BatchMatMul``; docs/quantization.md (15a), (17).
    """
    dtype = exact_float(255 * 255 * a.shape[-1])
    centred_a = np.subtract(a, params.input_zero_point, dtype=dtype)
    centred_b = np.subtract(b, b_zero_point, dtype=dtype)
    accumulator: Int32Array = (centred_a @ centred_b).astype(np.int32)
    return requantize_fixed_point(accumulator, params)
