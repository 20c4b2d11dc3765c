"""Trials scored by two models: the approved reference and the candidate that is to replace it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from kwsq.converter.det import Trials
from kwsq.converter.det.trials import BoolArray, FloatArray, IntArray
from kwsq.ir.errors import Problem, UsageError


@dataclass(frozen=True, slots=True, eq=False)
class PairedTrials:
    """The same trials with the scores of both models.

    Args:
        reference: trials with the reference's scores.
        candidate: the same trials with the candidate's scores.
    """

    reference: Trials
    candidate: Trials

    @classmethod
    def of(
        cls,
        label: npt.ArrayLike,
        reference: npt.ArrayLike,
        candidate: npt.ArrayLike,
        duration_seconds: npt.ArrayLike = 1.0,
        group: npt.ArrayLike | None = None,
    ) -> Self:
        """Returns checked pairs; arguments as for `Trials.of`.

        Raises:
            UsageError: lengths differ or a value is out of range.
        """
        if np.size(reference) != np.size(candidate):
            found = f"{np.size(reference)} and {np.size(candidate)} scores"
            raise UsageError(Problem("scores", found, "one of each model per trial", "score the same trials twice"))
        first = Trials.of(label, reference, duration_seconds, group)
        return cls(first, Trials.of(label, candidate, duration_seconds, group))

    @property
    def label(self) -> BoolArray:
        """(n,) True where the keyword was spoken."""
        return self.reference.label

    @property
    def cluster(self) -> IntArray:
        """(n,) number of the group of each trial; a trial of its own when no groups are known."""
        group = self.reference.group
        return np.arange(self.label.size, dtype=np.int64) if group is None else group

    @property
    def is_clustered(self) -> bool:
        """Whether trials come in groups."""
        return self.reference.group is not None

    @property
    def is_identical(self) -> bool:
        """Whether both models gave every trial the same score."""
        return bool(np.array_equal(self.reference.score, self.candidate.score))

    def scores(self) -> tuple[FloatArray, FloatArray]:
        """Returns the scores of reference and candidate."""
        return self.reference.score, self.candidate.score
