"""Lines of a run, and on a terminal below them a bar of what is being done: through rich, which draws over itself.

Source: our choice.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, TextIO

from rich.console import Console
from rich.constrain import Constrain
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.text import Text

from kwsq.models.progress import Count

SECONDS_BETWEEN_DRAWINGS = 0.25
"""One takes about 1 ms, so that drawing costs training less than 1 %."""
BAR_CHARACTERS = 20


class Display(Protocol):
    """Shows what a run says."""

    def line(self, text: str) -> None:
        """Show a line that stays."""

    def count(self, count: Count) -> None:
        """Show how far the run is, until it is further."""


class Lines:
    """Only what stays, for files, pipes and terminals that cannot move their cursor.

    Args:
        stream: takes the lines.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def line(self, text: str) -> None:
        """Write the line."""
        self._stream.write(f"{text}\n")
        self._stream.flush()

    def count(self, count: Count) -> None:
        """Write nothing."""


class LiveBar:
    """Lines, and below them a bar of what is counted; it goes once all is done.

    Draws in the calling thread and only when it is told something: a thread of its own would take its time from
    training whenever it liked.

    Args:
        console: of a terminal that can move its cursor.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._what = ""
        self._live: Live | None = None
        self._progress = _progress(console)
        self._drawn = 0.0

    def line(self, text: str) -> None:
        """Write the line above the bar; one that is too long is the terminal's to fold, as without a bar."""
        self._console.print(Text(text), soft_wrap=True)

    def count(self, count: Count) -> None:
        """Draw the bar, if it is new or has not been drawn for a while, or remove it."""
        if count.done >= count.of:
            self.close()
        elif self._live is None or count.what != self._what:
            self.close()
            self._open(count)
        elif time.monotonic() - self._drawn >= SECONDS_BETWEEN_DRAWINGS:
            self._progress.update(self._progress.task_ids[0], completed=count.done, note=count.note)
            self._live.refresh()
            self._drawn = time.monotonic()

    def close(self) -> None:
        """Remove the bar, if there is one, and show the cursor again."""
        if self._live is not None:
            self._live.stop()
        self._live = None

    def _open(self, count: Count) -> None:
        self._progress = _progress(self._console)
        # `completed` from the start: what an earlier run did says nothing of this one's speed.
        self._progress.add_task(count.what, completed=count.done, total=count.of, note=count.note)
        # Of what else is printed only stderr is the bar's: stdout may go elsewhere.
        self._live = Live(
            get_renderable=self._bar, console=self._console, auto_refresh=False, transient=True, redirect_stdout=False
        )
        self._live.start(refresh=True)
        self._what, self._drawn = count.what, time.monotonic()

    def _bar(self) -> Constrain:
        """Leave the last columns free: the `^C` that a terminal writes behind it must not begin another line."""
        return Constrain(self._progress, max(self._console.width - len("^C"), 1))


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(BAR_CHARACTERS),
        TaskProgressColumn(),
        TextColumn("{task.fields[note]}", markup=False),
        TimeRemainingColumn(),
        console=console,
        auto_refresh=False,
    )


@contextmanager
def shown(stream: TextIO) -> Iterator[Display]:
    """Yield what shows a run on a stream: with a bar on a terminal that somebody looks at, else lines alone.

    However the run ends, the bar is gone then and the cursor there.

    Args:
        stream: takes everything; NO_COLOR, CI and TERM are heeded.
    """
    if os.environ.get("CI") or not stream.isatty():
        yield Lines(stream)
        return
    console = Console(file=stream, no_color=bool(os.environ.get("NO_COLOR")), highlight=False)
    if not console.is_interactive:  # TERM=dumb
        yield Lines(stream)
        return
    bar = LiveBar(console)
    try:
        yield bar
    finally:
        bar.close()
