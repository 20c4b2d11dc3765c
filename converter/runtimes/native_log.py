"""What native libraries print straight to the process's standard error."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager


class NativeLog:
    """Text captured by `captured_native_log`; complete once its context is left."""

    text: str = ""


@contextmanager
def captured_native_log() -> Iterator[NativeLog]:
    """Keeps what native code writes to standard error away from the user and returns it for messages.

    Runtimes announce themselves there ("Created XNNPACK delegate"), and explain there, not in their exception, why
    they refuse a model.
    """
    log = NativeLog()
    try:
        saved = os.dup(2)
    except OSError:  # a process without standard error: nothing is shown anyway
        yield log
        return
    if sys.stderr is not None:
        sys.stderr.flush()
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield log
        finally:
            os.dup2(saved, 2)
            os.close(saved)
            file.seek(0)
            log.text = file.read().decode("utf-8", errors="replace").strip()
