"""How a command ends: its result on stdout, everything else on stderr, and the exit code its outcome stands for.

The only place that catches everything.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Mapping
from io import TextIOWrapper
from typing import Any, NoReturn

import typer

from kwsq.converter.safe_text import printable
from kwsq.ir.errors import KwsqError

INTERRUPTED, TERMINATED, INTERNAL, IO_FAILED = 130, 143, 70, 2
EXIT_CODES = (
    "Exit codes: 0 ok; 1 parity, gate or budget failed; 2 usage or I/O; 3 inconclusive; 4 unsupported model; "
    "5 invalid or unsafe input; 70 internal error."
)


def finish(action: Callable[[], int], *, verbose: bool) -> NoReturn:
    """Ends the command with the exit code its outcome stands for."""
    try:
        code = action()
        sys.stdout.flush()
    except KwsqError as error:
        message(error.summary)
        for problem in error.problems:
            message(f"  {problem}")
        code = error.exit_code
    except KeyboardInterrupt:
        message("interrupted")
        code = INTERRUPTED
    except BrokenPipeError:
        # Whoever read stdout has seen enough; Python would complain again when it closes the stream.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = IO_FAILED
    except Exception as error:
        if verbose:
            import traceback

            traceback.print_exc(file=sys.stderr)
        message(f"internal error: {type(error).__name__}: {error}")
        message("this is a defect of kwsq; please report it with the model and the command (-v shows the traceback)")
        code = INTERNAL
    raise typer.Exit(code)


def message(text: str) -> None:
    """Writes a line to stderr."""
    with contextlib.suppress(BrokenPipeError):
        print(f"kwsq: {printable(text)}", file=sys.stderr)


def show_result(facts: Mapping[str, Any], blocks: Any, *, as_json: bool) -> None:
    """Writes the result to stdout, as JSON or as blocks of text."""
    if as_json:
        from kwsq.converter.manifest import json_bytes

        if isinstance(sys.stdout, TextIOWrapper):
            sys.stdout.reconfigure(encoding="utf-8")  # JSON is UTF-8 wherever it is read
        sys.stdout.write(json_bytes(facts).decode())
        return
    from kwsq.converter.terminal import show

    show(blocks, sys.stdout, color=not os.environ.get("NO_COLOR"))
