"""Labelled keyword clips as features: manifest, cache, and augmentation in the energy domain.

The data folder holds `manifest.csv` with the columns file, set, label12, speaker and split; its path is
always an argument. Features are computed once by `kwsq.models.features` and kept in a cache folder that
ignores itself in git.

Augmentation acts on features, so that an epoch costs no waveform work:

  (1) shift: frames move by up to `max_shift_frames`, the uncovered end repeats the edge frame
  (2) gain:  E' = g E, with 10 log10 g uniform in +-`max_gain_db`
  (3) noise: E' = E + h R, with R the energies of a clip labelled `_silence_`: |a + b|^2 without its cross
             term, whose mean is zero for independent signals; h gives the drawn ratio of mean(E) to mean(h R)
  (4) SpecAugment: up to two bands of time and of frequency set to the clip's mean feature

Source: (4) after Park et al. 2019; the rest is common practice.
"""

import csv
import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kwsq.ir.errors import Problem, UsageError
from kwsq.models.features import SAMPLE_RATE_HZ, FeatureFormat, energy_from_log, lfbe, log_from_energy

Features = NDArray[np.float32]
Labels = NDArray[np.int64]

LABELS = (
    "down", "go", "left", "no", "off", "on", "right", "stop", "up", "yes", "_silence_", "_unknown_",
)  # fmt: skip
SILENCE = LABELS.index("_silence_")
CLIP_SAMPLES = 16_000
# Augmentation works on blocks that stay in the processor's cache; whole epochs at once are twice as slow.
BLOCK_CLIPS = 64


@dataclass(frozen=True, slots=True)
class Clip:
    """One row of the manifest.

    Source: the manifest's own columns; `label` indexes LABELS.
    """

    file: str
    label: int
    speaker: str
    split: str


@dataclass(frozen=True, slots=True)
class LabelledFeatures:
    """Features with labels: features (N, frames, 64) float32, labels (N,) int64, speakers of length N."""

    features: Features
    labels: Labels
    speakers: tuple[str, ...]


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


def read_manifest(data: Path, *, dataset: str) -> tuple[Clip, ...]:
    """Read the clips of one data set, ordered by file name.

    Args:
        data: folder that holds `manifest.csv`.
        dataset: value of the manifest's `set` column, such as "gsc12".

    Returns:
        The clips whose `label12` is one of LABELS.

    Raises:
        UsageError: there is no manifest, it holds no such data set, or a speaker stands in two splits.
    """
    path = data / "manifest.csv"
    if not path.is_file():
        remedy = "name the folder that holds manifest.csv and the audio"
        raise UsageError(Problem(str(path), "no such file", "the manifest of the data folder", remedy))
    with path.open(newline="", encoding="utf-8") as stream:
        rows = [row for row in csv.DictReader(stream) if row["set"] == dataset and row["label12"] in LABELS]
    if not rows:
        expected = f"rows whose label12 is one of {', '.join(LABELS)}"
        remedy = "name a set that stands in the manifest's set column"
        raise UsageError(Problem(str(path), f"no labelled clip of set {dataset!r}", expected, remedy))
    clips = [Clip(row["file"], LABELS.index(row["label12"]), row["speaker"], row["split"]) for row in rows]
    _require_disjoint_speakers(clips, path)
    return tuple(sorted(clips, key=lambda clip: clip.file))


def _require_disjoint_speakers(clips: list[Clip], path: Path) -> None:
    """Refuse a split that shares a voice; silence has no voice."""
    split_of: dict[str, str] = {}
    for clip in clips:
        if clip.label != SILENCE and split_of.setdefault(clip.speaker, clip.split) != clip.split:
            found = f"speaker {clip.speaker!r} in splits {split_of[clip.speaker]!r} and {clip.split!r}"
            remedy = "move all clips of the speaker to one split"
            raise UsageError(Problem(str(path), found, "each speaker in one split", remedy))


def load_split(data: Path, cache: Path, *, dataset: str, split: str) -> LabelledFeatures:
    """Load one split as features, from the cache where it holds exactly these clips and this feature format.

    Args:
        data: folder with `manifest.csv` and the audio files it names.
        cache: folder for cached features; created, and made to ignore itself in git.
        dataset: value of the manifest's `set` column.
        split: value of the manifest's `split` column, such as "train".

    Returns:
        The split in manifest order (sorted by file name).

    Raises:
        UsageError: the split is empty, or a file is not 16 kHz mono.
    """
    clips = [clip for clip in read_manifest(data, dataset=dataset) if clip.split == split]
    if not clips:
        found = f"no split {split!r} in set {dataset!r}"
        remedy = "name a split that stands in the manifest's split column"
        raise UsageError(Problem(str(data / "manifest.csv"), found, "at least one clip", remedy))
    path = cache / f"{dataset}-{split}-{_cache_key(clips)}.npy"
    if not path.exists():
        _store(path, np.stack([lfbe(_read_clip(data / clip.file)) for clip in clips]))
    labels = np.array([clip.label for clip in clips], dtype=np.int64)
    return LabelledFeatures(np.load(path), labels, tuple(clip.speaker for clip in clips))


