"""Augmentation of features, in the energy domain.

It acts on features, so that an epoch costs no waveform work:

  (1) shift: frames move by up to `max_shift_frames`, the uncovered end repeats the edge frame
  (2) gain:  E' = g E, with 10 log10 g uniform in +-`max_gain_db`
  (3) noise: E' = E + h R, with R the energies of a clip of background noise: |a + b|^2 without its cross
             term, whose mean is zero for independent signals; h gives the drawn ratio of mean(E) to mean(h R)
  (4) SpecAugment: up to two bands of time and of frequency set to the clip's mean feature

Source: (4) after Park et al. 2019; the rest is common practice.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kwsq.ir.errors import Problem
from kwsq.models.allowed import number, refused_fields, require_none, whole
from kwsq.models.data.clips import Features, LabelledFeatures, Labels
from kwsq.models.data.features import energy_from_log, log_from_energy

# Augmentation works on blocks that stay in the processor's cache; whole epochs at once are twice as slow.
BLOCK_CLIPS = 64
_LIMITS = {
    "max_shift_frames": whole(0),
    "max_gain_db": number(0),
    "noise_share": number(0, 1),
    "lowest_snr_db": number(),
    "highest_snr_db": number(),
    "time_mask_frames": whole(0),
    "band_mask_bands": whole(0),
    "masks": whole(0),
}


@dataclass(frozen=True, slots=True)
class Augmentation:
    """How strongly to augment; the defaults are the light setting of the bundled recipes.

    Source: our choice, see the module's equations.
    """

    max_shift_frames: int = 10
    max_gain_db: float = 6.0
    noise_share: float = 0.5
    lowest_snr_db: float = 5.0
    highest_snr_db: float = 30.0
    time_mask_frames: int = 12
    band_mask_bands: int = 8
    masks: int = 2

    def __post_init__(self) -> None:
        """Refuse values without meaning."""
        problems = refused_fields(self, _LIMITS)
        if not problems and self.lowest_snr_db > self.highest_snr_db:
            expected = f"at least lowest_snr_db, {self.lowest_snr_db}"
            problems = [Problem("highest_snr_db", repr(self.highest_snr_db), expected, "correct it")]
        require_none(problems)

    @property
    def changes_energy(self) -> bool:
        """Whether (2) or (3) act; they read features as log energies, which cepstra are not."""
        return self.max_gain_db > 0 or self.noise_share > 0


def augment(examples: LabelledFeatures, settings: Augmentation, rng: np.random.Generator) -> tuple[Features, Labels]:
    """Return one epoch of augmented features in a fresh random order; equations (1)-(4) of the module.

    Args:
        examples: features (N, frames, bands) with labels; not log energies only where (2) and (3) are off.
        settings: strengths.
        rng: the only source of randomness.

    Returns:
        (N, frames, bands) float32 and (N,) int64, shuffled alike.
    """
    features, labels = zip(*augmented_batches(examples, settings, BLOCK_CLIPS, rng), strict=True)
    return np.concatenate(features), np.concatenate(labels)


def augmented_batches(
    examples: LabelledFeatures, settings: Augmentation, batch_size: int, rng: np.random.Generator
) -> Iterator[tuple[Features, Labels]]:
    """Give one epoch of augmented features in a fresh random order, so many clips at a time; the last may be fewer.

    Args:
        examples: features (N, frames, bands) with labels; not log energies only where (2) and (3) are off.
        settings: strengths.
        batch_size: clips given at a time, for which draws are made at a time.
        rng: the only source of randomness; where it stands in the end does not depend on what is done with the clips.

    Returns:
        (batch_size, frames, bands) float32 and (batch_size,) int64, shuffled alike.
    """
    order = rng.permutation(len(examples.labels))
    silence = np.flatnonzero(examples.is_noise)
    noise = examples.features[silence if silence.size else order]
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        yield augmented(examples.features[batch], noise, settings, rng), examples.labels[batch]


def augmented(features: Features, noise: Features, settings: Augmentation, rng: np.random.Generator) -> Features:
    """Return clips augmented, in their order; equations (1)-(4) of the module.

    Args:
        features: (n, frames, bands).
        noise: (m, frames, bands), of which (3) draws.
        settings: strengths.
        rng: the only source of randomness.
    """
    shifted = _shift(features, settings.max_shift_frames, rng)
    return _mask(_gain_and_noise(shifted, noise, settings, rng), settings, rng)


def _shift(features: Features, most: int, rng: np.random.Generator) -> Features:
    count, frames, _ = features.shape
    offset = rng.integers(-most, most + 1, size=(count, 1))
    source = np.clip(np.arange(frames)[None, :] + offset, 0, frames - 1)
    shifted: Features = features[np.arange(count)[:, None], source]
    return shifted


def _gain_and_noise(features: Features, noise: Features, settings: Augmentation, rng: np.random.Generator) -> Features:
    count = len(features)
    drawn = rng.integers(len(noise), size=count)
    gain_db = rng.uniform(-settings.max_gain_db, settings.max_gain_db, size=count)
    snr_db = rng.uniform(settings.lowest_snr_db, settings.highest_snr_db, size=count)
    is_noisy = rng.random(count) < settings.noise_share
    if not settings.changes_energy:
        return features  # the draws above are made all the same, so that masks do not depend on strengths
    energy = energy_from_log(features)
    signal, rumble = energy[is_noisy], energy_from_log(noise[drawn[is_noisy]])
    level = signal.mean(axis=(1, 2)) / np.maximum(rumble.mean(axis=(1, 2)), 1e-12)
    share = (level * 10.0 ** (-snr_db[is_noisy] / 10.0)).astype(np.float32)
    energy[is_noisy] = signal + share[:, None, None] * rumble
    energy *= (10.0 ** (gain_db / 10.0)).astype(np.float32)[:, None, None]
    return log_from_energy(energy)


def _mask(features: Features, settings: Augmentation, rng: np.random.Generator) -> Features:
    count, frames, bands = features.shape
    in_time, in_band = np.zeros((count, frames), dtype=bool), np.zeros((count, bands), dtype=bool)
    for _ in range(settings.masks):
        in_time |= _random_spans(count, frames, settings.time_mask_frames, rng)
        in_band |= _random_spans(count, bands, settings.band_mask_bands, rng)
    hidden = in_time[:, :, None] | in_band[:, None, :]
    masked: Features = np.where(hidden, features.mean(axis=(1, 2), keepdims=True), features)
    return masked


def _random_spans(count: int, length: int, longest: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Return (count, length) with one run of 0..longest true entries per row."""
    width = rng.integers(0, longest + 1, size=(count, 1))
    start = rng.integers(0, length - width + 1)
    position = np.arange(length)[None, :]
    return np.asarray((position >= start) & (position < start + width))
