"""Finished rows of the table as lines of JSON: appended one by one, read back with a torn last line tolerated.

A `fold` line says once which clips a fold scores: their classes, one letter each, the numbers of their groups,
and what `fingerprint` says of their features. A `row` line holds what one model said of the clips of its fold, in
the same order:

  predicted  the class with the largest logit, one letter per clip
  scores     log odds of each keyword against all other classes (docs/gate.md, equation 11) in steps of 1/16,
             saturated to [-4, 3.94], clips x keywords as int8, deflated, base64

A detection threshold lies far inside that range, where wrong words and clear hits saturate; it keeps a line short.
"""

import base64
import fcntl
import hashlib
import json
import os
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kwsq.ir.errors import Problem, UsageError
from kwsq.models.data.clips import LABELS
from kwsq.models.table.protocol import Row

STEPS_PER_LOG_ODD = 16
HIGHEST_CODE = 4 * STEPS_PER_LOG_ODD - 1
KEYWORDS = tuple(index for index, label in enumerate(LABELS) if not label.startswith("_"))
SAME_FEATURES = 1e-3
_FIRST_LETTER = ord("a")
_RADIANS = (1.0, 2.0, 3.0)

Codes = NDArray[np.int8]
Classes = NDArray[np.int64]


def fingerprint(features: NDArray[np.floating]) -> tuple[float, ...]:
    """Return few numbers that tell features from others, and vary as little as they do between processors.

    Their root mean square, then sqrt(2/n) sum_i x_i cos(k i) for k = 1, 2, 3: as large as the first, and one clip of n
    that is replaced moves them by some sqrt(1/n) of it, where rounding moves them by 1e-7.

    Args:
        features: any shape.
    """
    flat = features.astype(np.float64).reshape(-1)
    index = np.arange(flat.size, dtype=np.float64)
    waves = [np.sqrt(2.0 / flat.size) * float(flat @ np.cos(k * index)) for k in _RADIANS]
    return tuple(round(float(value), 6) for value in (np.sqrt(np.mean(flat**2)), *waves))


@dataclass(frozen=True, slots=True, eq=False)
class FoldClips:
    """The clips that a fold scores: labels (n,), group numbers (n,), and the `fingerprint` of their features."""

    fold: int
    labels: Classes
    groups: Classes
    features: tuple[float, ...]

    def are(self, other: "FoldClips") -> bool:
        """Return whether these are the same clips, features as close as another processor's arithmetic gives them."""
        mine, theirs = (np.array(clips.features) for clips in (self, other))
        return (
            np.array_equal(self.labels, other.labels)
            and np.array_equal(self.groups, other.groups)
            and mine.shape == theirs.shape
            and bool(np.abs(mine - theirs).max() <= SAME_FEATURES * mine[0])
        )

    def to_json(self) -> dict[str, Any]:
        """Return the line of a fold."""
        groups = base64.b64encode(zlib.compress(self.groups.astype("<u2").tobytes(), 9)).decode()
        return {
            "kind": "fold", "fold": self.fold, "features": self.features,
            "labels": letters(self.labels), "groups": groups,
        }  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class FinishedRow:
    """What one model said of its fold.

    Args:
        row: identity.
        model_bytes: size of the file that was run.
        predicted: (n,) classes.
        scores: (n, keywords) int8, log odds in steps of 1/16.
        facts: further measurements: seconds of training, agreement with Keras and ONNX Runtime.
    """

    row: Row
    model_bytes: int
    predicted: Classes
    scores: Codes
    facts: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Return the line of a row."""
        row = self.row
        return {
            "kind": "row", "method": row.method, "bits": row.bits, "seed": row.seed, "fold": row.fold,
            "digest": row.digest, "bytes": self.model_bytes, **self.facts, "predicted": letters(self.predicted),
            "scores": base64.b64encode(zlib.compress(self.scores.tobytes(), 9)).decode(),
        }  # fmt: skip


def letters(classes: Classes) -> str:
    """Return one letter per class, "a" for class 0."""
    return (classes + _FIRST_LETTER).astype(np.uint8).tobytes().decode("ascii")


def classes_of(text: str) -> Classes:
    """Invert `letters`."""
    return np.frombuffer(text.encode("ascii"), np.uint8).astype(np.int64) - _FIRST_LETTER


def score_codes(log_odds: NDArray[np.floating]) -> Codes:
    """Return log odds in steps of 1/16, saturated to [-4, 4)."""
    steps = np.rint(log_odds * STEPS_PER_LOG_ODD)
    return np.asarray(np.clip(steps, -HIGHEST_CODE - 1, HIGHEST_CODE), dtype=np.int8)


@dataclass(frozen=True, slots=True, eq=False)
class Results:
    """All lines of a results file: clips by fold, finished rows by identity."""

    folds: dict[int, FoldClips]
    rows: dict[Row, FinishedRow]


def read_results(path: Path) -> Results:
    """Read a results file; none is an empty one.

    A last line without its end was being written when the process was killed, and does not count.

    Raises:
        UsageError: another line is not a line of results.
    """
    folds: dict[int, FoldClips] = {}
    rows: dict[Row, FinishedRow] = {}
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    whole, _, _ = text.rpartition("\n")
    for number, line in enumerate(whole.splitlines(), start=1):
        try:
            entry = json.loads(line)
            if entry["kind"] == "fold":
                folds[entry["fold"]] = _fold(entry)
            else:
                finished = _row(entry)
                rows[finished.row] = finished
        except (ValueError, KeyError, TypeError, zlib.error) as error:
            where = f"{path}, line {number}"
            raise UsageError(Problem(where, str(error), "a line of results", "remove the line")) from error
    return Results(folds, rows)


def _fold(entry: dict[str, Any]) -> FoldClips:
    groups = np.frombuffer(zlib.decompress(base64.b64decode(entry["groups"])), "<u2").astype(np.int64)
    return FoldClips(entry["fold"], classes_of(entry["labels"]), groups, tuple(map(float, entry["features"])))


_IDENTITY = ("method", "bits", "seed", "fold", "digest")
_STATED = {"kind", "bytes", "predicted", "scores", *_IDENTITY}


def _row(entry: dict[str, Any]) -> FinishedRow:
    codes = np.frombuffer(zlib.decompress(base64.b64decode(entry["scores"])), np.int8)
    facts = {key: value for key, value in entry.items() if key not in _STATED}
    row = Row(*(entry[key] for key in _IDENTITY))
    return FinishedRow(
        row, entry["bytes"], classes_of(entry["predicted"]), codes.reshape(-1, len(KEYWORDS)), facts
    )  # fmt: skip


def file_digest(path: Path) -> str:
    """Return what names the float weights that rows go on from: 16 hex digits of a file's SHA-256."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def append_line(path: Path, entry: dict[str, Any]) -> None:
    """Append one line in a single write, after cutting off a torn one; several processes may append."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        stream.seek(0)
        whole = stream.read().rfind(b"\n") + 1
        stream.truncate(whole)
        stream.write(json.dumps(entry, separators=(",", ":")).encode() + b"\n")
        stream.flush()
        os.fsync(stream.fileno())
