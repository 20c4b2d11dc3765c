"""How a command ends: its result on stdout, everything else on stderr, and the exit code its outcome stands for.

The only place that catches everything, and with `cli` and the commands of `models/` the only one that prints.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from io import TextIOWrapper
from typing import Any, NoReturn, TextIO

from kwsq.converter.safe_text import printable
from kwsq.ir.errors import KwsqError, Problem, UsageError

INTERRUPTED, TERMINATED, INTERNAL, IO_FAILED = 130, 143, 70, 2
EXIT_CODES = (
    "Exit codes: 0 ok; 1 parity, gate or budget failed; 2 usage or I/O; 3 inconclusive; 4 unsupported model; "
    "5 invalid or unsafe input; 70 internal error."
)


def finish(action: Callable[[], int], *, verbose: bool) -> NoReturn:
    """Ends the command with the exit code its outcome stands for."""
    with reported(verbose=verbose):
        code = action()
    raise SystemExit(code)


@contextlib.contextmanager
def reported(*, verbose: bool) -> Iterator[None]:
    """Ends the command with the exit code of what is raised, if anything is."""
    try:
        yield
    except KwsqError as error:
        code = tell(error)
    except KeyboardInterrupt:
        message("interrupted")
        code = INTERRUPTED
    except Exception as error:
        if verbose:
            import traceback

            _write_error(traceback.format_exc())
        message(f"internal error: {type(error).__name__}: {error}")
        message("this is a defect of kwsq; please report it with the model and the command (-v shows the traceback)")
        code = INTERNAL
    else:
        return
    raise SystemExit(code)


def tell(error: KwsqError) -> int:
    """Writes an error to stderr and returns its exit code."""
    message(error.summary)
    for problem in error.problems:
        message(f"  {problem}")
    return error.exit_code


def message(text: str) -> None:
    """Writes a line to stderr."""
    _write_error(f"kwsq: {printable(text)}\n")


def show_result(facts: Mapping[str, Any], blocks: Any, *, as_json: bool) -> None:
    """Writes the result to stdout, as JSON or as blocks of text.

    Raises:
        UsageError: stdout does not take it.
    """
    if as_json:
        from kwsq.converter.manifest import json_bytes

        write_result(json_bytes(facts).decode(), is_utf8=True)  # JSON is UTF-8 wherever it is read
        return
    from kwsq.converter.terminal import show

    with _printing():
        show(blocks, sys.stdout, color=not os.environ.get("NO_COLOR"))


def write_result(text: str, *, is_utf8: bool = False) -> None:
    """Writes text to stdout.

    Args:
        text: what is written.
        is_utf8: whether it is UTF-8 wherever it goes; else it is what the terminal shows.

    Raises:
        UsageError: stdout does not take it.
    """
    with _printing():
        if is_utf8 and isinstance(sys.stdout, TextIOWrapper):
            sys.stdout.reconfigure(encoding="utf-8")
        sys.stdout.write(text)


def discard(stream: TextIO) -> None:
    """Sends what a stream still holds nowhere: Python would complain again when it closes it."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


@contextlib.contextmanager
def _printing() -> Iterator[None]:
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read it has seen enough
        discard(sys.stdout)
        raise SystemExit(IO_FAILED) from None
    except OSError as error:
        discard(sys.stdout)
        found, remedy = error.strerror or str(error), "redirect it elsewhere; files already written are complete"
        raise UsageError(Problem("stdout", found, "somewhere to put the result", remedy)) from error


def _write_error(text: str) -> None:
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except OSError:  # nowhere is left to say so
        discard(sys.stderr)
