"""Operators that move int8 codes and must know their grid: PAD and CONCATENATION.

RESHAPE, TRANSPOSE, SLICE, SPLIT and the like are plain NumPy on codes and have no function here.

Source: published behaviour of LiteRT ``pad.cc``, ``concatenation.cc``; compared in
tests/ir/numerics/test_movement.py.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kwsq.ir.numerics.affine import Grid
from kwsq.ir.numerics.fixed_point import (
    Int8Array,
    KernelRangeError,
)


def pad(x: Int8Array, padding: Sequence[tuple[int, int]], *, zero_point: int) -> Int8Array:
    """Surround codes with real zeros.

    Args:
        x: int8, any shape.
        padding: (before, after) per axis.
        zero_point: code of real 0 of the common grid of input and output.

    Returns:
        int8.

    Source: LiteRT PAD (fills with the output zero point); docs/quantization.md (34).
    """
    return np.pad(x, padding, constant_values=zero_point)


def concatenate(parts: Sequence[tuple[Int8Array, Grid]], *, axis: int, output: Grid) -> Int8Array:
    """Join codes of one grid.

    Args:
        parts: (codes, grid) of each input.
        axis: axis to join along.
        output: grid of the result.

    Returns:
        int8.

    Raises:
        KernelRangeError: a grid differs from the output's, which the int8 kernel refuses.

    Source: LiteRT CONCATENATION Prepare; docs/quantization.md (34).
    """
    for position, (_, grid) in enumerate(parts):
        if grid != output:
            raise KernelRangeError(
                f"CONCATENATION: found {grid} on input {position}, expected {output}; requantize it first"
            )
    return np.concatenate([codes for codes, _ in parts], axis=axis)
