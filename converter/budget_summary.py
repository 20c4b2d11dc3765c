"""What the terminal shows of a budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kwsq.converter.terminal import Block, Table

Json = Mapping[str, Any]


def budget_table(lines: Sequence[Json]) -> list[Block]:
    """Returns a row per limit of the budget."""
    if not lines:
        return []
    rows = tuple(
        (line["metric"], *(_figure(line[key]) for key in ("measured", "limit", "baseline")), line["status"])
        for line in lines
    )
    return [Table("Budget", ("metric", "measured", "limit", "baseline", ""), rows)]


def _figure(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.4f}"
