"""Running a `.tflite` file in LiteRT, one thread, with a chosen kernel set."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from kwsq.converter.runtimes.native_log import captured_native_log
from kwsq.ir.errors import ParityError, Problem

if TYPE_CHECKING:
    from ai_edge_litert.interpreter import Interpreter

Array = npt.NDArray[Any]


class KernelSet(Enum):
    """Which of LiteRT's kernels compute; the value is the name of its OpResolverType."""

    REFERENCE = "BUILTIN_REF"
    """The portable C++ reference, the same bits on every CPU."""
    BUILTIN = "BUILTIN_WITHOUT_DEFAULT_DELEGATES"
    """TFLite's own optimised kernels."""
    DEFAULT = "AUTO"
    """What an application gets: XNNPACK where it takes the operator, else as BUILTIN."""


@dataclass(frozen=True, slots=True, eq=False)
class LitertRun:
    """Results of one or several invocations.

    Args:
        outputs: one array per graph output, vectors stacked along the first dimension.
        kept: tensor index -> array, for the tensors asked for.
    """

    outputs: tuple[Array, ...]
    kept: dict[int, Array]


def run_litert(model: bytes, inputs: Sequence[Array], kernels: KernelSet, keep: Collection[int] = ()) -> LitertRun:
    """Runs the model on one or several vectors.

    Args:
        model: bytes of a `.tflite` file.
        inputs: one array per graph input, file order; first dimension k times the declared one.
        kernels: kernel set.
        keep: indices of tensors to return besides the outputs; delegates hide theirs, so not for DEFAULT.

    Returns:
        Stacked results of k invocations.

    Raises:
        ParityError: LiteRT refuses the model, or an input does not fit it.
    """
    with captured_native_log() as log:
        try:
            interpreter = _interpreter(model, kernels, preserve=bool(keep))
            rows = [_invoke(interpreter, vector, keep) for vector in _vectors(interpreter, inputs)]
        except (RuntimeError, ValueError) as error:
            failure: Exception | None = error
        else:
            failure = None
    if failure is not None:
        raise ParityError(_refusal(kernels, failure, log.text)) from failure
    outputs = tuple(_stack([row[0][i] for row in rows]) for i in range(len(rows[0][0])))
    return LitertRun(outputs, {index: _stack([row[1][index] for row in rows]) for index in keep})


def _interpreter(model: bytes, kernels: KernelSet, *, preserve: bool) -> Interpreter:
    # Imported here: only a run of a model needs the runtime.
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    interpreter = Interpreter(
        model_content=model,
        experimental_op_resolver_type=OpResolverType[kernels.value],
        experimental_preserve_all_tensors=preserve,
        num_threads=1,
    )
    interpreter.allocate_tensors()
    return interpreter


def _vectors(interpreter: Interpreter, inputs: Sequence[Array]) -> list[list[tuple[int, Array]]]:
    """Returns, per invocation, (tensor index, array) for every graph input."""
    details = interpreter.get_input_details()
    if len(details) != len(inputs):
        raise ValueError(f"{len(inputs)} input arrays for {len(details)} graph inputs")
    split = []
    for detail, array in zip(details, inputs, strict=True):
        declared = tuple(int(size) for size in detail["shape"])
        count = array.shape[0] // declared[0] if declared else 1
        split.append([(int(detail["index"]), part.reshape(declared)) for part in np.split(array, count)])
    return [list(vector) for vector in zip(*split, strict=True)]


def _invoke(
    interpreter: Interpreter, vector: list[tuple[int, Array]], keep: Collection[int]
) -> tuple[list[Array], dict[int, Array]]:
    for index, array in vector:
        interpreter.set_tensor(index, array)
    interpreter.invoke()
    outputs = [interpreter.get_tensor(detail["index"]) for detail in interpreter.get_output_details()]
    return outputs, {index: interpreter.get_tensor(index) for index in keep}


def _stack(parts: list[Array]) -> Array:
    return np.concatenate([np.atleast_1d(part) for part in parts])


def _refusal(kernels: KernelSet, error: Exception, log: str) -> Problem:
    reason = "; ".join(line for line in (str(error), *log.splitlines()) if line)
    return Problem(
        f"LiteRT ({kernels.value})", reason, "a run of the artefact", "report this model as a defect of kwsq"
    )
