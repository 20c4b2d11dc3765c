"""The budget of one conversion: settings, baseline and measurements brought together."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from kwsq.converter.baseline import Baseline, comparable, read_baseline, write_baseline
from kwsq.converter.budget import BudgetLine, Limit, judge_budget
from kwsq.converter.config import ConvertOptions
from kwsq.converter.input_file import read_file


@dataclass(frozen=True, slots=True)
class Budget:
    """What became of the budget of one conversion.

    Args:
        lines: one per limit that is not off.
        now: what would be the baseline if this conversion were approved.
    """

    lines: tuple[BudgetLine, ...]
    now: Baseline

    def failures(self) -> list[str]:
        """Returns the limits at level "error" that are broken, in words."""
        return [text for line in self.lines if line.is_failure for text in line.exceeded]

    def warnings(self) -> list[str]:
        """Returns the limits at level "warn" that are broken, in words."""
        return [text for line in self.lines if not line.is_failure for text in line.exceeded]


def budget_of(
    options: ConvertOptions,
    source_sha256: str,
    artefact: bytes,
    metrics: Mapping[str, float],
    limits: tuple[Limit, ...],
) -> Budget:
    """Returns what became of every limit.

    Args:
        options: of the conversion.
        source_sha256: of the model.
        artefact: the file it became.
        metrics: what was measured, by metric.
        limits: of `read_budget`.

    Raises:
        UsageError: no baseline or one of something else, or a limit on what was not measured.
    """
    now = Baseline(
        target=f"{options.target} {options.chosen_container}",
        source_sha256=source_sha256,
        artefact_sha256=hashlib.sha256(artefact).hexdigest(),
        evalset_sha256=None if options.data is None else hashlib.sha256(read_file(options.data, "--data")).hexdigest(),
        metrics=metrics,
    )
    return Budget(judged_against(limits, now, options.baseline, update=options.update_baseline), now)


def judged_against(
    limits: tuple[Limit, ...], now: Baseline, baseline: Path | None, *, update: bool
) -> tuple[BudgetLine, ...]:
    """Returns what became of every limit.

    Args:
        limits: of `read_budget`.
        now: what was measured.
        baseline: the file named; None for the default one where it is there.
        update: whether it is being renewed, so that changes are not judged.

    Raises:
        UsageError: no baseline or one of something else, or a limit on what was not measured.
    """
    path = baseline or now.default_file
    if update:
        return judge_budget(limits, now.metrics, None)
    if baseline is None and not path.is_file():
        return judge_budget(limits, now.metrics, {})
    return judge_budget(limits, now.metrics, comparable(read_baseline(path), now, path))


def renew(options: ConvertOptions, budget: Budget) -> None:
    """Writes what was measured as the baseline.

    Raises:
        UsageError: it cannot be written.
    """
    write_baseline(budget.now, options.baseline or budget.now.default_file)
