"""Reading a file the user named."""

from __future__ import annotations

from pathlib import Path

from kwsq.ir.errors import Problem, UsageError

MAX_BYTES = 2**29


def read_file(path: Path, where: str) -> bytes:
    """Returns the contents of a file.

    Args:
        path: the file.
        where: option or argument that named it, for messages.

    Raises:
        UsageError: it cannot be read, or is larger than anything kwsq reads.
    """
    place = f"{where} {str(path)!r}"
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except OSError as error:
        found = error.strerror or str(error)
        raise UsageError(Problem(place, found, "a readable file", "check the path")) from error
    if len(data) > MAX_BYTES:
        raise UsageError(Problem(place, f"more than {MAX_BYTES} bytes", "a smaller file", "check the path"))
    return data
