"""The fast bootstrap against a plain one, and its reproducibility."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kwsq.converter.det import matched_point
from kwsq.converter.gate.bootstrap import (
    _Kept,
    generator,
    matched_resamples,
    percentile_bounds,
    resampled_totals,
)
from kwsq.converter.gate.pairs import PairedTrials
from kwsq.converter.gate.simulate import ScoreModel


def plain_false_accepts(score: np.ndarray, label: np.ndarray, weight: np.ndarray, targets: tuple[float, ...]) -> float:
    """Each trial repeated as often as it was drawn, then judged by `matched_point`."""
    from kwsq.converter.det import Trials

    trials = Trials.of(np.repeat(label, weight), np.repeat(score, weight))
    return float(np.mean([matched_point(trials, target).matched.false_accepts for target in targets]))


@settings(max_examples=60)
@given(st.integers(0, 10**6), st.booleans(), st.sampled_from([(0.0,), (0.1,), (0.08, 0.1, 0.12), (0.5,)]))
def test_a_resample_equals_repeating_the_trials(seed: int, tied: bool, targets: tuple[float, ...]) -> None:
    """Weights that keep every trial: the fast path must do what repeating rows does, ties included."""
    rng = np.random.default_rng(seed)
    label = np.arange(80) < 30
    reference = rng.normal(2.0 * label, 1.0)
    candidate = reference + rng.normal(0, 0.3, 80)
    if tied:
        reference, candidate = np.round(reference, 0), np.round(candidate, 0)
    pairs = PairedTrials.of(label, reference, candidate, group=rng.integers(0, 25, 80))
    kept = _Kept.around(pairs, targets, 1000)  # everything
    weights = rng.poisson(1.0, (1, kept.keywords_of.size))
    per_trial = weights[0, kept.cluster]
    if not (per_trial[label].any() and per_trial[~label].any()):
        return
    found = kept._resample(weights, np.zeros(1, np.int64))
    # Shares of ties are quotients of small integers: a few ulps.
    assert found.reference[0] == pytest.approx(plain_false_accepts(reference, label, per_trial, targets), abs=1e-6)
    assert found.candidate[0] == pytest.approx(plain_false_accepts(candidate, label, per_trial, targets), abs=1e-6)


def test_leaving_far_trials_out_changes_no_distribution() -> None:
    """Means and spreads of 4,000 resamples by the fast path and by whole weights, in standard errors."""
    model = ScoreModel(3.0, 0.2, 0.1)
    pairs = model.draw(np.random.default_rng(8), 600, 4000)
    fast = matched_resamples(pairs, (0.1,), 4000, 1)
    whole = _Kept.around(pairs, (0.1,), 10_000).bootstrap(generator(2, 1), 4000)
    for one, other in ((fast.reference, whole.reference), (fast.candidate, whole.candidate)):
        error = np.hypot(one.std(), other.std()) / np.sqrt(4000)
        assert abs(one.mean() - other.mean()) < 4 * error
        assert one.std() == pytest.approx(other.std(), rel=0.08)  # 1 / sqrt(2 * 4000) = 1.1 % each, 4 s.d. of both


def test_totals_of_equal_groups_have_the_right_spread() -> None:
    rows = np.array([[1, 0]] * 50 + [[0, 1]] * 80)
    drawn = resampled_totals(rows, np.arange(130), 20_000, 3, stream=1)
    assert drawn.mean(axis=0) == pytest.approx([50, 80], rel=0.01)
    assert drawn.var(axis=0) == pytest.approx([50, 80], rel=0.05)
    grouped = resampled_totals(rows, np.arange(130) // 10, 20_000, 3, stream=1)
    assert grouped.var(axis=0) == pytest.approx([500, 800], rel=0.05)


def test_resamples_are_the_same_bit_for_bit() -> None:
    pairs = ScoreModel(3.0, 0.2, 0.1).draw(np.random.default_rng(8), 300, 3000)
    first, again = (matched_resamples(pairs, (0.1,), 300, 5) for _ in range(2))
    other = matched_resamples(pairs, (0.1,), 300, 6)
    digests = [hashlib.sha256(r.candidate.tobytes()).hexdigest() for r in (first, again, other)]
    assert digests[0] == digests[1] != digests[2]


def test_bounds_are_order_statistics() -> None:
    values = np.random.default_rng(0).permutation(np.arange(1, 1000.0))
    assert percentile_bounds(values, values, 0.95) == (50.0, 950.0)
    with_infinite = np.where(values > 940, np.inf, values)
    assert percentile_bounds(values, with_infinite, 0.95)[1] == np.inf
