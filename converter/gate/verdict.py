"""PASS, FAIL or INCONCLUSIVE: what bounds and a margin mean, and how much data would settle the rest."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum

from kwsq.converter.gate.intervals import normal_quantile

POWER = 0.8
"""Chance with which the trials named are to settle the question."""


class Status(StrEnum):
    """Outcome of a check and of the gate."""

    PASS = "PASS"
    FAIL = "FAIL"
    INCONCLUSIVE = "INCONCLUSIVE"
    SKIPPED = "SKIPPED"


@dataclass(frozen=True, slots=True)
class TrialsNeeded:
    """Data that would settle a check with a chance of 80 %.

    Args:
        positives: keyword trials.
        negatives: other trials, or events of the same mix.
        assuming: what would have to be true.
    """

    positives: int
    negatives: int
    assuming: str

    def to_json(self) -> dict[str, object]:
        """Returns the fields as a JSON-ready dictionary."""
        return {"positives": self.positives, "negatives": self.negatives, "assuming": self.assuming}


@dataclass(frozen=True, slots=True)
class Check:
    """One question of the gate: is the candidate worse than the reference by more than the margin?

    Args:
        id: such as "P1.fa_ratio"; stable.
        question: in words.
        unit: "ratio" (0.1 = +10 %), "fraction" (0.01 = 1 pp) or "seconds".
        margin: worsening that is still good.
        margin_setting: name of the setting that gives the margin.
        point: measured worsening, negative when the candidate is better; None when undefined.
        lower, upper: one-sided bounds of it, None when infinite or unknown.
        status: the verdict.
        method: how the bounds were found.
        reason: why no verdict was possible or none was needed, "" otherwise.
        needed: data that would settle an inconclusive check.
        positives, negatives: trials the bounds rest on.
    """

    id: str
    question: str
    unit: str
    margin: float
    margin_setting: str
    point: float | None
    lower: float | None
    upper: float | None
    status: Status
    method: str
    reason: str = ""
    needed: TrialsNeeded | None = None
    positives: int = 0
    negatives: int = 0

    def to_json(self) -> dict[str, object]:
        """Returns the fields as a JSON-ready dictionary."""
        return {
            "id": self.id,
            "question": self.question,
            "unit": self.unit,
            "margin": self.margin,
            "margin_setting": self.margin_setting,
            "point": self.point,
            "lower": self.lower,
            "upper": self.upper,
            "status": self.status.value,
            "method": self.method,
            "reason": self.reason,
            "positives": self.positives,
            "negatives": self.negatives,
            "trials_needed": None if self.needed is None else self.needed.to_json(),
        }


def judge(point: float | None, lower: float | None, upper: float | None, margin: float) -> Status:
    """Returns the verdict on a worsening.

    Args:
        point: measured, None when undefined.
        lower: one-sided lower bound, None for none.
        upper: one-sided upper bound, None for none.
        margin: worsening that is still good.

    Returns:
        PASS if upper < margin; FAIL if lower > margin, or if point > margin and lower > 0; else INCONCLUSIVE.

    >>> judge(0.02, -0.01, 0.05, 0.1), judge(0.12, 0.03, 0.2, 0.1), judge(0.12, -0.03, 0.2, 0.1)
    (<Status.PASS: 'PASS'>, <Status.FAIL: 'FAIL'>, <Status.INCONCLUSIVE: 'INCONCLUSIVE'>)
    """
    if upper is not None and upper < margin:
        return Status.PASS
    if lower is not None and (lower > margin or (point is not None and point > margin and lower > 0)):
        return Status.FAIL
    return Status.INCONCLUSIVE


def overall(checks: Iterable[Check]) -> Status:
    """Returns the verdict on all checks: every one must pass; skipped ones do not count."""
    found = {check.status for check in checks} - {Status.SKIPPED}
    for status in (Status.FAIL, Status.INCONCLUSIVE):
        if status in found:
            return status
    return Status.PASS if found else Status.INCONCLUSIVE


def growth_needed(point: float, upper: float, margin: float, confidence: float) -> tuple[float, str]:
    """Returns by what factor the data must grow, and under which assumption; docs/gate.md (18).

    Args:
        point: measured worsening.
        upper: its finite upper bound.
        margin: worsening that is still good.
        confidence: of the bound.
    """
    z = normal_quantile(confidence)
    error = (upper - point) / z
    distance = (z + normal_quantile(POWER)) * error
    as_measured = 0.0 <= point < 0.5 * margin
    gap = margin - point if as_measured else margin
    return (distance / gap) ** 2, "the measured difference" if as_measured else "equal models"


def judged(check: Check, confidence: float) -> Check:
    """Returns the check with its verdict and, where it is inconclusive, the trials needed."""
    status = judge(check.point, check.lower, check.upper, check.margin)
    if status is not Status.INCONCLUSIVE:
        return replace(check, status=status)
    needed = None
    if check.point is not None and check.upper is not None and check.upper > check.point:
        factor, assuming = growth_needed(check.point, check.upper, check.margin, confidence)
        factor = max(factor, 1.0)
        needed = TrialsNeeded(math.ceil(check.positives * factor), math.ceil(check.negatives * factor), assuming)
    reason = "the bounds are on both sides of the margin" if needed else "too few errors to bound the difference"
    return replace(check, status=status, reason=reason, needed=needed or check.needed)
