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
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from kwsq.ir.errors import Problem
from kwsq.models.allowed import number, refused_fields, require_none, whole
from kwsq.models.data.clips import Features, LabelledFeatures, Labels
from kwsq.models.data.features import energy_from_log, log_from_energy
from kwsq.models.data.share import WHOLE, Share

# Augmentation works on blocks that stay in the processor's cache; whole epochs at once are twice as slow.
BLOCK_CLIPS = 64
_LIMITS = {
    "max_shift_frames": whole(0, 10**4),
    "max_gain_db": number(0, 100),
    "noise_share": number(0, 1),
    "lowest_snr_db": number(-100, 100),
    "highest_snr_db": number(-100, 100),
    "time_mask_frames": whole(0, 10**4),
    "band_mask_bands": whole(0, 10**4),
    "masks": whole(0, 100),
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
    examples: LabelledFeatures,
    settings: Augmentation,
    batch_size: int,
    rng: np.random.Generator,
    share: Share = WHOLE,
) -> Iterator[tuple[Features, Labels]]:
    """Give one epoch of augmented features in a fresh random order, so many clips at a time; the last may be fewer.

    Args:
        examples: features (N, frames, bands) with labels; not log energies only where (2) and (3) are off.
        settings: strengths.
        batch_size: clips of a batch.
        rng: the only source of randomness; neither the share nor what is done with the clips changes what is drawn.
        share: the rows of every batch that are given.

    Returns:
        (rows, frames, bands) float32 and (rows,) int64, shuffled alike.
    """
    order = rng.permutation(len(examples.labels))
    silence = np.flatnonzero(examples.is_noise)
    noise = silence if silence.size else order
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        draws = draw(len(batch), (noise.size, *examples.features.shape[1:]), settings, rng)
        rows = share.rows(len(batch))
        own, mine = batch[rows], replace(draws, rumble=noise[draws.rumble]).of(rows)
        yield augmented(examples.features[own], examples.features, mine, settings), examples.labels[own]


@dataclass(frozen=True, slots=True)
class Draws:
    """What is drawn for n clips: equations (1)-(4) with their random numbers.

    Args:
        offset: (n,) frames of (1).
        rumble: (n,) which noise (3) adds.
        gain_db: (n,) of (2).
        snr_db: (n,) of (3).
        is_noisy: (n,) whether (3) acts.
        in_time: (n, frames) which frames (4) hides.
        in_band: (n, bands) which bands (4) hides.
    """

    offset: NDArray[np.int64]
    rumble: NDArray[np.int64]
    gain_db: NDArray[np.float64]
    snr_db: NDArray[np.float64]
    is_noisy: NDArray[np.bool_]
    in_time: NDArray[np.bool_]
    in_band: NDArray[np.bool_]

    def of(self, rows: NDArray[np.int64]) -> "Draws":
        """Return those of some clips."""
        return Draws(*(getattr(self, field.name)[rows] for field in fields(self)))


def draw(clips: int, noise: tuple[int, ...], settings: Augmentation, rng: np.random.Generator) -> Draws:
    """Return random numbers for so many clips; all are drawn whatever the strengths.

    Args:
        clips: n.
        noise: m, frames, bands: (3) takes one of m a clip, as long and wide as the clips.
        settings: strengths.
        rng: the only source of randomness.
    """
    count, frames, bands = noise
    offset = rng.integers(-settings.max_shift_frames, settings.max_shift_frames + 1, size=clips)
    rumble = rng.integers(count, size=clips)
    gain_db = rng.uniform(-settings.max_gain_db, settings.max_gain_db, size=clips)
    snr_db = rng.uniform(settings.lowest_snr_db, settings.highest_snr_db, size=clips)
    is_noisy = rng.random(clips) < settings.noise_share
    in_time, in_band = np.zeros((clips, frames), dtype=bool), np.zeros((clips, bands), dtype=bool)
    for _ in range(settings.masks):
        in_time |= _random_spans(clips, frames, settings.time_mask_frames, rng)
        in_band |= _random_spans(clips, bands, settings.band_mask_bands, rng)
    return Draws(offset, rumble, gain_db, snr_db, is_noisy, in_time, in_band)


def augmented(features: Features, noise: Features, draws: Draws, settings: Augmentation) -> Features:
    """Return clips augmented, in their order; equations (1)-(4) of the module.

    Args:
        features: (n, frames, bands).
        noise: (m, frames, bands), of which (3) adds those that the draws name.
        draws: of these n clips.
        settings: strengths.
    """
    shifted = _shift(features, draws)
    return _mask(_gain_and_noise(shifted, noise, draws) if settings.changes_energy else shifted, draws)


def _shift(features: Features, draws: Draws) -> Features:
    count, frames, _ = features.shape
    source = np.clip(np.arange(frames)[None, :] + draws.offset[:, None], 0, frames - 1)
    shifted: Features = features[np.arange(count)[:, None], source]
    return shifted


def _gain_and_noise(features: Features, noise: Features, draws: Draws) -> Features:
    energy, noisy = energy_from_log(features), draws.is_noisy
    signal, rumble = energy[noisy], energy_from_log(noise[draws.rumble[noisy]])
    level = signal.mean(axis=(1, 2)) / np.maximum(rumble.mean(axis=(1, 2)), 1e-12)
    added = (level * 10.0 ** (-draws.snr_db[noisy] / 10.0)).astype(np.float32)
    energy[noisy] = signal + added[:, None, None] * rumble
    energy *= (10.0 ** (draws.gain_db / 10.0)).astype(np.float32)[:, None, None]
    return log_from_energy(energy)


def _mask(features: Features, draws: Draws) -> Features:
    hidden = draws.in_time[:, :, None] | draws.in_band[:, None, :]
    masked: Features = np.where(hidden, features.mean(axis=(1, 2), keepdims=True), features)
    return masked


def _random_spans(count: int, length: int, longest: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Return (count, length) with one run of 0..longest true entries per row."""
    width = rng.integers(0, longest + 1, size=(count, 1))
    start = rng.integers(0, length - width + 1)
    position = np.arange(length)[None, :]
    return np.asarray((position >= start) & (position < start + width))
