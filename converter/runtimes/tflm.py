"""Running a `.tflite` file in TensorFlow Lite Micro, where its Python package is installed.

A kernel that meets something unexpected ends the process, so every run is a process of its own.
"""

from __future__ import annotations

import importlib.util
import io
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from kwsq.ir.errors import ParityError, Problem, UsageError

Array = npt.NDArray[Any]

ARENA_BYTES = 16 * 2**20
_TIMEOUT_SECONDS = 120
_LAST_LINES = 4


def is_installed() -> bool:
    """Returns whether the optional package `tflite-micro` is there."""
    return importlib.util.find_spec("tflite_micro") is not None


def run_tflm(model: bytes, inputs: Sequence[Array]) -> tuple[Array, ...]:
    """Runs one or several vectors.

    Args:
        model: bytes of a `.tflite` file.
        inputs: one array per graph input, file order; first dimension k times the declared one.

    Returns:
        One array per graph output, k runs stacked along the first dimension.

    Raises:
        UsageError: the package is not installed.
        ParityError: TensorFlow Lite Micro refuses the model, or dies of it.
    """
    if not is_installed():
        remedy = "install kwsq[tflm] (a pre-release: pip install --pre), or use --runtime litert"
        raise UsageError(Problem("tflite-micro", "not installed", "the package", remedy))
    request = io.BytesIO()
    arrays = {f"input{i}": array for i, array in enumerate(inputs)}
    np.savez(request, model=np.frombuffer(model, np.uint8), **arrays)  # type: ignore[arg-type]  # keyword names
    done = subprocess.run(
        [sys.executable, "-m", __name__],
        input=request.getvalue(),
        capture_output=True,
        timeout=_TIMEOUT_SECONDS,
        check=False,
    )
    if done.returncode != 0:
        lines = done.stderr.decode("utf-8", errors="replace").split("\n")
        reason = "; ".join(line.strip() for line in lines[-_LAST_LINES:] if line.strip())
        found = reason or f"the process ended with {done.returncode}"
        raise ParityError(Problem("TensorFlow Lite Micro", found, "a run of the artefact", "use --runtime litert"))
    with np.load(io.BytesIO(done.stdout)) as results:
        return tuple(results[f"output{i}"] for i in range(len(results.files)))


def _serve() -> None:
    """Body of the process: a request on standard input, results on standard output."""
    from tflite_micro import runtime

    with np.load(io.BytesIO(sys.stdin.buffer.read())) as request:
        model, inputs = request["model"].tobytes(), [request[f"input{i}"] for i in range(len(request.files) - 1)]
    interpreter = runtime.Interpreter.from_bytes(model, arena_size=ARENA_BYTES)
    rows = [_invoke(interpreter, vector) for vector in _vectors(interpreter, inputs)]
    stacked = {f"output{i}": np.concatenate([row[i] for row in rows]) for i in range(len(rows[0]))}
    reply = io.BytesIO()
    np.savez(reply, **stacked)  # type: ignore[arg-type]  # keyword names
    sys.stdout.buffer.write(reply.getvalue())


def _vectors(interpreter: Any, inputs: Sequence[Array]) -> list[tuple[Array, ...]]:
    split = []
    for i, array in enumerate(inputs):
        shape = tuple(int(n) for n in interpreter.get_input_details(i)["shape"])
        split.append(array.reshape(-1, *shape))
    return list(zip(*split, strict=True))


def _invoke(interpreter: Any, vector: Sequence[Array]) -> list[Array]:
    for i, array in enumerate(vector):
        interpreter.set_input(array, i)
    interpreter.invoke()
    outputs: list[Array] = []
    while True:
        try:
            outputs.append(np.atleast_1d(interpreter.get_output(len(outputs))).copy())
        except IndexError:
            return outputs


if __name__ == "__main__":
    _serve()
