"""What the gate promises, on scores whose truth is known."""

from __future__ import annotations

import math
from dataclasses import replace
from statistics import NormalDist

import numpy as np
import pytest

from kwsq.converter.gate import GateConfig, Status
from kwsq.converter.gate.checks import frozen_accepts_check, frozen_frr_check, matched_checks
from kwsq.converter.gate.comparison import Comparison
from kwsq.converter.gate.simulate import ScoreModel

CONFIG = GateConfig(target_frr=0.05, replicates=300)
LEVEL = 0.05


def binomial_bound(runs: int) -> int:
    """The number of false passes that a gate of exactly 5 % exceeds once in a thousand."""
    total, cumulative = 0, 0.0
    while True:
        cumulative += math.comb(runs, total) * LEVEL**total * (1 - LEVEL) ** (runs - total)
        if cumulative > 0.999:
            return total
        total += 1


def at_the_margin(check: str, noise: float) -> tuple[ScoreModel, GateConfig]:
    """A candidate exactly as bad as the margin allows, for one check."""
    model = ScoreModel(4.6, noise, 0.05)
    margins = {
        "P1.fa_ratio": {"fa_ratio_margin": model.fa_ratio - 1},
        "P2.frr": {"frr_margin_pp": 100 * model.frozen_frr_increase},
        "P3.fa_ratio": {"fa_ratio_margin": model.frozen_fa_ratio - 1},
    }
    frozen = {} if check == "P1.fa_ratio" else {"threshold": model.threshold}
    return model, replace(CONFIG, **margins[check], **frozen)  # type: ignore[arg-type]


def false_passes(check: str, noise: float, positives: int, runs: int, seed: int) -> int:
    model, config = at_the_margin(check, noise)
    rng, passes = np.random.default_rng(seed), 0
    ask = {
        "P1.fa_ratio": lambda c: matched_checks(c)[0],
        "P2.frr": frozen_frr_check,
        "P3.fa_ratio": frozen_accepts_check,
    }[check]
    for _ in range(runs):
        pairs = model.draw(rng, positives, 50 * positives)
        passes += ask(Comparison.of(pairs, config)).status is Status.PASS
    return passes


# Noise 0.11 makes +10 % at matched FRR, 0.145 makes +10 % at the frozen threshold, 0.24 makes +0.5 pp: the defaults.
CASES = [("P1.fa_ratio", 0.11), ("P2.frr", 0.24), ("P3.fa_ratio", 0.145)]


@pytest.mark.parametrize(("check", "noise"), CASES)
def test_false_passes_are_rare(check: str, noise: float) -> None:
    """100 candidates at the margin: a gate of 5 % passes more than 13 of them once in a thousand times."""
    assert binomial_bound(100) == 13
    assert false_passes(check, noise, 600, 100, 11) <= binomial_bound(100)


@pytest.mark.slow
@pytest.mark.parametrize("positives", [400, 2000])
@pytest.mark.parametrize(
    ("check", "noise"), [*CASES, ("P1.fa_ratio", 0.08), ("P1.fa_ratio", 0.19), ("P2.frr", 0.4), ("P3.fa_ratio", 0.3)]
)
def test_false_passes_are_at_most_five_percent(check: str, noise: float, positives: int) -> None:
    assert false_passes(check, noise, positives, 1000, 12) <= 50


@pytest.mark.slow
@pytest.mark.parametrize(
    ("positives", "noise", "reference"),
    [
        (1000, 0.02, 0.57),
        (1000, 0.05, 0.05),
        (3000, 0.02, 1.00),
        (3000, 0.05, 0.40),
        (6000, 0.02, 1.00),
        (6000, 0.05, 0.88),
    ],
)
def test_power_is_no_less_than_the_reference(positives: int, noise: float, reference: float) -> None:
    """P1 at +10 %: 200 runs, against shares that were themselves measured on 40."""
    model, rng = ScoreModel(4.6, noise, 0.05), np.random.default_rng(13)
    passes = 0
    for _ in range(200):
        comparison = Comparison.of(model.draw(rng, positives, 50 * positives), CONFIG)
        passes += all(check.status is Status.PASS for check in matched_checks(comparison))
    # Four standard deviations of 200 runs where the reference is 1.
    assert passes / 200 >= min(reference, 0.98)


