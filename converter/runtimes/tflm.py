"""Running a `.tflite` file in TensorFlow Lite Micro, where its Python package is installed.

A kernel that meets something unexpected ends the process, so every run is a process of its own.
"""

from __future__ import annotations

import importlib.util
import io
import itertools
import re
import subprocess
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kwsq.ir.errors import ParityError, Problem, UsageError

Array = npt.NDArray[Any]

ARENA_BYTES = 16 * 2**20
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
    arrays = {f"input{i}": array for i, array in enumerate(inputs)}
    done = _ask({**arrays, "model": np.frombuffer(model, np.uint8), "keep": np.array(sorted(keep), np.int64)})
    with np.load(io.BytesIO(done.stdout)) as results:
        kept = {index: results[f"kept{index}"] for index in keep}
        return TflmRun(tuple(results[f"output{i}"] for i in range(len(results.files) - len(kept))), kept)


def measure_arena(model: bytes) -> int:
    """Returns the bytes of the arena one inference needs, as the interpreter's own recording says.

    Raises:
        UsageError: the package is not installed.
        ParityError: TensorFlow Lite Micro refuses the model, or dies of it.
    """
    done = _ask({"model": np.frombuffer(model, np.uint8)})
    found = _ARENA_LINE.search(done.stderr)
    assert found, "the recording interpreter prints its total"
    return int(found[1])


def missing() -> Problem:
    """Returns what to say where the package is needed and absent."""
    remedy = "run: pip install 'kwsq[tflm]'"
    return Problem("tflite-micro", "not installed", "the package that runs TensorFlow Lite Micro", remedy)


def _ask(request: Mapping[str, Array]) -> subprocess.CompletedProcess[bytes]:
    """Returns the answer of a process of its own."""
    if not is_installed():
        raise UsageError(missing())
    body = io.BytesIO()
    np.savez(body, **request)  # type: ignore[arg-type]  # keyword names
    done = subprocess.run(
        [sys.executable, "-m", __name__],
        input=body.getvalue(),
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


def _serve() -> None:
    """Body of the process: a request on standard input, results on standard output."""
    from tflite_micro import runtime

    with np.load(io.BytesIO(sys.stdin.buffer.read())) as request:
        model = request["model"].tobytes()
        if "keep" not in request.files:
            _record(runtime.Interpreter.from_bytes(model, arena_size=ARENA_BYTES))
            return
        keep = request["keep"].tolist()
        inputs = [request[f"input{i}"] for i in range(len(request.files) - 2)]
    # Preserving costs memory only, of which there is enough here.
    config = runtime.InterpreterConfig.kPreserveAllTensors
    interpreter = runtime.Interpreter.from_bytes(model, arena_size=ARENA_BYTES, intrepreter_config=config)
    rows = [_invoke(interpreter, vector, keep) for vector in _vectors(interpreter, inputs)]
    stacked = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
    reply = io.BytesIO()
    np.savez(reply, **stacked)  # type: ignore[arg-type]  # keyword names
    sys.stdout.buffer.write(reply.getvalue())


def _record(interpreter: Any) -> None:
    """Writes the interpreter's allocations to standard error."""
    interpreter.invoke()
    interpreter.print_allocations()


def _vectors(interpreter: Any, inputs: Sequence[Array]) -> list[tuple[Array, ...]]:
    split = []
    for i, array in enumerate(inputs):
        shape = tuple(int(n) for n in interpreter.get_input_details(i)["shape"])
        split.append(array.reshape(-1, *shape))
    return list(zip(*split, strict=True))


def _invoke(interpreter: Any, vector: Sequence[Array], keep: Sequence[int]) -> dict[str, Array]:
    for i, array in enumerate(vector):
        interpreter.set_input(array, i)
    interpreter.invoke()
    tensors = {index: interpreter.GetTensor(index, 0)["tensor_data"] for index in keep}
    results = {f"kept{index}": np.atleast_1d(array).copy() for index, array in tensors.items()}
    for i in itertools.count():
        try:
            results[f"output{i}"] = np.atleast_1d(interpreter.get_output(i)).copy()
        except IndexError:
            break
    return results


if __name__ == "__main__":
    _serve()
