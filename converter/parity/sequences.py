"""Feeding vectors to a runner: all at once, or step by step where the model carries states."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from kwsq.ir.lowered import LoweredGraph

Array = npt.NDArray[Any]
Arrays = Mapping[str, Array]
Runner = Callable[[Arrays], Arrays]


def vector_count(graph: LoweredGraph, inputs: Arrays) -> int:
    """Returns how many vectors, or steps of a sequence, `inputs` hold."""
    name = next(n for n in graph.inputs if n in inputs)
    shape = graph[name].shape
    return inputs[name].shape[0] // shape[0] if shape else 1


def first_vectors(graph: LoweredGraph, inputs: Arrays, count: int) -> Arrays:
    """Returns the first `count` vectors."""
    shapes = {name: graph[name].shape for name in inputs}
    return {n: array[: count * shapes[n][0]] if shapes[n] else array for n, array in inputs.items()}


def run_vectors(graph: LoweredGraph, runner: Runner, inputs: Arrays, initial_states: Arrays) -> dict[str, Array]:
    """Runs every vector; a streaming model takes them as consecutive steps of one sequence.

    Args:
        graph: the model's integer graph, for the names and the states.
        runner: computes outputs for one or several stacked vectors.
        inputs: arrays of the inputs that are not states.
        initial_states: contents of the state inputs at the first step.

    Returns:
        What the runner returns, stacked along the first dimension.
    """
    if not graph.states:
        return dict(runner(inputs))
    states, steps = dict(initial_states), []
    for step in range(vector_count(graph, inputs)):
        chunk = {name: _vector(graph, name, array, step) for name, array in inputs.items()}
        results = runner({**chunk, **states})
        states = {pair.input: results[pair.output] for pair in graph.states}
        steps.append(results)
    return {name: np.concatenate([results[name] for results in steps]) for name in steps[0]}


def _vector(graph: LoweredGraph, name: str, array: Array, step: int) -> Array:
    size = graph[name].shape[0]
    return array[step * size : (step + 1) * size]


def zero_states(graph: LoweredGraph) -> dict[str, Array]:
    """Returns the codes of real 0 for every state input."""
    tensors = [graph[pair.input] for pair in graph.states]
    return {t.name: np.full(t.shape, t.zero_point, t.dtype.numpy) for t in tensors}
