"""A bar below the lines of a run: on terminals only, gone in the end however the run ends."""

import io
import re
import subprocess
import sys

import pytest
from pseudo_terminal import Screen, Shown, on_terminal
from rich.console import Console

from kwsq.models import live_bar
from kwsq.models.live_bar import Display, Lines, LiveBar, shown
from kwsq.models.progress import Count, counted

RUN = """
import sys, time
from kwsq.models.live_bar import shown
from kwsq.models.progress import Count

try:
    with shown(sys.stderr) as display:
        for epoch in (1, 2, 3):
            for step in range(4):
                display.count(Count("float", 4 * epoch + step - 3, 12, f"epoch {epoch}/3"))
                time.sleep(0.1)
            display.line(f"float: epoch {epoch} of 3, [loss] " + "0.1234 " * 10)
            if epoch == 2 and "fail" in sys.argv:
                sys.exit("it failed")
            while epoch == 2 and "wait" in sys.argv:
                display.count(Count("float", 8, 12, "waits"))
                time.sleep(0.05)
except KeyboardInterrupt:
    sys.exit(130)
print("result")
"""
# What would be said of another terminal is taken out: xdist states the COLUMNS of the one that tests were started on.
SCREEN = {"TERM": "xterm-256color", "CI": "", "NO_COLOR": "", "COLUMNS": "", "LINES": ""}
LINES = [f"float: epoch {epoch} of 3, [loss] {'0.1234 ' * 10}".rstrip() for epoch in (1, 2, 3)]
DRAWN = re.compile(r"float .* \d+% epoch \d/3 (-|\d+):(--|\d\d):(--|\d\d)")


def program(*options: str) -> list[str]:
    return [sys.executable, "-c", RUN, *options]


def on_screen(*options: str, interrupt_at: str = "", columns: int = 120, **environment: str) -> Shown:
    return on_terminal(program(*options), SCREEN | environment, columns=columns, interrupt_at=interrupt_at)


def test_on_a_terminal_there_is_a_bar_and_in_the_end_only_lines() -> None:
    found = on_screen()
    assert found.code == 0
    assert [line for line in found.screen.seen if DRAWN.match(line)]
    assert found.screen.text == [*LINES, "result"]
    assert found.screen.has_cursor


def test_a_bar_that_nobody_removes_is_seen_on_the_screen() -> None:
    """What the others look for can be there."""
    screen = Screen(120).feed(on_screen().text.partition("\x1b[?25h")[0])
    assert not screen.has_cursor
    assert DRAWN.match(screen.text[2])


def test_a_line_longer_than_the_terminal_is_the_terminals_to_fold() -> None:
    text = on_screen(columns=40).text
    assert [line in text for line in LINES] == [True] * 3


@pytest.mark.parametrize("columns", [24, 120])
def test_ctrl_c_leaves_lines_and_a_cursor(columns: int) -> None:
    """The terminal adds its own `^C` to the bar, also where that fills the line."""
    found = on_screen("wait", interrupt_at="waits", columns=columns)
    assert found.code == 130
    assert "^C" in found.text
    assert "".join(line.ljust(columns) for line in found.screen.text).split() == " ".join(LINES[:2]).split()
    assert found.screen.has_cursor


def test_after_an_error_the_message_stands_below_the_lines() -> None:
    found = on_screen("fail")
    assert found.code == 1
    assert found.screen.text == [*LINES[:2], "it failed"]
    assert found.screen.has_cursor


@pytest.mark.parametrize("environment", [{"TERM": "dumb"}, {"CI": "true"}])
def test_where_nobody_looks_there_are_only_lines(environment: dict[str, str]) -> None:
    written = "".join(f"{line}\r\n" for line in [*LINES, "result"])
    assert re.sub(" +\r", "\r", on_screen(**environment).text) == written


@pytest.mark.parametrize(("term", "kind"), [("dumb", Lines), ("xterm", LiveBar)])
def test_a_terminal_that_cannot_move_its_cursor_has_no_bar(
    monkeypatch: pytest.MonkeyPatch, term: str, kind: type[Display]
) -> None:
    monkeypatch.setenv("TERM", term)
    monkeypatch.delenv("CI", raising=False)
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: True)
    with shown(stream) as display:
        assert type(display) is kind


def test_no_color_is_heeded() -> None:
    colours = re.compile(r"\x1b\[[0-9;]*m")
    assert colours.search(on_screen().text)
    found = on_screen(NO_COLOR="1")
    assert not re.search(r"\x1b\[([0-9;]*;)?[349]\d", found.text)
    assert [line for line in found.screen.seen if DRAWN.match(line)]


def test_without_a_terminal_there_are_only_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # to rich, a file is a terminal then
    done = subprocess.run(program(), capture_output=True, text=True, check=True)
    assert [line.rstrip() for line in done.stderr.splitlines()] == LINES
    assert "\x1b" not in done.stderr
    assert done.stdout == "result\n"


def test_drawing_takes_little_time_from_what_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps of 1 ms: four drawings in a second."""
    now, drawings = [0.0], list[int]()
    stream = io.StringIO()
    bar = LiveBar(Console(file=stream, force_terminal=True, width=80, _environ={"TERM": "xterm"}))
    monkeypatch.setattr(live_bar.time, "monotonic", lambda: now[0])
    for step in range(1001):
        before = stream.tell()
        bar.count(Count("float", step, 2000))
        drawings += [step] * (stream.tell() > before)
        now[0] += 0.001
    bar.close()
    assert len(drawings) in (4, 5)
    assert drawings[0] == 0


def test_every_count_has_a_bar_of_its_own() -> None:
    stream = io.StringIO()
    bar = LiveBar(Console(file=stream, force_terminal=True, width=80, _environ={"TERM": "xterm"}))
    stdout = sys.stdout
    for count in (Count("reading", 0, 2), Count("reading", 2, 2), Count("float", 3, 9), Count("w4", 0, 9)):
        bar.count(count)
        assert sys.stdout is stdout
    bar.close()
    screen = Screen(80).feed(stream.getvalue())
    assert list(dict.fromkeys(line.split()[0] for line in screen.seen if line)) == ["reading", "float", "w4"]
    assert screen.text == []


def test_what_is_done_is_told_before_each_and_after_the_last() -> None:
    told: list[Count] = []
    given = [(item, len(told)) for item in counted("abc", "letters", told.append)]
    assert given == [("a", 1), ("b", 2), ("c", 3)]
    assert told == [Count("letters", done, 3) for done in range(4)]
