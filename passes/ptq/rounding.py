"""Rounding weights with error feedback.

The output error of a linear layer on the calibration inputs X is, per output row,

    |(w - v) X|^2 = (w - v) H (w - v)^T,   H = X X^T,                                                           (53)

so the error of one column can be made good by the columns after it. With H = (U + I) D (U + I)^T, U strictly upper
triangular, and columns taken in order,

    v_k = nearest(w_k + sum_{j<k} (w_j - v_j) U_jk)                                                             (54)

leaves the error sum_k D_k eta_k^2, eta_k the rounding error of step k. Afterwards each code in turn moves to its best
place while the others stand still:

    v_k <- nearest(v_k + ((w - v) H)_k / H_kk),                                                                 (55)

which lowers (53) or leaves it.

All sums are elementwise in a fixed order, so the codes do not depend on a BLAS or LAPACK.

Source: E. Frantar et al., "GPTQ", ICLR 2023, in the equivalent form of J. Chee et al., "QuIP", NeurIPS 2023 (LDLQ);
(55) is plain coordinate descent.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]
Levels = npt.NDArray[np.int8]

DESCENT_SWEEPS = 4


@dataclass(frozen=True, slots=True, eq=False)
class WeightGrid:
    """What a weight may become: scale * level.

    Args:
        levels: (L,) increasing integer levels.
        scale: (rows,) positive scale of each row, in row order.
    """

    levels: Levels
    scale: Float64

    @property
    def is_uniform(self) -> bool:
        """Whether the levels are consecutive integers."""
        return bool(np.all(np.diff(self.levels.astype(np.int16)) == 1))

    def nearest(self, column: Float64) -> Float64:
        """Returns the nearest representable values of one column (..., rows)."""
        quotient = column / self.scale.reshape(column.shape)
        return self._nearest_levels(quotient) * self.scale.reshape(column.shape)

    def _nearest_levels(self, quotient: Float64) -> Float64:
        levels = self.levels.astype(np.float64)
        if self.is_uniform:
            result: Float64 = np.clip(np.rint(quotient), levels[0], levels[-1])
            return result
        return levels[np.searchsorted((levels[:-1] + levels[1:]) / 2, quotient)]

    def codes(self, values: Float64) -> Levels:
        """Returns the levels of representable values (groups, rows, columns)."""
        scale = self.scale.reshape(*values.shape[:2], 1)
        return np.rint(values / scale).astype(np.int8)


def round_to_nearest(weight: Float64, grid: WeightGrid) -> Float64:
    """Returns each weight of (groups, rows, columns) rounded on its own."""
    return np.stack([grid.nearest(weight[..., k]) for k in range(weight.shape[2])], axis=2)


def output_error(weight: Float64, rounded: Float64, hessian: Float64) -> Float64:
    """Returns equation (53) per row, (groups, rows)."""
    error = weight - rounded
    result: Float64 = (error * times_hessian(error, hessian)).sum(axis=2)
    return result


def times_hessian(error: Float64, hessian: Float64) -> Float64:
    """Returns E H for (groups, rows, columns) and (groups, columns, columns), summed in a fixed order."""
    product = np.zeros_like(error)
    for k in range(error.shape[2]):
        product += error[..., k, None] * hessian[:, None, k, :]
    return product


@dataclass(frozen=True, slots=True, eq=False)
class Factors:
    """H = (U + I) D (U + I)^T, columns of large input first. By far the dearest step: made once for a layer.

    Args:
        order: (groups, columns) the column of H that comes k-th.
        feedback: (groups, columns, columns) U, in that order.
        diagonal: (groups, columns) D, in that order.
    """

    order: npt.NDArray[np.intp]
    feedback: Float64
    diagonal: Float64

    @classmethod
    def of(cls, hessian: Float64) -> Factors:
        """Returns the factors of (groups, columns, columns), positive definite."""
        order = np.argsort(-np.diagonal(hessian, axis1=1, axis2=2), axis=1, kind="stable")
        return cls(order, *_eliminated(_permuted(hessian, order)))

    def ordered(self, rows: Float64) -> Float64:
        """Returns (groups, rows, columns) with the columns in order, a copy."""
        return np.take_along_axis(rows, self.order[:, None, :], axis=2)

    def restored(self, rows: Float64) -> Float64:
        """Undoes `ordered`."""
        result = np.empty_like(rows)
        np.put_along_axis(result, np.broadcast_to(self.order[:, None, :], result.shape), rows, axis=2)
        return result


def error_feedback(weight: Float64, factors: Factors, grid: WeightGrid) -> Float64:
    """Returns the weights rounded by equation (54).

    Args:
        weight: (groups, rows, columns).
        factors: of H.
        grid: representable values.
    """
    original = factors.ordered(weight)
    target, rounded = original.copy(), np.empty_like(original)
    for k in range(target.shape[2]):
        rounded[..., k] = grid.nearest(target[..., k])
        error = original[..., k] - rounded[..., k]
        target[..., k + 1 :] += error[..., None] * factors.feedback[:, None, k, k + 1 :]
    return factors.restored(rounded)


def coordinate_descent(weight: Float64, rounded: Float64, hessian: Float64, grid: WeightGrid) -> Float64:
    """Returns the rounded weights improved by equation (55) until no code moves, or after a few sweeps."""
    current = rounded.copy()
    gradient = times_hessian(weight - current, hessian)
    diagonal = np.diagonal(hessian, axis1=1, axis2=2)
    for _ in range(DESCENT_SWEEPS):
        moved = False
        for k in range(weight.shape[2]):
            best = grid.nearest(current[..., k] + gradient[..., k] / diagonal[:, None, k])
            step = current[..., k] - best
            if np.any(step):
                moved = True
                current[..., k] = best
                gradient += step[..., None] * hessian[:, None, k, :]
        if not moved:
            break
    return current


def solve(right: Float64, factors: Factors) -> Float64:
    """Returns X with X H = B.

    Args:
        right: (groups, rows, columns), B.
        factors: of H.
    """
    rest, feedback = factors.ordered(right), factors.feedback
    for k in range(rest.shape[2] - 1, 0, -1):
        rest[..., :k] -= rest[..., k, None] * feedback[:, None, :k, k]
    rest /= factors.diagonal[:, None, :]
    for k in range(rest.shape[2] - 1):
        rest[..., k + 1 :] -= rest[..., k, None] * feedback[:, None, k, k + 1 :]
    return factors.restored(rest)


def _eliminated(hessian: Float64) -> tuple[Float64, Float64]:
    """Returns U and the diagonal of D, eliminating from the last column."""
    rest = hessian.copy()
    feedback, product = np.zeros_like(rest), np.empty_like(rest)
    for k in range(rest.shape[1] - 1, 0, -1):
        feedback[:, :k, k] = rest[:, :k, k] / rest[:, k, k, None]
        rest[:, :k, :k] -= np.multiply(feedback[:, :k, k, None], rest[:, None, :k, k], out=product[:, :k, :k])
    return feedback, np.diagonal(rest, axis1=1, axis2=2)


def _permuted(hessian: Float64, order: npt.NDArray[np.intp]) -> Float64:
    rows = np.take_along_axis(hessian, order[:, :, None], axis=1)
    return np.take_along_axis(rows, order[:, None, :], axis=2)
