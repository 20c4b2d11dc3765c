"""What the numbers of recipes and protocols may be, and how one that they may not be is refused.

A record checks its own fields, whoever made it, and names them alone; what reads a file adds where the record stands.
"""

import math
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from kwsq.ir.errors import Problem, UsageError

_LARGEST = sys.float_info.max


@dataclass(frozen=True, slots=True)
class Limit:
    """Which values are allowed, and the words an error has for them."""

    allows: Callable[[Any], bool]
    expected: str


def whole(low: int, high: int | None = None) -> Limit:
    """Allow whole numbers within bounds; 2.0 is none."""
    top = math.inf if high is None else high
    text = f"a whole number from {low}" + ("" if high is None else f" to {high}")
    return Limit(lambda value: _is_whole(value) and low <= value <= top, text)


def one_of(*values: int) -> Limit:
    """Allow some whole numbers."""
    text = f"one of {', '.join(map(str, values))}"
    return Limit(lambda value: _is_whole(value) and value in values, text)


def number(low: float = -_LARGEST, high: float = _LARGEST, *, above: bool = False) -> Limit:
    """Allow numbers within bounds; infinity only where it is one of them, and never NaN.

    Args:
        low: smallest number allowed.
        high: largest number allowed.
        above: whether `low` itself is refused.
    """
    text = "a finite number" if high == _LARGEST else "a number"
    if low > -_LARGEST:
        text += f" above {low:g}" if above else f" from {low:g}"
    if high < _LARGEST:
        text += f", up to {high:g}" if above else f" to {high:g}"
    return Limit(lambda value: _is_number(value) and low <= value <= high and not (above and value == low), text)


FLAG = Limit(lambda value: isinstance(value, bool), "true or false")


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return _is_whole(value) or isinstance(value, float)


def refused(values: Mapping[str, Any], limits: Mapping[str, Limit]) -> list[Problem]:
    """Return a problem for every value that its limit does not allow."""
    return [
        Problem(name, repr(value), limits[name].expected, "correct it")
        for name, value in values.items()
        if not limits[name].allows(value)
    ]


def refused_fields(record: Any, limits: Mapping[str, Limit]) -> list[Problem]:
    """Return a problem for every field of a record that its limit does not allow."""
    return refused({name: getattr(record, name) for name in limits}, limits)


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
