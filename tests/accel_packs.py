"""Packs of small networks, what becomes of damaged ones, and the C reference compiled with sanitizers."""

from __future__ import annotations

import functools
import hashlib
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkout import ROOT
from numpy.typing import NDArray

from kwsq.ir.lowered import LoweredGraph
from kwsq.targets.accel.execute import numpy_type
from kwsq.targets.accel.format import ENTRY, HEADER, Role
from kwsq.targets.accel.records import Pack
from kwsq.targets.accel.target import FILE_NAME, AccelTarget
from kwsq.targets.accel.writer import seal
from kwsq.targets.base import TargetOptions

CSOURCE = ROOT / "targets" / "accel" / "csource"
KERNELS = ROOT / "targets" / "csource"
BATCH = Path(__file__).resolve().parent / "targets" / "accel" / "pack_batch.c"
FLAGS = (
    "-std=c99 -Wall -Wextra -Wpedantic -Wconversion -Werror -O1 -g "
    "-fsanitize=address,undefined -fno-sanitize-recover=all"
).split()


def packed(graph: LoweredGraph, container: str = "stream") -> tuple[LoweredGraph, bytes]:
    """Return the legalised graph and its pack."""
    target, options = AccelTarget(), TargetOptions(container=container, version="test")
    legal = target.legalize(graph, options)
    return legal, target.emit(legal, options).files[FILE_NAME]


def resealed(data: bytes) -> bytes:
    """Return the file with all digests computed anew, as somebody would who means harm."""
    parts, size = bytearray(data), len(data)
    count = HEADER.unpack_from(data)[5] if size >= HEADER.size else 0
    for i in range(min(count, 16)):
        at = HEADER.size + ENTRY.size * i
        if at + ENTRY.size > size:
            break
        _, offset, length, _, _ = ENTRY.unpack_from(parts, at)
        parts[at + 16 : at + 48] = hashlib.sha256(parts[offset : offset + length]).digest()
    return seal(bytes(parts)) if size >= HEADER.size else data


# ---- the C reference ----


@functools.cache
def compiled(*sources: Path) -> Path:
    """Return a program of the reference and `sources`; skips where there is no compiler."""
    compiler = shutil.which("gcc")
    if compiler is None:
        pytest.skip("needs a C compiler: apt-get install gcc libc6-dev")
    library = [path for path in sorted([*CSOURCE.glob("*.c"), *KERNELS.glob("*.c")]) if path.name != "kwsq_main.c"]
    program = Path(tempfile.mkdtemp()) / sources[0].stem
    command = [compiler, *FLAGS, f"-I{CSOURCE}", f"-I{KERNELS}", *map(str, [*library, *sources]), "-o", str(program)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return program


def raw_vectors(pack: Pack, role: Role, arrays: dict[str, NDArray[Any]], count: int) -> bytes:
    """Return the bytes of stacked vectors, vector by vector, states of inputs left out."""
    entries = [entry for entry in pack.entries(role) if entry.partner is None]
    parts = [arrays[entry.name].reshape(count, -1) for entry in entries]
    return b"".join(part[i].tobytes() for i in range(count) for part in parts)


def run_c(data: bytes, inputs: bytes, folder: Path) -> bytes:
    """Return what the C reference computes from the raw vectors."""
    program = compiled(CSOURCE / "kwsq_main.c")
    pack, given, found = folder / "model.kwsq", folder / "input.bin", folder / "output.bin"
    pack.write_bytes(data)
    given.write_bytes(inputs)
    done = subprocess.run([program, pack, given, found], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return found.read_bytes()


def batch(packs: list[bytes], folder: Path) -> list[tuple[int, int, str]]:
    """Return (status, section, digest of the outputs) of each pack in C; the digest is "-" where it did not run."""
    program, file = compiled(BATCH), folder / "packs.bin"
    file.write_bytes(b"".join(len(pack).to_bytes(4, "little") + pack for pack in packs))
    done = subprocess.run([program, file], capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    lines = [line.split() for line in done.stdout.splitlines()]
    assert len(lines) == len(packs)
    return [(int(status), int(section), digest) for status, section, digest in lines]


def pattern(size: int) -> NDArray[np.uint8]:
    """Return the bytes that pack_batch.c feeds to every input."""
    return (np.arange(size) * 37 + 11).astype(np.uint8)


def pattern_inputs(pack: Pack) -> dict[str, NDArray[Any]]:
    """Return one vector of pattern inputs, states at real 0."""
    inputs: dict[str, NDArray[Any]] = {}
    for entry in pack.entries(Role.INPUT):
        tensor = pack.tensor(entry)
        values = pattern(tensor.size_bytes).view(numpy_type(tensor)).reshape(tensor.shape)
        inputs[entry.name] = values if entry.partner is None else np.full_like(values, tensor.zero_point)
    return inputs


def fnv(data: bytes) -> str:
    """Return the 64-bit FNV-1a hash that pack_batch.c prints."""
    value = 0xCBF29CE484222325
    for byte in data:
        value = (value ^ byte) * 0x100000001B3 % 2**64
    return f"{value:016x}"
