"""Labelled keyword clips as features: manifest, cache, and augmentation in the energy domain.

The data folder holds `manifest.csv` with the columns file, set, label12, speaker and split; its path is
always an argument. Features are computed once by `kwsq.models.features` and kept in a cache folder that
ignores itself in git.
"""

import csv
import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kwsq.ir.errors import Problem, UsageError
from kwsq.models.features import SAMPLE_RATE_HZ, FeatureFormat, lfbe

Features = NDArray[np.float32]
Labels = NDArray[np.int64]

LABELS = (
    "down", "go", "left", "no", "off", "on", "right", "stop", "up", "yes", "_silence_", "_unknown_",
)  # fmt: skip
SILENCE = LABELS.index("_silence_")
CLIP_SAMPLES = 16_000


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
    path = cache / f"{dataset}-{split}-{_cache_key(data, clips)}.npy"
    if not path.exists():
        _store(path, np.stack([lfbe(_read_clip(data / clip.file)) for clip in clips]))
    labels = np.array([clip.label for clip in clips], dtype=np.int64)
    return LabelledFeatures(np.load(path), labels, tuple(clip.speaker for clip in clips))


def _cache_key(data: Path, clips: list[Clip]) -> str:
    files = [(clip.file, (data / clip.file).stat().st_size) for clip in clips]
    facts = {"format": asdict(FeatureFormat()), "files": files}
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
