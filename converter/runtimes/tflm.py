"""Running a `.tflite` file in TensorFlow Lite Micro, where its Python package is installed.

A kernel that meets something unexpected ends the process, so every run is a process of its own.
"""

from __future__ import annotations

import importlib.util
import re
import struct
import subprocess
import sys
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kwsq.converter.runtimes import tflm_process
from kwsq.converter.runtimes.tflm_process import from_bytes, to_bytes
from kwsq.ir.errors import ParityError, Problem, UsageError

Array = npt.NDArray[Any]

_TIMEOUT_SECONDS = 120
_LAST_LINES = 4
_POINTER_BITS = 8 * struct.calcsize("P")
_ARENA_LINE = re.compile(rb"Arena allocation (total|head|tail) (\d+) bytes")


@dataclass(frozen=True, slots=True)
class Arena:
    """What TensorFlow Lite Micro recorded of its arena after an inference.

    Args:
        head_bytes: activations and scratch memory, what the planner placed.
        tail_bytes: what stays: tensors, operators and their data. Its structures hold pointers of the machine that
            measured; on one with narrower pointers they are smaller.
        pointer_bits: width of a pointer where it was measured.
    """

    head_bytes: int
    tail_bytes: int
    pointer_bits: int

    @property
    def total_bytes(self) -> int:
        """The whole arena."""
        return self.head_bytes + self.tail_bytes

    def to_json(self) -> dict[str, int]:
        """Returns the fields and their total."""
        return {**asdict(self), "total_bytes": self.total_bytes}


@dataclass(frozen=True, slots=True, eq=False)
class TflmRun:
    """Results of one or several invocations.

    Args:
        outputs: one array per graph output, vectors stacked along the first dimension.
        kept: tensor index -> array, for the tensors asked for.
        arena: what the run took; None where tensors were kept, which takes more.
    """

    outputs: tuple[Array, ...]
    kept: dict[int, Array]
    arena: Arena | None = None


def is_installed() -> bool:
    """Returns whether the optional package `tflite-micro` is there."""
    return importlib.util.find_spec("tflite_micro") is not None


def run_tflm(model: bytes, inputs: Sequence[Array], keep: Collection[int] = ()) -> TflmRun:
    """Runs one or several vectors.

    Args:
        model: bytes of a `.tflite` file.
        inputs: one array per graph input, file order; first dimension k times the declared one.
        keep: indices of tensors to return besides the outputs.

    Returns:
        Stacked results of k invocations.

    Raises:
        UsageError: the package is not installed.
        ParityError: TensorFlow Lite Micro refuses the model, or dies of it.
    """
    kept = sorted(keep)
    done = _ask([np.frombuffer(model, np.uint8), np.array(kept, np.int64), *inputs])
    results = from_bytes(done.stdout)
    arena = None if kept else _recorded(done.stderr)
    return TflmRun(tuple(results[len(kept) :]), dict(zip(kept, results, strict=False)), arena)


def record_arena(model: bytes) -> Arena:
    """Returns what one inference takes, as the interpreter's own recording says.

    Raises:
        UsageError: the package is not installed.
        ParityError: TensorFlow Lite Micro refuses the model, or dies of it.
    """
    return _recorded(_ask([np.frombuffer(model, np.uint8)]).stderr)


def measure_arena(model: bytes) -> int:
    """Returns the bytes of the whole arena, see `record_arena`."""
    return record_arena(model).total_bytes


def _recorded(log: bytes) -> Arena:
    found = {part.decode(): int(size) for part, size in _ARENA_LINE.findall(log)}
    assert found.keys() >= {"head", "tail"}, "the recording interpreter prints its parts"
    return Arena(found["head"], found["tail"], _POINTER_BITS)


def missing() -> Problem:
    """Returns what to say where the package is needed and absent."""
    remedy = "run: pip install 'kwsq[tflm]'"
    return Problem("tflite-micro", "not installed", "the package that runs TensorFlow Lite Micro", remedy)


def _ask(request: Iterable[Array]) -> subprocess.CompletedProcess[bytes]:
    """Returns the answer of a process of its own."""
    if not is_installed():
        raise UsageError(missing())
    done = subprocess.run(
        [sys.executable, "-m", tflm_process.__name__],
        input=to_bytes(request),
        capture_output=True,
        timeout=_TIMEOUT_SECONDS,
        check=False,
    )
    if done.returncode != 0:
        lines = done.stderr.decode("utf-8", errors="replace").split("\n")
        reason = "; ".join(line.strip() for line in lines[-_LAST_LINES:] if line.strip())
        found = reason or f"the process ended with {done.returncode}"
        raise ParityError(Problem("TensorFlow Lite Micro", found, "a run of the artefact", "use --runtime litert"))
    return done
