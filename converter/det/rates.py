"""Error counts at a threshold and the rates made of them: docs/gate.md (1) to (6)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kwsq.converter.det.trials import Trials


@dataclass(frozen=True, slots=True)
class Counts:
    """Outcomes at one threshold; fractions of a trial arise where equal scores are split.

    Args:
        false_rejects: FR, keyword trials below the threshold.
        true_accepts: TA, keyword trials accepted.
        false_accepts: FA, other trials accepted; events in streaming audio.
        negatives: trials without the keyword; None for streaming audio, where they cannot be counted.
        negative_hours: their audio, in hours.
    """

    false_rejects: float
    true_accepts: float
    false_accepts: float
    negatives: int | None
    negative_hours: float

    @property
    def false_reject_rate(self) -> float | None:
        """FR / (FR + TA), the miss rate; None without keyword trials."""
        positives = self.false_rejects + self.true_accepts
        return self.false_rejects / positives if positives else None

    @property
    def false_accept_rate(self) -> float | None:
        """FA / negatives; None for streaming audio, where it has no meaning."""
        return self.false_accepts / self.negatives if self.negatives else None

    @property
    def false_accepts_per_hour(self) -> float | None:
        """FA / hours without the keyword; None when there are none."""
        return self.false_accepts / self.negative_hours if self.negative_hours else None

    @property
    def false_discovery_rate(self) -> float | None:
        """FDR = FA / (FA + TA): the share of detections that are false; None when nothing is detected.

        Source: named "false detection rate" in arXiv 2207.06920 and "false discovery rate" in the fixed-point
            training paper of the same group; neither prints the formula, this is our reading of both.
        """
        detections = self.false_accepts + self.true_accepts
        return self.false_accepts / detections if detections else None

    def false_discovery_rate_at(self, keywords_per_hour: float) -> float | None:
        """Returns the share of false detections when the keyword is said so often.

        Args:
            keywords_per_hour: R, expected keyword utterances per hour in use.

        Returns:
            (FA/h) / (FA/h + R * (1 - FRR)); comparable between test sets of different mix, unlike FDR.
        """
        rate, missed = self.false_accepts_per_hour, self.false_reject_rate
        if rate is None or missed is None:
            return None
        detections = rate + keywords_per_hour * (1.0 - missed)
        return rate / detections if detections else None

    def to_json(self) -> dict[str, float | int | None]:
        """Returns counts and rates as a JSON-ready dictionary."""
        return {
            "false_rejects": self.false_rejects,
            "true_accepts": self.true_accepts,
            "false_accepts": self.false_accepts,
            "negatives": self.negatives,
            "negative_hours": self.negative_hours,
            "false_reject_rate": self.false_reject_rate,
            "false_accept_rate": self.false_accept_rate,
            "false_accepts_per_hour": self.false_accepts_per_hour,
            "false_discovery_rate": self.false_discovery_rate,
        }


def count(trials: Trials, threshold: float) -> Counts:
    """Returns the outcomes when trials of score >= `threshold` are accepted."""
    accepted = trials.score >= threshold
    true_accepts = int(np.count_nonzero(accepted & trials.label))
    positives = int(np.count_nonzero(trials.label))
    return Counts(
        false_rejects=positives - true_accepts,
        true_accepts=true_accepts,
        false_accepts=int(np.count_nonzero(accepted & ~trials.label)),
        negatives=trials.label.size - positives,
        negative_hours=trials.negative_hours,
    )
