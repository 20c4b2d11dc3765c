"""One run at a time in an output folder: two would mix their files, and each would replace what the other goes on from.

Source: common practice.
"""

import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from kwsq.ir.errors import Problem, UsageError
from kwsq.models.data.whole_file import remove_partials

LOCK = "run.lock"


@contextmanager
def held_folder(folder: Path, show: Callable[[str], None]) -> Iterator[None]:
    """Hold a folder; the system lets go of it when the process ends, however it ends.

    Args:
        folder: created; keeps an empty file LOCK, which says nothing by being there, and loses what killed runs left
            half written. Where a run fails before it has written anything else, what was created is gone again.
        show: called where the file system has no locks: the run goes on, and other runs are not kept out.

    Raises:
        UsageError: it cannot be written, or another process holds it.
    """
    created = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        stream = (folder / LOCK).open("ab")
    except OSError as error:
        found, expected = error.strerror or str(error), "a folder that can be written"
        raise UsageError(Problem(str(folder), found, expected, "name another folder with --out")) from error
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            remove_partials(folder)
        except BlockingIOError as error:
            remedy = "wait until it has ended, or name another folder with --out"
            raise UsageError(Problem(str(folder), "another run at work", "one run in a folder", remedy)) from error
        except OSError as error:  # some network file systems
            show(f"{folder}: no locks here ({error.strerror}); see to it that no other run writes to this folder")
        done = False
        try:
            yield
            done = True
        finally:
            if not done:
                _leave_nothing(folder, created)


def _leave_nothing(folder: Path, created: list[Path]) -> None:
    """Remove the folders that were created for this run, deepest first, if they hold no more than the lock."""
    if folder in created and [each.name for each in folder.iterdir()] == [LOCK]:
        (folder / LOCK).unlink()
        with suppress(OSError):  # another run has begun in one of them
            for each in created:
                each.rmdir()
