"""Score files of the gate, written in parts and merged: evaluation that several machines share.

    python -m kwsq.models.scoring.score_shards part1.csv part2.csv -o scores.csv

One file is about one keyword against everything else. With logits z and keyword k, the score of a clip is the
log-odds of the softmax,

  (1) s = z_k - ln sum_{j != k} exp(z_j)

which orders clips as the probability of k does, but keeps apart what float32 probabilities near 1 would merge. The
columns are those `kwsq gate` reads. Merging sorts by trial, so the parts' order and number leave no trace.
"""

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kwsq.converter.gate.score_files import read_scores
from kwsq.ir.errors import Problem, UsageError
from kwsq.models.data.clips import LABELS

HEADER = ("trial_id", "label", "score", "duration", "group")
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
) -> None:
    """Write one part: the trials of one keyword.

    Args:
        path: CSV file.
        trials: N identifiers, unique over all parts; file names do.
        speakers: N groups to resample by.
        labels: (N,) classes.
        scores: (N,) log odds, of `kwsq.converter.gate.class_trials`.
        keyword: class of the keyword.
    """
    rows = [
        (trial, str(int(label == keyword)), repr(float(score)), CLIP_SECONDS, speaker)
        for trial, speaker, label, score in zip(trials, speakers, labels, scores, strict=True)
    ]
    _write(path, rows)


def merge_scores(parts: Sequence[Path], out: Path) -> int:
    """Merge parts into one score file, sorted by trial.

    Returns:
        The number of trials.

    Raises:
        UsageError: a part is no score file of these columns, or a trial is in two parts.
    """
    rows: dict[str, tuple[Row, Path]] = {}
    for part in parts:
        read_scores(part, "part")  # refuses what the gate would refuse, with its messages
        for row in _rows(part):
            if row[0] in rows:
                found = f"trial {row[0]!r} again, as in {rows[row[0]][1].name}"
                raise UsageError(Problem(part.name, found, "each trial in one part", "leave one of the parts out"))
            rows[row[0]] = (row, part)
    _write(out, [rows[trial][0] for trial in sorted(rows)])
    return len(rows)


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
