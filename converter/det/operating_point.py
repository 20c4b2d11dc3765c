"""The threshold that gives a wanted false reject rate, also where scores tie: docs/gate.md (7) to (9)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from kwsq.converter.det.rates import Counts, count
from kwsq.converter.det.trials import Trials
from kwsq.ir.errors import Problem, UsageError

# phi * n of a rate that was itself m / n may land an ulp below m; far less than the share of one trial.
COUNT_SLACK = 1e-9
RESOLUTION_SHARE = 0.1


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """Where a detector works.

    Args:
        target_frr: false reject rate asked for.
        threshold: tau, the largest threshold whose false reject rate is at most the target.
        reject_share: lambda, share of the scores equal to tau that must be rejected to meet the target.
        at_threshold: what a device with this threshold does.
        matched: the same with equal scores split by `reject_share`, so that FRR is the target; this is the
            point on the straight line between the two thresholds that can be set.
        levels_above: number of distinct scores above tau.
    """

    target_frr: float
    threshold: float
    reject_share: float
    at_threshold: Counts
    matched: Counts
    levels_above: int

    @property
    def achieved_frr(self) -> float:
        """False reject rate a device gets at tau."""
        achieved = self.at_threshold.false_reject_rate
        assert achieved is not None, "Trials hold keyword trials"
        return achieved

    @property
    def is_resolved(self) -> bool:
        """Whether scores are fine enough: |achieved - target| <= max(target / 10, 1 / positives)."""
        positives = self.at_threshold.false_rejects + self.at_threshold.true_accepts
        allowed = max(RESOLUTION_SHARE * self.target_frr, 1.0 / positives)
        return abs(self.achieved_frr - self.target_frr) <= allowed + COUNT_SLACK

    def to_json(self) -> dict[str, object]:
        """Returns the point as a JSON-ready dictionary."""
        return {
            "target_frr": self.target_frr,
            "threshold": self.threshold,
            "achieved_frr": self.achieved_frr,
            "is_resolved": self.is_resolved,
            "levels_above": self.levels_above,
            "reject_share": self.reject_share,
            "at_threshold": self.at_threshold.to_json(),
            "matched": self.matched.to_json(),
        }


def check_target(target_frr: float) -> None:
    """Checks a false reject rate.

    Raises:
        UsageError: not from 0 to below 1.
    """
    if not 0.0 <= target_frr < 1.0:
        remedy = "5 % is written 0.05"
        raise UsageError(Problem("target_frr", repr(target_frr), "a fraction from 0 to below 1", remedy))


def matched_point(trials: Trials, target_frr: float) -> OperatingPoint:
    """Returns the operating point of a false reject rate.

    Args:
        trials: scores of one detector.
        target_frr: phi, a fraction.

    Returns:
        tau = s_(k+1) of the ascending keyword scores with k = floor(phi * positives).

    Raises:
        UsageError: the target is not a fraction below 1.
    """
    check_target(target_frr)
    positives, negatives = np.sort(trials.positives), trials.negatives
    wanted = target_frr * positives.size
    threshold = float(positives[min(math.floor(wanted + COUNT_SLACK), positives.size - 1)])
    below = int(np.searchsorted(positives, threshold, "left"))
    equal = int(np.searchsorted(positives, threshold, "right")) - below
    share = min(max((wanted - below) / equal, 0.0), 1.0)
    above, ties = int((negatives > threshold).sum()), int((negatives == threshold).sum())
    device = count(trials, threshold)
    rejects = below + share * equal
    matched = Counts(
        rejects, positives.size - rejects, above + (1.0 - share) * ties, device.negatives, device.negative_hours
    )
    levels = int(np.unique(trials.score[trials.score > threshold]).size)
    return OperatingPoint(target_frr, threshold, share, device, matched, levels)
