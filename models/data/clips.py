"""Labelled keyword clips as features: a manifest or the Speech Commands layout, and a cache.

The data folder holds `manifest.csv` with the columns file, set, label12, speaker and split, or the layout that
`kwsq.models.data.speech_commands` reads; its path is always an argument. Features are computed once by
`kwsq.models.data.features` or `kwsq.models.data.mfcc` and kept in a cache folder that ignores itself in git.
"""

import csv
import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kwsq.ir.errors import Problem, UsageError
from kwsq.models.data.features import SAMPLE_RATE_HZ, FeatureFormat, lfbe
from kwsq.models.data.mfcc import MfccFormat, mfcc
from kwsq.models.data.speech_commands import (
    LISTS,
    Recording,
    background_clips,
    has_layout,
    hash_order,
    read_recordings,
)
from kwsq.models.data.whole_file import whole_file
from kwsq.models.progress import Told, counted, ignore_count

Features = NDArray[np.float32]
Labels = NDArray[np.int64]

LABELS = (
    "down", "go", "left", "no", "off", "on", "right", "stop", "up", "yes", "_silence_", "_unknown_",
)  # fmt: skip
OTHER = "_other_"
SILENCE = LABELS.index("_silence_")
UNKNOWN = LABELS.index("_unknown_")
CLIP_SAMPLES = 16_000
COLUMNS = ("file", "set", "label12", "speaker", "split")

FrontEnd = tuple[Callable[[NDArray[np.floating]], NDArray[np.float32]], FeatureFormat | MfccFormat]
FRONT_ENDS: dict[str, FrontEnd] = {"lfbe": (lfbe, FeatureFormat()), "mfcc": (mfcc, MfccFormat())}


@dataclass(frozen=True, slots=True)
class Clip:
    """One row of the manifest, or one second of the Speech Commands layout.

    `label` is a class of the task (`class_names`), `word` what is said, as far as the data tell.
    """

    file: str
    label: int
    speaker: str
    split: str
    start_sample: int = 0
    word: str = ""

    @property
    def is_noise(self) -> bool:
        """Whether nothing is said."""
        return self.word == LABELS[SILENCE]

    @property
    def name(self) -> str:
        """Unique in a data set."""
        return f"{self.file}@{self.start_sample}" if self.start_sample else self.file


@dataclass(frozen=True, slots=True)
class LabelledFeatures:
    """Labelled clips as features.

    Args:
        features: (N, frames, bands or coefficients) float32.
        labels: (N,) int64 classes of the task.
        speakers: N names.
        noise: (N,) which clips hold background noise alone; None where class SILENCE says it.
        names: N names, unique in a data set; none of clips that were never files.
    """

    features: Features
    labels: Labels
    speakers: tuple[str, ...]
    noise: NDArray[np.bool_] | None = None
    names: tuple[str, ...] = ()

    @property
    def is_noise(self) -> NDArray[np.bool_]:
        """(N,) which clips hold background noise alone, and so have no voice."""
        return np.asarray(self.labels == SILENCE) if self.noise is None else self.noise

    @property
    def clips(self) -> int:
        """How many clips there are."""
        return len(self.labels)

    def class_counts(self, classes: int) -> NDArray[np.int64]:
        """Return how many clips each class has, (classes,)."""
        return np.bincount(self.labels, minlength=classes)

    @property
    def digest(self) -> str:
        """Sixteen hexadecimal digits that features and labels decide."""
        content = hashlib.blake2b(np.ascontiguousarray(self.features).data, digest_size=8)
        content.update(np.ascontiguousarray(self.labels).data)
        return content.hexdigest()


