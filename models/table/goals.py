"""What is asked of the table, and whether its rows keep it; exit code 1 where they do not.

    python -m kwsq.models.table.goals models/kws_ff/table.toml --rows docs/results.jsonl

A goal is kept by the rows of all seeds, never by some of them. Beside it stands the loss of the seeds that nobody had
seen when methods and schedules were last changed: what was tried until it fitted shows there.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from kwsq.models.table.protocol import FLOAT_BITS, Goal, Protocol
from kwsq.models.table.read_protocol import read_protocol
from kwsq.models.table.rows import read_results
from kwsq.models.table.statistics import Cell, Clips, Difference, accuracies, cells, loss


@dataclass(frozen=True, slots=True)
class Finding:
    """A goal and what finished rows say of it.

    Args:
        goal: what is asked.
        finished: finished rows.
        wanted: rows the protocol asks for.
        complete: whether all of them and the control's are there.
        accuracy: mean over complete seeds, 0..1; None without one.
        loss: against the control, over seeds complete in both.
        unseen: the same over the seeds that decided nothing.
    """

    goal: Goal
    finished: int
    wanted: int
    complete: bool
    accuracy: float | None
    loss: Difference | None
    unseen: Difference | None

    @property
    def kept(self) -> bool:
        """Whether all rows are there and keep every bound of the goal."""
        return self.complete and all(self._bounds())

    @property
    def verdict(self) -> str:
        """One word, or how much is missing."""
        if not self.complete:
            return f"open: {self.finished} of {self.wanted} rows"
        return "kept" if self.kept else "**missed**"

    def _bounds(self) -> Iterator[bool]:
        goal = self.goal
        if goal.least_accuracy is not None:
            yield self.accuracy is not None and 100.0 * self.accuracy >= goal.least_accuracy
        if goal.most_loss is not None:
            yield self.loss is not None and 100.0 * self.loss.value <= goal.most_loss
        if goal.most_upper is not None:
            yield self.loss is not None and 100.0 * self.loss.high < goal.most_upper


def findings(protocol: Protocol, table: dict[tuple[str, int], Cell], clips: Clips) -> tuple[Finding, ...]:
    """Return what the rows say of every goal.

    Args:
        protocol: goals, controls, and the seeds that were seen.
        table: cells with the rows they have.
        clips: that were scored.
    """
    return tuple(_finding(protocol, goal, table, clips) for goal in protocol.goals)


def _finding(protocol: Protocol, goal: Goal, table: dict[tuple[str, int], Cell], clips: Clips) -> Finding:
    cell = table[goal.method, goal.bits]
    control = table[protocol.control_of(goal.method), FLOAT_BITS]
    found = accuracies(clips, cell)
    return Finding(
        goal,
        cell.finished,
        cell.wanted,
        cell.finished == cell.wanted and set(cell.seeds) <= set(control.seeds),
        float(found.mean()) if found.size else None,
        loss(clips, control, cell),
        loss(clips, control, cell, without=protocol.seen_of(goal)),
    )


def goal_lines(found: tuple[Finding, ...]) -> list[str]:
    """Return a Markdown table of goals, a line each."""
    head = "| method | bits | asked | found | loss of seeds not seen before | verdict |"
    return [head, "|---|---|---|---|---|---|", *map(_line, found)]


def _line(finding: Finding) -> str:
    goal = finding.goal
    asked, found = [], []
    if goal.least_accuracy is not None:
        asked.append(f"accuracy >= {goal.least_accuracy:g} %")
        found.append("-" if finding.accuracy is None else f"{100 * finding.accuracy:.2f} %")
    if goal.most_loss is not None:
        asked.append(f"loss <= {goal.most_loss:g}")
        found.append(points(finding.loss))
    if goal.most_upper is not None:
        asked.append(f"upper bound < {goal.most_upper:g}")
    unseen = "-" if goal.most_loss is None else points(finding.unseen)
    cells_of_line = (goal.method, str(goal.bits), ", ".join(asked), ", ".join(found), unseen, finding.verdict)
    return f"| {' | '.join(cells_of_line)} |"


def points(found: Difference | None, digits: int = 2) -> str:
    """Return a difference with its interval, in percent or points; a dash for none."""
    if found is None:
        return "-"
    value, low, high = (f"{100 * number:+.{digits}f}" for number in (found.value, found.low, found.high))
    return f"{value} [{low}, {high}]"


def main(
    protocol: Annotated[Path, typer.Argument(help="Protocol file, such as models/kws_ff/table.toml.")],
    rows: Annotated[Path, typer.Option(help="Results file of the run.")] = Path("docs/results.jsonl"),
) -> None:
    """Print every goal and whether it is kept; exit with 1 where one is not."""
    plan, results = read_protocol(protocol), read_results(rows)
    found = findings(plan, cells(plan, results), Clips.of(results))
    kept = sum(finding.kept for finding in found)
    typer.echo("\n".join(goal_lines(found)))
    typer.echo(f"{kept} of {len(found)} goals kept")
    raise typer.Exit(int(kept < len(found)))


if __name__ == "__main__":
    typer.run(main)
