"""C sources as a program: compiled by the C compiler at hand, fed vectors.

CC names another compiler, KWSQ_EMULATOR what runs its programs, so that sources are proven on the instructions of the
device: CC="aarch64-linux-gnu-gcc -static" KWSQ_EMULATOR="qemu-aarch64 -cpu cortex-a53".
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kwsq.ir.errors import ParityError, Problem, UsageError
from kwsq.ir.lowered import LoweredGraph
from kwsq.targets.c.source import POINTERS

Arrays = Mapping[str, npt.NDArray[Any]]

FLAGS = ("-std=c99", "-O2", "-Wall", "-Wextra")
_TIMEOUT_SECONDS = 300
_LAST_LINES, _LAST_LETTERS = 6, 1000


@dataclass(frozen=True, slots=True)
class Toolchain:
    """How sources become a program, and what runs it.

    Args:
        compiler: command with its own options, beside which FLAGS go.
        emulator: command that takes a program; empty where the machine itself runs it.
    """

    compiler: tuple[str, ...]
    emulator: tuple[str, ...]

    @property
    def command(self) -> list[str]:
        """The compiler with FLAGS, which its own options override."""
        words = self.compiler
        own = next((i for i, word in enumerate(words) if word.startswith("-")), len(words))
        return [*words[:own], *FLAGS, *words[own:]]


def toolchain() -> Toolchain:
    """Returns what CC and KWSQ_EMULATOR name, else cc, gcc or clang and no emulator.

    Raises:
        UsageError: there is no such program, or its variable cannot be read as a command.
    """
    named = _command("CC")
    candidates = [named] if named else [["cc"], ["gcc"], ["clang"]]
    found = next((words for words in candidates if shutil.which(words[0])), None)
    if found is None:
        what = f"no {named[0]}, which CC names" if named else "no C compiler"
        remedy = "install one (apt-get install gcc libc6-dev), or name it in CC"
        raise UsageError(Problem("--emit c", what, "a C compiler, which proves the sources", remedy))
    emulator = _command("KWSQ_EMULATOR")
    if emulator and shutil.which(emulator[0]) is None:
        what, remedy = f"no {emulator[0]}, which KWSQ_EMULATOR names", "install it, or correct the variable"
        raise UsageError(Problem("--emit c", what, "a program that runs others", remedy))
    return Toolchain(_absolute(found), _absolute(emulator))


def _command(variable: str) -> list[str]:
    try:
        return shlex.split(os.environ.get(variable, ""))
    except ValueError as error:
        remedy = "correct the variable"
        raise UsageError(Problem(variable, f"{os.environ[variable]!r:.80}: {error}", "a command", remedy)) from error


def _absolute(words: list[str]) -> tuple[str, ...]:
    """Returns a command whose program is found from any folder; names that PATH resolves stay."""
    return tuple(words) if not words or os.sep not in words[0] else (os.path.abspath(words[0]), *words[1:])


class CProgram:
    """Sources of a network as a program; a context, at whose end it is gone.

    Args:
        graph: what the sources compute; its inputs and outputs are those of the program.
        name: what the network's function begins with.
        files: the sources.

    Raises:
        UsageError: there is no compiler or emulator.
        ParityError: the sources do not compile.
    """

    def __init__(self, graph: LoweredGraph, name: str, files: Mapping[str, bytes]) -> None:
        self._tools, self._graph = toolchain(), graph
        self.compiler, self.emulator = shlex.join(self._tools.compiler), shlex.join(self._tools.emulator)
        self._folder = tempfile.TemporaryDirectory()
        try:
            self._build({**files, "main.c": _main(graph, name).encode()})
        except ParityError:
            self._folder.cleanup()
            raise

    def _build(self, files: Mapping[str, bytes]) -> None:
        place = Path(self._folder.name)
        for file, content in files.items():
            (place / file).write_bytes(content)
        units = [file for file in files if file.endswith(".c")]
        remedy = "see what it says, or name another compiler in CC"
        _checked([*self._tools.command, "-I.", *units, "-o", "program"], place, b"", self.compiler, remedy)

    def __enter__(self) -> CProgram:
        return self

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()

    def run(self, inputs: Arrays) -> dict[str, Any]:
        """Runs one or several vectors.

        Args:
            inputs: arrays whose first dimension is k times the declared one.

        Returns:
            Every output of k runs, stacked along the first dimension.

        Raises:
            ParityError: the program refuses an input or ends otherwise, or the machine cannot run it.
        """
        count = _vectors(self._graph, inputs)
        stacked = [inputs[n].reshape(count, -1) for n in self._graph.inputs]
        vectors = b"".join(part[i].tobytes() for i in range(count) for part in stacked)
        place = Path(self._folder.name)
        remedy = "name an emulator in KWSQ_EMULATOR where CC builds for another machine, or report a defect of kwsq"
        command = [*self._tools.emulator, str(place / "program")]
        answers = _checked(command, place, vectors, "the compiled program", remedy)
        return _outputs(self._graph, answers, count)


def _vectors(graph: LoweredGraph, inputs: Arrays) -> int:
    first = graph.inputs[0]
    return inputs[first].size // graph[first].size


def _checked(command: list[str], place: Path, given: bytes, who: str, remedy: str) -> bytes:
    """Runs a command; returns what it prints, and raises what keeps it from that."""
    where = f"C sources: {who}"
    try:
        done = subprocess.run(
            command, cwd=place, input=given, capture_output=True, timeout=_TIMEOUT_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise ParityError(Problem(where, f"no end within {_TIMEOUT_SECONDS} seconds", "an end", remedy)) from error
    except OSError as error:
        raise ParityError(Problem(where, str(error.strerror or error), "a program that runs", remedy)) from error
    if done.returncode:
        said = " | ".join(done.stderr.decode(errors="replace").splitlines()[-_LAST_LINES:])[-_LAST_LETTERS:]
        raise ParityError(Problem(where, f"exit status {done.returncode}: {said}", "exit status 0", remedy))
    return done.stdout


def _outputs(graph: LoweredGraph, answers: bytes, count: int) -> dict[str, Any]:
    widths = [graph[n].size_bytes for n in graph.outputs]
    if len(answers) != count * sum(widths):
        found, expected = f"{len(answers)} bytes", f"{count * sum(widths)}, {count} times all outputs"
        raise ParityError(Problem("C sources: program", found, expected, "report this as a defect of kwsq"))
    rows = np.frombuffer(answers, np.uint8).reshape(count, sum(widths))
    done = 0
    computed: dict[str, Any] = {}
    for name, width in zip(graph.outputs, widths, strict=True):
        shape, dtype = graph[name].shape, graph[name].dtype.numpy
        values = np.ascontiguousarray(rows[:, done : done + width]).view(dtype)
        computed[name] = values.reshape(count * shape[0], *shape[1:]) if shape else values.reshape(-1)
        done += width
    return computed


def _main(graph: LoweredGraph, name: str) -> str:
    """Returns a program that reads vectors of all inputs and writes those of all outputs; 3 where a run fails."""
    ports = [(f"in_{i}", n) for i, n in enumerate(graph.inputs)]
    ports += [(f"out_{i}", n) for i, n in enumerate(graph.outputs)]
    arrays = [f"static {POINTERS[graph[n].dtype]} {word}[{graph[n].size}];" for word, n in ports]
    read = " && ".join(f"fread(in_{i}, {graph[n].size_bytes}, 1, stdin) == 1" for i, n in enumerate(graph.inputs))
    write = [f"        fwrite(out_{i}, {graph[n].size_bytes}, 1, stdout);" for i, n in enumerate(graph.outputs)]
    call = f"{name}_run({', '.join(['arena', *(word for word, _ in ports)])})"
    return "\n".join(
        [
            '#include <stdio.h>\n\n#include "model.h"\n',
            f"static uint8_t arena[{name.upper()}_ARENA_BYTES];",
            *arrays,
            f"\nint main(void) {{\n    while ({read}) {{",
            f"        if ({call} != KWSQ_OK) return 3;",
            *write,
            "    }\n    return 0;\n}\n",
        ]
    )
