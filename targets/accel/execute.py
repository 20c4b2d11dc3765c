"""The network run from the pack's bytes: exact integers, the same bits as `kwsq.ir.execute.run_integer`.

Arrays carry one more, leading axis: independent vectors. Constants have length 1 there and broadcast.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from kwsq.ir.errors import Problem, UsageError
from kwsq.targets.accel.format import Role, Section, Storage
from kwsq.targets.accel.kernels import KERNELS, Run
from kwsq.targets.accel.records import Pack, PackTensor

Array = npt.NDArray[Any]
_NUMPY = {1: np.int8, 2: np.uint8, 3: np.float32}


def numpy_type(tensor: PackTensor) -> type[Any]:
    """Returns the NumPy type of a tensor's elements."""
    return _NUMPY[tensor.dtype]


def run_pack(pack: Pack, inputs: Mapping[str, npt.ArrayLike]) -> dict[str, Array]:
    """Runs the network on one or several vectors.

    Args:
        pack: verified pack.
        inputs: per input an array of its type; the first dimension may be k times the declared one, the same k for
            all inputs, and stands for k independent runs.

    Returns:
        Outputs by name, k times the declared first dimension.

    Raises:
        UsageError: an input is missing or does not have the declared shape and type.
        ValueError: a code below the lowest one an operator is defined for.
    """
    outputs = pack.entries(Role.OUTPUT)
    values = run_tensors(pack, inputs, [entry.tensor for entry in outputs])
    return {entry.name: values[entry.tensor] for entry in outputs}


def run_tensors(pack: Pack, inputs: Mapping[str, npt.ArrayLike], keep: Collection[int]) -> dict[int, Array]:
    """Returns tensors by their number, inner ones too; arguments and refusals otherwise as for `run_pack`."""
    values = _stacked_inputs(pack, inputs)
    for i, tensor in enumerate(pack.graph.tensors):
        if tensor.storage is Storage.CONSTANTS:
            data = pack.sections[Section.CONSTANTS][tensor.offset : tensor.offset + tensor.size_bytes]
            values[i] = np.frombuffer(data, np.int8).reshape(1, *tensor.shape)
    last_use = {i: step for step, op in enumerate(pack.graph.operators) for i in op.inputs}
    last_use |= dict.fromkeys(keep, len(pack.graph.operators))
    for step, operator in enumerate(pack.graph.operators):
        run = Run(pack, operator, tuple(values[i] for i in operator.inputs))
        with np.errstate(over="ignore"):  # a file may hold any scale; infinity is what float32 makes of it
            results = KERNELS[operator.code](run)
        for i, result in zip(operator.outputs, results, strict=True):
            values[i] = result.reshape(len(result) if result.ndim else 1, *pack.graph.tensors[i].shape)
        for i in set(operator.inputs):
            if last_use[i] == step:
                del values[i]
    vectors = max((len(values[i]) for i in keep), default=1)
    return {i: _unstacked(values[i], vectors) for i in keep}


def _unstacked(array: Array, vectors: int) -> Array:
    """Joins the vectors along the first dimension; what depends on no input is the same for all of them."""
    array = np.broadcast_to(array, (vectors, *array.shape[1:]))
    return array.reshape(-1, *array.shape[2:]) if array.ndim > 1 else array.reshape(())


def _stacked_inputs(pack: Pack, inputs: Mapping[str, npt.ArrayLike]) -> dict[int, Array]:
    problems, values = [], {}
    for entry in pack.entries(Role.INPUT):
        tensor = pack.tensor(entry)
        expected = f"{np.dtype(numpy_type(tensor))} of shape {list(tensor.shape)}, the first dimension times k"
        if entry.name not in inputs:
            problems.append(Problem(entry.name, "no array", expected, "give an array per input"))
            continue
        array = np.asarray(inputs[entry.name])
        if array.dtype != numpy_type(tensor) or not _fits(array.shape, tensor.shape):
            found = f"{array.dtype} of shape {list(array.shape)}"
            problems.append(Problem(entry.name, found, expected, "reshape or quantize the input"))
            continue
        values[entry.tensor] = array.reshape(-1, *tensor.shape)
    counts = {len(array) for array in values.values()}
    if len(counts) > 1:
        problems.append(Problem("inputs", f"{sorted(counts)} vectors", "the same number for every input", "trim them"))
    if problems:
        raise UsageError(problems, "inputs do not fit the model")
    return values


def _fits(shape: tuple[int, ...], declared: tuple[int, ...]) -> bool:
    if not declared or not shape:
        return shape == declared
    return shape[1:] == declared[1:] and shape[0] % declared[0] == 0 and shape[0] > 0
