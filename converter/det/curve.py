"""The DET curve: both errors over all thresholds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kwsq.converter.det.trials import FloatArray, IntArray, Trials


@dataclass(frozen=True, slots=True, eq=False)
class DetCurve:
    """Errors at every threshold that makes a difference.

    Args:
        threshold: (m,) the distinct scores, ascending; accepting none at all (+inf) is left out.
        false_accepts: (m,) FA at each threshold.
        false_rejects: (m,) FR at each threshold.
        positives: number of keyword trials.
        negatives: number of other trials.
        negative_hours: audio of the other trials, hours.
    """

    threshold: FloatArray
    false_accepts: IntArray
    false_rejects: IntArray
    positives: int
    negatives: int
    negative_hours: float

    @property
    def false_accept_rate(self) -> FloatArray:
        """(m,) FA / negatives."""
        return self.false_accepts / self.negatives

    @property
    def false_accepts_per_hour(self) -> FloatArray:
        """(m,) FA / hours."""
        return self.false_accepts / self.negative_hours

    @property
    def false_reject_rate(self) -> FloatArray:
        """(m,) FR / positives."""
        return self.false_rejects / self.positives

    def corners(self) -> IntArray:
        """Returns the indices of the points where the staircase turns: the curve without its repetitions."""
        flat, steep = np.diff(self.false_rejects) == 0, np.diff(self.false_accepts) == 0
        turns = ~(flat[1:] & flat[:-1]) & ~(steep[1:] & steep[:-1])
        keep = np.ones(self.threshold.size, np.bool_)
        keep[1:-1] = turns
        return np.flatnonzero(keep)


def det_curve(trials: Trials) -> DetCurve:
    """Returns false accepts and false rejects at every distinct score.

    Source: NIST's detection error trade-off; thresholds mean "accept when score >= threshold".
    """
    positives, negatives = np.sort(trials.positives), np.sort(trials.negatives)
    threshold = np.unique(trials.score)
    return DetCurve(
        threshold=threshold,
        false_accepts=negatives.size - np.searchsorted(negatives, threshold, "left"),
        false_rejects=np.searchsorted(positives, threshold, "left"),
        positives=positives.size,
        negatives=negatives.size,
        negative_hours=trials.negative_hours,
    )
