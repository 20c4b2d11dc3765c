"""Counts, rates, curve and operating point, against a brute-force oracle, scikit-learn and the definitions."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kwsq.converter.det import Counts, Trials, count, det_curve, matched_point, saturation
from kwsq.ir.errors import UsageError


@st.composite
def trials(draw: st.DrawFn) -> Trials:
    """Small sets with many ties."""
    labels = draw(st.lists(st.booleans(), min_size=2, max_size=40))
    labels[:2] = [True, False]
    scores = draw(st.lists(st.integers(-4, 4), min_size=len(labels), max_size=len(labels)))
    return Trials.of(labels, np.array(scores) / 4, draw(st.sampled_from([0.5, 1.0, 3600.0])))


def brute_force(data: Trials, threshold: float) -> tuple[int, int, int, int]:
    rows = list(zip(data.label.tolist(), data.score.tolist(), strict=True))
    return (
        sum(label and score < threshold for label, score in rows),
        sum(label and score >= threshold for label, score in rows),
        sum(not label and score >= threshold for label, score in rows),
        sum(not label for label, _ in rows),
    )


@given(trials(), st.integers(-5, 5))
def test_counts_equal_brute_force(data: Trials, quarter: int) -> None:
    found = count(data, quarter / 4)
    assert (found.false_rejects, found.true_accepts, found.false_accepts, found.negatives) == brute_force(
        data, quarter / 4
    )


@given(trials())
def test_the_curve_equals_brute_force_at_every_threshold(data: Trials) -> None:
    curve = det_curve(data)
    assert sorted(set(data.score.tolist())) == curve.threshold.tolist()
    for threshold, fa, fr in zip(curve.threshold, curve.false_accepts, curve.false_rejects, strict=True):
        assert (fr, fa) == brute_force(data, threshold)[0:3:2]
    assert (np.diff(curve.false_accepts) <= 0).all()
    assert (np.diff(curve.false_rejects) >= 0).all()


@given(trials())
def test_the_curve_equals_scikit_learn(data: Trials) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    fpr, fnr, threshold = metrics.det_curve(data.label, data.score)
    curve = det_curve(data)
    ours = {
        t: (a, r) for t, a, r in zip(curve.threshold, curve.false_accept_rate, curve.false_reject_rate, strict=True)
    }
    finite = np.isfinite(threshold)  # since 1.7 it may add an infinite threshold
    assert finite.any()
    for t, a, r in zip(threshold[finite], fpr[finite], fnr[finite], strict=True):
        # Quotients of the same integers: equal but for the last bit of the division.
        assert ours[t] == pytest.approx((a, r), rel=1e-15)


@given(trials())
def test_dropping_repetitions_keeps_the_staircase(data: Trials) -> None:
    curve = det_curve(data)
    kept = curve.corners().tolist()
    assert (kept[0], kept[-1]) == (0, curve.threshold.size - 1)
    for first, last in pairwise(kept):
        # What lies between two kept points lies on the horizontal or vertical line that joins them.
        fa, fr = curve.false_accepts[first : last + 1], curve.false_rejects[first : last + 1]
        assert last == first + 1 or np.unique(fa).size == 1 or np.unique(fr).size == 1


def test_rates_by_their_definitions() -> None:
    # 4 keywords (1 missed), 5 others in 2 hours (2 accepted).
    counts = Counts(false_rejects=1, true_accepts=3, false_accepts=2, negatives=5, negative_hours=2.0)
    assert counts.false_reject_rate == 0.25
    assert counts.false_accept_rate == 0.4
    assert counts.false_accepts_per_hour == 1.0
    assert counts.false_discovery_rate == 0.4
    assert counts.false_discovery_rate_at(4.0) == 1.0 / (1.0 + 4.0 * 0.75)
    assert set(counts.to_json()) >= {"false_discovery_rate", "false_accepts", "true_accepts"}


def test_a_rate_without_its_denominator_is_none() -> None:
    nothing = Counts(0, 0, 0, None, 0.0)
    assert nothing.false_reject_rate is None
    assert nothing.false_accept_rate is None
    assert nothing.false_accepts_per_hour is None
    assert nothing.false_discovery_rate is None
    assert nothing.false_discovery_rate_at(1.0) is None


@given(trials(), st.integers(0, 99))
def test_tau_is_the_largest_threshold_within_the_target(data: Trials, percent: int) -> None:
    point = matched_point(data, percent / 100)
    target = Fraction(percent, 100) * data.positives.size
    assert brute_force(data, point.threshold)[0] <= target
    above = sorted(score for score in set(data.positives.tolist()) if score > point.threshold)
    if above:
        assert brute_force(data, above[0])[0] > target
    assert point.levels_above == len({s for s in data.score.tolist() if s > point.threshold})
    assert point.achieved_frr == brute_force(data, point.threshold)[0] / data.positives.size


@given(trials(), st.integers(0, 99))
def test_the_matched_point_is_randomised_tie_breaking(data: Trials, percent: int) -> None:
    """Expected counts when each score equal to tau is rejected with probability lambda."""
    point = matched_point(data, percent / 100)
    at, lam = point.threshold, point.reject_share
    assert 0 <= lam <= 1
    expected_fr = sum(1.0 if s < at else lam if s == at else 0.0 for s in data.positives.tolist())
    expected_fa = sum(1.0 if s > at else 1 - lam if s == at else 0.0 for s in data.negatives.tolist())
    # Sums of at most 40 terms within [0, 1], each off by 2^-53: below 40 * 40 * 2^-53 < 1e-12.
    assert point.matched.false_rejects == pytest.approx(expected_fr, abs=1e-12)
    assert point.matched.false_accepts == pytest.approx(expected_fa, abs=1e-12)
    assert point.matched.false_rejects == pytest.approx(percent / 100 * data.positives.size, abs=1e-8)


def test_the_target_of_a_measured_rate_gives_that_rate_back() -> None:
    """floor(phi * n) must not fall below m for phi = m / n."""
    for n in range(2, 120):
        data = Trials.of([1] * n + [0], [*range(n), -1])
        for m in range(n):
            assert matched_point(data, m / n).at_threshold.false_rejects == m


def test_coarse_scores_are_not_resolved_and_fine_ones_are() -> None:
    rng = np.random.default_rng(1)
    score = np.concatenate([rng.normal(4.6, 1, 2000), rng.normal(0, 1, 2000)])
    label = np.arange(4000) < 2000
    assert matched_point(Trials.of(label, score), 0.05).is_resolved
    coarse = matched_point(Trials.of(label, np.floor(score)), 0.05)
    assert not coarse.is_resolved
    assert coarse.achieved_frr < 0.045


@pytest.mark.parametrize("target", [-0.01, 1.0, 5.0, math.nan])
def test_a_target_that_is_no_fraction_is_refused(target: float) -> None:
    with pytest.raises(UsageError, match="target_frr"):
        matched_point(Trials.of([1, 0], [1.0, 0.0]), target)


@pytest.mark.parametrize(
    ("label", "score", "duration", "message"),
    [
        ([1, 0], [1.0], 1.0, "2 labels, 1 scores"),
        ([1, 2], [1.0, 0.0], 1.0, "2 in row 1"),
        ([1, 1], [1.0, 0.0], 1.0, "both classes"),
        ([1, 0], [np.nan, 0.0], 1.0, "nan in row 0"),
        ([1, 0], [1.0, 0.0], [1.0, 0.0], "0.0 in row 1"),
        ([], [], 1.0, "both classes"),
    ],
)
def test_trials_that_cannot_be_judged_are_refused(
    label: list[int], score: list[float], duration: float, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        Trials.of(label, score, duration)


def test_saturated_probabilities_are_noticed_and_logits_are_not() -> None:
    """The int8 sigmoid of a good model: about three keywords in ten hold the largest code (gate.md 1.3)."""
    rng = np.random.default_rng(2)
    logit = np.concatenate([rng.normal(4.6, 1.5, 3000), rng.normal(-4.6, 1.5, 3000)])
    label = np.arange(6000) < 3000
    probability = 1 / (1 + np.exp(-logit))
    codes = np.clip(np.round(probability * 256), 0, 255) / 256
    found = saturation(Trials.of(label, codes))
    assert found is not None
    assert found.top_share > 0.1
    assert "logits" in str(found)
    assert saturation(Trials.of(label, logit)) is None
    assert saturation(Trials.of(label, probability)) is None
    assert saturation(Trials.of([1, 0, 1, 0], [0.9, 0.1, 0.8, 0.2])) is None
    piled = np.where(label & (logit > 5), 1.0, probability)
    assert saturation(Trials.of(label, piled)) is not None
