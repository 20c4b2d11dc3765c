"""How far something that takes long is: told by what does the work, to whoever shows it.

Source: our choice.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Count:
    """How much of something is done.

    Args:
        what: is counted; the same from its beginning to its end.
        done: clips, steps or the like; `of` is said once, at the end.
        of: how many there are.
        note: what else is known by now.
    """

    what: str
    done: int
    of: int
    note: str = ""


Told = Callable[[Count], None]


def ignore_count(_: Count) -> None:
    """Show nothing."""


def counted(items: Sequence[Item], what: str, told: Told) -> Iterator[Item]:
    """Give the items one by one, and tell how many have been worked on.

    Args:
        items: given in their order.
        what: they are.
        told: called before each item, and after the last.
    """
    for done, item in enumerate(items):
        told(Count(what, done, len(items)))
        yield item
    told(Count(what, len(items), len(items)))
