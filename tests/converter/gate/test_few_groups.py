"""Fewer than 20 speakers: a gross loss FAILs, equal models hardly ever do, and nothing PASSes."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from kwsq.converter.gate import GateConfig, PairedTrials, Status, decide, few_groups
from kwsq.converter.gate.few_groups import jackknife_error, student_quantile

SPEAKERS = 0.3
"""Spread of each speaker's own offset between the models, in standard deviations of the scores: far more than rounding
gives."""


def draw(rng: np.random.Generator, groups: int, shift: float) -> PairedTrials:
    """Two models of equal quality with noise and speaker offsets of their own; `shift` spoils the second's keywords."""
    label = np.tile(np.repeat([1, 0], [120, 600]), groups)
    group = np.repeat(np.arange(groups), 720)
    truth = rng.normal(3.2 * label, 1.0) + rng.normal(0, 0.3, groups)[group]
    first, second = (
        truth + 0.1 * rng.standard_normal(label.size) + rng.normal(0, SPEAKERS, groups)[group] for _ in range(2)
    )
    return PairedTrials.of(label, first, second - shift * label, group=group)


def shares(groups: int, shift: float, runs: int) -> dict[Status, float]:
    rng = np.random.default_rng(3)
    found = [decide(draw(rng, groups, shift), GateConfig(replicates=100)).status for _ in range(runs)]
    return {status: found.count(status) / runs for status in Status}


@pytest.mark.parametrize("groups", [5, 9])
def test_equal_models_hardly_ever_fail_and_gross_losses_do(groups: int) -> None:
    """20 runs: a gate that fails 5 % of equal models fails more than 5 of 20 once in a thousand times."""
    equal, bad = shares(groups, 0.0, 20), shares(groups, 1.5, 5)
    assert equal[Status.FAIL] <= 5 / 20
    assert equal[Status.PASS] == bad[Status.PASS] == 0
    assert bad[Status.FAIL] >= 0.75


@pytest.mark.slow
@pytest.mark.parametrize("groups", [5, 10, 19])
def test_equal_models_fail_at_most_one_time_in_twenty(groups: int) -> None:
    assert shares(groups, 0.0, 1000)[Status.FAIL] <= 0.05


def test_a_bound_without_the_uncertainty_of_few_groups_would_be_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the measured value for a bound, near-equal models fail most of the time."""
    monkeypatch.setattr(few_groups, "jackknife_error", lambda values: 0.0)
    assert shares(5, 0.0, 12)[Status.FAIL] > 5 / 12


@pytest.mark.parametrize("groups", [1, 4])
def test_hopelessly_few_groups_stay_open(groups: int) -> None:
    decision = decide(draw(np.random.default_rng(0), groups, 3.0), GateConfig(replicates=100))
    assert decision.status is Status.INCONCLUSIVE


def test_no_pass_is_drawn_from_a_lower_bound() -> None:
    for check in decide(draw(np.random.default_rng(0), 12, -3.0), GateConfig(replicates=100)).checks[:4]:
        assert (check.status, check.upper) == (Status.INCONCLUSIVE, None)


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 7, 18])
@pytest.mark.parametrize("confidence", [0.6, 0.95, 0.9875, 0.999])
def test_quantiles_equal_scipy(freedom: int, confidence: float) -> None:
    # Bisection ends at neighbouring doubles; what is left is the rounding of the series.
    assert student_quantile(confidence, freedom) == pytest.approx(stats.t.ppf(confidence, freedom), rel=1e-9)


def test_the_jackknife_of_a_mean_is_its_standard_error() -> None:
    values = np.random.default_rng(1).normal(size=9)
    without = np.array([np.delete(values, i).mean() for i in range(9)])
    assert jackknife_error(without) == pytest.approx(values.std(ddof=1) / math.sqrt(9), rel=1e-12)
