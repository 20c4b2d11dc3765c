"""The float executor: every node in float32, fake quantisers included."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from kwsq.ir.errors import Problem, UsageError
from kwsq.ir.execute.batching import Evaluate, evaluate_directly, evaluate_stacked
from kwsq.ir.graph import Graph, Node
from kwsq.ir.quant import FloatArray

# Samples computed at a time: few enough that the widest tensor stays in a core's cache, which also bounds the memory.
CHUNK_ELEMENTS = 2**18
CHUNK_SAMPLES = 64


def run_float(
    graph: Graph, inputs: Mapping[str, FloatArray], *, keep: Sequence[str] | None = None
) -> dict[str, FloatArray]:
    """Runs the graph on one or many samples.

    Args:
        graph: verified graph.
        inputs: float32 array per graph input; its leading dimension is k times the declared one, with the same k
            for every input. Samples never influence each other; memory is bounded by computing a chunk at a time.
        keep: tensors to return besides the graph outputs; None for the outputs only.

    Returns:
        Arrays by tensor name; leading dimension k times the declared one. Constants are returned as they are.

    Raises:
        UsageError: an input is missing or has another shape.
    """
    arrays = {name: np.asarray(inputs[name], np.float32) for name in graph.inputs if name in inputs}
    samples = stacked_samples(graph, arrays)
    wanted = tuple({*graph.outputs, *(keep or ())})
    constants = {tensor.name: tensor.real() for tensor in graph.constants()}
    constants |= {n: t.real() for n in wanted if (t := graph.constant(n)) is not None}
    chunks = [_run(graph, chunk, constants, size, wanted) for chunk, size in sample_chunks(graph, arrays, samples)]
    computed = [name for name in wanted if name not in constants]
    joined = {
        n: chunks[0][n] if len(chunks) == 1 else np.concatenate([np.atleast_1d(c[n]) for c in chunks]) for n in computed
    }
    return {name: joined[name] if name in joined else constants[name] for name in wanted}


def stacked_samples(graph: Graph, arrays: Mapping[str, FloatArray]) -> int:
    """Returns k, how many samples the input arrays hold.

    Raises:
        UsageError: an input is missing, or its shape is not (k * b, ...) of the declared (b, ...) for one common k.
    """
    counts = {name: _samples_of(graph[name].shape, arrays.get(name)) for name in graph.inputs}
    common = set(counts.values())
    if len(common) == 1 and None not in common:
        (samples,) = common
        assert samples is not None
        return samples
    raise UsageError(
        [_shape_problem(graph, name, arrays.get(name)) for name in graph.inputs], "inputs do not fit the graph"
    )


def _samples_of(declared: tuple[int, ...], array: FloatArray | None) -> int | None:
    if array is None or array.shape[1:] != declared[1:] or array.ndim != len(declared):
        return None
    if not declared:
        return 1
    samples, rest = divmod(array.shape[0], max(declared[0], 1))
    return samples if samples > 0 and rest == 0 else None


def _shape_problem(graph: Graph, name: str, array: FloatArray | None) -> Problem:
    found = "nothing" if array is None else f"shape {array.shape}"
    expected = f"shape {graph[name].shape}, its leading dimension times the same number of samples for every input"
    return Problem(f"input {name!r}", found, expected, "reshape or complete the arrays")


def sample_chunks(
    graph: Graph, arrays: Mapping[str, FloatArray], samples: int
) -> Iterator[tuple[dict[str, FloatArray], int]]:
    """Yields the inputs of a few samples at a time, with their number."""
    widest = max((math.prod(t.shape) for t in graph.tensors.values() if not t.is_constant), default=1)
    size = min(max(CHUNK_ELEMENTS // max(widest, 1), 1), CHUNK_SAMPLES)
    for start in range(0, samples, size):
        count = min(size, samples - start)
        chunk = {}
        for name in graph.inputs:
            rows = graph[name].shape[0] if graph[name].shape else 0
            chunk[name] = arrays[name][start * rows : (start + count) * rows] if rows else arrays[name]
        yield chunk, count


def run_node(
    graph: Graph,
    node: Node,
    values: Mapping[str, FloatArray],
    constants: Mapping[str, FloatArray],
    samples: int,
    evaluate: Evaluate = evaluate_directly,
) -> dict[str, FloatArray]:
    """Returns the stacked outputs of one node by name.

    Args:
        graph: graph of the node, for the declared shapes.
        node: node to run.
        values: stacked computed tensors by name.
        constants: real values of constants by name.
        samples: k, number of samples stacked in `values`.
        evaluate: computes an operator on arrays.
    """
    arguments = [values[n] if n in values else constants[n] if n else None for n in node.inputs]
    shapes = [graph[n].shape if n else () for n in node.inputs]
    stacked = [n in values for n in node.inputs]
    # Values beyond float32 become infinite, which is for the caller to judge.
    with np.errstate(over="ignore", invalid="ignore"):
        outputs = evaluate_stacked(node.op, arguments, shapes, stacked, samples, evaluate)
    return dict(zip(node.outputs, outputs, strict=True))


def _run(
    graph: Graph,
    inputs: Mapping[str, FloatArray],
    constants: Mapping[str, FloatArray],
    samples: int,
    wanted: Sequence[str],
) -> dict[str, FloatArray]:
    last_use = {name: i for i, node in enumerate(graph.nodes) for name in node.inputs}
    values = dict(inputs)
    for i, node in enumerate(graph.nodes):
        values |= run_node(graph, node, values, constants, samples)
        for name in node.inputs:
            if last_use[name] == i and name not in wanted:
                values.pop(name, None)
    return {name: values[name] for name in wanted if name in values}
