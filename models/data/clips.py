"""Labelled keyword clips as features: a manifest or the Speech Commands layout, and a cache.

The data folder holds `manifest.csv`, which `kwsq.models.data.manifest` reads, or the layout of
`kwsq.models.data.speech_commands`; its path is always an argument. docs/data.md describes both. Features are computed
once by `kwsq.models.data.features` or `kwsq.models.data.mfcc`, see `kwsq.models.data.feature_cache`.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kwsq.ir.errors import Problem, UsageError
from kwsq.models.data.audio import CLIP_SAMPLES, longer_than_a_clip, of_readable, read_clip
from kwsq.models.data.feature_cache import cache_key, cached
from kwsq.models.data.features import FeatureFormat, lfbe
from kwsq.models.data.manifest import Row, read_rows
from kwsq.models.data.mfcc import MfccFormat, mfcc
from kwsq.models.data.speech_commands import (
    LISTS,
    Recording,
    background_clips,
    has_layout,
    hash_order,
    read_recordings,
)
from kwsq.models.data.text_files import capped, lookalike
from kwsq.models.progress import Told, counted, ignore_count

Features = NDArray[np.float32]
Labels = NDArray[np.int64]
Show = Callable[[str], None]

LABELS = (
    "down", "go", "left", "no", "off", "on", "right", "stop", "up", "yes", "_silence_", "_unknown_",
)  # fmt: skip
OTHER = "_other_"
SILENCE = LABELS.index("_silence_")
UNKNOWN = LABELS.index("_unknown_")

Compute = Callable[[NDArray[np.floating]], Features]
FrontEnd = tuple[Compute, FeatureFormat | MfccFormat]
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
        """Sixteen hexadecimal digits that features, labels, and noise that labels do not tell, decide."""
        content = hashlib.blake2b(np.ascontiguousarray(self.features).data, digest_size=8)
        content.update(np.ascontiguousarray(self.labels).data)
        if not np.array_equal(self.is_noise, self.labels == SILENCE):  # what is augmented otherwise
            content.update(np.packbits(self.is_noise).data)
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


def read_manifest(data: Path, *, dataset: str, keywords: tuple[str, ...] = ()) -> tuple[Clip, ...]:
    """Read the clips of one data set, ordered by file name.

    Args:
        data: folder that holds `manifest.csv`.
        dataset: value of the manifest's `set` column, such as "gsc12".
        keywords: of the task; only whether they are written alike is looked at.

    Returns:
        The clip of every row. Where `label12` is empty, the word decides as in the Speech Commands layout.

    Raises:
        UsageError: there is no manifest, `kwsq.models.data.manifest.read_rows` refuses it, or a speaker is in two
            splits.
    """
    path = data / "manifest.csv"
    if not path.is_file():
        expected = f"manifest.csv, or {' and '.join(LISTS)} of the Speech Commands layout"
        remedy = "name the folder that holds them and the audio"
        raise UsageError(Problem(str(data), "none of the files that list clips", expected, remedy))
    clips = [_clip(row) for row in read_rows(path, dataset=dataset, labels=LABELS, keywords=keywords)]
    _require_disjoint_speakers(clips, path)
    return tuple(sorted(clips, key=lambda clip: clip.file))


def _clip(row: Row) -> Clip:
    """A manifest need not say what is spoken; the labels of ten words and of silence do."""
    if row.is_noise:
        return Clip(row.file, SILENCE, row.speaker, row.split, word=LABELS[SILENCE])
    label = LABELS.index(row.label) if row.label else label_of(row.word)
    word = LABELS[label] if label != UNKNOWN else row.word or LABELS[UNKNOWN]
    return Clip(row.file, label, row.speaker, row.split, word=word)


def _require_disjoint_speakers(clips: list[Clip], path: Path) -> None:
    """Refuse a split that shares a voice; silence has no voice."""
    splits_of: dict[str, dict[str, None]] = {}
    for clip in clips:
        if clip.label != SILENCE:
            splits_of.setdefault(clip.speaker, {})[clip.split] = None
    several = {speaker: " and ".join(map(repr, splits)) for speaker, splits in splits_of.items() if len(splits) > 1}
    if found := [f"speaker {speaker!r} in splits {splits}" for speaker, splits in several.items()]:
        remedy = "move all clips of the speaker to one split"
        raise UsageError(Problem(str(path), capped(found), "each speaker in one split", remedy))


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
        clips = read_manifest(data, dataset=dataset, keywords=keywords)
    else:
        clips = _read_layout(data, keywords)
    said = {clip.word for clip in clips}
    if missing := [repr(word) for word in keywords if word not in said]:
        expected = f"one of {capped(sorted(word for word in said if not word.startswith('_')), most=20)}"
        remedy = "name words that the data set holds"
        raise UsageError(Problem(str(data), f"no clip that says {', '.join(missing)}", expected, remedy))
    return tuple(replace(clip, label=class_of(clip.word, clip.label, keywords)) for clip in clips)


def _read_layout(data: Path, keywords: tuple[str, ...]) -> tuple[Clip, ...]:
    recordings = read_recordings(data)
    _require_as_written(data, sorted({str(said.word) for said in recordings}), keywords or LABELS[:SILENCE])
    clips = [clip for split in ("train", "val", "test") for clip in _drawn(data, recordings, split, keywords)]
    if not clips:
        found, expected = "recordings, but none of the ten words", f"folders named {', '.join(LABELS[:SILENCE])}"
        raise UsageError(Problem(str(data), found, expected, "name words of your own as keywords in the recipe"))
    _require_disjoint_speakers(clips, data)
    return tuple(sorted(clips, key=lambda clip: (clip.file, clip.start_sample)))


def _require_as_written(data: Path, folders: list[str], task: tuple[str, ...]) -> None:
    """Refuse folders that are words of the task but for case or blanks: their clips would be other words."""
    if found := [repr(word) for word in folders if lookalike(word, task)]:
        expected, remedy = f"{', '.join(task)} as written here", "rename the folders, or name the keywords as they are"
        raise UsageError(Problem(f"{data}: folders", capped(found), expected, remedy))


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
    show: Show | None = None,
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
        show: told, in one line, of recordings that are longer than a clip.
        told: called with how many clips are read, where the cache does not hold them.

    Returns:
        The split in manifest order (sorted by file name).

    Raises:
        UsageError: the split is empty or has fewer clips than parts, or files are missing or cannot be used; see
            `kwsq.models.data.audio.read_clip`.
    """
    whole = split_clips(data, dataset=dataset, split=split, keywords=keywords)
    number, parts = part
    if parts > len(whole):
        expected, remedy = f"at most {len(whole)} parts, one clip in each", "share the clips among fewer machines"
        raise UsageError(Problem("--part", f"{number}/{parts}", expected, remedy))
    clips = whole[number - 1 :: parts]
    compute, constants = front_end(features)
    key = cache_key(data, [(clip.file, clip.start_sample) for clip in clips], constants)
    tell_cut(data, clips, show)
    path = cache / f"{key}.npy"  # data sets and splits may have names that no file can
    listed = counted(clips, f"reading {split or 'all'} clips", told)
    found = cached(path, len(clips), lambda: np.stack([each for _, each in clip_features(data, listed, compute)]))
    labels = np.array([clip.label for clip in clips], dtype=np.int64)
    noise = np.array([clip.is_noise for clip in clips])
    speakers, names = (tuple(values) for values in zip(*((clip.speaker, clip.name) for clip in clips), strict=True))
    return LabelledFeatures(found, labels, speakers, noise, names)


