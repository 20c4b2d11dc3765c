"""FRR at a rate of false accepts is what its definition says, and its interval moves with the speakers."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kwsq.converter.det import Trials
from kwsq.ir.errors import UsageError
from kwsq.models.data.clips import LabelledFeatures
from kwsq.models.scoring import detection
from kwsq.models.scoring.detection import keyword_trials, miss_rate

SCORES = st.lists(st.tuples(st.booleans(), st.integers(-4, 4)), min_size=4, max_size=40).filter(
    lambda rows: 0 < sum(label for label, _ in rows) < len(rows)
)


def stated(label: np.ndarray, score: np.ndarray, rate: float) -> float:
    """Equation (1) of the module, threshold by threshold; accepting nothing is always allowed."""
    most = rate * (~label).sum()
    allowed = [threshold for threshold in np.unique(score) if (score[~label] >= threshold).sum() <= most]
    return min([1.0, *(float((score[label] < threshold).mean()) for threshold in allowed)])


@given(rows=SCORES, rate=st.sampled_from([0.0, 0.1, 0.25, 0.5, 1.0]))
def test_it_is_the_definition_also_where_scores_tie(rows: list[tuple[bool, int]], rate: float) -> None:
    label, score = (np.array(column) for column in zip(*rows, strict=True))
    missed = miss_rate(Trials.of(label, score), rate)
    assert missed.value == pytest.approx(stated(label, score, rate), abs=1e-12)
    assert 0.0 <= missed.low <= missed.high <= 1.0
    assert (missed.keywords, missed.others) == (label.sum(), (~label).sum())


def normal_trials(speakers: int, *, seed: int = 3, shift: float = 0.0) -> Trials:
    """Twenty clips a speaker, half of them the keyword; a speaker's keywords may be hard together."""
    rng = np.random.default_rng(seed)
    group = np.repeat(np.arange(speakers), 20)
    label = np.tile(np.arange(20) < 10, speakers)
    hard = shift * rng.normal(size=speakers)
    return Trials.of(label, rng.normal(size=label.size) + 2.5 * label + hard[group] * label, group=group)


def test_the_interval_narrows_with_speakers_and_repeats_under_its_seed() -> None:
    few, many = miss_rate(normal_trials(10), 0.05), miss_rate(normal_trials(160), 0.05)
    assert few.low < few.value < few.high
    # A sixteenth of the variance: a quarter of the width, give or take a half for the quantiles' own noise.
    assert (many.high - many.low) / (few.high - few.low) < 0.5
    assert miss_rate(normal_trials(10), 0.05) == few
    assert miss_rate(normal_trials(10), 0.05, seed=1) != few


@pytest.mark.parametrize("elements", [1, 200 * 7])
def test_resamples_block_by_block_are_those_drawn_at_once(elements: int, monkeypatch: pytest.MonkeyPatch) -> None:
    at_once = miss_rate(normal_trials(10), 0.05)
    monkeypatch.setattr(detection, "CHUNK_ELEMENTS", elements)
    assert miss_rate(normal_trials(10), 0.05) == at_once


def test_memory_does_not_grow_with_the_trials() -> None:
    tracemalloc.start()
    try:
        miss_rate(normal_trials(500), 0.05)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # A dozen arrays of a block, 8 bytes each; 2,000 resamples of 10,000 trials at once would take five times as much.
    assert peak < 12 * 8 * detection.CHUNK_ELEMENTS


def test_speakers_are_drawn_not_clips() -> None:
    """Where all of a speaker's clips are hard or easy together, fewer independent things were seen."""
    trials = normal_trials(40, shift=1.5)
    alone = Trials.of(trials.label, trials.score)
    together = miss_rate(trials, 0.05)
    apart = miss_rate(alone, 0.05)
    assert together.value == apart.value
    assert together.high - together.low > 1.5 * (apart.high - apart.low)


@pytest.mark.parametrize(("good", "expected"), [(True, 0.0), (False, 1.0)])
def test_a_perfect_detector_misses_nothing_and_its_opposite_everything(good: bool, expected: float) -> None:
    label = np.arange(30) < 10
    missed = miss_rate(Trials.of(label, label if good else ~label, group=np.arange(30) % 6), 0.05)
    assert (missed.value, missed.low, missed.high) == (expected,) * 3


def test_scores_are_log_odds_and_noise_is_grouped_alone() -> None:
    logits = np.array([[0.0, 2.0, 0.0], [1.0, 0.0, 0.0], [3.0, 3.0, 3.0]], np.float32)
    noise = np.array([False, False, True])
    clips = LabelledFeatures(np.zeros((3, 1, 1), np.float32), np.array([1, 0, 0]), ("a", "a", "a"), noise)
    trials = keyword_trials(logits, clips, 1)
    np.testing.assert_allclose(trials.score, [2.0 - np.log(2.0), -np.log(np.e + 1.0), -np.log(2.0)], rtol=1e-6)
    assert trials.group is not None
    assert trials.group[0] == trials.group[1] != trials.group[2]


@pytest.mark.parametrize("rate", [-0.1, 1.1])
def test_a_rate_that_is_none_is_refused(rate: float) -> None:
    with pytest.raises(UsageError, match="from 0 to 1"):
        miss_rate(normal_trials(4), rate)


@pytest.mark.parametrize(("rate", "others", "above"), [(0.018, 1500, 27), (0.009, 3000, 27)])
def test_a_whole_number_of_accepts_is_allowed_though_its_product_is_a_little_less(
    rate: float, others: int, above: int
) -> None:
    assert rate * others < above
    score = np.concatenate([np.full(10, 1.0), np.full(above, 2.0), np.zeros(others - above)])
    assert miss_rate(Trials.of(np.arange(score.size) < 10, score), rate).value == 0.0
