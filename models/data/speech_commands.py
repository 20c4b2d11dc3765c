"""The directory layout of Speech Commands: one folder per word, lists of held-out files, background noise.

    DIR/yes/0a7c2a8d_nohash_0.wav      a recording: speaker, then a count
    DIR/_background_noise_/hum.wav     longer than a second; silence clips are cut from it
    DIR/validation_list.txt            one `word/file.wav` per line; the same in testing_list.txt

Every file that stands in neither list trains. A name without `_nohash_` tells no speaker: such a recording counts as
a speaker of its own, whoever it is, and may share its voice with another split. Background files are divided by time,
so that no second of noise is in two splits: the first 80 % train, the next 10 % validate, the last 10 % test.

Source: README of the Speech Commands data set (Warden 2018); the division of the background files and the even
spacing of the silence clips are ours.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from kwsq.ir.errors import Problem, UsageError

BACKGROUND = "_background_noise_"
LISTS = {"validation_list.txt": "val", "testing_list.txt": "test"}
SPEAKER_END = "_nohash_"
TENTHS = {"train": (0, 8), "val": (8, 9), "test": (9, 10)}


@dataclass(frozen=True, slots=True)
class Recording:
    """One second of the layout; `word` is None for background noise."""

    file: str
    word: str | None
    speaker: str
    split: str
    start_sample: int = 0


def has_layout(folder: Path) -> bool:
    """Whether a folder holds the two lists of the layout."""
    return all((folder / name).is_file() for name in LISTS)


def read_recordings(folder: Path) -> tuple[Recording, ...]:
    """List every word recording of a layout, ordered by file name.

    Raises:
        UsageError: a list names a file that is not there, or there is no recording.
    """
    held_out = _held_out(folder)
    found = sorted(path for path in folder.glob("*/*.wav") if not path.parent.name.startswith("_"))
    names = [path.relative_to(folder).as_posix() for path in found]
    if missing := sorted(held_out.keys() - set(names)):
        remedy = "unpack the data set again, lists and audio of one version"
        raise UsageError(Problem(str(folder), f"no file {missing[0]}", "every file that the lists name", remedy))
    if not names:
        raise UsageError(Problem(str(folder), "no recordings", "folders of .wav files named by word", "check the path"))
    return tuple(Recording(name, name.split("/")[0], _speaker(name), held_out.get(name, "train")) for name in names)


def _held_out(folder: Path) -> dict[str, str]:
    split_of = {}
    for name, split in LISTS.items():
        lines = (folder / name).read_text(encoding="utf-8").split("\n")
        split_of.update({line.strip(): split for line in lines if line.strip()})
    return split_of


def _speaker(name: str) -> str:
    speaker, end, _ = name.rsplit("/", 1)[-1].partition(SPEAKER_END)
    return speaker if end else name


def background_clips(folder: Path, split: str, count: int, clip_samples: int) -> tuple[Recording, ...]:
    """Cut `count` silence clips for one split, evenly spaced over its share of the background files.

    Args:
        folder: data folder of the layout.
        split: "train", "val" or "test".
        count: clips wanted; they overlap where the noise is too short for that many.
        clip_samples: length of a clip.

    Returns:
        The clips; none where the layout has no background file whose share holds a clip.
    """
    shares = [(path, *_share(path, split)) for path in sorted((folder / BACKGROUND).glob("*.wav"))]
    usable = [(path, first, last - clip_samples) for path, first, last in shares if last - first >= clip_samples]
    clips = []
    for number in range(count if usable else 0):
        path, first, latest = usable[number % len(usable)]
        turn, turns = number // len(usable), -(-count // len(usable))
        start = first + (latest - first) * turn // max(turns - 1, 1)
        clips.append(Recording(path.relative_to(folder).as_posix(), None, BACKGROUND, split, start))
    return tuple(clips)


def _share(path: Path, split: str) -> tuple[int, int]:
    import soundfile  # of the train extra: everything else here must import without it

    try:
        samples = soundfile.info(path).frames
    except (OSError, RuntimeError) as error:  # soundfile's own errors are RuntimeErrors
        raise UsageError(Problem(str(path), str(error), "an audio file", "replace the file")) from error
    first, last = TENTHS[split]
    return samples * first // 10, samples * last // 10


def hash_order(recordings: list[Recording]) -> list[Recording]:
    """Order recordings by a hash of their names: a draw that no seed and no other file changes."""
    return sorted(recordings, key=lambda recording: hashlib.sha256(recording.file.encode()).digest())