@pytest.mark.parametrize("noise", [0.0, 0.05, 0.3])
def test_the_simulated_truth_is_the_truth(noise: float) -> None:
    """A million scores of each kind against the closed forms; 4 standard errors of each count."""
    model, rng = ScoreModel(3.0, noise, 0.1), np.random.default_rng(14)
    keyword, other = 3.0 + rng.standard_normal(10**6), rng.standard_normal(10**6)
    tau = model.threshold
    accepted = np.mean(other + noise * rng.standard_normal(10**6) >= tau)
    rejected = np.mean(keyword + noise * rng.standard_normal(10**6) < tau)
    assert accepted == pytest.approx(model.false_accept_rate * model.frozen_fa_ratio, abs=4 * np.sqrt(accepted / 1e6))
    assert rejected == pytest.approx(0.1 + model.frozen_frr_increase, abs=4 * np.sqrt(rejected / 1e6))
    scale = np.hypot(1, noise)
    own = 3.0 + scale * NormalDist().inv_cdf(0.1)
    matched = 1 - NormalDist(0, scale).cdf(own)
    assert model.fa_ratio == pytest.approx(matched / model.false_accept_rate, rel=1e-9)


def test_the_drawn_tail_holds_what_all_scores_would() -> None:
    model, rng = ScoreModel(4.6, 0.1, 0.05), np.random.default_rng(15)
    accepts = [
        int((pairs.reference.negatives >= model.threshold).sum())
        for pairs in (model.draw(rng, 1000, 50_000) for _ in range(200))
    ]
    expected = 50_000 * model.false_accept_rate
    assert np.mean(accepts) == pytest.approx(expected, abs=4 * np.sqrt(expected / 200))
    assert np.var(accepts) == pytest.approx(expected, rel=0.5)


def test_a_gate_on_point_estimates_would_be_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same 100 candidates under the rule "measured below the margin": about half of them pass."""
    from kwsq.converter.gate import verdict

    monkeypatch.setattr(
        verdict, "judge", lambda point, lower, upper, margin: Status.PASS if point < margin else Status.FAIL
    )
    assert false_passes("P1.fa_ratio", 0.11, 600, 100, 11) > binomial_bound(100)


def test_thresholds_that_are_not_estimated_again_would_be_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """P1 with bounds of counts at the two thresholds found once: too narrow, so too many false passes."""
    from kwsq.converter.gate import checks
    from kwsq.converter.gate.bootstrap import MatchedResamples, resampled_totals
    from kwsq.converter.gate.pairs import PairedTrials

    def at_fixed_thresholds(
        pairs: PairedTrials, targets: tuple[float, ...], replicates: int, seed: int, *, stream: int
    ) -> MatchedResamples:
        from kwsq.converter.det import matched_point

        chosen = ~pairs.label
        rows = [
            trials.score[chosen] >= matched_point(trials, 0.05).threshold
            for trials in (pairs.reference, pairs.candidate)
        ]
        drawn = resampled_totals(
            np.stack(rows, 1).astype(np.int64), np.arange(chosen.sum()), replicates, seed, stream=1
        )
        return MatchedResamples(drawn[:, 0], drawn[:, 1], np.full(replicates, 570.0))

    monkeypatch.setattr(checks, "matched_resamples", at_fixed_thresholds)
    monkeypatch.setattr(checks, "band_targets", lambda target, band: (target,))
    model, config = at_the_margin("P1.fa_ratio", 0.11)
    rng, passes = np.random.default_rng(11), 0
    for _ in range(100):
        comparison = Comparison.of(model.draw(rng, 600, 30_000), replace(config, frr_band=0.0))
        passes += matched_checks(comparison)[0].status is Status.PASS
    assert passes > binomial_bound(100)
