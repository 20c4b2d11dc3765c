"""Finds the integer grid of float weights that carry no annotation.

TensorFlow freezes fake-quantized weights into plain floats, and folds batch norms into them: what is left is a float
tensor whose values are integers times one step, per tensor or per output channel.

A channel with largest magnitude m lies on a grid of k steps when every w * k / m is an integer. In float32, w and m
carry the roundings of the arithmetic that made them (scale, gain, a division: fewer than 8 each), so w * k / m misses
its integer by less than k * 16 * 2**-24 = k * 2**-20 =: tol(k).

Could that happen by chance? A random value lies within tol(k) of an integer with probability 2 tol(k), so n values
beside the largest do with (2 tol(k))**n, and 128 steps are tried per channel. The weights are taken for quantized
only when this bound is below 1e-9 for the whole tensor. Our derivation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from kwsq.ir.graph import Graph, Tensor
from kwsq.ir.ops import Conv, Dense
from kwsq.ir.quant import Affine, Codebook, FloatArray, IntArray, IntRange, PerAxis, PerTensor, Unquantized
from kwsq.ir.rewrite import Rewriter
from kwsq.passes.base import Note, PassResult, Semantics

MAX_STEPS = 128
"""Steps from zero to the largest magnitude: 8-bit codes reach -128."""
_TOLERANCE_PER_STEP = 2.0**-20
_CHANCE_EXPONENT = 9.0
_SMALLEST_MAGNITUDE = 2.0**-100
_SCREENED = 16
_NEIGHBOURS = (0, -1, 1, -2, 2)

Matrix = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class RecoveredGrid:
    """Codes and grid of a weight.

    Args:
        codes: int8, shape of the weight.
        spec: grid, `declared` False: the codes show a lower bound of the width only.
    """

    codes: IntArray
    spec: Affine | Codebook


def recover_grid(weight: FloatArray, axes: Sequence[int] = (0,)) -> RecoveredGrid | None:
    """Returns the coarsest grid a float weight lies on, or None for ordinary float weights.

    Args:
        weight: float32, any shape.
        axes: axes to try for a per-channel grid, in this order, when no per-tensor grid exists.

    Returns:
        Codes and a grid with the fewest bits; one level pair (-1, +1) becomes a one-bit codebook, and few levels of a
        wide grid a codebook of as many bits as they need.
    """
    if weight.size < 2 or not np.any(weight):
        return None
    steps = _steps(np.ascontiguousarray(weight.reshape(1, -1), np.float32))
    if steps is not None:
        scale, codes = _codes(weight.reshape(1, -1), steps)
        return _grid(codes.reshape(weight.shape), scale, PerTensor())
    for axis in axes:
        rows = np.moveaxis(weight, axis, 0)
        matrix = np.ascontiguousarray(rows.reshape(rows.shape[0], -1), np.float32)
        steps = _steps(matrix) if matrix.shape[0] > 1 else None
        if steps is not None:
            scale, codes = _codes(matrix, steps)
            return _grid(np.moveaxis(codes.reshape(rows.shape), 0, axis), scale, PerAxis(axis))
    return None


def _steps(matrix: Matrix) -> npt.NDArray[np.int64] | None:
    """The fewest steps k of every row (0 for a row of zeros), or None when some row has no grid."""
    largest = np.max(np.abs(matrix), axis=1)
    used = np.flatnonzero(largest > 0)
    if np.any(largest[used] < _SMALLEST_MAGNITUDE):
        return None
    steps = np.zeros(matrix.shape[0], np.int64)
    # Ordinary weights leave here: a handful of rows is enough to see that they have no grid.
    for part in (used[:4], used[4:]):
        if part.size:
            found = _steps_of_rows(matrix[part], largest[part])
            if found is None:
                return None
            steps[part] = found
    return steps if _is_evidence(matrix, steps) else None


def _steps_of_rows(rows: Matrix, largest: FloatArray) -> npt.NDArray[np.int64] | None:
    candidates = _screen(rows, largest)
    if not candidates.any(axis=1).all():
        return None
    steps = np.zeros(rows.shape[0], np.int64)
    open_rows = np.arange(rows.shape[0])
    while open_rows.size:
        k = candidates[open_rows].argmax(axis=1) + 1
        fits = _fits(rows[open_rows], largest[open_rows], k)
        steps[open_rows[fits]] = k[fits]
        failed = open_rows[~fits]
        candidates[failed, k[~fits] - 1] = False
        if not candidates[failed].any(axis=1).all():
            return None
        open_rows = failed
    return steps


def _screen(rows: Matrix, largest: FloatArray) -> npt.NDArray[np.bool_]:
    """Which k survive a few values of every row: (rows, MAX_STEPS)."""
    stride = max(1, rows.shape[1] // _SCREENED)
    ratio = rows[:, ::stride][:, :_SCREENED].astype(np.float64) / largest[:, None]
    k = np.arange(1, MAX_STEPS + 1)
    scaled = ratio[:, None, :] * k[None, :, None]
    return np.asarray(np.abs(scaled - np.rint(scaled)).max(axis=2) <= k * _TOLERANCE_PER_STEP)


def _fits(rows: Matrix, largest: FloatArray, k: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    scaled = rows * (k / largest.astype(np.float64))[:, None]
    return np.asarray(np.abs(scaled - np.rint(scaled)).max(axis=1) <= k * _TOLERANCE_PER_STEP)


def _is_evidence(matrix: Matrix, steps: npt.NDArray[np.int64]) -> bool:
    """Whether the fit is too good for chance; zeros and the largest value fit any grid and do not count."""
    used = steps > 0
    informative = np.maximum(np.count_nonzero(matrix[used], axis=1) - 1, 0)
    exponent = informative * -np.log10(2 * steps[used] * _TOLERANCE_PER_STEP) - math.log10(MAX_STEPS)
    return bool(exponent.sum() >= _CHANCE_EXPONENT)


def _codes(matrix: Matrix, steps: npt.NDArray[np.int64]) -> tuple[FloatArray, IntArray]:
    """Scale per row, the neighbour of m / k that reproduces the most weights bit for bit, and the codes."""
    largest = np.max(np.abs(matrix), axis=1)
    scale = np.where(steps > 0, largest / np.maximum(steps, 1), 0).astype(np.float32)
    # A row of zeros has no step; the finest one in the tensor keeps its bias as exact as any other's.
    scale[steps == 0] = scale[steps > 0].min()
    codes = np.rint(matrix / scale[:, None]).astype(np.float32)
    bits = scale.view(np.int32)
    best, score = scale, np.full(scale.shape, -1)
    for offset in _NEIGHBOURS:
        candidate = (bits + np.int32(offset)).view(np.float32)
        exact = np.count_nonzero(codes * candidate[:, None] == matrix, axis=1)
        best, score = np.where(exact > score, candidate, best), np.maximum(exact, score)
    return np.asarray(best, np.float32), codes.astype(np.int16)


def _grid(codes: IntArray, scale: FloatArray, granularity: PerTensor | PerAxis) -> RecoveredGrid | None:
    low, high = int(codes.min()), int(codes.max())
    if high > 127:
        # Only +128: mirrored, it would need a ninth bit.
        return None
    narrow = codes.astype(np.int8)
    levels = np.unique(narrow)
    if levels.tolist() == [-1, 1]:
        return RecoveredGrid(narrow, Codebook(levels, scale, 1, granularity, declared=False))
    bits = IntRange(min(low, -1), max(high, 0)).bits
    index_bits = max(1, math.ceil(math.log2(levels.size)))
    if isinstance(granularity, PerTensor) and index_bits <= bits - 2 and narrow.size >= 8 * levels.size:
        return RecoveredGrid(narrow, Codebook(levels, scale, index_bits, granularity, declared=False))
    span = IntRange.of(max(bits, 2), narrow=low > -(2 ** (max(bits, 2) - 1)))
    zero_point = np.zeros(scale.shape, np.int32)
    return RecoveredGrid(narrow, Affine(scale, zero_point, span, granularity, declared=False))


class RecoverGrid:
    """Gives float weights of convolutions and dense layers the grid they lie on."""

    __slots__ = ()
    name: ClassVar[str] = "recover_grid"
    requires: ClassVar[frozenset[str]] = frozenset()
    establishes: ClassVar[frozenset[str]] = frozenset({"grids_recovered"})
    semantics: ClassVar[Semantics] = Semantics.FLOAT_CLOSE

    def run(self, graph: Graph) -> PassResult:
        """Returns the graph with codes in place of float weights that lie on a grid."""
        rewriter = Rewriter(graph)
        notes: list[Note] = []
        for name in _weight_names(graph):
            tensor = graph[name]
            assert tensor.data is not None, "only constants are collected"
            found = recover_grid(np.asarray(tensor.data, np.float32))
            if found is not None:
                scale = found.spec.scale
                rewriter.update_tensor(name, data=found.codes, quant=found.spec, source_scale=scale)
                notes.append(_note(tensor, found))
        return PassResult(rewriter.finish(*self.establishes), rewriter.changed, tuple(notes))


def _weight_names(graph: Graph) -> list[str]:
    names: dict[str, None] = {}
    for node in graph.nodes:
        if isinstance(node.op, Conv | Dense):
            tensor = graph.constant(node.inputs[1])
            if tensor is not None and isinstance(tensor.quant, Unquantized):
                names.setdefault(tensor.name)
    return list(names)


def _note(tensor: Tensor, found: RecoveredGrid) -> Note:
    where = "per tensor" if found.spec.scale.size == 1 else f"per channel ({found.spec.scale.size} scales)"
    kind = "codebook" if isinstance(found.spec, Codebook) else "grid"
    text = f"float values lie on a {found.spec.bits}-bit {kind} {where}; the width is a lower bound"
    return Note(RecoverGrid.name, tensor.name, text)
