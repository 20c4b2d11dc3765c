"""Scores with a known truth, to size test sets and to test the gate itself.

Keyword scores are N(d', 1), others N(0, 1); the candidate's are the reference's plus N(0, sigma^2), which is how
rounding noise acts on a score. Only other trials that could be accepted are drawn, which changes no error rate.
Equations: docs/gate.md (20) to (22).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from kwsq.converter.det.trials import FloatArray
from kwsq.converter.gate.pairs import PairedTrials

_NORMAL = NormalDist()
_REACH_SIGMAS = 7.0
SIGMA_MAX = 4.0


@dataclass(frozen=True, slots=True)
class ScoreModel:
    """A pair of detectors whose errors are known.

    Args:
        separation: d', distance between keyword and other scores, in standard deviations.
        noise: sigma, what the candidate adds to each score.
        target_frr: phi, the operating point.
    """

    separation: float
    noise: float
    target_frr: float

    @classmethod
    def of_rates(cls, target_frr: float, false_accept_rate: float, noise: float = 0.0) -> ScoreModel:
        """Returns the model whose reference has this false accept rate at the target."""
        z = _NORMAL.inv_cdf(target_frr)
        return cls(-_NORMAL.inv_cdf(false_accept_rate) - z, noise, target_frr)

    @property
    def threshold(self) -> float:
        """True threshold of the reference."""
        return self.separation + _NORMAL.inv_cdf(self.target_frr)

    @property
    def false_accept_rate(self) -> float:
        """True false accept rate of the reference."""
        return _NORMAL.cdf(-self.threshold)

    @property
    def fa_ratio(self) -> float:
        """True ratio of false accepts at matched false reject rate."""
        scale = math.hypot(1.0, self.noise)
        return _NORMAL.cdf(-self.separation / scale - _NORMAL.inv_cdf(self.target_frr)) / self.false_accept_rate

    @property
    def frozen_fa_ratio(self) -> float:
        """True ratio of false accepts at the reference's threshold."""
        return _NORMAL.cdf(-self.threshold / math.hypot(1.0, self.noise)) / self.false_accept_rate

    @property
    def frozen_frr_increase(self) -> float:
        """True increase of the false reject rate at the reference's threshold."""
        return _NORMAL.cdf(_NORMAL.inv_cdf(self.target_frr) / math.hypot(1.0, self.noise)) - self.target_frr

    def with_fa_ratio(self, ratio: float) -> ScoreModel:
        """Returns the model with the noise that gives this true ratio, at least 1."""
        low, high = 0.0, SIGMA_MAX
        for _ in range(100):
            middle = 0.5 * (low + high)
            worse = ScoreModel(self.separation, middle, self.target_frr).fa_ratio > ratio
            low, high = (low, middle) if worse else (middle, high)
        return ScoreModel(self.separation, 0.5 * (low + high), self.target_frr)

    def draw(self, rng: np.random.Generator, positives: int, negatives: int) -> PairedTrials:
        """Returns trials, those others left out that lie far below every threshold.

        Args:
            rng: generator.
            positives: keyword trials.
            negatives: other trials, of which the upper tail is drawn.
        """
        density = _NORMAL.pdf(_NORMAL.inv_cdf(self.target_frr))
        error = math.sqrt(self.target_frr * (1 - self.target_frr) / positives) / density
        cut = self.threshold - _REACH_SIGMAS * (error + self.noise)
        tail = int(rng.binomial(negatives, _NORMAL.cdf(-cut)))
        others = _normal_above(rng, cut, tail) if tail else np.array([cut])
        reference = np.concatenate([self.separation + rng.standard_normal(positives), others])
        label = np.arange(reference.size) < positives
        candidate = reference + self.noise * rng.standard_normal(reference.size)
        return PairedTrials.of(label, reference, candidate)


def _normal_above(rng: np.random.Generator, cut: float, count: int) -> FloatArray:
    """Returns standard normal numbers above `cut`, by rejection from a shifted exponential or from the normal itself.

    Source: Robert, Statistics and Computing 5 (1995) 121-125.
    """
    parts: list[FloatArray] = []
    missing = count
    while missing > 0:
        if cut > 0.5:
            x = cut + rng.standard_exponential(2 * missing + 16) / cut
            kept = x[rng.random(x.size) <= np.exp(-0.5 * (x - cut) ** 2)]
        else:
            x = rng.standard_normal(4 * missing + 16)
            kept = x[x > cut]
        parts.append(kept[:missing])
        missing -= parts[-1].size
    return np.concatenate(parts)
