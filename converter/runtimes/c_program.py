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
_LAST_LINES = 6


def compiler() -> list[str] | None:
    """Returns the command of the C compiler: CC's, else cc, gcc or clang; None where there is none."""
    named = shlex.split(os.environ.get("CC", ""))
    for words in [named] if named else [["cc"], ["gcc"], ["clang"]]:
        if shutil.which(words[0]):
            return words
    return None


def missing() -> Problem:
    """Returns what is wrong where there is no compiler."""
    remedy = "install one (apt-get install gcc libc6-dev), or name it in CC"
    return Problem("--emit c", "no C compiler", "cc, gcc, clang or CC's, which proves the sources", remedy)


class CProgram:
    """Sources of a network as a program; a context, at whose end it is gone.

    Args:
        graph: what the sources compute; its inputs and outputs are those of the program.
        name: what the network's function begins with.
        files: the sources.

    Raises:
        UsageError: there is no compiler.
        ParityError: the sources do not compile.
    """

    def __init__(self, graph: LoweredGraph, name: str, files: Mapping[str, bytes]) -> None:
        command = compiler()
        if command is None:
            raise UsageError(missing())
        self.compiler = command[0]
        self._graph = graph
        self._folder = tempfile.TemporaryDirectory()
        try:
            self._build(command, {**files, "main.c": _main(graph, name).encode()})
        except ParityError:
            self._folder.cleanup()
            raise

    def _build(self, command: list[str], files: Mapping[str, bytes]) -> None:
        place = Path(self._folder.name)
        for file, content in files.items():
            (place / file).write_bytes(content)
        units = [file for file in files if file.endswith(".c")]
        _checked([*command, *FLAGS, *units, "-o", "program"], place, b"", "compiler")

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
        emulator = shlex.split(os.environ.get("KWSQ_EMULATOR", ""))
        answers = _checked([*emulator, str(place / "program")], place, vectors, "program")
        return _outputs(self._graph, answers, count)


def _vectors(graph: LoweredGraph, inputs: Arrays) -> int:
    first = graph.inputs[0]
    return inputs[first].size // max(graph[first].size, 1)


def _checked(command: list[str], place: Path, given: bytes, who: str) -> bytes:
    try:
        done = subprocess.run(
            command, cwd=place, input=given, capture_output=True, timeout=_TIMEOUT_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        found = f"no end within {_TIMEOUT_SECONDS} seconds"
        raise ParityError(Problem(f"C sources: {who}", found, "an end", "report this as a defect of kwsq")) from error
    except OSError as error:
        found, remedy = (
            str(error.strerror or error),
            "for another machine's compiler, name its emulator in KWSQ_EMULATOR",
        )
        raise ParityError(Problem(f"C sources: {who}", found, "a program that runs here", remedy)) from error
    if done.returncode:
        said = " | ".join(done.stderr.decode(errors="replace").splitlines()[-_LAST_LINES:])
        found = f"exit status {done.returncode}: {said}"
        raise ParityError(Problem(f"C sources: {who}", found, "exit status 0", "report this as a defect of kwsq"))
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
    arrays = [f"static {POINTERS[graph[n].dtype]} {word}[{max(graph[n].size, 1)}];" for word, n in ports]
    read = " && ".join(f"fread(in_{i}, {graph[n].size_bytes}, 1, stdin) == 1" for i, n in enumerate(graph.inputs))
    write = [f"        fwrite(out_{i}, {graph[n].size_bytes}, 1, stdout);" for i, n in enumerate(graph.outputs)]
    call = f"{name}_run({', '.join(['arena', *(word for word, _ in ports)])})"
    return "\n".join(
        [
            f'#include <stdio.h>\n\n#include "{name}.h"\n',
            f"static uint8_t arena[{name.upper()}_ARENA_BYTES + 1];",
            *arrays,
            f"\nint main(void) {{\n    while ({read}) {{",
            f"        if ({call} != KWSQ_OK) return 3;",
            *write,
            "    }\n    return 0;\n}\n",
        ]
    )
