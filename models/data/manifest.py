"""`manifest.csv`: one line per clip, as docs/data.md describes its columns. No row is left out without a word.

Source: the columns are ours.
"""

import csv
import io
import posixpath
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from kwsq.ir.errors import Problem, UsageError
from kwsq.models.data.text_files import capped, lookalike, read_text

COLUMNS = ("file", "set", "label12", "speaker", "split")
NOISE_WORDS = ("_silence_", "_noise_", "_background_noise_")
"""What a manifest may call a clip in which nothing is said."""
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_Lines = list[tuple[int, list[str]]]


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a manifest.

    Args:
        line: where it ends in the file, from 1.
        file: audio, relative to the manifest.
        label: one of the labels, or empty: then the word decides.
        word: what is said; empty where the manifest does not tell.
        speaker: who says it.
        split: such as "train".
    """

    line: int
    file: str
    label: str
    word: str
    speaker: str
    split: str

    @property
    def is_noise(self) -> bool:
        """Whether nothing is said."""
        return (self.label or self.word) in NOISE_WORDS


def read_rows(path: Path, *, dataset: str, labels: Sequence[str], keywords: Sequence[str] = ()) -> list[Row]:
    """Read the rows of one data set.

    Args:
        path: of the manifest.
        dataset: value of the column `set`.
        labels: what `label12` may be.
        keywords: of the task, which the column `word` decides; none where `label12` does.

    Returns:
        All rows of the set, in their order.

    Raises:
        UsageError: the file is not UTF-8 or no CSV, lacks a column, or holds no such data set; or, all at once, rows
            that are short or long, lack what every clip has, have another label, or a set, split or word that is
            another but for case or blanks, a speaker with blanks around, or control characters, contradict
            themselves, or repeat a file.
    """
    header, lines = _table(path)
    if missing := [name for name in COLUMNS if name not in header]:
        found, expected = f"no column {', '.join(missing)}", f"the columns {', '.join(COLUMNS)}"
        raise UsageError(Problem(str(path), found, expected, "complete the header and its rows"))
    if again := [name for name, count in Counter(header).items() if count > 1]:
        remedy = "leave each column once"
        raise UsageError(Problem(f"{path}: header", f"{capped(again)} more than once", "each column once", remedy))
    problems = list(_uneven(path, header, lines))
    entries = [(line, dict(zip(header, fields, strict=True))) for line, fields in lines if len(fields) == len(header)]
    problems += _other_sets(path, entries, dataset)
    rows = [_row(line, entry) for line, entry in entries if entry["set"] == dataset]
    problems += [
        *_gaps(path, rows),
        *_wrong_signs(path, rows),
        *_wrong_words(path, rows, labels, keywords),
        *_wrong_places(path, rows),
    ]
    if problems:
        raise UsageError(problems)
    if not rows:
        sets = sorted({entry["set"] for _, entry in entries})
        expected = f"one of {capped(sets, most=20)}" if sets else "rows below the header"
        remedy = "name a set that stands in the manifest's set column"
        raise UsageError(Problem(str(path), f"no clip of set {dataset!r}", expected, remedy))
    return rows


def _table(path: Path) -> tuple[list[str], _Lines]:
    """Return the header, and every row that is not blank with its line."""
    reader = csv.reader(io.StringIO(read_text(path), newline=""))
    try:
        header = next(reader, [])
        return header, [(reader.line_num, fields) for fields in reader if fields]
    except csv.Error as error:
        remedy = "look for a quote that is not closed"
        raise UsageError(
            Problem(f"{path}, line {reader.line_num}", str(error), "a row of a CSV file", remedy)
        ) from error


def _row(line: int, entry: dict[str, str]) -> Row:
    return Row(line, entry["file"], entry["label12"], entry.get("word", ""), entry["speaker"], entry["split"])


def _uneven(path: Path, header: list[str], lines: _Lines) -> Iterator[Problem]:
    if found := [f"{len(fields)} in line {line}" for line, fields in lines if len(fields) != len(header)]:
        remedy = "complete these rows; a field that holds a comma or a line break stands in quotes"
        yield Problem(f"{path}: fields", capped(found), f"{len(header)}, as in the header", remedy)


def _other_sets(path: Path, entries: list[tuple[int, dict[str, str]]], dataset: str) -> Iterator[Problem]:
    found = [f"{entry['set']!r} in line {line}" for line, entry in entries if lookalike(entry["set"], [dataset])]
    if found:
        yield Problem(f"{path}: set", capped(found), repr(dataset), "write the set alike in all its rows")


def _gaps(path: Path, rows: list[Row]) -> Iterator[Problem]:
    """Give what every clip has and some do not; silence needs no speaker."""
    gaps = {
        "file": [row for row in rows if not row.file.strip()],
        "split": [row for row in rows if not row.split.strip()],
        "speaker": [row for row in rows if not (row.speaker.strip() or row.is_noise)],
        "label12, word": [row for row in rows if not (row.label or row.word.strip())],
    }
    for column, incomplete in gaps.items():
        found = [f"nothing in line {row.line}" for row in incomplete]
        yield from _problem(path, column, found, "something in every row", "complete these rows")


def _wrong_signs(path: Path, rows: list[Row]) -> Iterator[Problem]:
    """Give speakers with outer blanks, who would be others than those without, and fields with control characters."""
    found = [f"{row.speaker!r} in line {row.line}" for row in rows if row.speaker != row.speaker.strip()]
    yield from _problem(path, "speaker", found, "names without blanks around them", "write a speaker alike in all rows")
    for column in ("file", "split", "speaker", "word"):
        fields = [(row.line, str(getattr(row, column))) for row in rows]
        found = [f"{text!r} in line {line}" for line, text in fields if _CONTROL.search(text)]
        yield from _problem(path, column, found, "no control character", "take it out")


def _wrong_words(path: Path, rows: list[Row], labels: Sequence[str], keywords: Sequence[str]) -> Iterator[Problem]:
    """Give labels that are none, words that are not written as the task writes them, and rows that say two things."""
    spoken = [label for label in labels if not label.startswith("_")]
    task = keywords or spoken
    found = [f"{row.label!r} in line {row.line}" for row in rows if row.label and row.label not in labels]
    expected = f"nothing, or one of {', '.join(labels)}"
    yield from _problem(path, "label12", found, expected, "correct it, or leave it empty: then the column word decides")
    decided = [row for row in rows if keywords or not row.label]
    found = [f"{row.word!r} in line {row.line}" for row in decided if lookalike(row.word, task)]
    yield from _problem(path, "word", found, f"{', '.join(task)} as written here", "write the word alike in all rows")
    found = [f"{row.label} and {row.word!r} in line {row.line}" for row in rows if _contradicts(row, {*spoken, *task})]
    yield from _problem(path, "label12 and word", found, "the same in both", "correct one of the two")


def _wrong_places(path: Path, rows: list[Row]) -> Iterator[Problem]:
    """Give splits that are nearly another, and files that stand in several rows."""
    splits: list[str] = []
    for split, _ in Counter(row.split for row in rows).most_common():  # what most rows have is what is meant
        if not lookalike(split, splits):
            splits.append(split)
    found = [f"{row.split!r} in line {row.line}" for row in rows if row.split not in splits]
    yield from _problem(path, "split", found, f"one of {capped(splits)}", "write the split alike in all rows")
    found = [_repeat(each) for each in _by_file(rows) if len(each) > 1]
    yield from _problem(path, "file", found, "each file once in a set", "leave one row of each, with the right label")


def _problem(path: Path, column: str, found: Sequence[str], expected: str, remedy: str) -> Iterator[Problem]:
    if found:
        yield Problem(f"{path}: {column}", capped(found), expected, remedy)


def _contradicts(row: Row, words: Collection[str]) -> bool:
    """Whether a row labels a clip as one thing and says another; `_unknown_` is any word, noise may have a name."""
    if not row.label or not row.word:
        return False
    if row.label in NOISE_WORDS:
        return row.word in words
    return row.word != row.label if row.label in words else row.word in NOISE_WORDS


def _by_file(rows: Iterable[Row]) -> list[list[Row]]:
    groups = defaultdict(list)
    for row in rows:
        groups[posixpath.normpath(row.file)].append(row)
    return list(groups.values())


def _repeat(rows: Sequence[Row]) -> str:
    return f"{rows[0].file!r} in lines {capped([f'{row.line} ({row.label or row.word})' for row in rows])}"
