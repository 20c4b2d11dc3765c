"""Time the gate's bootstrap on 300,000 trials with some 470 false accepts, beside scipy.stats.bootstrap.

Both draw the same number of resamples of the same statistic: the ratio of false accepts at matched false reject
rate, with both thresholds estimated again in each resample. SciPy takes a few resamples, and its time is scaled up,
because all 2,000 would take minutes. Exit code 1 when the gate takes 3 s or more, or is less than 20 times faster.
"""

from __future__ import annotations

import sys
import time

import numpy as np
from scipy import stats

from kwsq.converter.gate.bootstrap import matched_resamples
from kwsq.converter.gate.pairs import PairedTrials

POSITIVES, NEGATIVES, REPLICATES = 6000, 294_000, 2000
SCIPY_REPLICATES = 20
SECONDS_MAX, SPEEDUP_MIN = 3.0, 20.0
RUNS = 3
TARGET_FRR = 0.05


def trials() -> PairedTrials:
    """Return scores whose reference makes about 470 false accepts at the target."""
    rng = np.random.default_rng(0)
    reference = np.concatenate([rng.normal(4.57, 1.0, POSITIVES), rng.normal(0.0, 1.0, NEGATIVES)])
    candidate = reference + 0.05 * rng.standard_normal(reference.size)
    return PairedTrials.of(np.arange(reference.size) < POSITIVES, reference, candidate)


def false_accepts(score: np.ndarray, label: np.ndarray) -> int:
    """Return false accepts at the matched threshold, by the shortest NumPy code."""
    positives = score[label]
    rank = int(TARGET_FRR * positives.size)
    return int(np.count_nonzero(score[~label] >= np.partition(positives, rank)[rank]))


def ratio(reference: np.ndarray, candidate: np.ndarray, label: np.ndarray) -> float:
    """Return the ratio of false accepts of both models."""
    chosen = label.astype(bool)
    return false_accepts(candidate, chosen) / false_accepts(reference, chosen)


def seconds_of_gate(pairs: PairedTrials) -> float:
    """Return the best time of the gate's own bootstrap, all resamples, at one false reject rate."""
    best = np.inf
    for _ in range(RUNS):
        start = time.perf_counter()
        matched_resamples(pairs, (TARGET_FRR,), REPLICATES, 0)
        best = min(best, time.perf_counter() - start)
    return float(best)


def seconds_of_scipy(pairs: PairedTrials) -> float:
    """Return SciPy's time for all resamples, scaled up from a few."""
    data = (pairs.reference.score, pairs.candidate.score, pairs.label.astype(float))
    best = np.inf
    for _ in range(RUNS):
        start = time.perf_counter()
        stats.bootstrap(
            data,
            ratio,
            n_resamples=SCIPY_REPLICATES,
            paired=True,
            vectorized=False,
            method="percentile",
            batch=1,
            rng=np.random.default_rng(0),
        )
        best = min(best, time.perf_counter() - start)
    return float(best) * REPLICATES / SCIPY_REPLICATES


def main() -> int:
    """Measure, print, judge."""
    from kwsq.converter.gate.config import GateConfig
    from kwsq.converter.gate.decision import decide

    pairs = trials()
    accepts = false_accepts(pairs.reference.score, pairs.label)
    start = time.perf_counter()
    decision = decide(pairs, GateConfig(replicates=REPLICATES))
    whole = time.perf_counter() - start
    own, theirs = seconds_of_gate(pairs), seconds_of_scipy(pairs)
    print(f"{pairs.label.size:,} trials, {accepts} false accepts of the reference, {REPLICATES} resamples")
    print(f"all checks {whole:.2f} s ({decision.status}; at most {SECONDS_MAX} s)")
    print(f"matched statistic: kwsq {own:.2f} s, scipy.stats.bootstrap {theirs:.1f} s (from {SCIPY_REPLICATES})")
    print(f"ratio {theirs / own:.0f} (at least {SPEEDUP_MIN:.0f})")
    return int(whole >= SECONDS_MAX or theirs / own < SPEEDUP_MIN)


if __name__ == "__main__":
    sys.exit(main())
