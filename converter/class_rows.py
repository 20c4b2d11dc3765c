"""Scores as one row of classes for every label, which is what accuracy and detection are counted on."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from kwsq.ir.errors import Problem, UsageError

Array = npt.NDArray[Any]
IntArray = npt.NDArray[np.int64]


def class_rows(scores: Array, labels: IntArray) -> Array:
    """Returns (n, classes) scores of n labels.

    Args:
        scores: of all samples, stacked; dimensions of size 1 do not count.
        labels: (n,) class of each row.

    Raises:
        UsageError: there is no row of classes for each label, or a label is none of the classes.
    """
    rows = rows_of(scores, labels.size) if scores.size % labels.size == 0 else scores
    classes = rows.shape[-1]
    if len(rows) != labels.size or classes < 2 or not 0 <= labels.min() <= labels.max() < classes:
        found = f"labels up to {int(labels.max())} for outputs of shape {list(scores.shape)}"
        raise UsageError(Problem("--data, labels 'y'", found, "one class per output row", "check the labels"))
    return rows


def rows_of(scores: Array, count: int) -> Array:
    """Returns scores in `count` rows.

    Raises:
        UsageError: a row would run over several positions, such as frames, each with classes of its own.
    """
    classes = math.prod(scores.shape) // count
    sizes = [size for size in scores.shape if size > 1]
    if len(sizes) > 1 and sizes[-1] != classes:
        found = f"outputs of shape {list(scores.shape)} for {count} samples"
        remedy = "reduce the positions to one in the model, label each of them, or gate score files"
        raise UsageError(Problem("--data", found, "one row of classes for each", remedy))
    return scores.reshape(count, -1)
