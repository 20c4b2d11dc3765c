"""The process in which TensorFlow Lite Micro runs: arrays on standard input, arrays on standard output.

It starts once per conversion, so it imports as little as it can.
"""

from __future__ import annotations

import gc
import io
import itertools
import sys
from collections.abc import Iterable, Iterator, Sequence
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

ARENA_BYTES = 16 * 2**20
_UNUSED = "tflite_micro.tensorflow.lite.micro.compression"


def to_bytes(arrays: Iterable[Array]) -> bytes:
    """Returns arrays one after another, each in NumPy's own file format."""
    stream = io.BytesIO()
    for array in arrays:
        np.save(stream, array, allow_pickle=False)
    return stream.getvalue()


def from_bytes(data: bytes) -> list[Array]:
    """Returns the arrays written by `to_bytes`."""
    stream, arrays = io.BytesIO(data), []
    while stream.tell() < len(data):
        arrays.append(np.load(stream, allow_pickle=False))
    return arrays


def serve(request: bytes) -> bytes:
    """Runs one or several vectors, or, of a file alone, one inference of anything to record its allocations.

    Args:
        request: a `.tflite` file as uint8, indices of tensors to keep, and the graph inputs; or the file alone.

    Returns:
        The tensors kept, then the graph outputs; vectors stacked along the first dimension. For the file alone
        nothing: the interpreter prints its allocations to standard error, as it does where nothing is kept.
    """
    # The package imports its model compressor on the way, which costs as much as the runtime does.
    sys.modules[_UNUSED] = ModuleType(_UNUSED)
    from tflite_micro import runtime

    model, *arrays = from_bytes(request)
    if not arrays:
        recorder = runtime.Interpreter.from_bytes(model.tobytes(), arena_size=ARENA_BYTES)
        recorder.invoke()
        recorder.print_allocations()
        return b""
    keep, *inputs = arrays
    configs = runtime.InterpreterConfig
    # Preserving costs memory only, of which there is enough here; but what is recorded would be another arena's.
    config = configs.kPreserveAllTensors if keep.size else configs.kAllocationRecording
    interpreter = runtime.Interpreter.from_bytes(model.tobytes(), arena_size=ARENA_BYTES, intrepreter_config=config)
    rows = [_invoke(interpreter, vector, keep.tolist()) for vector in _vectors(interpreter, inputs)]
    if not keep.size:
        interpreter.print_allocations()
    return to_bytes(np.concatenate(column) for column in zip(*rows, strict=True))


def _vectors(interpreter: Any, inputs: Sequence[Array]) -> Iterator[tuple[Array, ...]]:
    shapes = (tuple(int(n) for n in interpreter.get_input_details(i)["shape"]) for i in range(len(inputs)))
    split = [array.reshape(-1, *shape) for array, shape in zip(inputs, shapes, strict=True)]
    return zip(*split, strict=True)


def _invoke(interpreter: Any, vector: Sequence[Array], keep: Sequence[int]) -> list[Array]:
    for i, array in enumerate(vector):
        interpreter.set_input(array, i)
    interpreter.invoke()
    results = [np.atleast_1d(interpreter.GetTensor(index, 0)["tensor_data"]).copy() for index in keep]
    for i in itertools.count():
        try:
            results.append(np.atleast_1d(interpreter.get_output(i)).copy())
        except IndexError:
            break
    return results


if __name__ == "__main__":
    # As in the command line: neither now nor at the end are there cycles worth the search.
    gc.disable()
    sys.stdout.buffer.write(serve(sys.stdin.buffer.read()))
    gc.freeze()
