"""How many trials a margin needs, by formula; docs/gate.md (16) to (19)."""

from __future__ import annotations

import math

from kwsq.converter.gate.intervals import normal_quantile


def errors_needed(relative_width: float, confidence: float = 0.95) -> int:
    """Returns how many errors pin one rate down to +- `relative_width`: 31 for 30 %, Doddington's rule of 30.

    >>> [errors_needed(r) for r in (0.3, 0.2, 0.1, 0.05)]
    [31, 68, 271, 1083]
    """
    return math.ceil((normal_quantile(confidence) / relative_width) ** 2)


def positives_needed(margin: float, discordance: float, confidence: float = 0.95, power: float = 0.8) -> int:
    """Returns keyword trials that show a false reject rate no worse by `margin`, for equal models (P2).

    Args:
        margin: as a fraction, 0.005 = 0.5 pp.
        discordance: share of keyword trials on which the models disagree.
        confidence: of the bound.
        power: chance to pass.

    >>> positives_needed(0.005, 0.01)
    2474
    """
    return math.ceil(_distance(confidence, power) ** 2 * discordance / margin**2)


def false_accepts_needed(margin: float, overlap: float, confidence: float = 0.95, power: float = 0.8) -> int:
    """Returns false accepts of the reference that show an increase below `margin`, for equal models (P3).

    Args:
        margin: 0.10 = +10 %.
        overlap: share of false accepts that both models make.
        confidence: of the bound.
        power: chance to pass.

    >>> [false_accepts_needed(0.10, o) for o in (0.0, 0.8, 0.9, 0.95)]
    [1362, 273, 137, 69]
    """
    exact = _distance(confidence, power) ** 2 * 2.0 * (1.0 - overlap) / math.log1p(margin) ** 2
    return max(math.ceil(exact - 1e-9), 1)


def hours_needed(rate_max: float, false_accepts: int, confidence: float = 0.95) -> float:
    """Returns hours of audio after which so many false accepts still prove less than `rate_max` per hour.

    >>> round(hours_needed(0.5, 0), 1), round(hours_needed(0.5, 3), 1)
    (6.0, 15.5)
    """
    return _poisson_upper(false_accepts, confidence) / rate_max


def _poisson_upper(count: int, confidence: float) -> float:
    """Returns the exact upper bound of a Poisson mean: P(X <= count) = 1 - confidence."""
    low, high = float(count), count + 20.0 + 10.0 * math.sqrt(count)
    for _ in range(200):
        mean = 0.5 * (low + high)
        terms = (math.exp(i * math.log(mean) - mean - math.lgamma(i + 1)) for i in range(count + 1))
        low, high = (mean, high) if math.fsum(terms) > 1.0 - confidence else (low, mean)
    return high


def _distance(confidence: float, power: float) -> float:
    return normal_quantile(confidence) + normal_quantile(power)
