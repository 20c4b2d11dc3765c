"""Entry points of `kwsq-convert` and `kwsq`: signals and streams are in order before what takes time is loaded.

stdout carries the result, stderr everything else.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from io import TextIOWrapper
from typing import Literal, NoReturn

from kwsq.converter.cli_outcome import INTERRUPTED, IO_FAILED, TERMINATED, discard, message, tell
from kwsq.ir.errors import Problem, UsageError


def convert_main() -> None:
    """Entry point of `kwsq-convert`."""
    _start("kwsq-convert")


def main() -> None:
    """Entry point of `kwsq`."""
    _start("kwsq")


def _start(name: Literal["kwsq", "kwsq-convert"]) -> NoReturn:
    # A terminated process leaves as little behind as an interrupted one.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))
    try:
        _prepare_streams()
        # Idle OpenBLAS threads spin: a second of CPU for matrices this small. NumPy is not imported yet.
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
        # A short process that allocates much and drops little: a tenth of its time would go into looking for cycles.
        gc.set_threshold(100_000)
        # Not above: a signal must find its handler while these are imported.
        from kwsq.converter.cli_commands import application

        application(name)(prog_name=name)
    except KeyboardInterrupt:
        message("interrupted")
        sys.exit(INTERRUPTED)
    except OSError as error:  # --help into a full disk: finish() sees only what commands do
        discard(sys.stdout)
        message(str(error))
        sys.exit(IO_FAILED)
    finally:
        # An ending interpreter looks for cycles among all objects of all modules; nothing here waits to be found.
        gc.freeze()
    sys.exit(0)


def _prepare_streams() -> None:
    """Leaves no standard stream closed: the next file that is opened would get its number, and what is printed there.

    Raises:
        SystemExit: stdout is closed, which is said before any work is done in vain.
    """
    if sys.stderr is None:
        descriptor = os.open(os.devnull, os.O_WRONLY)
        os.dup2(descriptor, 2)
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115  # for the life of the process
    if sys.stdout is None:
        remedy = "redirect it to a file or to /dev/null"
        sys.exit(tell(UsageError(Problem("stdout", "a closed stream", "somewhere to put the result", remedy))))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a terminal that cannot show a sign must not end the command
            stream.reconfigure(errors="backslashreplace")
