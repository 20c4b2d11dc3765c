"""What methods gain over plain ones at the same width, trained for the same epochs on the same data."""

from collections.abc import Iterator
from dataclasses import dataclass

from kwsq.models.table.goals import points
from kwsq.models.table.protocol import Paper, Protocol
from kwsq.models.table.statistics import Cell, Clips, Difference, loss

Cells = dict[tuple[str, int], Cell]
NOTHING = "-"


@dataclass(frozen=True, slots=True)
class Gain:
    """A pair with a complete seed in common.

    Args:
        cell: of the method.
        plain: of the plain method at its width.
        difference: accuracy of the first minus that of the second, over the seeds complete in both.
    """

    cell: Cell
    plain: Cell
    difference: Difference

    @property
    def verdict(self) -> str:
        """Whether the method is better: yes, worse, or not separated."""
        return "yes" if self.difference.low > 0 else "worse" if self.difference.high < 0 else "not separated"


def gains(protocol: Protocol, table: Cells, clips: Clips) -> tuple[Gain, ...]:
    """Return every pair of a table of the page; float rows are in none.

    Args:
        protocol: plain methods, and the controls by which schedules are told apart.
        table: cells that stand in one table of the page.
        clips: that were scored.
    """
    return tuple(_gains(protocol, table, clips))


def _gains(protocol: Protocol, table: Cells, clips: Clips) -> Iterator[Gain]:
    for (name, bits), cell in table.items():
        for plain in protocol.baselines:
            other = table.get((plain, bits))
            same_control = protocol.control_of(name) == protocol.control_of(plain)
            if other is None or name == plain or not same_control or protocol.method(name).weights == "float":
                continue
            difference = loss(clips, cell, other)
            if difference is not None:
                yield Gain(cell, other, difference)


def paper_lines(papers: tuple[Paper, ...], found: tuple[Gain, ...]) -> list[str]:
    """Return a Markdown table with a line per method and width that the papers name and plain methods stand beside.

    Args:
        papers: and the methods that are theirs.
        found: pairs of all tables of the page.
    """
    head = "| paper | method | bits | seeds | better than | worse than | not separated from |"
    lines = [line for paper in papers for name in paper.methods for line in _lines(paper, name, found)]
    return [head, "|---|---|---|---|---|---|---|", *lines]


def _lines(paper: Paper, name: str, found: tuple[Gain, ...]) -> Iterator[str]:
    for bits in dict.fromkeys(gain.cell.bits for gain in found if gain.cell.method == name):
        own = [gain for gain in found if (gain.cell.method, gain.cell.bits) == (name, bits)]
        better, worse = (_named(own, verdict) for verdict in ("yes", "worse"))
        rest = ", ".join(gain.plain.method for gain in own if gain.verdict == "not separated") or NOTHING
        fewest, most = min(gain.difference.seeds for gain in own), max(gain.difference.seeds for gain in own)
        seeds = f"{most}" if fewest == most else f"{fewest} to {most}"
        yield f"| {paper.title} | {name} | {bits} | {seeds} | {better} | {worse} | {rest} |"


def _named(own: list[Gain], verdict: str) -> str:
    named = (f"{gain.plain.method} {points(gain.difference)}" for gain in own if gain.verdict == verdict)
    return ", ".join(named) or NOTHING
