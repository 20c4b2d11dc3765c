"""Results as text: blocks of lines and tables, aligned plainly for files and pipes, through rich on a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TextIO

from kwsq.converter.safe_text import printable

NAME_CHARACTERS = 48


@dataclass(frozen=True, slots=True)
class Line:
    """One line of text.

    Args:
        text: the line.
        style: "good", "bad", "warning", "title" or "" for plain.
    """

    text: str
    style: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """A table with a title.

    Args:
        title: line above it, "" for none.
        headers: column titles.
        rows: cells.
        left: number of leading columns that hold text; the others are right-aligned.
    """

    title: str
    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    left: int = 1


Block = Line | Table
_RICH_STYLES = {"good": "bold green", "bad": "bold red", "warning": "yellow", "title": "bold", "": ""}


def name_cell(text: object) -> str:
    """Returns a name from a model, harmless and short enough for a column."""
    return printable(str(text), NAME_CHARACTERS)


def number(value: object, unit: str = "") -> str:
    """Returns a number with thousands separated, "not measured" for None.

    >>> number(53936, "B"), number(4.0), number(None)
    ('53,936 B', '4', 'not measured')
    """
    if value is None:
        return "not measured"
    digits = f"{value:,.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else f"{value:,}"
    return f"{digits} {unit}".rstrip()


def show(blocks: Iterable[Block], stream: TextIO, *, color: bool) -> None:
    """Writes the blocks; through rich when `stream` is a terminal."""
    if stream.isatty():
        _show_rich(blocks, stream, color=color)
    else:
        stream.write(plain(blocks))


def plain(blocks: Iterable[Block]) -> str:
    """Returns the blocks as text."""
    lines: list[str] = []
    for block in blocks:
        match block:
            case Line(text):
                lines.append(text)
            case Table():
                lines += ["", *([block.title] if block.title else []), *_aligned(block)]
    return "\n".join(lines) + "\n"


def _aligned(table: Table) -> Sequence[str]:
    cells = (table.headers, *table.rows)
    widths = [max(len(row[i]) for row in cells) for i in range(len(table.headers))]
    rows = (
        "  ".join(
            c.ljust(w) if i < table.left else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in cells
    )
    return [f"  {row}".rstrip() for row in rows]


def _show_rich(blocks: Iterable[Block], stream: TextIO, *, color: bool) -> None:
    # Imported here: a pipe and --help need none of it.
    from rich import box
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    console = Console(file=stream, no_color=not color, highlight=False)
    for block in blocks:
        match block:
            case Line(text, style):
                console.print(Text(text, _RICH_STYLES[style]))
            case Table():
                table = RichTable(
                    title=block.title or None, title_justify="left", box=box.SIMPLE_HEAD, title_style="bold"
                )
                for i, header in enumerate(block.headers):
                    table.add_column(header, justify="left" if i < block.left else "right", overflow="fold")
                for row in block.rows:
                    table.add_row(*(Text(cell) for cell in row))
                console.print(table)
