"""Score files of the gate, written in parts and merged: evaluation that several machines share.

    kwsq eval MODEL --data DIR --scores PARTS --part 1/2
    kwsq merge-scores PARTS/MODEL.yes.* -o yes.csv

One file is about one keyword against everything else. With logits z and keyword k, the score of a clip is the
log-odds of the softmax,

  (1) s = z_k - ln sum_{j != k} exp(z_j)

which orders clips as the probability of k does, but keeps apart what float32 probabilities near 1 would merge. The
columns are those `kwsq gate` reads, and two that it leaves alone: the keyword and the model's SHA-256, so that parts of
different keywords or models are not merged. Merging sorts by trial, so the parts' order and number leave no trace.
"""

import csv
import hashlib
import re
from collections.abc import Sequence
from io import StringIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kwsq.converter.gate.class_trials import log_odds
from kwsq.converter.gate.score_files import read_scores
from kwsq.converter.output import check_new_file, write_file
from kwsq.ir.errors import Problem, UsageError
from kwsq.models.data.clips import LABELS, OTHER, SILENCE, UNKNOWN, LabelledFeatures, class_names
from kwsq.models.data.text_files import capped, read_text

NO_WORDS = (OTHER, LABELS[SILENCE], LABELS[UNKNOWN])
HEADER = ("trial_id", "label", "score", "duration", "group", "keyword", "model")
CLIP_SECONDS = "1.0"
Row = tuple[str, ...]
_PART = re.compile(r".*\.([0-9]{1,5})of([0-9]{1,5})\.csv", re.DOTALL)


def write_keywords(
    folder: Path,
    model: Path,
    logits: NDArray[np.floating],
    clips: LabelledFeatures,
    *,
    keywords: tuple[str, ...] = (),
    part: tuple[int, int] = (1, 1),
) -> tuple[Path, ...]:
    """Write a file per keyword: MODEL.KEYWORD.csv, of a part MODEL.KEYWORD.1of2.csv.

    Args:
        folder: there already; files of the same names are replaced.
        model: file that gave the logits.
        logits: (N, classes).
        clips: N clips with names; speakers are the groups, background noise is in a group of its own, clip by clip.
        keywords: of the task, none for the twelve classes, of which ten are words.
        part: (i, n).

    Returns:
        The files, in the order of the classes.

    Raises:
        UsageError: a file cannot be written.
    """
    names = class_names(keywords)
    groups = [
        name if noise else who for name, who, noise in zip(clips.names, clips.speakers, clips.is_noise, strict=True)
    ]
    suffix = "" if part == (1, 1) else f".{part[0]}of{part[1]}"
    written = []
    for number, word in enumerate(names):
        if word not in NO_WORDS:
            path = folder / f"{model.name}.{word}{suffix}.csv"
            scores = log_odds(np.asarray(logits, np.float64), number)
            write_scores(path, clips.names, groups, clips.labels, scores, keyword=number, model=model, classes=names)
            written.append(path)
    return tuple(written)


def write_scores(
    path: Path,
    trials: Sequence[str],
    speakers: Sequence[str],
    labels: NDArray[np.int64],
    scores: NDArray[np.float64],
    *,
    keyword: int,
    model: Path,
    classes: Sequence[str] = LABELS,
) -> None:
    """Write one part: the trials of one keyword and one model.

    Args:
        path: CSV file.
        trials: N identifiers, unique over all parts; file names do.
        speakers: N groups to resample by.
        labels: (N,) classes.
        scores: (N,) log odds, of `kwsq.converter.gate.class_trials`.
        keyword: class of the keyword.
        model: file that gave the scores.
        classes: names, in the order of the model's outputs.
    """
    source = (classes[keyword], hashlib.sha256(model.read_bytes()).hexdigest())
    rows = [
        (trial, str(int(label == keyword)), repr(float(score)), CLIP_SECONDS, speaker, *source)
        for trial, speaker, label, score in zip(trials, speakers, labels, scores, strict=True)
    ]
    _write(path, rows)


def merge_scores(parts: Sequence[Path], out: Path) -> int:
    """Merge parts into one score file, sorted by trial.

    Returns:
        The number of trials.

    Raises:
        UsageError: by their names, which `write_keywords` gives, these are not all parts; a part is no score file of
            these columns, parts are of several keywords or models, or a trial is in two parts, or the file cannot be
            written.
    """
    _check_names(parts)
    check_new_file(out, str(out), force=True, kept=parts)
    found: list[tuple[Path, list[Row]]] = []
    for part in parts:
        read_scores(part, "part")  # refuses what the gate would refuse, with its messages
        found.append((part, _rows(part)))
    _check_sources(found)
    rows: dict[str, tuple[Row, Path]] = {}
    for part, own in found:
        for row in own:
            if row[0] in rows:
                again = f"trial {row[0]!r} again, as in {rows[row[0]][1].name}"
                raise UsageError(Problem(part.name, again, "each trial in one part", "leave one of the parts out"))
            rows[row[0]] = (row, part)
    _write(out, [rows[trial][0] for trial in sorted(rows)])
    return len(rows)


def _check_names(parts: Sequence[Path]) -> None:
    """Refuse a merge without some of the parts: no column tells that their trials are missing."""
    there: dict[int, set[int]] = {}
    for name in filter(None, (_PART.fullmatch(part.name) for part in parts)):
        there.setdefault(int(name[2]), set()).add(int(name[1]))
    problems = []
    for of, numbers in sorted(there.items()):
        if missing := sorted(set(range(1, of + 1)) - numbers):
            found = f"{_listed(sorted(numbers))} of {of}"
            remedy = f"name {_listed(missing)} as well, or rename files that are none of {of}"
            problems.append(Problem("score files", found, f"all {of}", remedy))
    if problems:
        raise UsageError(problems)


def _listed(numbers: list[int]) -> str:
    return f"part{'s' if len(numbers) > 1 else ''} {capped([str(number) for number in numbers])}"


def _check_sources(found: list[tuple[Path, list[Row]]]) -> None:
    """Refuse every part that is not of the first one's keyword and model."""
    problems = []
    for name in ("keyword", "model"):
        column = HEADER.index(name)
        stated = [(part, value) for part, rows in found for value in sorted({row[column] for row in rows})]
        for part, value in stated[1:]:
            if value != stated[0][1]:
                expected = f"{name} {stated[0][1]!r}, as in {stated[0][0].name}"
                problems.append(Problem(part.name, f"{name} {value!r}", expected, f"merge parts of one {name}"))
    if problems:
        raise UsageError(problems)


def _rows(part: Path) -> list[Row]:
    header, *rows = [row for row in csv.reader(StringIO(read_text(part), newline="")) if row]
    if tuple(header) != HEADER:
        remedy = "write parts with kwsq eval --scores"
        raise UsageError(Problem(part.name, f"columns {', '.join(header)}", ", ".join(HEADER), remedy))
    if not rows:
        raise UsageError(Problem(part.name, "no trial", "at least one, as in every part", "copy the part again"))
    return [tuple(row) for row in rows]


def _write(path: Path, rows: Sequence[Row]) -> None:
    text = StringIO()
    csv.writer(text, lineterminator="\n").writerows([HEADER, *rows])
    write_file(path, text.getvalue().encode(), str(path))
