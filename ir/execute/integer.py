"""The integer executor: what a lowered graph computes, bit for bit as LiteRT's reference kernels unless given others.

With those it is the oracle every artefact is compared with. Arithmetic lives in `kwsq.ir.numerics`; here each operator
is bound to its tensors' grids.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from kwsq.ir.errors import Problem, UsageError
from kwsq.ir.execute.batch import batch_obstacles
from kwsq.ir.execute.call import Call
from kwsq.ir.execute.kernels import KERNELS, Kernels
from kwsq.ir.lowered import LoweredGraph, LoweredNode

Array = npt.NDArray[np.generic]
T = TypeVar("T", bound=np.generic)


def run_integer(
    graph: LoweredGraph,
    inputs: Mapping[str, npt.ArrayLike],
    keep: Collection[str] | None = None,
    kernels: Kernels = KERNELS,
) -> dict[str, Array]:
    """Runs the graph on one or several vectors.

    Args:
        graph: verified graph.
        inputs: per graph input an array of its dtype; the first dimension may be k times the declared one, the same k
            for all inputs, and stands for k independent runs. A graph that mixes vectors along its first dimension is
            run k times, any other once.
        keep: names of further tensors to return, e.g. all of them; None for the graph outputs only.
        kernels: function of every operator; `kernel_sets.DEFAULT_KERNELS.kernels` rounds sums once, as LiteRT's default
            kernels and ONNX Runtime do.

    Returns:
        Arrays by tensor name, k times the declared first dimension.

    Raises:
        UsageError: an input is missing or does not have the declared shape and type.
    """
    wanted = dict.fromkeys([*graph.outputs, *(keep or ())])
    arrays = {name: np.asarray(inputs[name]) for name in graph.inputs if name in inputs}
    count = _vector_count(graph, arrays)
    if count == 1 or not batch_obstacles(graph):
        return _run(graph, arrays, wanted, count, kernels)
    parts = [
        _run(graph, {name: np.split(array, count)[i] for name, array in arrays.items()}, wanted, 1, kernels)
        for i in range(count)
    ]
    return {name: np.concatenate([np.atleast_1d(part[name]) for part in parts]) for name in wanted}


def _vector_count(graph: LoweredGraph, arrays: Mapping[str, Array]) -> int:
    """Returns k, after checking every input against its declaration."""
    problems, counts = [], set()
    for name in graph.inputs:
        declared, array = graph[name], arrays.get(name)
        expected = f"{declared.dtype.value} of shape {list(declared.shape)}, the first dimension times k"
        if array is None:
            problems.append(Problem(name, "no array", expected, "give an array per graph input"))
        elif array.dtype != declared.dtype.numpy or not _fits(array.shape, declared.shape):
            found = f"{array.dtype} of shape {list(array.shape)}"
            problems.append(Problem(name, found, expected, "reshape or quantize the input"))
        else:
            counts.add(array.shape[0] // declared.shape[0] if declared.shape else 1)
    if len(counts) > 1:
        problems.append(Problem("inputs", f"{sorted(counts)} vectors", "the same number for every input", "trim them"))
    if problems:
        raise UsageError(problems, "inputs do not fit the model")
    return counts.pop() if counts else 1


def _fits(shape: tuple[int, ...], declared: tuple[int, ...]) -> bool:
    if not declared or not shape:
        return shape == declared
    return shape[1:] == declared[1:] and shape[0] % declared[0] == 0 and shape[0] > 0


def _run(
    graph: LoweredGraph, inputs: Mapping[str, Array], wanted: Mapping[str, None], count: int, kernels: Kernels
) -> dict[str, Array]:
    last_use = {name: i for i, node in enumerate(graph.nodes) for name in node.inputs}
    values: dict[str, Array] = {t.name: t.data for t in graph.tensors.values() if t.data is not None} | dict(inputs)
    for i, node in enumerate(graph.nodes):
        values |= run_node(graph, node, values, count, kernels)
        for name in node.inputs:
            if last_use.get(name) == i and name not in wanted:
                values.pop(name, None)
    return {name: values[name] for name in wanted}


def run_node(
    graph: LoweredGraph, node: LoweredNode, values: Mapping[str, Array], count: int, kernels: Kernels = KERNELS
) -> dict[str, Array]:
    """Runs one node.

    Args:
        graph: graph of the node.
        node: node to run.
        values: contents of its inputs by name, constants included.
        count: number of vectors stacked along the first dimension.
        kernels: function of every operator.

    Returns:
        Its outputs by name.
    """
    results = kernels[type(node.op)](call_of(graph, node, values))
    return {name: shaped(result, graph[name].shape, count) for name, result in zip(node.outputs, results, strict=True)}


def call_of(graph: LoweredGraph, node: LoweredNode, values: Mapping[str, Array]) -> Call:
    """Returns a node with the tensors and arrays it is applied to."""
    names = [name for name in node.inputs if name]
    return Call(
        op=node.op,
        inputs=tuple(graph[name] for name in names),
        outputs=tuple(graph[name] for name in node.outputs),
        arrays=tuple(values[name] for name in names),
    )


def shaped(result: npt.NDArray[T], declared: tuple[int, ...], count: int) -> npt.NDArray[T]:
    """Gives a result its declared shape, the first dimension times the number of vectors."""
    return result.reshape((declared[0] * count, *declared[1:]) if declared else ())
