"""The directory layout of Speech Commands: one folder per word, lists of held-out files, background noise.

    DIR/yes/0a7c2a8d_nohash_0.wav      a recording: speaker, then a count
    DIR/_background_noise_/hum.wav     longer than a second; silence clips are cut from it
    DIR/validation_list.txt            one `word/file.wav` per line; others in testing_list.txt

Every file that stands in neither list trains. A name without `_nohash_` tells no speaker: such a recording counts as
a speaker of its own, whoever it is, and may share its voice with another split. Background files are divided by time,
so that no second of noise is in two splits: the first 80 % train, the next 10 % validate, the last 10 % test.

Source: README of the Speech Commands data set (Warden 2018); the division of the background files and the even
spacing of the silence clips are ours.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from kwsq.ir.errors import Problem, UsageError
from kwsq.models.data.text_files import capped, read_text

BACKGROUND = "_background_noise_"
LISTS = {"validation_list.txt": "val", "testing_list.txt": "test"}
SPEAKER_END = "_nohash_"
TENTHS = {"train": (0, 8), "val": (8, 9), "test": (9, 10)}
WAV = ".wav"
AUDIO = (WAV, *".aac .aif .aiff .au .flac .m4a .mp3 .oga .ogg .opus .wma".split())
"""File name extensions, in any case, of what is read, and of what must not be left out silently."""


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
        UsageError: the lists name files that are not there or stand in both, there is no recording, or audio lies
            beside them that is not read: of another format, or with a name that is not UTF-8.
    """
    held_out = _held_out(folder)
    found = _audio(folder, (path for path in folder.glob("*/*") if not path.parent.name.startswith("_")))
    names = [path.relative_to(folder).as_posix() for path in found]
    if missing := sorted(held_out.keys() - set(names)):
        remedy = "unpack the data set again, lists and audio of one version"
        raise UsageError(Problem(str(folder), f"no file {capped(missing)}", "every file that the lists name", remedy))
    if not names:
        raise UsageError(Problem(str(folder), "no recordings", "folders of .wav files named by word", "check the path"))
    return tuple(Recording(name, name.split("/")[0], _speaker(name), held_out.get(name, "train")) for name in names)


def _audio(folder: Path, paths: Iterable[Path]) -> list[Path]:
    """Return the .wav files among paths, sorted; refuse what else looks like audio: nothing is left out silently."""
    found = sorted(path for path in paths if path.suffix.lower() in AUDIO)
    names = [path.relative_to(folder).as_posix() for path in found]
    problems = []
    if others := [_printable(name) for name in names if not name.lower().endswith(WAV)]:
        remedy = "convert them to .wav of 16 kHz, or move them elsewhere"
        problems.append(Problem(str(folder), capped(others), f"{WAV} files only", remedy))
    if unreadable := [_printable(name) for name in names if _printable(name) != name]:
        problems.append(Problem(str(folder), capped(unreadable), "names in UTF-8", "rename the files or their folders"))
    if problems:
        raise UsageError(problems)
    return found


def _printable(name: str) -> str:
    """Return a name with an escape for each byte that is not UTF-8, which Python holds as a lone surrogate."""
    return name.encode("utf-8", "backslashreplace").decode()


def _held_out(folder: Path) -> dict[str, str]:
    lists = {name: [line.strip() for line in read_text(folder / name).split("\n") if line.strip()] for name in LISTS}
    first, second = lists.values()
    if both := sorted(set(first) & set(second)):
        remedy = "leave each in one: a voice that validates must not test"
        raise UsageError(Problem(f"{folder}: {' and '.join(LISTS)}", capped(both), "no file in both", remedy))
    return {line: LISTS[name] for name, lines in lists.items() for line in lines}


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
        The clips, no two of them alike: fewer where the noise has no more places. None where the layout has no
        background file whose share holds a clip.
    """
    shares = [(path, *_share(path, split)) for path in _audio(folder, folder.glob(f"{BACKGROUND}/*"))]
    usable = [(path, first, last - clip_samples) for path, first, last in shares if last - first >= clip_samples]
    clips: dict[Recording, None] = {}
    for number in range(count if usable else 0):
        path, first, latest = usable[number % len(usable)]
        turn, turns = number // len(usable), -(-count // len(usable))
        start = first + (latest - first) * turn // max(turns - 1, 1)
        clips[Recording(path.relative_to(folder).as_posix(), None, BACKGROUND, split, start)] = None
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
