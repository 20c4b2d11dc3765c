"""Markdown for job summaries and pull-request comments: escaped, and no longer than these take."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from xml.sax.saxutils import escape

from kwsq.converter.safe_text import printable

MARKDOWN_MAX_BYTES = 60_000
"""Below the 64 kB of a pull-request comment and the 1 MiB of a job summary."""
_CELL_CHARACTERS = 300
_SIGNS = "\\`*_{}[]()#+!|~@:"


def shown(text: object) -> str:
    r"""Returns text that Markdown and HTML show as it is.

    >>> shown("a|b <c>")
    'a\\|b &lt;c&gt;'
    """
    clean = printable(str(text), _CELL_CHARACTERS)
    return "".join(f"\\{c}" if c in _SIGNS else escape(c) for c in clean)


def markdown_table(headers: Sequence[str], rows: Iterable[Sequence[object]], *, left: int = 1) -> list[str]:
    """Returns the lines of a table.

    Args:
        headers: column titles, our own.
        rows: cells, escaped here.
        left: number of leading columns that hold text; the others are right-aligned.
    """
    rule = ["---" if i < left else "--:" for i in range(len(headers))]
    lines = [f"| {' | '.join(headers)} |", f"|{'|'.join(rule)}|"]
    return lines + [f"| {' | '.join(shown(cell) for cell in row)} |" for row in rows]


def folded(title: str, lines: Sequence[str]) -> list[str]:
    """Returns the lines behind a title that opens them."""
    return [f"<details><summary>{escape(title)}</summary>", "", *lines, "", "</details>", ""]


def capped(lines: Iterable[str]) -> str:
    """Returns the lines as a document; what is too long is closed and ends with a word that says so."""
    kept: list[str] = []
    size, is_folded = 0, False
    for line in lines:
        size += len(line.encode()) + 1
        if size > MARKDOWN_MAX_BYTES:
            end = ["", "</details>"] if is_folded else []
            return "\n".join([*kept, *end, "", "(cut: the report is longer)"]) + "\n"
        is_folded = line.startswith("<details>") or (is_folded and line != "</details>")
        kept.append(line)
    return "\n".join(kept) + "\n"
