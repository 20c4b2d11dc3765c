"""What is shown of a budget: limits, the baseline and how far a metric has moved from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kwsq.converter.terminal import Block, Table

Json = Mapping[str, Any]
HEADERS = ("metric", "measured", "limit", "baseline", "change")


def budget_table(lines: Sequence[Json]) -> list[Block]:
    """Returns a row per limit of the budget."""
    rows = tuple((*row, line["status"]) for row, line in zip(budget_rows(lines), lines, strict=True))
    return [Table("Budget", (*HEADERS, ""), rows)] if rows else []


def budget_rows(lines: Sequence[Json]) -> list[tuple[str, ...]]:
    """Returns the cells of `HEADERS`, a row per metric."""
    return [
        (line["metric"], *(_figure(line[key]) for key in ("measured", "limit", "baseline")), change(line))
        for line in lines
    ]


def change(line: Json) -> str:
    """Returns how far a metric is from its baseline, "" without one.

    >>> change({"measured": 110, "baseline": 100}), change({"measured": 0.9, "baseline": None})
    ('+10 (+10.0 %)', '')
    >>> change({"measured": 0.875, "baseline": 0.9}), change({"measured": 3, "baseline": 0})
    ('-0.0250 (-2.8 %)', '+3')
    """
    before = line["baseline"]
    if before is None:
        return ""
    difference = line["measured"] - before
    signed = f"{difference:+,.0f}" if float(difference).is_integer() else f"{difference:+,.4f}"
    return f"{signed} ({100 * (difference / before):+.1f} %)" if before else signed


def _figure(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.4f}"
