"""What is written: directories and files appear whole or not at all, and foreign files are never touched."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from kwsq.ir.errors import Problem, UsageError

ARTEFACTS = ("model.tflite", "model.kwsq", "model_int8.tflite")
REPORT_JSON, REPORT_HTML, MANIFEST = "report.json", "report.html", "manifest.json"
STATEMENT, BOM, CARD = "model.intoto.json", "model.cdx.json", "MODEL_CARD.md"
C_KERNELS = ("kwsq_fixed.h", "kwsq_kernels.h", "kwsq_kernels.c", "kwsq_layers.h", "kwsq_layers.c")
C_SOURCES = ("model.c", "model.h", *C_KERNELS)
OWN_FILES = (*ARTEFACTS, *C_SOURCES, REPORT_JSON, REPORT_HTML, MANIFEST, STATEMENT, BOM, CARD)
"""Names kwsq writes; in an output directory they are kwsq's to replace."""
_OTHER_DIRECTORY, _OTHER_PATH = "choose another directory with -o", "choose another path"


@dataclass(frozen=True, slots=True)
class OutputDirectory:
    """A directory checked to be free for writing.

    Args:
        path: the directory; it need not exist.
        force: whether kwsq's own files in it may be replaced.
    """

    path: Path
    force: bool

    @classmethod
    def claim(cls, path: Path, *, force: bool) -> OutputDirectory:
        """Returns the directory after checking that nothing of the user's would be lost; creates nothing.

        Raises:
            UsageError: the path is a file, is not empty and `force` is not given, or cannot be written.
        """
        where = f"output directory {str(path)!r}"
        with _reported(where):
            if not path.is_dir() and (path.exists() or path.is_symlink()):
                raise UsageError(Problem(where, "a file", "a directory", "choose another directory with -o"))
            if path.is_dir() and not force and any(path.iterdir()):
                raise _in_use(where)
            for name in OWN_FILES:
                if (path / name).is_dir():
                    found = f"a directory called {name}"
                    raise UsageError(Problem(where, found, "no such directory", "move it or choose another with -o"))
        _check_writable(path, where)
        return cls(path, force)

    def publish(self, files: Mapping[str, bytes]) -> None:
        """Writes the files and removes those of kwsq's names that are not among them.

        A new directory appears complete, by one rename; in an existing one each file is replaced by rename.

        Raises:
            UsageError: writing failed, or without `force` somebody else filled the directory since it was claimed; what
                was created is removed again.
        """
        with _reported(self._where):
            if self.path.is_dir() or not self._create(files):
                self._fill(files)

    @property
    def _where(self) -> str:
        return f"output directory {str(self.path)!r}"

    def _create(self, files: Mapping[str, bytes]) -> bool:
        """Returns whether the directory was created: somebody else may have done so meanwhile."""
        created = [folder for folder in self.path.parents if not folder.exists()]
        staging = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        with ExitStack() as undo:  # last in, first out
            for folder in reversed(created):
                undo.callback(_remove_empty, folder)
            undo.callback(shutil.rmtree, staging, ignore_errors=True)
            staging.mkdir(parents=True)
            _write(staging, files)
            try:
                staging.rename(self.path)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
                return False
            undo.pop_all()
        return True

    def _fill(self, files: Mapping[str, bytes]) -> None:
        # Without force the name is the same for everybody: who creates the folder has the directory to itself.
        staging = self.path / (f".kwsq.{os.getpid()}" if self.force else ".kwsq")
        try:
            staging.mkdir()
        except FileExistsError as error:
            raise _in_use(self._where) from error
        try:
            if not self.force and any(path != staging for path in self.path.iterdir()):
                raise _in_use(self._where)
            _write(staging, files)
            # The manifest vouches for the others: it goes first and comes last.
            for name in (MANIFEST, *(name for name in OWN_FILES if name not in files)):
                (self.path / name).unlink(missing_ok=True)
            for name in sorted(files, key=lambda name: name == MANIFEST):
                (staging / name).replace(self.path / name)
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def write_beside(directory: Path, files: Mapping[str, bytes]) -> None:
    """Adds files to a directory of kwsq's, each whole or not at all.

    Raises:
        UsageError: they cannot be written.
    """
    with _reported(f"directory {str(directory)!r}"):
        staging = directory / f".kwsq.{os.getpid()}"
        staging.mkdir()
        try:
            _write(staging, files)
            for name in files:
                (staging / name).replace(directory / name)
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def check_new_file(path: Path, where: str, *, force: bool, kept: Sequence[Path | None] = ()) -> None:
    """Checks that a file can be written and nothing would be lost; creates nothing.

    Args:
        path: the file.
        where: option that named it, for messages.
        force: whether an existing file may be replaced.
        kept: files that are read and must stay; None for one that is not named.

    Raises:
        UsageError: no file but a directory or a device, a file that exists while `force` is not given, one that is
            read, or a place that cannot be written.
    """
    with _reported(where, _OTHER_PATH):
        exists = _check_regular(path, where)
        same = [each for each in kept if each is not None and exists and each.exists() and path.samefile(each)]
    if exists and not force:
        raise UsageError(Problem(where, "an existing file", "a new one", "choose another name or add --force"))
    if same:
        raise UsageError(Problem(where, f"{same[0].name!r}, which is read", "another file", _OTHER_PATH))
    if not os.access(path.parent, os.W_OK | os.X_OK):
        found = f"the folder {str(path.parent)!r}, which is missing or cannot be written"
        raise UsageError(Problem(where, found, "a writable place", _OTHER_PATH))


def _check_regular(path: Path, where: str) -> bool:
    """Returns whether the path exists; refuses what a replacement would destroy for others, such as a device."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return False
    if not stat.S_ISREG(mode):
        found = "a directory" if stat.S_ISDIR(mode) else "a device, a pipe or a socket"
        raise UsageError(Problem(where, found, "a file", _OTHER_PATH))
    return True


def write_file(path: Path, data: bytes, where: str) -> None:
    """Writes a file, whole or not at all; an existing one is replaced, of a symbolic link the file it leads to.

    Args:
        path: the file.
        data: its contents.
        where: option that named it, for messages.

    Raises:
        UsageError: it cannot be written, or is no file, such as a pipe.
    """
    with _reported(where, _OTHER_PATH):
        path = path.resolve()
        _check_regular(path, where)
        staging = path.parent / f".{path.name}.{os.getpid()}"
        try:
            staging.write_bytes(data)
            staging.replace(path)
        finally:
            with contextlib.suppress(OSError):  # what kept it from being written, a name too long, keeps it from this
                staging.unlink(missing_ok=True)


def _in_use(where: str) -> UsageError:
    remedy = "empty it, choose another with -o, or add --force to replace kwsq's own files"
    return UsageError(Problem(where, "a directory that is not empty", "an empty or new one", remedy))


@contextmanager
def _reported(where: str, remedy: str = _OTHER_DIRECTORY) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        found = error.strerror or str(error)
        raise UsageError(Problem(where, found, "a writable place", remedy)) from error


def _check_writable(path: Path, where: str) -> None:
    existing = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        found = f"{str(existing)!r}, which cannot be written"
        raise UsageError(Problem(where, found, "a writable directory", "choose another directory with -o"))


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    for name, data in files.items():
        (folder / name).write_bytes(data)


def _remove_empty(folder: Path) -> None:
    try:
        folder.rmdir()
    except OSError:
        return  # somebody else put something there meanwhile
