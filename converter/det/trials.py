"""Scored trials: one row per utterance or stretch of audio that a detector was shown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from kwsq.ir.errors import Problem, UsageError

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]

SECONDS_PER_HOUR = 3600.0


@dataclass(frozen=True, slots=True, eq=False)
class Trials:
    """Scores of one detector.

    Args:
        label: (n,) True where the keyword was spoken.
        score: (n,) higher is more keyword-like; accepted when score >= threshold.
        duration_seconds: (n,) length of the audio.
        group: (n,) number of the speaker or recording a trial belongs to, None when trials are independent.
    """

    label: BoolArray
    score: FloatArray
    duration_seconds: FloatArray
    group: IntArray | None = None

    @classmethod
    def of(
        cls,
        label: npt.ArrayLike,
        score: npt.ArrayLike,
        duration_seconds: npt.ArrayLike = 1.0,
        group: npt.ArrayLike | None = None,
    ) -> Self:
        """Returns checked trials.

        Args:
            label: (n,) 1 = keyword, 0 = not.
            score: (n,) finite scores.
            duration_seconds: (n,) or one length for all, above 0.
            group: (n,) values of any type that compare; equal ones form a group.

        Raises:
            UsageError: lengths differ, a value is out of range, or one of the two classes is empty.
        """
        scores = np.asarray(score, np.float64).reshape(-1)
        labels, n = np.asarray(label).reshape(-1), scores.size
        durations = np.broadcast_to(np.asarray(duration_seconds, np.float64), (n,)) if n else np.zeros(0)
        codes = None if group is None else _codes(group)
        problems = _problems(labels, scores, durations, n if codes is None else codes.size)
        if problems:
            raise UsageError(problems)
        return cls(labels.astype(np.bool_), scores, durations, codes)

    @property
    def positives(self) -> FloatArray:
        """Scores of keyword trials."""
        return self.score[self.label]

    @property
    def negatives(self) -> FloatArray:
        """Scores of the other trials."""
        return self.score[~self.label]

    @property
    def negative_hours(self) -> float:
        """Audio without the keyword, in hours."""
        return float(self.duration_seconds[~self.label].sum()) / SECONDS_PER_HOUR


def _codes(group: npt.ArrayLike) -> IntArray:
    _, codes = np.unique(np.asarray(group).reshape(-1), return_inverse=True)
    return codes.astype(np.int64)


def _problems(labels: npt.NDArray[np.generic], scores: FloatArray, durations: FloatArray, groups: int) -> list[Problem]:
    n, found = scores.size, []
    if labels.size != n or groups != n:
        sizes = f"{labels.size} labels, {n} scores, {groups} groups"
        return [Problem("trials", sizes, "as many of each", "give one row per trial")]
    if n and not np.isin(labels, (0, 1)).all():
        found.append(Problem("label", f"{_first(labels, ~np.isin(labels, (0, 1)))}", "1 or 0", "1 marks the keyword"))
    elif not (labels == 1).any() or not (labels == 0).any():
        sizes = f"{int((labels == 1).sum())} keyword trials of {n}"
        found.append(Problem("label", sizes, "both classes", "add trials of the missing class"))
    if not np.isfinite(scores).all():
        bad = _first(scores, ~np.isfinite(scores))
        found.append(Problem("score", bad, "finite numbers", "remove the trial or repair the model"))
    if not (np.isfinite(durations).all() and (durations > 0).all()):
        bad = _first(durations, ~(np.isfinite(durations) & (durations > 0)))
        found.append(Problem("duration", bad, "seconds above 0", "correct the row"))
    return found


def _first(values: npt.NDArray[np.generic], wrong: BoolArray) -> str:
    row = int(wrong.argmax())
    return f"{values[row]} in row {row}"
