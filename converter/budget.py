"""Budgets: how large a model may be, and how much worse than a committed baseline it may become."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kwsq.converter.settings import check_keys
from kwsq.ir.errors import Problem, UsageError

Json = dict[str, Any]
METRICS: Mapping[str, str] = {
    "flash_total": "bytes",
    "ram_peak": "bytes",
    "macs": "count",
    "accuracy": "fraction",
    "fdr": "fraction",
}
"""Metric -> its unit. More is worse, except for accuracy. fdr is the false discovery rate at the matched operating
point of the gate."""
ON_DATA = ("accuracy", "fdr")
"""Metrics that depend on the evaluation set."""
LEVELS = ("off", "warn", "error")
_SUFFIXES = {"MiB": 2**20, "KiB": 2**10, "MB": 10**6, "KB": 10**3, "B": 1}
_HIGHER_IS_BETTER = ("accuracy",)


@dataclass(frozen=True, slots=True)
class Amount:
    """A number, or a share of the baseline's.

    Args:
        value: the number, or the share as a fraction.
        is_share: whether it counts in the baseline's value.
    """

    value: float
    is_share: bool = False


@dataclass(frozen=True, slots=True)
class Limit:
    """What one metric may be.

    Args:
        metric: key of `METRICS`.
        bound: largest value, for accuracy the least; None for none.
        change: largest worsening against the baseline, None for none.
        level: "off", "warn" or "error".
    """

    metric: str
    bound: float | None
    change: Amount | None
    level: str


def read_budget(table: Mapping[str, Any]) -> tuple[Limit, ...]:
    """Returns the limits of `[budget]`, in the order of `METRICS`.

    Raises:
        UsageError: an unknown key, or a value that is none.

    >>> read_budget({"ram_peak": {"max": "32KiB", "max_increase": "2%", "level": "warn"}})
    (Limit(metric='ram_peak', bound=32768.0, change=Amount(value=0.02, is_share=True), level='warn'),)
    """
    check_keys(table, METRICS, "settings, [budget]")
    return tuple(_limit(metric, table[metric]) for metric in METRICS if metric in table)


def _limit(metric: str, entry: Any) -> Limit:
    where = f"settings, [budget] {metric}"
    bound, change = ("min", "max_decrease") if metric in _HIGHER_IS_BETTER else ("max", "max_increase")
    if not isinstance(entry, dict):
        raise UsageError(Problem(where, repr(entry), f'{{ {bound} = ..., level = "error" }}', "write a table"))
    check_keys(entry, (bound, change, "level"), where)
    level = entry.get("level", "error")
    if level not in LEVELS:
        raise UsageError(Problem(f"{where} level", repr(level), ", ".join(LEVELS), "correct the value"))
    if bound not in entry and change not in entry:
        raise UsageError(Problem(where, "no limit", f"{bound} or {change}", "add one, or remove the metric"))
    largest = parse_amount(entry[bound], metric, f"{where} {bound}") if bound in entry else None
    if largest is not None and largest.is_share:
        raise UsageError(Problem(f"{where} {bound}", repr(entry[bound]), "a number", f"use % in {change} alone"))
    allowed = parse_amount(entry[change], metric, f"{where} {change}") if change in entry else None
    return Limit(metric, None if largest is None else largest.value, allowed, level)


def parse_amount(given: Any, metric: str, where: str) -> Amount:
    """Returns a number, "96KiB" (1024), "96KB" (1000), "512B", or "2%" of the baseline.

    Args:
        given: from the settings.
        metric: key of `METRICS`; only bytes take a suffix.
        where: for the message.

    Raises:
        UsageError: another form, or below zero.

    >>> parse_amount("1.5KiB", "ram_peak", ""), parse_amount("2%", "macs", "")
    (Amount(value=1536.0, is_share=False), Amount(value=0.02, is_share=True))
    """
    factor, is_share, text = 1.0, False, str(given).strip()
    if isinstance(given, str) and text.endswith("%"):
        factor, is_share, text = 0.01, True, text[:-1]
    elif isinstance(given, str) and METRICS[metric] == "bytes":
        suffix = next((name for name in _SUFFIXES if text.endswith(name)), "")
        factor, text = float(_SUFFIXES.get(suffix, 1)), text.removesuffix(suffix)
    try:
        value = math.nan if isinstance(given, bool) else float(text) * factor
    except ValueError:
        value = math.nan
    if METRICS[metric] == "fraction" and not is_share and value > 1:
        raise UsageError(Problem(where, repr(given), "a fraction up to 1; 5 % is written 0.05", "correct the value"))
    if not (math.isfinite(value) and value >= 0):
        forms = '96000, "96KiB", "96KB", "512B" or "2%"' if METRICS[metric] == "bytes" else 'a number or "2%"'
        raise UsageError(Problem(where, repr(given), forms, "correct the value"))
    return Amount(value, is_share)


@dataclass(frozen=True, slots=True)
class BudgetLine:
    """What became of one limit.

    Args:
        limit: the limit.
        measured: the model's value.
        baseline: the committed value, None without one.
        exceeded: which limits are broken, in words.
    """

    limit: Limit
    measured: float
    baseline: float | None
    exceeded: tuple[str, ...]

    @property
    def is_failure(self) -> bool:
        """Whether the model must not be released."""
        return bool(self.exceeded) and self.limit.level == "error"

    def to_json(self) -> Json:
        """Returns the line as a JSON-ready dictionary."""
        state = {"warn": "warn", "error": "fail"}[self.limit.level] if self.exceeded else "pass"
        return {
            "metric": self.limit.metric,
            "unit": METRICS[self.limit.metric],
            "measured": self.measured,
            "limit": self.limit.bound,
            "baseline": self.baseline,
            "level": self.limit.level,
            "status": state,
            "exceeded": list(self.exceeded),
        }


def judge_budget(
    limits: tuple[Limit, ...], measured: Mapping[str, float], baseline: Mapping[str, float] | None
) -> tuple[BudgetLine, ...]:
    """Returns a line per limit that is not off.

    Args:
        limits: of `read_budget`.
        measured: metric to value; a limit on anything else is an error.
        baseline: committed values; None while they are being renewed, when changes are not judged.

    Raises:
        UsageError: a limit on what was not measured, or on a change that has no baseline.
    """
    return tuple(_line(limit, measured, baseline) for limit in limits if limit.level != "off")


def _line(limit: Limit, measured: Mapping[str, float], baseline: Mapping[str, float] | None) -> BudgetLine:
    where = f"budget {limit.metric}"
    if limit.metric not in measured:
        remedy = "add --data EVAL.npz with labels y" if limit.metric in ON_DATA else 'set its level to "off"'
        raise UsageError(Problem(where, "not measured", "a value to judge", remedy))
    value, before = measured[limit.metric], None if baseline is None else baseline.get(limit.metric)
    if baseline is not None and limit.change is not None and before is None:
        raise UsageError(Problem(where, "no baseline", "a value to compare with", "run once with --update-baseline"))
    sign = -1.0 if limit.metric in _HIGHER_IS_BETTER else 1.0
    exceeded = []
    if limit.bound is not None and sign * (value - limit.bound) > 0:
        side = "below the least" if sign < 0 else "above the largest"
        exceeded.append(f"{amount(value, limit.metric)} is {side} allowed, {amount(limit.bound, limit.metric)}")
    if limit.change is not None and before is not None:
        allowed = limit.change.value * (before if limit.change.is_share else 1.0)
        if sign * (value - before) > allowed:
            grown, side = amount(sign * (value - before), limit.metric), "less" if sign < 0 else "more"
            most = amount(allowed, limit.metric)
            exceeded.append(f"{grown} {side} than the baseline's {amount(before, limit.metric)}; {most} are allowed")
    return BudgetLine(limit, value, before, tuple(f"{where}: {text}" for text in exceeded))


def amount(value: float, metric: str) -> str:
    """Returns a value with its unit.

    >>> amount(98304, "flash_total"), amount(0.91, "accuracy"), amount(2656768, "macs")
    ('98,304 B', '91.00 %', '2,656,768')
    """
    match METRICS[metric]:
        case "fraction":
            return f"{100 * value:.2f} %"
        case "bytes":
            return f"{value:,.0f} B"
        case _:
            return f"{value:,.0f}"
