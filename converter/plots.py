"""Inline SVG for the HTML report.

Shapes are drawn in a box stretched to the column's width, and labels are HTML beside them: text keeps its size on a
narrow screen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from kwsq.converter.safe_text import printable

LABEL_CHARACTERS = 56


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of a stacked bar.

    Args:
        value: length, at least 0.
        style: CSS class that colours it.
        label: what it is, for the tooltip and the legend.
    """

    value: float
    style: str
    label: str


@dataclass(frozen=True, slots=True)
class Bar:
    """One row of a bar chart.

    Args:
        label: name at the left.
        parts: stacked pieces.
        text: value at the right.
    """

    label: str
    parts: tuple[Part, ...]
    text: str


def text(value: object, limit: int | None = None) -> str:
    """Returns `value` escaped for HTML, without control characters."""
    return escape(printable(str(value), limit), quote=True)


def bar_chart(bars: Sequence[Bar]) -> str:
    """Returns rows of stacked horizontal bars on one scale."""
    longest = max((sum(part.value for part in bar.parts) for bar in bars), default=0) or 1
    return f'<div class="bars">{"".join(_bar(bar, longest) for bar in bars)}</div>'


def _bar(bar: Bar, longest: float) -> str:
    drawn, left = [], 0.0
    for part in bar.parts:
        width = 100 * part.value / longest
        if part.value > 0:
            title = f"<title>{text(part.label)}</title>"
            drawn.append(f'<rect class="{part.style}" x="{left:.3f}" width="{width:.3f}" height="10">{title}</rect>')
        left += width
    name, shown = text(bar.label), text(bar.label, LABEL_CHARACTERS)
    return (
        f'<div class="bar"><span class="label" title="{name}">{shown}</span>'
        f'<svg viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">{"".join(drawn)}</svg>'
        f'<span class="value">{text(bar.text)}</span></div>'
    )


def legend(parts: Sequence[Part]) -> str:
    """Returns the meaning of the colours, with each part's value in its label."""
    items = (f'<li><i class="{part.style}"></i>{text(part.label)}</li>' for part in parts)
    return f'<ul class="legend">{"".join(items)}</ul>'


def timeline(values: Sequence[int], ceiling: int, titles: Sequence[str]) -> str:
    """Returns one column per step, with a line at the arena's size.

    Args:
        values: bytes alive at each step.
        ceiling: height of the line.
        titles: tooltip of each column.
    """
    top = max([ceiling, *values, 1])
    columns = []
    for step, (value, title) in enumerate(zip(values, titles, strict=True)):
        height = 100 * value / top
        box = f'x="{step + 0.08:.2f}" y="{100 - height:.2f}" width="0.84" height="{height:.2f}"'
        columns.append(f'<rect class="live" {box}><title>{text(title)}</title></rect>')
    y = 100 - 100 * ceiling / top
    line = f'<line class="ceiling" x1="0" x2="{len(values)}" y1="{y:.2f}" y2="{y:.2f}"/>'
    return (
        f'<svg class="timeline" viewBox="0 0 {max(len(values), 1)} 100" preserveAspectRatio="none" role="img" '
        f'aria-label="activation bytes alive at each step">{"".join(columns)}{line}</svg>'
    )
