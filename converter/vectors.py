"""The inputs a conversion is run on: calibration and evaluation samples, and the vectors parity compares."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kwsq.converter.config import ConvertOptions
from kwsq.converter.data import InputSpec, Samples, read_samples
from kwsq.ir.errors import Problem, UsageError
from kwsq.ir.execute import run_float
from kwsq.ir.graph import Graph
from kwsq.ir.lowered import DType, LoweredGraph, LoweredTensor
from kwsq.ir.quant import INT8, UINT8, Affine, FloatArray, dequantize, quantize
from kwsq.passes.dialects import Normalized
from kwsq.passes.dialects.canonical import INTEGER_INPUT
from kwsq.passes.import_graph import import_graph
from kwsq.passes.load import Source
from kwsq.passes.observe import SEEDED_SAMPLES, Observer, spread_inputs

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True, eq=False)
class Boundary:
    """What the model's inputs are.

    Args:
        specs: every input, in order.
        codes: grid of the inputs that are integer in the source.
        graph: the imported model; None when it has no states.
        guessed: whether its states were paired by order and shape alone.
    """

    specs: tuple[InputSpec, ...]
    codes: Mapping[str, Affine]
    graph: Graph | None
    guessed: bool = False

    @property
    def states(self) -> frozenset[str]:
        """Inputs that carry a streaming state."""
        return frozenset() if self.graph is None else frozenset(pair.input for pair in self.graph.states)


def boundary_of(source: Source, normalized: Normalized, options: ConvertOptions) -> Boundary:
    """Returns the inputs of a model.

    Raises:
        UnsupportedModelError: the model cannot be imported, which is how states are found.
        UsageError: `--state` names a pair that does not exist.
    """
    integer = {n.inputs[0].name: n.attrs for n in normalized.graph.nodes if n.op == INTEGER_INPUT}
    specs = tuple(
        InputSpec(t.name, tuple(t.shape), str(integer[t.name]["dtype"]) if t.name in integer else "float32")
        for t in normalized.graph.inputs
    )
    graph = None
    if len(specs) > 1:
        imported = import_graph(normalized.graph, source.opsets[""], states=options.states)
        graph = imported if imported.states else None
    codes = {name: attrs["spec"] for name, attrs in integer.items()}
    return Boundary(specs, codes, graph, guessed=options.states is None)


def real_samples(boundary: Boundary, path: Path, flag: str, *, labelled: bool = False) -> Samples:
    """Reads samples and returns them as real numbers, streaming states left out unless given.

    Raises:
        UsageError: the file does not hold what the model takes.
    """
    samples = read_samples(path, flag, boundary.specs, states=boundary.states, labelled=labelled)
    real = {
        name: dequantize(np.asarray(array, np.int32), boundary.codes[name]) if name in boundary.codes else array
        for name, array in samples.inputs.items()
    }
    return Samples(real, samples.runs, samples.dropped, samples.labels)


def with_states(boundary: Boundary, samples: Samples) -> dict[str, FloatArray]:
    """Returns the samples with an array for every state: what it holds when the chunks arrive one after the other.

    Raises:
        UsageError: values of an input that was taken for a state, and cannot have come out of the output it was paired
            with.
    """
    inputs = {name: np.asarray(array, np.float32) for name, array in samples.inputs.items()}
    graph = boundary.graph
    if graph is None:
        return inputs
    whole = inputs if boundary.states <= set(inputs) else _carried(graph, inputs, samples.runs)
    if boundary.guessed:
        _require_fed_back(graph, whole, set(inputs))
    return whole


def _require_fed_back(graph: Graph, inputs: Mapping[str, FloatArray], given: set[str]) -> None:
    """Refuses a pair whose input holds what its output never gives: two tensors that happen to have the same shape."""
    pairs = [pair for pair in graph.states if pair.input in given]
    ranges = Observer(graph, inputs).ranges([pair.output for pair in pairs])
    problems = []
    for pair in pairs:
        low, high = min(ranges[pair.output][0], 0.0), max(ranges[pair.output][1], 0.0)
        least, most = float(inputs[pair.input].min()), float(inputs[pair.input].max())
        if least < low - (high - low) / 2 or most > high + (high - low) / 2:
            found = f"values from {least:.6g} to {most:.6g}, paired by order and shape with output {pair.output!r}"
            expected = f"what that output gives as a streaming state, {low:.6g} to {high:.6g} here"
            remedy = f"pass --state none where it is no state, or --state {pair.input}={pair.output}"
            problems.append(Problem(f"graph input {pair.input!r}", found, expected, remedy))
    if problems:
        raise UsageError(problems)


def _carried(graph: Graph, inputs: dict[str, FloatArray], runs: int) -> dict[str, FloatArray]:
    """Returns the inputs with the states that are missing, each from zero on fed by its output."""
    current = {pair.input: np.zeros(graph[pair.input].shape, np.float32) for pair in graph.states}
    history: dict[str, list[FloatArray]] = {name: [] for name in current}
    for step in range(runs):
        for name, value in current.items():
            history[name].append(value)
        chunk = {name: _step(graph, name, array, step) for name, array in inputs.items() if name not in current}
        outputs = run_float(graph, {**chunk, **current})
        current = {pair.input: outputs[pair.output] for pair in graph.states}
    return {**inputs, **{name: np.concatenate(values) for name, values in history.items() if name not in inputs}}


def _step(graph: Graph, name: str, array: FloatArray, step: int) -> FloatArray:
    size = graph[name].shape[0]
    return array[step * size : (step + 1) * size]


def parity_inputs(
    graph: LoweredGraph, annotated: Graph, samples: Samples | None, options: ConvertOptions
) -> dict[str, Array]:
    """Returns real vectors for parity, states left out: calibration samples, or seeded ones without any.

    Never both: a grid that came from calibration data may saturate on other inputs, which is no fault of the artefact.

    Args:
        graph: legalised graph.
        annotated: float graph whose grids the seeded inputs are spread over.
        samples: calibration samples.
        options: number of vectors and seed.
    """
    states = {pair.input for pair in graph.states}
    names = [name for name in graph.inputs if name not in states]
    if samples is None:
        # The first of the inputs that open grids were observed on.
        count = max(options.parity_inputs, SEEDED_SAMPLES)
        vectors: Mapping[str, Array] = spread_inputs(annotated, options.seed, count, first=options.parity_inputs)
    else:
        vectors = samples.inputs
    return {name: vectors[name][: options.parity_inputs * graph[name].shape[0]] for name in names}


def artefact_inputs(graph: LoweredGraph, real: Mapping[str, Array]) -> dict[str, Array]:
    """Returns the inputs, states left out, as the artefact takes them: codes, or float32 where its inputs are."""
    states = {pair.input for pair in graph.states}
    return {name: _as_taken(graph[name], real[name]) for name in graph.inputs if name not in states}


def _as_taken(tensor: LoweredTensor, real: Array) -> Array:
    if tensor.dtype is DType.FLOAT32:
        return np.asarray(real, np.float32)
    assert tensor.scale is not None, f"{tensor.name} is quantised"
    codes = UINT8 if tensor.dtype is DType.UINT8 else INT8
    spec = Affine.per_tensor(float(tensor.scale[0]), tensor.zero_point, codes)
    return quantize(np.asarray(real, np.float32), spec).astype(tensor.dtype.numpy)
