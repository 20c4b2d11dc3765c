"""Run every command of acceptance.toml and write the page that says what each one showed.

Usage: python benchmarks/acceptance.py docs/acceptance.md [TEXT]

With TEXT, only commands that contain it are run, and lines that the page lacks; the others keep what they last showed.
"""

import os
import re
import subprocess
import sys
import time
import tomllib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HEADER = """# Acceptance

Each line, the command that shows it, and what that command last printed. Written by `make acceptance` from
`benchmarks/acceptance.toml`; do not edit by hand.

| line | command | last figure | holds |
|---|---|---|---|
"""


@dataclass(frozen=True, slots=True)
class Line:
    """One line of acceptance; `minutes` are those its command may take."""

    claim: str
    command: str
    figure: str
    needs: str = ""
    minutes: int = 30

    @property
    def is_timed(self) -> bool:
        """Whether its figure is a time, which other work would disturb; such lines run first, alone."""
        return "python benchmarks/" in self.command or self.command.startswith("make ")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a command showed: its figure, and yes, no or not run."""

    figure: str
    holds: str


def show(line: Line) -> Outcome:
    """Run one command and read its figure."""
    if line.needs == "shared" and not (ROOT.parent / "shared").is_dir():
        return Outcome("-", "not run: needs ../shared")
    if line.needs.startswith("$") and not os.environ.get(line.needs[1:]):
        return Outcome("-", f"not run: needs {line.needs}")
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))
    try:
        done = subprocess.run(
            ["bash", "-c", line.command],
            cwd=ROOT,
            env={**os.environ, "PATH": path, "PYTHONSAFEPATH": "1"},
            capture_output=True,
            text=True,
            timeout=60 * line.minutes,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Outcome("-", f"no: longer than {line.minutes} minutes")
    found = re.findall(line.figure, done.stdout)
    if done.returncode != 0:
        return Outcome(found[-1] if found else "-", f"no: exit code {done.returncode}")
    return Outcome(found[-1], "yes") if found else Outcome("-", "no: the figure was not printed")


def shown(line: Line) -> Outcome:
    """Run one command and say on stdout what became of it."""
    started = time.perf_counter()
    outcome = show(line)
    print(f"{outcome.holds:8} {outcome.figure:16} {time.perf_counter() - started:6.1f} s  {line.claim}", flush=True)
    return outcome


def page(outcomes: list[tuple[Line, Outcome]]) -> str:
    """Return the Markdown page."""
    rows = [f"| {line.claim} | `{line.command}` | {o.figure} | {o.holds} |" for line, o in outcomes]
    return HEADER + "\n".join(rows) + "\n"


def read_page(markdown: str) -> dict[tuple[str, str], Outcome]:
    """Return what a written page says, by claim and command."""
    rows = re.findall(r"^\| (.*) \| `([^`]*)` \| (.*) \| (.*) \|$", markdown, flags=re.MULTILINE)
    return {(claim, command): Outcome(figure, holds) for claim, command, figure, holds in rows}


def kept_outcomes(lines: list[Line], markdown: str, text: str) -> dict[str, Outcome]:
    """Return, by claim, what a written page last showed of the lines it knows whose command lacks the text."""
    last = read_page(markdown)
    known = [line for line in lines if (line.claim, line.command) in last]
    return {line.claim: last[line.claim, line.command] for line in known if text not in line.command}


def main(arguments: list[str]) -> int:
    """Regenerate the page; 0 when every line that could run holds."""
    destination, text = (*arguments, "")[:2]
    entries = tomllib.loads((Path(__file__).with_suffix(".toml")).read_text(encoding="utf-8"))["line"]
    lines = [Line(**entry) for entry in entries]
    kept = kept_outcomes(lines, Path(destination).read_text(encoding="utf-8"), text) if text else {}
    wanted = [line for line in lines if line.claim not in kept]
    outcomes = kept | {line.claim: shown(line) for line in wanted if line.is_timed}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        others = [line for line in wanted if not line.is_timed]
        outcomes |= {line.claim: outcome for line, outcome in zip(others, pool.map(shown, others), strict=True)}
    Path(destination).write_text(page([(line, outcomes[line.claim]) for line in lines]), encoding="utf-8")
    return int(any(outcome.holds.startswith("no:") for outcome in outcomes.values()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
