"""A lint: scores that are saturated probabilities, on which no operating point can be set finely."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kwsq.converter.det.trials import FloatArray, Trials

BYTE_LEVELS = 256
TOP_SHARE_MAX = 0.05


@dataclass(frozen=True, slots=True)
class Saturation:
    """Why scores look like saturated probabilities.

    Args:
        levels: number of distinct scores.
        top_share: share of keyword trials that hold the largest score.
    """

    levels: int
    top_share: float

    def __str__(self) -> str:
        return (
            f"scores are probabilities with {self.levels} distinct levels, and {self.top_share:.1%} of the keyword "
            "trials hold the largest one; score the logits under the softmax or sigmoid (kwsq-convert --drop-softmax)"
        )


def is_probability(outputs: FloatArray) -> bool:
    """Returns whether rows are those of a softmax, as far as int8 steps show it."""
    in_range = (outputs >= 0).all() and (outputs <= 1).all()
    # Each of C classes is off by half a step of 1/256 at most.
    return bool(in_range and np.abs(outputs.sum(axis=1) - 1.0).max() <= 0.5 * outputs.shape[1] / 256 + 1e-3)


def saturation(trials: Trials) -> Saturation | None:
    """Returns what is wrong with scores within [0, 1] that are coarse or pile up at the top, None if nothing.

    An int8 probability has at most 256 levels; a float32 softmax of a confident model is exactly 1 for many trials.
    Thresholds can be set between levels only, so two equally good models differ by where the levels fall.
    """
    scores = trials.score
    if scores.min() < 0.0 or scores.max() > 1.0:
        return None
    levels = int(np.unique(scores).size)
    top = float((trials.positives == scores.max()).mean())
    # A test set smaller than the levels of a byte has few levels whatever the model does.
    coarse = levels <= min(BYTE_LEVELS, scores.size // 2)
    piled = top > TOP_SHARE_MAX and int((trials.positives == scores.max()).sum()) > 1
    return Saturation(levels, top) if coarse or piled else None
