"""Running a `.tflite` file in LiteRT, one thread, with a chosen kernel set."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
import numpy.typing as npt

from kwsq.converter.runtimes.native_log import captured_native_log
from kwsq.ir.errors import ParityError, Problem

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


class LitertSession:
    """A model loaded once, to be run many times.

    Args:
        model: bytes of a `.tflite` file.
        kernels: kernel set.
        preserve: keep every tensor readable after a run.

    Raises:
        ParityError: LiteRT refuses the model.
    """

    def __init__(self, model: bytes, kernels: KernelSet, *, preserve: bool = False) -> None:
        # Imported here: only a run of a model needs the runtime.
        from ai_edge_litert.interpreter import Interpreter, OpResolverType

        self.kernels = kernels
        with self._explained():
            with warnings.catch_warnings():
                # It warns that keeping every tensor is for debugging; comparing them is what a check does.
                warnings.filterwarnings("ignore", message=".*experimental_preserve_all_tensors.*")
                self._interpreter = Interpreter(
                    model_content=model,
                    experimental_op_resolver_type=OpResolverType[kernels.value],
                    experimental_preserve_all_tensors=preserve,
                    num_threads=1,
                )
            self._interpreter.allocate_tensors()
        self._inputs = [
            (int(d["index"]), tuple(int(n) for n in d["shape"])) for d in self._interpreter.get_input_details()
        ]
        self._outputs = [int(detail["index"]) for detail in self._interpreter.get_output_details()]

    def run(self, inputs: Sequence[Array], keep: Collection[int] = ()) -> LitertRun:
        """Runs one or several vectors.

        Args:
            inputs: one array per graph input, file order; first dimension k times the declared one.
            keep: indices of tensors to return besides the outputs; needs `preserve`.

        Returns:
            Stacked results of k invocations.

        Raises:
            ParityError: LiteRT refuses the inputs or fails to run.
        """
        with self._explained():
            rows = [self._invoke(vector, keep) for vector in self._vectors(inputs)]
        outputs = tuple(_stack([row[0][i] for row in rows]) for i in range(len(self._outputs)))
        return LitertRun(outputs, {index: _stack([row[1][index] for row in rows]) for index in keep})

    def _vectors(self, inputs: Sequence[Array]) -> list[tuple[Array, ...]]:
        """Returns the arrays of every invocation."""
        if len(inputs) != len(self._inputs):
            raise ValueError(f"{len(inputs)} input arrays for {len(self._inputs)} graph inputs")
        split = []
        for (_, shape), array in zip(self._inputs, inputs, strict=True):
            count = array.shape[0] // shape[0] if shape else 1
            split.append(array.reshape(count, *shape))
        return list(zip(*split, strict=True))

    def _invoke(self, vector: Sequence[Array], keep: Collection[int]) -> tuple[list[Array], dict[int, Array]]:
        interpreter = self._interpreter
        for (index, _), array in zip(self._inputs, vector, strict=True):
            interpreter.set_tensor(index, array)
        interpreter.invoke()
        outputs = [interpreter.get_tensor(index) for index in self._outputs]
        return outputs, {index: interpreter.get_tensor(index) for index in keep}

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turns the runtime's exceptions into ours, with what it printed."""
        failure: Exception | None = None
        with captured_native_log() as log:
            try:
                yield
            except (RuntimeError, ValueError) as error:
                failure = error
        if failure is not None:
            reason = "; ".join(line for line in (str(failure), *log.text.splitlines()) if line)
            where = f"LiteRT ({self.kernels.value})"
            remedy = "report this model as a defect of kwsq"
            raise ParityError(Problem(where, reason, "a run of the artefact", remedy)) from failure


def run_litert(model: bytes, inputs: Sequence[Array], kernels: KernelSet, keep: Collection[int] = ()) -> LitertRun:
    """Loads and runs a model; see `LitertSession`."""
    return LitertSession(model, kernels, preserve=bool(keep)).run(inputs, keep)


def _stack(parts: list[Array]) -> Array:
    return np.concatenate([np.atleast_1d(part) for part in parts])
