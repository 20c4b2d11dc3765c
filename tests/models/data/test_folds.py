"""Folds share no speaker, cover every clip once, and are of about equal size."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kwsq.ir.errors import UsageError
from kwsq.models.data.clips import SILENCE, LabelledFeatures
from kwsq.models.data.folds import clip_groups, speaker_folds, subset

GROUPS = st.lists(st.integers(0, 12).map(str), min_size=40, max_size=80).filter(lambda names: len(set(names)) >= 5)


def shared_speakers(groups: tuple[str, ...], fold_of: np.ndarray) -> set[str]:
    """Speakers that stand in more than one fold."""
    folds_of: dict[str, set[int]] = {}
    for name, fold in zip(groups, fold_of.tolist(), strict=True):
        folds_of.setdefault(name, set()).add(fold)
    return {name for name, folds in folds_of.items() if len(folds) > 1}


@given(names=GROUPS, seed=st.integers(0, 3))
def test_no_speaker_is_in_two_folds_and_sizes_are_near(names: list[str], seed: int) -> None:
    groups = tuple(names)
    fold_of = speaker_folds(groups, 5, seed)
    assert shared_speakers(groups, fold_of) == set()
    sizes = np.bincount(fold_of, minlength=5)
    # The last group put into the largest fold went to what was then the smallest one.
    largest_group = max(names.count(name) for name in set(names))
    assert sizes.sum() == len(groups)
    assert sizes.max() - sizes.min() <= largest_group


def test_random_folds_would_share_speakers() -> None:
    groups = tuple(f"s{clip % 9}" for clip in range(90))
    assert shared_speakers(groups, np.random.default_rng(0).integers(0, 5, 90))


def test_a_seed_fixes_the_folds() -> None:
    groups = tuple(f"s{clip % 30}" for clip in range(300))
    first, again, other = (speaker_folds(groups, 5, seed) for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("folds", [1, 4])
def test_folds_that_cannot_be_are_refused(folds: int) -> None:
    with pytest.raises(UsageError, match="folds for 3 speakers"):
        speaker_folds(("a", "b", "c", "a"), folds, 0)


def test_background_noise_is_no_speaker() -> None:
    labels = np.array([0, SILENCE, SILENCE, 1])
    features, names = np.arange(4, dtype=np.float32).reshape(4, 1, 1), ("one", "two", "three", "four")
    examples = LabelledFeatures(features, labels, ("a", "noise", "noise", "a"), names=names)
    assert len(set(clip_groups(examples))) == 3
    chosen = subset(examples, np.array([True, False, True, False]))
    assert chosen.speakers == ("a", "noise")
    assert chosen.names == ("one", "three")
    assert chosen.features.ravel().tolist() == [0.0, 2.0]
    assert chosen.labels.tolist() == [0, SILENCE]
