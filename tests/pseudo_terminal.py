"""Running a program on a terminal of its own, and what is on the screen when it has ended."""

from __future__ import annotations

import fcntl
import os
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

CTRL_C = b"\x03"
SEQUENCES = re.compile(r"\x1b\[([0-9;?]*)([A-Za-z])|([\r\n])|([^\x00-\x1f]+)")


class Screen:
    """Understands what bars need of a terminal, and refuses anything else."""

    def __init__(self, columns: int) -> None:
        self.columns, self.row, self.column = columns, 0, 0
        self.lines = [""]
        self.has_cursor = True
        self.seen: list[str] = []
        """Every line as it was before it was erased."""

    def feed(self, text: str) -> Screen:
        at = 0
        while at < len(text):
            found = SEQUENCES.match(text, at)
            assert found, f"unknown sequence {text[at : at + 8]!r}"
            at = found.end()
            number, command, move, shown = found.groups()
            if shown:
                self._write(shown)
            elif move:
                self._move(move)
            else:
                self._command(f"{number}{command}")
        return self

    @property
    def text(self) -> list[str]:
        lines = [line.rstrip() for line in self.lines]
        while lines and not lines[-1]:
            lines.pop()
        return lines

    def _write(self, shown: str) -> None:
        for sign in shown:
            if self.column == self.columns:
                self.column = 0
                self._move("\n")
            line = self.lines[self.row].ljust(self.column)
            self.lines[self.row] = line[: self.column] + sign + line[self.column + 1 :]
            self.column += 1

    def _move(self, move: str) -> None:
        if move == "\r":
            self.column = 0
        else:
            self.row += 1
            self.lines += [""] * (self.row + 1 - len(self.lines))

    def _command(self, command: str) -> None:
        if command == "2K":
            self.seen.append(self.lines[self.row])
            self.lines[self.row] = ""
        elif command.endswith("A"):
            self.row = max(self.row - int(command[:-1] or 1), 0)
        elif command in ("?25l", "?25h"):
            self.has_cursor = command == "?25h"
        else:
            assert command.endswith("m"), f"unknown sequence {command!r}"


@dataclass(frozen=True)
class Shown:
    """What a program on a terminal has written, and how it ended."""

    code: int
    text: str
    screen: Screen


def on_terminal(
    command: Sequence[str],
    environment: Mapping[str, str],
    *,
    columns: int = 80,
    interrupt_at: str = "",
    limit_s: float = 60.0,
) -> Shown:
    """Run a program with all three streams on a terminal.

    Args:
        command: program and arguments.
        environment: what is added to that of the tests, or taken out where it is empty.
        columns: of the terminal.
        interrupt_at: Ctrl-C is typed when this has been written; never, if empty.
        limit_s: the program is killed then.
    """
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 25, columns, 0, 0))
    added = {name: value for name, value in (os.environ | dict(environment)).items() if environment.get(name) != ""}
    # The first terminal that the leader of a session opens becomes its own, which is where Ctrl-C goes.
    shell = ["sh", "-c", 'tty=$1; shift; exec "$@" <"$tty" >"$tty" 2>&1', "sh", os.ttyname(theirs), *command]
    process = subprocess.Popen(shell, env=added, start_new_session=True)
    written, typed = b"", not interrupt_at
    end = time.monotonic() + limit_s
    try:
        while process.poll() is None or select.select([ours], [], [], 0)[0]:
            assert time.monotonic() < end, f"after {limit_s} s: {written[-2000:]!r}"
            if select.select([ours], [], [], 0.05)[0]:
                written += os.read(ours, 65536)
            if not typed and interrupt_at.encode() in written:
                os.write(ours, CTRL_C)
                typed = True
    finally:
        process.kill()
        process.wait()
        os.close(ours)
        os.close(theirs)
    text = written.decode()
    return Shown(process.returncode, text, Screen(columns).feed(text))