def clip_features(data: Path, clips: Iterable[Clip], compute: Compute) -> Iterator[tuple[Clip, Features]]:
    """Give every clip with its features, one by one.

    Raises:
        UsageError: after the last clip, files that cannot be used.
    """
    return of_readable(clips, lambda clip: read_clip(data / clip.file, clip.start_sample), compute)


def tell_cut(data: Path, clips: Iterable[Clip], show: Show | None) -> None:
    """Say in one line how many recordings are longer than a clip; background noise is, on purpose."""
    spoken = [clip for clip in clips if not clip.is_noise]
    if show is not None and (lengths := longer_than_a_clip(data / clip.file for clip in spoken)):
        splits = " and ".join(sorted({clip.split for clip in spoken}))
        show(
            f"{data}, split {splits}: {len(lengths)} of {len(spoken)} recordings are longer than a second, up to "
            f"{max(lengths):.2f} s; only the first one is taken: cut them where the word lies later or goes on"
        )


def front_end(name: str) -> FrontEnd:
    """Return the named feature computation and the constants of its format.

    Raises:
        UsageError: no such front end.
    """
    if name not in FRONT_ENDS:
        expected = f"one of {', '.join(FRONT_ENDS)}"
        raise UsageError(Problem("recipe: features", repr(name), expected, "correct the recipe"))
    return FRONT_ENDS[name]
