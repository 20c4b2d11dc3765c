"""What a folder of shards states about itself: one index file per part, written once its shards are whole.

    FOLDER/index-00001-of-00004.json    shards in all, shape of one clip's features, origin; of each shard that the part
                                        wrote, its bytes, clips per class, and a digest of its clips

Part i of n writes every n-th shard from the i-th on. Reading joins the parts: all must be there, agree, and find their
shards as long as they were written.

Source: our choice.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kwsq.ir.errors import Problem, UsageError
from kwsq.models.data.whole_file import whole_file

Origin = Mapping[str, str | list[str]]
Part = tuple[int, int]
_PART_FILE = re.compile(r"index-([0-9]{5})-of-([0-9]{5})\.json")
MOST_SHARDS, MOST_SIZE = 99_999, 2**48
AGAIN = "write the shards again, into an empty folder"


@dataclass(frozen=True, slots=True)
class Shard:
    """One file of clips: its length, clips of each class, and sixteen hexadecimal digits that its clips decide."""

    size_bytes: int
    labels: tuple[int, ...]
    digest: str


@dataclass(frozen=True, slots=True)
class ShardIndex:
    """A folder of shards.

    Args:
        shape: of one clip's features.
        origin: what the clips are.
        shards: by number.
    """

    shape: tuple[int, ...]
    origin: Origin
    shards: tuple[Shard, ...]

    @property
    def counts(self) -> NDArray[np.int64]:
        """(classes,) clips of each class."""
        classes = max(len(shard.labels) for shard in self.shards)
        padded = [np.pad(np.array(shard.labels, np.int64), (0, classes - len(shard.labels))) for shard in self.shards]
        return np.asarray(np.sum(padded, axis=0), dtype=np.int64)

    @property
    def digest(self) -> str:
        """Sixteen hexadecimal digits that all clips and their order decide."""
        return hashlib.blake2b("".join(shard.digest for shard in self.shards).encode(), digest_size=8).hexdigest()


def shard_path(folder: Path, number: int, shards: int) -> Path:
    """Return where a shard stands."""
    return folder / f"clips-{number:05}-of-{shards:05}.tfrecord"


def part_path(folder: Path, part: Part) -> Path:
    """Return where a part's index stands."""
    return folder / "index-{:05}-of-{:05}.json".format(*part)


def require_room(folder: Path, part: Part) -> None:
    """Refuse to write a part where it is already, or beside parts of another division.

    Raises:
        UsageError: so it is.
    """
    kept = [path for path, found in _part_files(folder) if found == part or found[1] != part[1]]
    if kept:
        expected, remedy = "an empty folder, or other parts of the same number", "name another folder"
        raise UsageError(
            Problem(str(folder), f"shards already: {', '.join(path.name for path in kept)}", expected, remedy)
        )


def write_part(
    folder: Path, part: Part, shape: tuple[int, ...], origin: Origin, written: dict[int, Shard], of: int
) -> None:
    """State what a part wrote; last, and whole, so that a killed run leaves no index.

    Args:
        folder: of the shards.
        part: (i, n).
        shape: of one clip's features.
        origin: what the clips are.
        written: the part's shards by number.
        of: shards in all.
    """
    shards = {str(number): [each.size_bytes, each.labels, each.digest] for number, each in written.items()}
    facts = {"shards": of, "shape": list(shape), "origin": dict(origin), "written": shards}
    with whole_file(part_path(folder, part)) as stream:
        stream.write((json.dumps(facts) + "\n").encode())


def read_index(folder: Path) -> ShardIndex:
    """Return what all parts state, once it was held against the files: their lengths, not what they hold.

    Raises:
        UsageError: there is no index, parts are missing or do not agree, or shards are missing or of another length.
    """
    parts = _parts(folder)
    found = [_facts(path) for path in parts]
    first = found[0]
    if other := [path for path, facts in zip(parts, found, strict=True) if facts.common != first.common]:
        expected = f"the shards, shape and origin of {parts[0].name}"
        raise UsageError([Problem(str(path), "shards of something else", expected, AGAIN) for path in other])
    written = [entry for facts in found for entry in facts.written]
    numbers, shards = sorted(number for number, _ in written), dict(written)
    if numbers != list(range(first.shards)):
        stated = ", ".join(map(str, numbers)) or "none"
        raise UsageError(Problem(str(folder), f"shards {stated}", f"0 to {first.shards - 1}, each once", AGAIN))
    index = ShardIndex(first.shape, first.origin, tuple(shards[number] for number in numbers))
    if not index.counts.sum():
        raise UsageError(Problem(str(folder), "no clip", "at least one clip", AGAIN))
    if problems := list(changed_files(folder, index)):
        raise UsageError(problems)
    return index


