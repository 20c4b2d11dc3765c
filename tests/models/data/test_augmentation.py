"""Each augmentation does what its equation says, and nothing else."""

from dataclasses import replace

import numpy as np
import pytest
from keyword_cases import synthetic_keywords

from kwsq.models.data.augmentation import Augmentation, augment
from kwsq.models.data.epochs import epoch_batches
from kwsq.models.data.share import Share

NONE = Augmentation(
    max_shift_frames=0, max_gain_db=0.0, noise_share=0.0, time_mask_frames=0, band_mask_bands=0, masks=2
)


def test_augmentation_repeats_under_its_seed_and_leaves_its_input_alone() -> None:
    examples = synthetic_keywords(100, seed=1)
    before = examples.features.copy()
    one = augment(examples, Augmentation(), np.random.default_rng(3))
    two = augment(examples, Augmentation(), np.random.default_rng(3))
    other = augment(examples, Augmentation(), np.random.default_rng(4))
    np.testing.assert_array_equal(one[0], two[0])
    np.testing.assert_array_equal(one[1], two[1])
    assert (one[0] != other[0]).any()
    np.testing.assert_array_equal(examples.features, before)


@pytest.mark.parametrize("machines", [[(0,), (1,)], [(0, 2), (1, 3)], [(0,), (1, 2)]])
def test_shares_put_together_are_the_batches_of_one_machine(machines: list[tuple[int, ...]]) -> None:
    """Twenty clips of a hundred are left over: no batch of 24 holds them, and the generator ends where it did."""
    examples, rng = synthetic_keywords(100, seed=1), np.random.default_rng(3)
    whole = list(epoch_batches(examples, Augmentation(), 24, rng))
    assert [len(labels) for _, labels in whole] == [24] * 4
    replicas = sum(map(len, machines))
    for mine in machines:
        generator, rows = np.random.default_rng(3), [row for row in range(24) if row % replicas in mine]
        share = list(epoch_batches(examples, Augmentation(), 24, generator, Share(replicas, mine)))
        for (features, labels), (all_features, all_labels) in zip(share, whole, strict=True):
            np.testing.assert_array_equal(features, all_features[rows])
            np.testing.assert_array_equal(labels, all_labels[rows])
        assert generator.bit_generator.state == rng.bit_generator.state


def test_augmentation_without_strength_only_shuffles_clips_with_their_labels() -> None:
    examples = synthetic_keywords(100, seed=1)
    features, labels = augment(examples, NONE, np.random.default_rng(3))
    order = np.random.default_rng(3).permutation(100)
    np.testing.assert_array_equal(labels, examples.labels[order])
    # Without gain and noise nothing passes through energies, so cepstra may be augmented by shifts and masks.
    np.testing.assert_array_equal(features, examples.features[order])


def test_a_gain_that_does_nothing_goes_through_energies_and_back() -> None:
    examples = synthetic_keywords(100, seed=1)
    features, _ = augment(examples, replace(NONE, max_gain_db=1e-9), np.random.default_rng(3))
    original = examples.features[np.random.default_rng(3).permutation(100)]
    # log(exp(x)) in float32 with |4 y - 6| < 32: the exponent is off by a few 2^-20, over SPREAD = 4. At the floor
    # energy vanishes, so only values well above it come back; the synthetic minimum is above -2.8.
    np.testing.assert_allclose(features, np.maximum(original, -1.3784), rtol=0, atol=2.0**-10)
    clear = original > 0
    np.testing.assert_allclose(features[clear], original[clear], rtol=0, atol=2.0**-20)


def test_a_shift_moves_whole_frames() -> None:
    examples = synthetic_keywords(60, seed=1)
    features, _ = augment(examples, replace(NONE, max_shift_frames=7), np.random.default_rng(3))
    source = augment(examples, NONE, np.random.default_rng(3))[0]
    offsets = set()
    for moved, plain in zip(features, source, strict=True):
        matches = [k for k in range(-7, 8) if np.allclose(moved[10:80], plain[10 + k : 80 + k], rtol=0, atol=1e-5)]
        offsets.update(matches)
        assert len(matches) == 1
    assert len(offsets) > 7


def test_gain_moves_loud_bands_alike() -> None:
    examples = synthetic_keywords(60, seed=1)
    louder, _ = augment(examples, replace(NONE, max_gain_db=6.0), np.random.default_rng(3))
    source = augment(examples, NONE, np.random.default_rng(3))[0]
    loud = source > 1.5
    change = np.where(loud, louder - source, np.nan)
    spread = np.nanmax(change, axis=(1, 2)) - np.nanmin(change, axis=(1, 2))
    # At y > 1.5 the energy is above e^0 = 1, the floor 1e-5: gain shifts y by ln g / 4 up to 1e-5.
    assert spread.max() < 1e-5
    # 6 dB is ln(10^0.6) / 4 = 0.345 in feature units.
    assert 0.2 < np.nanmax(np.abs(change)) < 0.346


def test_noise_only_adds_energy_and_only_to_its_share() -> None:
    examples = synthetic_keywords(400, seed=1)
    settings = replace(NONE, noise_share=0.5, lowest_snr_db=0.0, highest_snr_db=5.0)
    noisy, _ = augment(examples, settings, np.random.default_rng(3))
    source = augment(examples, replace(NONE, max_gain_db=1e-9), np.random.default_rng(3))[0]
    # float32 rounding of the sum before the logarithm: a few 2^-20 in feature units.
    assert (noisy - source).min() > -(2.0**-16)
    changed = (noisy - source).max(axis=(1, 2)) > 0.01
    # 400 draws at 0.5: standard deviation 10.
    assert abs(changed.sum() - 200) < 50


def test_masks_hide_spans_behind_the_mean() -> None:
    examples = synthetic_keywords(60, seed=1)
    masked, _ = augment(examples, replace(NONE, time_mask_frames=12), np.random.default_rng(3))
    source = augment(examples, NONE, np.random.default_rng(3))[0]
    hidden = (masked != source).any(axis=2)
    assert 0 < hidden.sum(axis=1).max() <= 24
    values = [np.unique(clip[frames]).size for clip, frames in zip(masked, hidden, strict=True) if frames.any()]
    assert set(values) == {1}
