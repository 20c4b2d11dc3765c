"""Results as text: blocks of lines and tables, aligned plainly for files and pipes, through rich on a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TextIO

from kwsq.converter.safe_text import printable

NAME_CHARACTERS = 36


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
_COLUMN_GAP = 3
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
    for block in map(_harmless, blocks):
        match block:
            case Line(text):
                lines.append(text)
            case Table():
                lines += ["", *([block.title] if block.title else []), *_aligned(block)]
    return "\n".join(lines) + "\n"


def _harmless(block: Block) -> Block:
    """Returns the block without control characters: a report is a file, and any text in it may hold some."""
    if isinstance(block, Line):
        return replace(block, text=printable(block.text))
    return replace(block, rows=tuple(tuple(map(printable, row)) for row in block.rows), title=printable(block.title))


def _aligned(table: Table) -> Sequence[str]:
    cells, widths = (table.headers, *table.rows), _column_widths(table)
    rows = (
        "  ".join(
            c.ljust(w) if i < table.left else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in cells
    )
    return [f"  {row}".rstrip() for row in rows]


def _column_widths(table: Table) -> list[int]:
    return [max(map(len, column)) for column in zip(table.headers, *table.rows, strict=True)]


def _show_rich(blocks: Iterable[Block], stream: TextIO, *, color: bool) -> None:
    # Imported here: a pipe and --help need none of it.
    from rich import box
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    console = Console(file=stream, no_color=not color, highlight=False)
    for block in map(_harmless, blocks):
        match block:
            case Line(text, style):
                console.print(Text(text, _RICH_STYLES[style]))
            case Table():
                if block.title:
                    console.print(Text(f"\n{block.title}", "bold"))
                table = RichTable(box=box.SIMPLE_HEAD)
                first, *others = _column_widths(block)
                rest = sum(others) + _COLUMN_GAP * len(block.headers) + 1
                # Where a line is too long, names are cut and sentences folded, never numbers.
                table.add_column(block.headers[0], max_width=max(min(first, console.width - rest), 12), no_wrap=True)
                for i, header in enumerate(block.headers[1:], 1):
                    numeric = i >= block.left
                    table.add_column(header, justify="right" if numeric else "left", overflow="fold", no_wrap=numeric)
                for row in block.rows:
                    table.add_row(*(Text(cell) for cell in row))
                console.print(table)