def _cache_key(clips: list[Clip]) -> str:
    facts = {"format": asdict(FeatureFormat()), "files": [clip.file for clip in clips]}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def _store(path: Path, features: Features) -> None:
    """Write through a temporary name, so that a killed run leaves no half file behind."""
    path.parent.mkdir(parents=True, exist_ok=True)
    (path.parent / ".gitignore").write_text("*\n", encoding="utf-8")
    partial = path.with_suffix(".partial.npy")
    np.save(partial, features)
    partial.replace(path)


def _read_clip(path: Path) -> NDArray[np.float32]:
    """Read one file as exactly one second: cut at the end or padded with zeros."""
    import soundfile  # of the train extra: everything else here must import without it

    samples, rate_hz = soundfile.read(path, dtype="float32")
    if rate_hz != SAMPLE_RATE_HZ or samples.ndim != 1:
        found = f"{rate_hz} Hz, shape {samples.shape}"
        raise UsageError(Problem(str(path), found, f"{SAMPLE_RATE_HZ} Hz mono", "convert the file first"))
    cut: NDArray[np.float32] = samples[:CLIP_SAMPLES]
    return np.pad(cut, (0, CLIP_SAMPLES - cut.shape[0]))


def augment(
    examples: LabelledFeatures, settings: Augmentation, rng: np.random.Generator
) -> tuple[Features, Labels]:
    """Return one epoch of augmented features in a fresh random order; equations (1)-(4) of the module.

    Args:
        examples: features (N, frames, 64) with labels.
        settings: strengths.
        rng: the only source of randomness.

    Returns:
        (N, frames, 64) float32 and (N,) int64, shuffled alike.
    """
    order = rng.permutation(len(examples.labels))
    silence = np.flatnonzero(examples.labels == SILENCE)
    noise = examples.features[silence if silence.size else order]
    features = np.empty_like(examples.features)
    for start in range(0, len(order), BLOCK_CLIPS):
        block = order[start : start + BLOCK_CLIPS]
        shifted = _shift(examples.features[block], settings.max_shift_frames, rng)
        rumble = noise[rng.integers(len(noise), size=len(block))]
        noisy = _gain_and_noise(shifted, rumble, settings, rng)
        features[start : start + BLOCK_CLIPS] = _mask(noisy, settings, rng)
    return features, examples.labels[order]


def _shift(features: Features, most: int, rng: np.random.Generator) -> Features:
    count, frames, _ = features.shape
    offset = rng.integers(-most, most + 1, size=(count, 1))
    source = np.clip(np.arange(frames)[None, :] + offset, 0, frames - 1)
    shifted: Features = features[np.arange(count)[:, None], source]
    return shifted


def _gain_and_noise(
    features: Features, noise: Features, settings: Augmentation, rng: np.random.Generator
) -> Features:
    count = features.shape[0]
    gain_db = rng.uniform(-settings.max_gain_db, settings.max_gain_db, size=count)
    snr_db = rng.uniform(settings.lowest_snr_db, settings.highest_snr_db, size=count)
    is_noisy = rng.random(count) < settings.noise_share
    signal, rumble = energy_from_log(features), energy_from_log(noise)
    level = signal.mean(axis=(1, 2)) / np.maximum(rumble.mean(axis=(1, 2)), 1e-12)
    share = (is_noisy * level * 10.0 ** (-snr_db / 10.0)).astype(np.float32)
    gain = (10.0 ** (gain_db / 10.0)).astype(np.float32)
    return log_from_energy(gain[:, None, None] * (signal + share[:, None, None] * rumble))


def _mask(features: Features, settings: Augmentation, rng: np.random.Generator) -> Features:
    count, frames, bands = features.shape
    hidden = np.zeros((count, frames, bands), dtype=bool)
    for _ in range(settings.masks):
        hidden |= _random_spans(count, frames, settings.time_mask_frames, rng)[:, :, None]
        hidden |= _random_spans(count, bands, settings.band_mask_bands, rng)[:, None, :]
    masked: Features = np.where(hidden, features.mean(axis=(1, 2), keepdims=True), features)
    return masked


def _random_spans(count: int, length: int, longest: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Return (count, length) with one run of 0..longest true entries per row."""
    width = rng.integers(0, longest + 1, size=(count, 1))
    start = rng.integers(0, length - width + 1)
    position = np.arange(length)[None, :]
    return np.asarray((position >= start) & (position < start + width))
