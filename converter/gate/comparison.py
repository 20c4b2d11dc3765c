"""Both models at one operating point: what every check starts from."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

import numpy as np

from kwsq.converter.det import OperatingPoint, count, matched_point
from kwsq.converter.gate.config import DEFAULT_TARGET_FRR, GateConfig, band_targets, check_config
from kwsq.converter.gate.pairs import PairedTrials
from kwsq.converter.gate.sizing import false_accepts_needed
from kwsq.converter.gate.verdict import TrialsNeeded
from kwsq.ir.errors import Problem, UsageError

FALSE_REJECTS_MIN = 10
"""Below this many false rejects the resampled threshold says little about the true one."""
GROUPS_MIN = 20
"""Fewer groups, resampled, give bounds that are too narrow."""
_PLANNED_OVERLAP = 0.9


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """Reference and candidate at matched false reject rate.

    Args:
        pairs: their trials.
        config: settings.
        target_frr: phi in force.
        threshold: the reference's threshold in force.
        reference: operating point of the reference at phi.
        candidate: operating point of the candidate at phi.
        accepts: false accepts of both, averaged over the band around phi.
    """

    pairs: PairedTrials
    config: GateConfig
    target_frr: float
    threshold: float
    reference: OperatingPoint
    candidate: OperatingPoint
    accepts: tuple[float, float]

    @classmethod
    def of(cls, pairs: PairedTrials, config: GateConfig) -> Self:
        """Returns the comparison that the settings ask for.

        Raises:
            UsageError: a setting is out of range, or its threshold accepts no keyword of the reference.
        """
        check_config(config)
        target = config.target_frr
        if target is None and config.threshold is not None:
            target = _target_of(config.threshold, pairs)
        phi = DEFAULT_TARGET_FRR if target is None else target
        points = [matched_point(trials, phi) for trials in (pairs.reference, pairs.candidate)]
        threshold = points[0].threshold if config.threshold is None else config.threshold
        targets = band_targets(phi, config.frr_band)
        accepts = [
            float(np.mean([matched_point(trials, rate).matched.false_accepts for rate in targets]))
            for trials in (pairs.reference, pairs.candidate)
        ]
        return cls(pairs, config, phi, threshold, points[0], points[1], (accepts[0], accepts[1]))

    @property
    def positives(self) -> int:
        """Number of keyword trials."""
        return int(self.pairs.label.sum())

    @property
    def negatives(self) -> int:
        """Number of other trials."""
        return self.pairs.label.size - self.positives

    def groups(self) -> tuple[int, int]:
        """Returns the numbers of groups with keyword trials and with others."""
        label, cluster = self.pairs.label, self.pairs.cluster
        return int(np.unique(cluster[label]).size), int(np.unique(cluster[~label]).size)

    def few_groups(self) -> str:
        """Returns why the groups are too few to be resampled, "" if they are not."""
        if not self.pairs.is_clustered or min(self.groups()) >= GROUPS_MIN:
            return ""
        found = "{} groups with keywords and {} without".format(*self.groups())
        return f"{found}; resampling needs {GROUPS_MIN} of each"

    def matched_obstacle(self) -> tuple[str, TrialsNeeded | None]:
        """Returns why P1 cannot be answered and the trials that would change that; "" and None if it can."""
        if not (self.reference.is_resolved and self.candidate.is_resolved):
            achieved = f"{self.reference.achieved_frr:.2%} and {self.candidate.achieved_frr:.2%}"
            return f"score resolution: asked for {self.target_frr:.2%} false rejects, thresholds give {achieved}", None
        rejects = self.target_frr * self.positives
        if rejects < FALSE_REJECTS_MIN:
            factor = FALSE_REJECTS_MIN / rejects if rejects else math.inf
            needed = self.grown(factor, "any") if math.isfinite(factor) else None
            return f"{rejects:.1f} false rejects; {FALSE_REJECTS_MIN} are needed to place a threshold", needed
        if self.accepts[0] < 1.0:
            return "the reference makes no false accept here: a ratio has no meaning", self.for_false_accepts()
        return self.few_groups(), None

    def for_false_accepts(self) -> TrialsNeeded:
        """Returns the trials with which the reference would make enough false accepts for its ratio."""
        wanted = false_accepts_needed(self.config.fa_ratio_margin, _PLANNED_OVERLAP)
        found = max(self.accepts[0], 1.0)
        return self.grown(max(wanted / found, 1.0), f"equal models that share {_PLANNED_OVERLAP:.0%} of false accepts")

    def grown(self, factor: float, assuming: str) -> TrialsNeeded:
        """Returns the trials there are, times `factor`."""
        return TrialsNeeded(math.ceil(self.positives * factor), math.ceil(self.negatives * factor), assuming)


def _target_of(threshold: float, pairs: PairedTrials) -> float | None:
    """Returns the false reject rate that a threshold gives the reference."""
    rate = count(pairs.reference, threshold).false_reject_rate
    if rate == 1.0:
        highest = pairs.reference.positives.max()
        found = f"{threshold}, at which the reference accepts no keyword"
        expected = f"at most {highest}, the highest score of a keyword"
        raise UsageError(Problem("gate setting threshold", found, expected, "give the threshold in production"))
    return rate