def changed_files(folder: Path, index: ShardIndex) -> Iterator[Problem]:
    """Give the shards that are missing or not as long as they were written."""
    for number, shard in enumerate(index.shards):
        path = shard_path(folder, number, len(index.shards))
        size = path.stat().st_size if path.is_file() else None
        if size != shard.size_bytes:
            found = "no such file" if size is None else f"{size} bytes"
            remedy = "copy this shard from where it is whole, or write the shards again"
            yield Problem(str(path), found, f"{shard.size_bytes} bytes, as the index states", remedy)


def _part_files(folder: Path) -> list[tuple[Path, Part]]:
    names = ((path, _PART_FILE.fullmatch(path.name)) for path in sorted(folder.glob("index-*.json")))
    return [(path, (int(name[1]), int(name[2]))) for path, name in names if name]


def _parts(folder: Path) -> list[Path]:
    """Return the index files of all parts."""
    files = _part_files(folder)
    divisions = sorted({parts for _, (_, parts) in files})
    if not divisions:
        remedy = "write the shards (again): an interrupted run leaves no index"
        raise UsageError(Problem(str(folder), "no index", "a folder of shards", remedy))
    if len(divisions) > 1:
        found = f"indices of {' and of '.join(map(str, divisions))} parts"
        raise UsageError(Problem(str(folder), found, "one division", AGAIN))
    wanted = range(1, divisions[0] + 1)
    missing = sorted(set(wanted) - {part for _, (part, _) in files})
    if missing:
        names = ", ".join(f"{part}/{divisions[0]}" for part in missing)
        remedy = "write these parts (again): an interrupted run leaves no index"
        raise UsageError(Problem(str(folder), f"no index of part {names}", f"all {divisions[0]} parts", remedy))
    return [path for path, (part, _) in files if part in wanted]


@dataclass(frozen=True, slots=True)
class _Facts:
    """What one part states; `written` holds its shards with their numbers."""

    shards: int
    shape: tuple[int, ...]
    origin: Origin
    written: tuple[tuple[int, Shard], ...]

    @property
    def common(self) -> tuple[Any, ...]:
        """What all parts state alike."""
        return self.shards, self.shape, self.origin


def _facts(path: Path) -> _Facts:
    """Return what one part states.

    Raises:
        UsageError: it is no index of shards.
    """
    try:
        facts = json.loads(path.read_bytes())
        return _Facts(
            _whole(facts["shards"], 1, MOST_SHARDS),
            tuple(_whole(size, 1, MOST_SIZE) for size in _listed(facts["shape"])),
            dict(facts["origin"]),
            tuple((int(number), _shard(*entry)) for number, entry in facts["written"].items()),
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError, OSError) as error:
        found = f"no index of shards ({type(error).__name__}: {error})"
        raise UsageError(Problem(str(path), found, "what kwsq shard writes", AGAIN)) from error


def _shard(size_bytes: Any, labels: Any, digest: Any) -> Shard:
    counts = tuple(_whole(count, 0, MOST_SIZE) for count in _listed(labels))
    return Shard(_whole(size_bytes, 0, MOST_SIZE), counts, str(digest))


def _whole(value: Any, least: int, most: int) -> int:
    if type(value) is not int or not least <= value <= most:
        msg = f"{value!r:.40} is no whole number from {least} to {most}"
        raise ValueError(msg)
    return value


def _listed(value: Any) -> list[Any]:
    if not isinstance(value, list) or len(value) > MOST_SHARDS:
        msg = f"{value!r:.40} is no short list"
        raise ValueError(msg)
    return value
