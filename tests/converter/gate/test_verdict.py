"""The three verdicts, word by word, and what a wrong rule would do."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kwsq.converter.gate import GateConfig, PairedTrials, Status, decide, judge
from kwsq.converter.gate.checks import Classified, latency_check
from kwsq.converter.gate.config import band_targets
from kwsq.converter.gate.simulate import ScoreModel
from kwsq.converter.gate.verdict import growth_needed, overall
from kwsq.ir.errors import UsageError

GOOD = ScoreModel(4.6, 0.02, 0.05)
BAD = ScoreModel(4.6, 0.3, 0.05)


@pytest.mark.parametrize(
    ("point", "lower", "upper", "expected"),
    [
        (0.02, -0.05, 0.09, "PASS"),
        (-0.2, -0.3, -0.1, "PASS"),
        (0.05, 0.01, 0.10, "INCONCLUSIVE"),  # the upper bound must be below the margin
        (0.20, 0.11, 0.30, "FAIL"),  # lower bound above the margin
        (0.12, 0.01, 0.30, "FAIL"),  # point above the margin and surely worse
        (0.12, -0.01, 0.30, "INCONCLUSIVE"),  # point above the margin, but perhaps not worse
        (0.12, 0.0, 0.30, "INCONCLUSIVE"),
        (0.09, 0.05, 0.30, "INCONCLUSIVE"),  # surely worse, but perhaps within the margin
        (None, None, None, "INCONCLUSIVE"),
        (0.5, 0.2, None, "FAIL"),
        (0.5, None, None, "INCONCLUSIVE"),
    ],
)
def test_the_rule(point: float | None, lower: float | None, upper: float | None, expected: str) -> None:
    assert judge(point, lower, upper, 0.10) == expected


@given(st.floats(-1, 1), st.floats(0, 1), st.floats(0, 1), st.floats(0.01, 0.5))
def test_verdicts_move_one_way(point: float, below: float, above: float, margin: float) -> None:
    """A wider margin never makes a verdict worse, and no interval both passes and fails."""
    order = [Status.FAIL, Status.INCONCLUSIVE, Status.PASS]
    verdicts = [order.index(judge(point, point - below, point + above, m)) for m in (margin, 2 * margin)]
    assert verdicts[1] >= verdicts[0]


def test_equal_models_pass_with_a_note() -> None:
    pairs = GOOD.draw(np.random.default_rng(0), 60, 400)
    same = PairedTrials.of(pairs.label, pairs.reference.score, pairs.reference.score)
    decision = decide(same, GateConfig())
    assert (decision.status, decision.exit_code) == (Status.PASS, 0)
    assert any("identical" in note for note in decision.notes)


def test_too_little_data_is_inconclusive_and_says_how_much_is_needed() -> None:
    decision = decide(GOOD.draw(np.random.default_rng(0), 300, 15_000), GateConfig())
    assert (decision.status, decision.exit_code) == (Status.INCONCLUSIVE, 3)
    needed = [check.needed for check in decision.checks if check.status is Status.INCONCLUSIVE]
    assert needed
    assert all(n is not None and n.positives > 300 for n in needed)


@pytest.mark.parametrize(("positives", "negatives"), [(100, 5000), (300, 300), (40, 50)])
def test_few_errors_never_pass(positives: int, negatives: int) -> None:
    """No disagreement at all among a handful of errors is no evidence: 27 false accepts are the least (15)."""
    rng = np.random.default_rng(1)
    pairs = ScoreModel(4.6, 1e-6, 0.05).draw(rng, positives, negatives)
    statuses = {check.id: check.status for check in decide(pairs, GateConfig()).checks}
    assert statuses["P1.fa_ratio"] is Status.INCONCLUSIVE
    assert statuses["P3.fa_ratio"] is Status.INCONCLUSIVE


def test_enough_data_settles_both_ways() -> None:
    good = decide(GOOD.draw(np.random.default_rng(2), 6000, 300_000), GateConfig(replicates=400))
    bad = decide(BAD.draw(np.random.default_rng(2), 6000, 300_000), GateConfig(replicates=400))
    assert good.status is Status.PASS
    assert (bad.status, bad.exit_code) == (Status.FAIL, 1)


def test_a_decision_is_the_same_bit_for_bit_and_the_order_of_trials_does_not_matter_for_counts() -> None:
    pairs = GOOD.draw(np.random.default_rng(3), 1000, 50_000)
    first, again = (decide(pairs, GateConfig(replicates=300)) for _ in range(2))
    assert [c.to_json() for c in first.checks] == [c.to_json() for c in again.checks]
    other = decide(pairs, GateConfig(replicates=300, seed=1))
    assert [c.point for c in first.checks] == [c.point for c in other.checks]
    assert [c.upper for c in first.checks[:1]] != [c.upper for c in other.checks[:1]]


def test_coarse_scores_are_inconclusive_for_their_resolution() -> None:
    pairs = GOOD.draw(np.random.default_rng(4), 2000, 100_000)
    coarse = PairedTrials.of(pairs.label, pairs.reference.score, np.round(pairs.candidate.score))
    check = decide(coarse, GateConfig(replicates=200)).checks[0]
    assert check.status is Status.INCONCLUSIVE
    assert check.reason.startswith("score resolution")


def test_groups_widen_the_bounds_and_too_few_are_refused() -> None:
    """Every trial 20 times over: the same rates, a twentieth of the evidence."""
    base = ScoreModel(4.6, 0.1, 0.05).draw(np.random.default_rng(5), 1000, 50_000)
    repeat = np.repeat(np.arange(base.label.size), 20)
    scores = base.reference.score[repeat], base.candidate.score[repeat]
    alone = decide(PairedTrials.of(base.label[repeat], *scores), GateConfig(replicates=200))
    grouped = decide(PairedTrials.of(base.label[repeat], *scores, group=repeat), GateConfig(replicates=200))
    single = decide(base, GateConfig(replicates=200))
    for naive, clustered, original in zip(alone.checks[:4], grouped.checks[:4], single.checks[:4], strict=True):
        widths = [check.upper - check.lower for check in (naive, clustered, original)]  # type: ignore[operator]
        assert widths[1] > 2.5 * widths[0]  # sqrt(20) = 4.5 for the bootstrap; the floor (15) shares less
        if naive.unit == "ratio":  # the score interval's continuity correction is of whole trials
            assert widths[1] == pytest.approx(widths[2], rel=0.35)
    assert any("independent" in note for note in alone.notes)
    few = decide(PairedTrials.of(base.label[repeat], *scores, group=repeat % 10), GateConfig(replicates=200))
    assert few.status is Status.INCONCLUSIVE
    assert "groups" in few.checks[0].reason


def test_top1_is_checked_where_classes_are_known() -> None:
    pairs = GOOD.draw(np.random.default_rng(6), 2000, 100_000)
    right = np.random.default_rng(0).random(pairs.label.size) < 0.92
    worse = right & (np.random.default_rng(1).random(right.size) < 0.95)
    config = GateConfig(replicates=200, min_accuracy=0.9)
    status = {c.id: c.status for c in decide(pairs, config, Classified(right, worse)).checks}
    assert (status["P4.top1"], status["P4.min_accuracy"]) == (Status.FAIL, Status.FAIL)
    status = {c.id: c.status for c in decide(pairs, config, Classified(right, right)).checks}
    assert (status["P4.top1"], status["P4.min_accuracy"]) == (Status.PASS, Status.PASS)


def test_latency_is_judged_in_hops() -> None:
    rng = np.random.default_rng(7)
    before = rng.uniform(0.2, 0.6, 400)
    same, later = before.copy(), before + 0.06
    same[:5] = np.nan
    assert latency_check(before, same, 0.02, GateConfig()).status is Status.PASS
    found = latency_check(before, later, 0.02, GateConfig())
    assert (found.status, found.unit) == (Status.FAIL, "seconds")
    assert latency_check(before[:50], later[:50], 0.02, GateConfig()).status is Status.INCONCLUSIVE


def test_the_gate_is_the_worst_of_its_checks() -> None:
    checks = decide(GOOD.draw(np.random.default_rng(0), 300, 15_000), GateConfig(replicates=100)).checks
    assert overall(checks) is Status.INCONCLUSIVE
    assert overall(check for check in checks if check.status is Status.SKIPPED) is Status.INCONCLUSIVE


def test_trials_needed_follow_the_square_of_the_distance() -> None:
    factor, assuming = growth_needed(0.0, 0.2, 0.1, 0.95)
    # Twice the margin and power besides: (0.2 * (1.645 + 0.842) / 1.645 / 0.1)^2.
    assert factor == pytest.approx((2 * (1.6448536 + 0.8416212) / 1.6448536) ** 2, rel=1e-6)
    assert assuming == "the measured difference"
    assert growth_needed(0.3, 0.4, 0.1, 0.95)[1] == "equal models"


@pytest.mark.parametrize(
    "setting", [{"fa_ratio_margin": 0.0}, {"frr_band": 1.0}, {"seed": -1}, {"replicates": 10}, {"target_frr": 1.0}]
)
def test_settings_out_of_range_are_refused(setting: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=next(iter(setting))):
        decide(GOOD.draw(np.random.default_rng(0), 50, 500), GateConfig(**setting))  # type: ignore[arg-type]


def test_the_band_is_centred_on_the_target() -> None:
    targets = band_targets(0.05, 0.2)
    assert (min(targets), max(targets)) == pytest.approx((0.04, 0.06))
    assert np.mean(targets) == pytest.approx(0.05)
    assert band_targets(0.05, 0.0) == (0.05,)
    assert max(band_targets(0.9, 0.5)) < 1