def class_names(keywords: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Return the classes of a task in the order of a network's outputs.

    Args:
        keywords: words to detect; none for the twelve classes.
    """
    return (OTHER, *keywords) if keywords else LABELS


def class_of(word: str, label: int, keywords: tuple[str, ...]) -> int:
    """Return the class of a clip: its label of the twelve, or with keywords which one it is, 0 for anything else.

    Args:
        word: what is said.
        label: index into LABELS.
        keywords: of the task.
    """
    if not keywords:
        return label
    return 1 + keywords.index(word) if word in keywords else 0


def read_manifest(data: Path, *, dataset: str) -> tuple[Clip, ...]:
    """Read the clips of one data set, ordered by file name.

    Args:
        data: folder that holds `manifest.csv`.
        dataset: value of the manifest's `set` column, such as "gsc12".

    Returns:
        The clips whose `label12` is one of LABELS.

    Raises:
        UsageError: there is no manifest, it lacks a column or holds no such data set, or a speaker is in two splits.
    """
    path = data / "manifest.csv"
    if not path.is_file():
        expected = f"manifest.csv, or {' and '.join(LISTS)} of the Speech Commands layout"
        remedy = "name the folder that holds them and the audio"
        raise UsageError(Problem(str(data), "none of the files that list clips", expected, remedy))
    with path.open(newline="", encoding="utf-8") as stream:
        table = csv.DictReader(stream)
        if missing := [name for name in COLUMNS if name not in (table.fieldnames or ())]:
            found, expected = f"no column {', '.join(missing)}", f"the columns {', '.join(COLUMNS)}"
            raise UsageError(Problem(str(path), found, expected, "complete the header and its rows"))
        rows = [row for row in table if row["set"] == dataset and row["label12"] in LABELS]
    if not rows:
        expected = f"rows whose label12 is one of {', '.join(LABELS)}"
        remedy = "name a set that stands in the manifest's set column"
        raise UsageError(Problem(str(path), f"no labelled clip of set {dataset!r}", expected, remedy))
    clips = [_clip(row) for row in rows]
    _require_disjoint_speakers(clips, path)
    return tuple(sorted(clips, key=lambda clip: clip.file))


def _clip(row: dict[str, str]) -> Clip:
    """A manifest need not say what is spoken; the labels of ten words and of silence do."""
    label = LABELS.index(row["label12"])
    word = row["label12"] if label != UNKNOWN else row.get("word") or row["label12"]
    return Clip(row["file"], label, row["speaker"], row["split"], word=word)


def _require_disjoint_speakers(clips: list[Clip], path: Path) -> None:
    """Refuse a split that shares a voice; silence has no voice."""
    split_of: dict[str, str] = {}
    for clip in clips:
        if clip.label != SILENCE and split_of.setdefault(clip.speaker, clip.split) != clip.split:
            found = f"speaker {clip.speaker!r} in splits {split_of[clip.speaker]!r} and {clip.split!r}"
            remedy = "move all clips of the speaker to one split"
            raise UsageError(Problem(str(path), found, "each speaker in one split", remedy))


def read_clips(data: Path, *, dataset: str, keywords: tuple[str, ...] = ()) -> tuple[Clip, ...]:
    """Read the clips of a data folder: from its manifest, or else from the Speech Commands layout.

    Args:
        data: folder with `manifest.csv`, or with the two lists of the layout.
        dataset: value of the manifest's `set` column; the layout holds one data set, whatever its name.
        keywords: of the task; every clip that says none of them is one class, everything else.

    Raises:
        UsageError: the folder is neither, a speaker stands in two splits, or nobody says a keyword.
    """
    if (data / "manifest.csv").is_file() or not has_layout(data):
        clips = read_manifest(data, dataset=dataset)
    else:
        clips = _read_layout(data, keywords)
    if missing := sorted(set(keywords) - {clip.word for clip in clips}):
        expected, remedy = "clips of every keyword", "name words that the data set holds"
        raise UsageError(Problem(str(data), f"no clip that says {missing[0]!r}", expected, remedy))
    return tuple(replace(clip, label=class_of(clip.word, clip.label, keywords)) for clip in clips)


def _read_layout(data: Path, keywords: tuple[str, ...]) -> tuple[Clip, ...]:
    recordings = read_recordings(data)
    clips = [clip for split in ("train", "val", "test") for clip in _drawn(data, recordings, split, keywords)]
    if not clips:
        found, expected = "recordings, but none of the ten words", f"folders named {', '.join(LABELS[:SILENCE])}"
        raise UsageError(Problem(str(data), found, expected, "name words of your own as keywords in the recipe"))
    _require_disjoint_speakers(clips, data)
    return tuple(sorted(clips, key=lambda clip: (clip.file, clip.start_sample)))


def _drawn(data: Path, recordings: tuple[Recording, ...], split: str, keywords: tuple[str, ...]) -> list[Clip]:
    """Return the clips of a split: all that is said where words are to be detected, else the twelve classes.

    Those are every recording of the ten words, and a tenth as many of other words, drawn by hash. Silence is a tenth
    of what is drawn whole.

    Source: the shares are those of the Speech Commands baseline (Warden 2018); the draw is ours.
    """
    here = [recording for recording in recordings if recording.split == split]
    whole = [recording for recording in here if keywords or recording.word in LABELS]
    tenth = -(-len(whole) // 10)
    others = [] if keywords else hash_order([recording for recording in here if recording.word not in LABELS])[:tenth]
    noise = background_clips(data, split, tenth, CLIP_SAMPLES)
    return [
        *(
            Clip(said.file, label_of(str(said.word)), said.speaker, split, word=str(said.word))
            for said in whole + others
        ),
        *(Clip(piece.file, SILENCE, piece.speaker, split, piece.start_sample, LABELS[SILENCE]) for piece in noise),
    ]


def label_of(word: str) -> int:
    """Return the index into LABELS of a spoken word, that of other words where it is none of the ten."""
    return LABELS.index(word) if word in LABELS else UNKNOWN


def split_clips(data: Path, *, dataset: str, split: str | None, keywords: tuple[str, ...] = ()) -> list[Clip]:
    """Return the clips of one split, or all; arguments as in `load_split`.

    Raises:
        UsageError: there are none.
    """
    clips = [clip for clip in read_clips(data, dataset=dataset, keywords=keywords) if split in (clip.split, None)]
    if not clips:
        found = f"no split {split!r} in set {dataset!r}"
        remedy = "name a split that stands in the manifest's split column (train, val or test in the layout)"
        raise UsageError(Problem(str(data), found, "at least one clip", remedy))
    return clips


def load_split(
    data: Path,
    cache: Path,
    *,
    dataset: str,
    split: str | None,
    features: str = "lfbe",
    keywords: tuple[str, ...] = (),
    part: tuple[int, int] = (1, 1),
    told: Told = ignore_count,
) -> LabelledFeatures:
    """Load one split, or all clips, as features; from the cache where it holds these clips in this format.

    Args:
        data: folder with `manifest.csv` and the audio files it names, or with the Speech Commands layout.
        cache: folder for cached features; created, and made to ignore itself in git.
        dataset: value of the manifest's `set` column.
        split: value of the manifest's `split` column, such as "train"; None for all clips.
        features: one of FRONT_ENDS.
        keywords: of the task, none for the twelve classes.
        part: (i, n), every n-th clip from the i-th on, for n machines that share the clips.
        told: called with how many clips are read, where the cache does not hold them.

    Returns:
        The split in manifest order (sorted by file name).

    Raises:
        UsageError: the split is empty or has fewer clips than parts, or a file is missing or not 16 kHz mono.
    """
    whole = split_clips(data, dataset=dataset, split=split, keywords=keywords)
    number, parts = part
    if parts > len(whole):
        expected, remedy = f"at most {len(whole)} parts, one clip in each", "share the clips among fewer machines"
        raise UsageError(Problem("--part", f"{number}/{parts}", expected, remedy))
    clips = whole[number - 1 :: parts]
    compute, constants = front_end(features)
    path = cache / f"{dataset}-{split or 'all'}-{_cache_key(data, clips, constants)}.npy"
    if not path.exists():
        listed = counted(clips, f"reading {split or 'all'} clips", told)
        _store(path, np.stack([compute(read_clip(data / clip.file, clip.start_sample)) for clip in listed]))
    labels = np.array([clip.label for clip in clips], dtype=np.int64)
    noise = np.array([clip.is_noise for clip in clips])
    speakers, names = (tuple(values) for values in zip(*((clip.speaker, clip.name) for clip in clips), strict=True))
    return LabelledFeatures(np.load(path), labels, speakers, noise, names)


def front_end(name: str) -> FrontEnd:
    """Return the named feature computation and the constants of its format.

    Raises:
        UsageError: no such front end.
    """
    if name not in FRONT_ENDS:
        expected = f"one of {', '.join(FRONT_ENDS)}"
        raise UsageError(Problem("recipe: features", repr(name), expected, "correct the recipe"))
    return FRONT_ENDS[name]


def _cache_key(data: Path, clips: list[Clip], constants: FeatureFormat | MfccFormat) -> str:
    """Identify the clips by what the files hold: names, sizes and dates stay where audio is replaced.

    Raises:
        UsageError: files are missing.
    """
    names = dict.fromkeys(clip.file for clip in clips)
    if missing := [name for name in names if not (data / name).is_file()]:
        found, remedy = f"no file {', '.join(missing[:3])}", "bring the audio, or take the clips out of the list"
        raise UsageError(Problem(str(data), f"{found} ({len(missing)} in all)", "every file that is listed", remedy))
    content = {name: hashlib.blake2b((data / name).read_bytes(), digest_size=16).hexdigest() for name in names}
    files = [(clip.file, clip.start_sample, content[clip.file]) for clip in clips]
    facts = {"format": asdict(constants), "files": files}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def _store(path: Path, features: Features) -> None:
    """Write features into a folder that git ignores; two processes may do so at once."""
    with whole_file(path) as stream:
        (path.parent / ".gitignore").write_text("*\n", encoding="utf-8")
        np.save(stream, features)


def read_clip(path: Path, start_sample: int = 0) -> NDArray[np.float32]:
    """Read exactly one second of a file from `start_sample` on: cut at the end or padded with zeros.

    Returns:
        (16000,) float32 in [-1, 1].

    Raises:
        UsageError: the file cannot be read or is not 16 kHz mono.
    """
    import soundfile  # of the train extra: everything else here must import without it

    try:
        samples, rate_hz = soundfile.read(path, frames=CLIP_SAMPLES, start=start_sample, dtype="float32")
    except (OSError, RuntimeError) as error:  # soundfile's own errors are RuntimeErrors
        raise UsageError(Problem(str(path), str(error), "an audio file", "replace the file")) from error
    if rate_hz != SAMPLE_RATE_HZ or samples.ndim != 1:
        found = f"{rate_hz} Hz, shape {samples.shape}"
        raise UsageError(Problem(str(path), found, f"{SAMPLE_RATE_HZ} Hz mono", "convert the file first"))
    return np.pad(samples, (0, CLIP_SAMPLES - samples.shape[0]))
