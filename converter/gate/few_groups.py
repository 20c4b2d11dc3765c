"""Lower bounds where groups are too few to be resampled: delete-one-group jackknife with Student's t.

Resampling five speakers gives bounds that are too narrow. Leaving each out in turn gives as many values, whose spread
carries its own uncertainty in the t quantile. Only FAIL is drawn from such a bound: it takes a large, consistent loss.
Source: Tukey's jackknife; Student's distribution for integer degrees of freedom, Abramowitz and Stegun 26.7.3 and .4.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from kwsq.converter.det import matched_point
from kwsq.converter.det.trials import BoolArray, FloatArray, IntArray, Trials
from kwsq.converter.gate.config import band_targets
from kwsq.converter.gate.pairs import PairedTrials
from kwsq.converter.gate.verdict import Check, Status

QUESTIONS = 4
"""P1 to P4: each takes a share of the error, so that a gate fails equal models no more often than one check may."""
GROUPS_LEAST = 5
"""Below it the t quantile is so large, and the jackknife so rough, that no bound means much."""
METHOD = "jackknife over groups with Student's t, which can show a loss and never its absence"
REASON = "the groups are too few to be resampled"
ACCEPTS_LEAST = 10.0
"""False accepts of the reference with which the logarithm of a ratio is near enough to normal."""


def failing(check: Check, point: float, values: FloatArray, confidence: float, *, ratio: bool) -> Check:
    """Returns the check with a lower bound, FAIL where that is above the margin.

    Args:
        check: INCONCLUSIVE for its few groups.
        point: measured worsening.
        values: (g,) the same without each group.
        confidence: of the bound.
        ratio: whether the worsening is a ratio minus one, which is near to normal on a logarithmic scale.
    """
    if values.size < GROUPS_LEAST or not np.isfinite(values).all():
        return check
    if ratio and min(point, float(values.min())) <= -1.0:
        return check
    scaled, centre = (np.log1p(values), math.log1p(point)) if ratio else (values, point)
    level = 1.0 - (1.0 - confidence) / QUESTIONS
    bound = centre - student_quantile(level, values.size - 1) * jackknife_error(scaled)
    return judged_low(replace(check, point=point, lower=math.expm1(bound) if ratio else bound, method=METHOD))


def judged_low(check: Check) -> Check:
    """Returns the verdict on a check that has a lower bound only: FAIL above the margin, else INCONCLUSIVE.

    The second way to fail, a measured value above the margin and a lower bound above zero, is closed here: it rests on
    the estimate, which few groups move by chance.
    """
    if check.lower is not None and check.lower > check.margin:
        return replace(check, status=Status.FAIL, reason="", needed=None)
    return replace(check, status=Status.INCONCLUSIVE, reason=check.reason or REASON)


def jackknife_error(values: FloatArray) -> float:
    """Returns the standard error from the values without each group."""
    count = values.size
    return math.sqrt((count - 1) / count * float(((values - values.mean()) ** 2).sum()))


def without_each(cluster: IntArray, statistic: Callable[[BoolArray], float]) -> FloatArray:
    """Returns the statistic of the trials kept when each group is left out in turn; none for hopelessly few."""
    groups = np.unique(cluster)
    return np.array([statistic(cluster != group) for group in groups] if groups.size >= GROUPS_LEAST else [])


def matched_changes(pairs: PairedTrials, target_frr: float, band: float) -> Callable[[BoolArray], tuple[float, float]]:
    """Returns what gives the change of false accepts and of the false discovery rate on some of the trials."""
    targets = band_targets(target_frr, band)

    def changes(kept: BoolArray) -> tuple[float, float]:
        label = pairs.label[kept]
        hits = float(label.sum()) * (1.0 - target_frr)
        if not 0 < label.sum() < label.size:
            return math.nan, math.nan
        accepts = [_accepts(Trials.of(label, score[kept]), targets) for score in pairs.scores()]
        if accepts[0] < ACCEPTS_LEAST:
            return math.nan, math.nan
        shares = [fa / (fa + hits) for fa in accepts]
        return accepts[1] / accepts[0] - 1.0, shares[1] / shares[0] - 1.0

    return changes


def _accepts(trials: Trials, targets: tuple[float, ...]) -> float:
    return float(np.mean([matched_point(trials, target).matched.false_accepts for target in targets]))


def student_quantile(confidence: float, freedom: int) -> float:
    """Returns the one-sided quantile of Student's t.

    >>> [round(student_quantile(0.95, n), 3) for n in (1, 4, 9, 18)]
    [6.314, 2.132, 1.833, 1.734]
    """
    low, high = 0.0, 1e6
    for _ in range(200):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if student_cdf(middle, freedom) < confidence else (low, middle)
    return high


def student_cdf(t: float, freedom: int) -> float:
    """Returns P(T <= t) for t >= 0 and whole degrees of freedom."""
    angle = math.atan(t / math.sqrt(freedom))
    cosine, sine = math.cos(angle), math.sin(angle)
    term, total, start = 1.0, 0.0, freedom % 2
    if start == 0:
        for step in range(2, freedom + 1, 2):
            total += term
            term *= (step - 1) / step * cosine**2
        return 0.5 + 0.5 * sine * total
    term = cosine
    for step in range(3, freedom + 1, 2):
        total += term
        term *= (step - 1) / step * cosine**2
    return 0.5 + (angle + sine * total) / math.pi
