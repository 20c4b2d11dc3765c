"""Running a `.tflite` file in TensorFlow Lite Micro, where its Python package is installed.

A kernel that meets something unexpected ends the process, so every run is a process of its own.
"""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kwsq.converter.runtimes import tflm_process
from kwsq.converter.runtimes.tflm_process import from_bytes, to_bytes
from kwsq.ir.errors import ParityError, Problem, UsageError

Array = npt.NDArray[Any]

_TIMEOUT_SECONDS = 120
_LAST_LINES = 4
_ARENA_LINE = re.compile(rb"Arena allocation total (\d+) bytes")


@dataclass(frozen=True, slots=True, eq=False)
class TflmRun:
    """Results of one or several invocations.

    Args:
        outputs: one array per graph output, vectors stacked along the first dimension.
        kept: tensor index -> array, for the tensors asked for.
    """

    outputs: tuple[Array, ...]
    kept: dict[int, Array]


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
    results = from_bytes(_ask([np.frombuffer(model, np.uint8), np.array(kept, np.int64), *inputs]).stdout)
    return TflmRun(tuple(results[len(kept) :]), dict(zip(kept, results, strict=False)))


def measure_arena(model: bytes) -> int:
    """Returns the bytes of the arena one inference needs, as the interpreter's own recording says.

    Raises:
        UsageError: the package is not installed.
        ParityError: TensorFlow Lite Micro refuses the model, or dies of it.
    """
    found = _ARENA_LINE.search(_ask([np.frombuffer(model, np.uint8)]).stderr)
    assert found, "the recording interpreter prints its total"
    return int(found[1])


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
