"""What a pass is: an object that turns one verified graph into the next and says what it did."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import ClassVar, Protocol

from kwsq.ir.graph import Graph


class Semantics(Enum):
    """What a pass may change about the function a graph computes."""

    EXACT = "exact"
    """Same real function, bit for bit in the float executor where it uses the same operations."""
    FLOAT_CLOSE = "float_close"
    """Same real function up to float32 rounding of the folded constants."""
    CHANGES_GRID = "changes_grid"
    """Values move to other grids."""


class Level(Enum):
    """How much a note matters to a reader of the report."""

    INFO = "info"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Note:
    """Something a pass did, or why it did not fire.

    Args:
        source: name of the pass.
        where: node or tensor.
        text: one sentence.
        level: WARNING when the user should look.
    """

    source: str
    where: str
    text: str
    level: Level = Level.INFO

    def to_json(self) -> dict[str, str]:
        """Returns the fields as a JSON-ready dictionary."""
        return {"source": self.source, "where": self.where, "text": self.text, "level": self.level.value}


@dataclass(frozen=True, slots=True, eq=False)
class PassResult:
    """A pass's graph, whether it differs from the input, and the notes for the report."""

    graph: Graph
    changed: bool
    notes: tuple[Note, ...] = ()


class Pass(Protocol):
    """A rewrite of the float graph."""

    name: ClassVar[str]
    requires: ClassVar[frozenset[str]]
    establishes: ClassVar[frozenset[str]]
    semantics: ClassVar[Semantics]

    def run(self, graph: Graph) -> PassResult:
        """Returns the rewritten graph."""
        ...
