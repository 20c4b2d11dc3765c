"""Score files of the gate, written in parts and merged: evaluation that several machines share.

    python -m kwsq.models.scoring.score_shards part1.csv part2.csv -o scores.csv

One file is about one keyword against everything else. With logits z and keyword k, the score of a clip is the
log-odds of the softmax,

  (1) s = z_k - ln sum_{j != k} exp(z_j)

which orders clips as the probability of k does, but keeps apart what float32 probabilities near 1 would merge. The
columns are those `kwsq gate` reads, and two that it leaves alone: the keyword and the model's SHA-256, so that parts of
different keywords or models are not merged. Merging sorts by trial, so the parts' order and number leave no trace.
"""

import argparse
import csv
import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kwsq.converter.gate.score_files import read_scores
from kwsq.ir.errors import Problem, UsageError
from kwsq.models.data.clips import LABELS

HEADER = ("trial_id", "label", "score", "duration", "group", "keyword", "model")
CLIP_SECONDS = "1.0"
Row = tuple[str, ...]


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
        UsageError: a part is no score file of these columns, parts are of several keywords or models, or a trial is in
            two parts.
    """
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
    with part.open(newline="", encoding="utf-8") as stream:
        header, *rows = list(csv.reader(stream))
    if tuple(header) != HEADER:
        remedy = "write parts with kwsq.models.scoring.score_shards"
        raise UsageError(Problem(part.name, f"columns {', '.join(header)}", ", ".join(HEADER), remedy))
    return [tuple(row) for row in rows]


def _write(path: Path, rows: Sequence[Row]) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream, lineterminator="\n").writerows([HEADER, *rows])


def main() -> None:
    """Merge parts on the command line."""
    parser = argparse.ArgumentParser(description=f"Merge score files; keywords: {', '.join(LABELS[:10])}.")
    parser.add_argument("parts", type=Path, nargs="+")
    parser.add_argument("-o", "--out", type=Path, required=True)
    options = parser.parse_args()
    merge_scores(options.parts, options.out)


if __name__ == "__main__":
    main()
