"""The budget of a gate: limits of the settings on what the gate measured, against the committed baseline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kwsq.converter.baseline import Baseline, write_baseline
from kwsq.converter.budget import BudgetLine, Limit, judge_budget
from kwsq.converter.budget_stage import judged_against

Json = dict[str, Any]
SCORES, MODELS = "gate of score files", "gate of models"
"""What a baseline of the gate was measured for; another command's is refused."""


@dataclass(frozen=True, slots=True)
class GateBudget:
    """Limits, measurements and baseline of one gate.

    Args:
        limits: of `[budget]`.
        now: what was measured, on what.
        path: of the baseline; None for kwsq-gate-baseline.json where there is one.
        update: whether the baseline is being renewed.
    """

    limits: tuple[Limit, ...]
    now: Baseline
    path: Path | None
    update: bool

    def section(self) -> Json:
        """Returns the budget's part of the gate's result.

        Raises:
            UsageError: no baseline, or one of something else.
        """
        inside = _measured(self.limits, self.now.metrics)
        lines = judged_against(inside, self.now, self.path, update=self.update)
        return _section(self.limits, self.now.metrics, lines)

    def renew(self) -> None:
        """Writes what was measured as the baseline.

        Raises:
            UsageError: it cannot be written.
        """
        write_baseline(self.now, self.path or self.now.default_file)


def failures(lines: tuple[BudgetLine, ...]) -> list[str]:
    """Returns the limits at level "error" that are broken, in words."""
    return [text for line in lines if line.is_failure for text in line.exceeded]


def judged_again(limits: tuple[Limit, ...], section: Json) -> Json:
    """Returns a report's budget under other limits; what was measured stays."""
    metrics: Mapping[str, float] = section["metrics"]
    before = {line["metric"]: line["baseline"] for line in section["lines"] if line["baseline"] is not None}
    return section | _section(limits, metrics, judge_budget(_measured(limits, metrics), metrics, before))


def _measured(limits: tuple[Limit, ...], metrics: Mapping[str, float]) -> tuple[Limit, ...]:
    return tuple(limit for limit in limits if limit.metric in metrics)


def _section(limits: tuple[Limit, ...], metrics: Mapping[str, float], lines: tuple[BudgetLine, ...]) -> Json:
    return {
        "metrics": dict(metrics),
        "lines": [line.to_json() for line in lines],
        "failures": failures(lines),
        "warnings": [text for line in lines if not line.is_failure for text in line.exceeded],
        "not_measured_here": [limit.metric for limit in limits if limit.metric not in metrics and limit.level != "off"],
    }
