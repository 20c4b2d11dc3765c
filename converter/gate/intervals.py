"""Score intervals for paired counts: a difference of proportions (Tango) and a ratio of event counts (Tang).

Both invert a score test, so they stay honest where a cell is zero; McNemar's test is their special case at no
difference. Equations: docs/gate.md (12) to (15).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

RATIO_MAX = 1e9
"""A bound beyond this is reported as infinite."""
_BISECTIONS = 200


@dataclass(frozen=True, slots=True)
class Interval:
    """One-sided confidence bounds, each at the level asked for.

    Args:
        lower: -inf or 0 where there is none.
        upper: +inf where there is none.
    """

    lower: float
    upper: float

    def widened(self, other: Interval) -> Interval:
        """Returns the interval that holds both."""
        return Interval(min(self.lower, other.lower), max(self.upper, other.upper))


def normal_quantile(confidence: float) -> float:
    """Returns z of a one-sided level, 1.645 for 0.95."""
    return NormalDist().inv_cdf(confidence)


EDWARDS = 1.0
"""Continuity correction of a difference of two counts, in events (Edwards, Psychometrika 13 (1948) 185-187)."""


def difference_interval(gained: int, lost: int, pairs: int, confidence: float, continuity: float = 0.0) -> Interval:
    """Returns bounds of (gained - lost) / pairs.

    Args:
        gained: pairs with the event in the second member only.
        lost: pairs with it in the first member only.
        pairs: all pairs.
        confidence: of each bound.
        continuity: events by which the counts are moved away from the value tested; 0 is Tango's interval.

    Source: Tango, Statistics in Medicine 17 (1998) 891-908.
    """
    if pairs == 0:
        return Interval(-1.0, 1.0)
    z, point = normal_quantile(confidence), (gained - lost) / pairs
    below, above = (_difference_statistic(gained, lost, pairs, shift) for shift in (-continuity, continuity))
    return Interval(_root(below, z, -1.0, point), _root(above, -z, point, 1.0))


def _difference_statistic(gained: int, lost: int, n: int, shift: float) -> Callable[[float], float]:
    def statistic(delta: float) -> float:
        """Returns the score statistic of a true difference `delta`; falls as delta grows."""
        linear = -(gained + lost) + (2 * n - gained + lost) * delta
        constant = -lost * delta * (1.0 - delta)
        expected = (math.sqrt(max(linear * linear - 8 * n * constant, 0.0)) - linear) / (4 * n)
        return _standardised(gained - lost + shift - n * delta, n * (2 * expected + delta * (1.0 - delta)))

    return statistic


def ratio_interval(common: int, gained: int, lost: int, confidence: float, continuity: float = 0.0) -> Interval:
    """Returns bounds of (common + gained) / (common + lost).

    Args:
        common: events of both members.
        gained: events of the second member only, the numerator's.
        lost: events of the first member only, the denominator's.
        confidence: of each bound.
        continuity: events by which the counts are moved away from the value tested; 0 is the published interval.

    Source: Nam & Blackwelder, Statistics in Medicine 21 (2002) 689-699; Tang et al., 22 (2003) 1217-1233. The number
        of pairs without an event does not enter, so the interval serves events in continuous audio too.
    """
    if common + gained + lost == 0:
        return Interval(0.0, math.inf)
    z, point = normal_quantile(confidence), (common + gained) / (common + lost) if common + lost else math.inf
    below, above = (_ratio_statistic(common, gained, lost, shift) for shift in (-continuity, continuity))
    lower = _root(below, z, 0.0, min(point, RATIO_MAX)) if common + gained else 0.0
    if point > RATIO_MAX or above(RATIO_MAX) > -z:
        return Interval(lower, math.inf)
    top = max(2.0 * point, 2.0)
    while above(top) > -z:
        top *= 2.0
    return Interval(lower, _root(above, -z, point, top))


def _ratio_statistic(common: int, gained: int, lost: int, shift: float) -> Callable[[float], float]:
    total = common + gained + lost

    def statistic(theta: float) -> float:
        """Returns the score statistic of a true ratio `theta`; falls as theta grows."""
        k, a = total * (1.0 - theta), (1.0 + theta) * total
        b = -((common + lost) * (1.0 + theta) * k + (gained + lost) * total)
        expected_lost = (-b + math.sqrt(max(b * b - 4 * a * lost * k * total, 0.0))) / (2 * a)
        variance = (1.0 + theta) * expected_lost - k
        return _standardised(common + gained + shift - theta * (common + lost), variance)

    return statistic


def _standardised(difference: float, variance: float) -> float:
    if variance <= 0.0:
        return math.copysign(math.inf, difference) if difference else 0.0
    return difference / math.sqrt(variance)


def _root(falling: Callable[[float], float], level: float, low: float, high: float) -> float:
    """Returns where a falling function reaches `level`, by bisection to the last bit."""
    for _ in range(_BISECTIONS):
        middle = 0.5 * (low + high)
        if middle in (low, high):
            break
        low, high = (middle, high) if falling(middle) > level else (low, middle)
    return 0.5 * (low + high)


def mcnemar_mid_p(gained: int, lost: int) -> float:
    """Returns the two-sided mid-p value of McNemar's test, for information: absence of significance proves nothing.

    Source: Fagerland, Lydersen & Laake, BMC Medical Research Methodology 13:91 (2013).
    """
    n, k = gained + lost, min(gained, lost)
    whole = math.lgamma(n + 1) - n * math.log(2.0)
    terms = [math.exp(whole - math.lgamma(i + 1) - math.lgamma(n - i + 1)) for i in range(k + 1)]
    return min(2.0 * math.fsum(terms) - terms[-1], 1.0)
