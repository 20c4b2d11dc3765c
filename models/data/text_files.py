"""Text that users write: lists and tables of clips, as editors and spreadsheets save them.

Source: our choice.
"""

import codecs
import unicodedata
from collections.abc import Collection, Sequence
from pathlib import Path

from kwsq.ir.errors import Problem, UsageError

MOST_NAMED = 5


def read_text(path: Path) -> str:
    """Return a file's text; a byte order mark, which spreadsheets put first, is no part of it.

    Raises:
        UsageError: the file cannot be read, or is not UTF-8; the line is named.
    """
    try:
        data = path.read_bytes().removeprefix(codecs.BOM_UTF8)
    except OSError as error:
        found, remedy = error.strerror or str(error), "check the file and its permissions"
        raise UsageError(Problem(str(path), found, "a file that can be read", remedy)) from error
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line, found = data.count(b"\n", 0, error.start) + 1, f"byte 0x{data[error.start]:02x}"
        raise UsageError(Problem(f"{path}, line {line}", found, "UTF-8", "save the file in that encoding")) from error


def capped(items: Sequence[str], *, joint: str = ", ", most: int = MOST_NAMED) -> str:
    """Return the first of all items, and how many there are where those are more."""
    rest = f" ({len(items)} in all)" if len(items) > most else ""
    return joint.join(items[:most]) + rest


def lookalike(text: str, names: Collection[str]) -> str | None:
    """Return the name that a text means but does not equal: other case, outer blanks, or another form of an accent."""
    if text in names:
        return None
    return {_folded(name): name for name in names}.get(_folded(text))


def _folded(text: str) -> str:
    return unicodedata.normalize("NFKC", text).strip().casefold()
