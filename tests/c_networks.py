"""Many networks as one C program: their sources, every warning an error, against the integer reference."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lowered_models import random_inputs
from numpy.typing import NDArray

from kwsq.ir.execute import run_integer
from kwsq.ir.lowered import LoweredGraph
from kwsq.targets.base import TargetOptions
from kwsq.targets.c.source import POINTERS
from kwsq.targets.c.target import CTarget

WARNINGS = "-std=c99 -Wall -Wextra -Wpedantic -Wconversion -Werror".split()
SANITIZED = ["gcc", *WARNINGS, "-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
VECTORS = 3
OPTIONS = TargetOptions(version="test", source_sha256="0" * 64)


@dataclass(frozen=True, slots=True, eq=False)
class Network:
    """A legalised graph, its sources, vectors for it and what the integer reference makes of them."""

    graph: LoweredGraph
    files: Mapping[str, bytes]
    inputs: Mapping[str, NDArray[Any]]
    expected: Mapping[str, NDArray[Any]]


def network(graph: LoweredGraph, name: str, vectors: int = VECTORS) -> Network:
    """Return a graph as sources under a name of its own."""
    target = CTarget()
    legal = target.legalize(replace(graph, name=name), OPTIONS)
    inputs = random_inputs(legal, vectors)
    return Network(legal, target.emit(legal, OPTIONS).files, inputs, run_integer(legal, inputs))


def outputs(
    networks: Sequence[Network], folder: Path, compiler: Sequence[str] = SANITIZED, emulator: Sequence[str] = ()
) -> list[list[dict[str, NDArray[Any]]]]:
    """Return, by network and vector, what a program of all of them computes."""
    for each in networks:
        own = folder / each.graph.name
        own.mkdir()
        for file, content in each.files.items():
            (own / file if file.startswith("model.") else folder / file).write_bytes(content)
    (folder / "main.c").write_text(_main(networks), encoding="utf-8")
    given = b"".join(_vector(each.graph, each.inputs, i) for each in networks for i in range(_count(each)))
    answers, found = compiled_and_run(compiler, folder, given, emulator), []
    for each in networks:
        rows = []
        for _ in range(_count(each)):
            row, answers = _split(each.graph, answers)
            rows.append(row)
        found.append(rows)
    assert answers == b""
    return found


def compiled_and_run(compiler: Sequence[str], folder: Path, given: bytes = b"", emulator: Sequence[str] = ()) -> bytes:
    """Return what a program of all sources in a folder answers; skips where there is no compiler or emulator."""
    if shutil.which(compiler[0]) is None:
        pytest.skip(f"needs {compiler[0]}: apt-get install gcc libc6-dev gcc-aarch64-linux-gnu libc6-dev-arm64-cross")
    if emulator and shutil.which(emulator[0]) is None:
        pytest.skip(f"needs {emulator[0]}: apt-get install qemu-user")
    units = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.c"))
    command = [*compiler, "-I.", *units, "-o", "program"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    command = [*emulator, str(folder / "program")]
    ran = subprocess.run(command, input=given, capture_output=True, timeout=300, check=False)
    assert ran.returncode == 0, ran.stderr.decode()[-4000:]
    return ran.stdout


def assert_reference(networks: Sequence[Network], found: list[list[dict[str, NDArray[Any]]]]) -> None:
    """Every output of every vector is the integer reference's, bit for bit."""
    for each, rows in zip(networks, found, strict=True):
        for name in each.graph.outputs:
            expected = each.expected[name].reshape(len(rows), -1)
            got = np.stack([row[name] for row in rows])
            np.testing.assert_array_equal(got, expected, err_msg=f"{each.graph.name}: {name}")


def _count(each: Network) -> int:
    first = each.graph.inputs[0]
    return each.inputs[first].size // each.graph[first].size


def _vector(graph: LoweredGraph, inputs: Mapping[str, NDArray[Any]], index: int) -> bytes:
    return b"".join(inputs[n].reshape(-1, graph[n].size)[index].tobytes() for n in graph.inputs)


def _split(graph: LoweredGraph, answers: bytes) -> tuple[dict[str, NDArray[Any]], bytes]:
    row = {}
    for name in graph.outputs:
        size = graph[name].size_bytes
        row[name], answers = np.frombuffer(answers[:size], graph[name].dtype.numpy), answers[size:]
    return row, answers


def _main(networks: Sequence[Network]) -> str:
    """A program that runs each network on its vectors, in order, from standard input to standard output."""
    lines = ["#include <stdio.h>", *(f'#include "{each.graph.name}/model.h"' for each in networks)]
    body = []
    for each in networks:
        graph = each.graph
        ports = [(f"{graph.name}_i{i}", n) for i, n in enumerate(graph.inputs)]
        outs = [(f"{graph.name}_o{i}", n) for i, n in enumerate(graph.outputs)]
        lines += [f"static {POINTERS[graph[n].dtype]} {word}[{graph[n].size}];" for word, n in (*ports, *outs)]
        lines.append(f"static uint8_t {graph.name}_arena[{graph.name.upper()}_ARENA_BYTES];")
        call = ", ".join([f"{graph.name}_arena", *(word for word, _ in (*ports, *outs))])
        body.append(f"    for (int i = 0; i < {_count(each)}; i++) {{")
        body += [f"        if (fread({w}, sizeof {w}, 1, stdin) != 1) return 2;" for w, _ in ports]
        body.append(f"        if ({graph.name}_run({call}) != KWSQ_OK) return 3;")
        body += [f"        fwrite({w}, sizeof {w}, 1, stdout);" for w, _ in outs]
        body.append("    }")
    return "\n".join([*lines, "int main(void) {", *body, "    return 0;", "}", ""])
