"""What the values of recipes and protocols may be, and how one that they may not be is refused.

A record checks its own fields, whoever made it, and names them alone; what reads a file adds where the record stands.
Every number has a largest value: training computes in float32, counts steps in 32 bits and keeps its draws in memory.
"""

import math
import os
import re
import sys
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from typing import Any, TypeVar

from kwsq.converter.safe_text import printable
from kwsq.ir.errors import Problem, UsageError

MOST_WHOLE = 10**9
LEAST_NUMBER, MOST_NUMBER = 1e-6, 1e6
"""Where a limit states no other: the largest magnitude, and the smallest number above 0 where 0 is refused."""
MOST_NAME_BYTES = 200
"""Of a file name that is made of a recipe's names: with what temporary files add to it, file systems take 255."""
_SHOWN = 60
_NO_TEXT = ("Cc", "Cs", "Zl", "Zp")  # control characters, what is no character, ends of lines and paragraphs
_SHA256 = re.compile("[0-9A-Fa-f]{64}")
Record = TypeVar("Record")


@dataclass(frozen=True, slots=True)
class Limit:
    """Which values are allowed, and the words an error has for them."""

    allows: Callable[[Any], bool]
    expected: str


def whole(low: int, high: int = MOST_WHOLE) -> Limit:
    """Allow whole numbers within bounds; 2.0 is none."""
    return Limit(lambda value: _is_whole(value) and low <= value <= high, f"a whole number from {low} to {high}")


def one_of(*values: int) -> Limit:
    """Allow some whole numbers."""
    text = f"one of {', '.join(map(str, values))}"
    return Limit(lambda value: _is_whole(value) and value in values, text)


def named(*names: str) -> Limit:
    """Allow some names."""
    return Limit(lambda value: isinstance(value, str) and value in names, f"one of {', '.join(names)}")


def number(low: float = -MOST_NUMBER, high: float = MOST_NUMBER, *, above: bool = False) -> Limit:
    """Allow numbers within bounds; infinity only where it is one of them, and never NaN.

    Args:
        low: smallest number allowed.
        high: largest number allowed.
        above: whether `low` itself is refused; above 0, numbers begin at LEAST_NUMBER.
    """
    if above and low == 0:
        low, above = LEAST_NUMBER, False
    text = f"a number above {low:g}, up to {high:g}" if above else f"a number from {low:g}"
    if not above and high < math.inf:
        text += f" to {high:g}"
    return Limit(lambda value: _is_number(value) and low <= value <= high and not (above and value == low), text)


FLAG = Limit(lambda value: isinstance(value, bool), "true or false")
TEXT = Limit(lambda value: isinstance(value, str) and value != "", "text")
SHA256 = Limit(lambda value: isinstance(value, str) and bool(_SHA256.fullmatch(value)), "64 hexadecimal digits")


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, float) or (_is_whole(value) and abs(value) <= sys.float_info.max)


def refused(values: Mapping[str, Any], limits: Mapping[str, Limit]) -> list[Problem]:
    """Return a problem for every value that its limit does not allow."""
    return [
        Problem(name, shown(value), limits[name].expected, "correct it")
        for name, value in values.items()
        if not limits[name].allows(value)
    ]


def refused_fields(record: Any, limits: Mapping[str, Limit]) -> list[Problem]:
    """Return a problem for every field of a record that its limit does not allow."""
    return refused({name: getattr(record, name) for name in limits}, limits)


def shown(value: Any) -> str:
    """Return what an error says of a value: short, whatever stands there."""
    return printable(repr(value), limit=_SHOWN)


# ---- names that become those of files ----


def is_file_part(text: Any) -> bool:
    """Return whether text can stand in a file name, wherever in it."""
    return (
        isinstance(text, str)
        and text not in ("", ".", "..")
        and "/" not in text
        and not any(unicodedata.category(sign) in _NO_TEXT for sign in text)
    )


KEYWORD = Limit(
    lambda value: is_file_part(value) and not value.startswith("_"),
    "a word that can stand in a file name: no '/', no control character, not '.' or '..', and not first '_'",
)


def long_names(where: str, files: Sequence[str], remedy: str) -> list[Problem]:
    """Return a problem for every file name of more than MOST_NAME_BYTES."""
    sizes = {file: len(os.fsencode(file)) for file in files}
    return [
        Problem(where, f"a file name of {size} bytes, {printable(file, _SHOWN)}", f"at most {MOST_NAME_BYTES}", remedy)
        for file, size in sizes.items()
        if size > MOST_NAME_BYTES
    ]


# ---- tables of a file ----


def checked_table(where: str, value: Any, needed: Sequence[str], others: Sequence[str] = ()) -> dict[str, Any]:
    """Return a copy of a table that has the keys it needs and none that is unknown.

    Args:
        where: place of the table, empty for the file's own.
        value: what stands there.
        needed: keys that must be there.
        others: keys that may be.

    Raises:
        UsageError: it is no table, or keys are missing or unknown; all of them at once.
    """
    known = (*needed, *others)
    listed = ", ".join(known)
    if not isinstance(value, dict):
        raise UsageError(Problem(where, shown(value), f"a table of {listed}", "write a table with these keys"))
    prefix, all_of = f"{where}." if where else "", f"all of {', '.join(needed)}"
    missing = [Problem(prefix + key, "nothing", all_of, f"state {key}") for key in needed if key not in value]
    unknown = [
        Problem(prefix + key, "an unknown key", f"one of {listed}", _meant(key, known))
        for key in value
        if key not in known
    ]
    require_none([*missing, *unknown])
    return dict(value)


def _meant(key: str, known: Sequence[str]) -> str:
    close = get_close_matches(key, known, n=1)
    return f"write {close[0]}, if that is meant" if close else "take it out"


def record_of(kind: type[Record], where: str, value: Any) -> Record:
    """Return a record of a table that states every field.

    Args:
        kind: dataclass.
        where: place of the table.
        value: what stands there.

    Raises:
        UsageError: it is no table, keys are missing or unknown, or values are not allowed.
    """
    table = checked_table(where, value, [field.name for field in fields(kind)])  # type: ignore[arg-type]
    with within(f"{where}."):
        return kind(**table)


# ---- everything at once ----


def require_none(problems: list[Problem]) -> None:
    """Raise all problems at once.

    Raises:
        UsageError: there is one.
    """
    if problems:
        raise UsageError(problems)


@contextmanager
def within(prefix: str) -> Iterator[None]:
    """Put the place of a record in front of the names of whatever is refused in it."""
    try:
        yield
    except UsageError as error:
        raise UsageError([replace(each, where=prefix + each.where) for each in error.problems]) from error


@contextmanager
def noted(problems: list[Problem], prefix: str = "") -> Iterator[None]:
    """Take down what is refused, with its place, so that it is raised with all the rest."""
    try:
        with within(prefix):
            yield
    except UsageError as error:
        problems.extend(error.problems)
