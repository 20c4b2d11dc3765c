"""Files that are whole or absent, whatever happens to the process that writes them.

Source: common practice.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from kwsq.ir.errors import Problem, UsageError


def remove_partials(folder: Path) -> None:
    """Remove what processes that were killed left of their files, from folders that no other writes to."""
    for partial in folder.rglob(".*.partial"):
        with suppress(OSError):
            partial.unlink()


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file of this process's own, which takes the name once it is written and on disk, or goes.

    Args:
        path: of the file; its folder is created.

    Raises:
        UsageError: the file or its folder cannot be written; what stood under the name before stands there still.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with partial.open("wb") as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            partial.replace(path)
        finally:
            with suppress(OSError):  # what kept it from being written, a name too long, keeps it from this
                partial.unlink(missing_ok=True)
    except OSError as error:
        found, remedy = error.strerror or str(error), "make room, or name another folder"
        raise UsageError(Problem(str(path), found, "a file that can be written", remedy)) from error
