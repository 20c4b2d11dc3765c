"""Which layer's quantisation costs most: each layer quantised alone (one-in), and each left out of the rest (one-out).

A layer is an operator with the rounding of its output and, for a model quantised after training, of its weights and
bias. A model quantised in training has no other weights than those on its grid, so there only activations are lifted;
the clamp of a lifted quantiser stays, because it may be the model's activation.

Every variant runs in the float executor; its outputs are compared with those of the network without any rounding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from kwsq.converter.class_rows import class_rows
from kwsq.converter.det.operating_point import matched_point
from kwsq.converter.det.trials import Trials
from kwsq.converter.parity.source import sqnr_db
from kwsq.ir.errors import Problem, UsageError
from kwsq.ir.execute import run_float
from kwsq.ir.graph import Graph, Node
from kwsq.ir.ops import Clip, FakeQuant
from kwsq.ir.quant import FloatArray, dequantize

Json = dict[str, Any]
TARGET_FRR = 0.05
"""False reject rate at which the false discovery rate is given, the gate's default."""


@dataclass(frozen=True, slots=True)
class Unit:
    """What is quantised or lifted together.

    Args:
        name: of the operator, or of the graph input.
        quantizers: names of the quantiser nodes that round its output.
        constants: names of its weights and bias, where there are unquantised ones to go back to.
    """

    name: str
    quantizers: tuple[str, ...]
    constants: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """What the variants run on.

    Args:
        inputs: stacked float32 arrays by input name, states included.
        labels: class of each sample, None without.
    """

    inputs: Mapping[str, FloatArray]
    labels: np.ndarray[Any, np.dtype[np.int64]] | None = None


def bisect(
    quantized: Graph, unquantized: Graph | None, samples: Samples, progress: Callable[[str], None] = lambda stage: None
) -> Json:
    """Returns what each layer's quantisation costs, the costliest alone first.

    Args:
        quantized: graph with every quantiser the artefact has.
        unquantized: the same graph with float weights, None where training left none.
        samples: inputs, and labels where accuracy is wanted.
        progress: called before each layer.

    Raises:
        UsageError: nothing in the graph is quantised, or labels do not fit the outputs.
    """
    units = units_of(quantized, unquantized)
    if not units:
        remedy = "name a quantized model, or a float one with --calibration"
        raise UsageError(Problem(quantized.name, "no quantizers", "a quantized model", remedy))
    states = {pair.output for pair in quantized.states}
    output = next(name for name in quantized.outputs if name not in states)
    runner = _Runner(quantized, unquantized, samples, output)
    progress("without rounding")
    reference = runner.scores(units)
    nothing, everything = runner.figures(units, reference), runner.figures((), reference)
    rows = []
    for number, unit in enumerate(units, 1):
        progress(f"layer {number} of {len(units)}: {unit.name}")
        others = tuple(other for other in units if other is not unit)
        alone, without = runner.figures(others, reference), runner.figures((unit,), reference)
        row: Json = {"layer": unit.name, "activations": len(unit.quantizers), "constants": len(unit.constants)}
        rows.append({**row, "one_in": alone, "one_out": without})
    rows.sort(key=lambda row: row["one_in"]["sqnr_db"])
    return {
        "output": output,
        "samples": runner.count,
        "weights_lifted": unquantized is not None,
        "unquantized": nothing,
        "quantized": everything,
        "layers": rows,
    }


def units_of(quantized: Graph, unquantized: Graph | None) -> list[Unit]:
    """Returns the units in topological order."""
    producers = quantized.producers()
    owned: dict[str, list[str]] = {}
    for node in quantized.nodes:
        if isinstance(node.op, FakeQuant):
            owned.setdefault(_owner(producers, node.inputs[0]), []).append(node.name)
    units = [Unit(name, tuple(owned.pop(name)), ()) for name in quantized.inputs if name in owned]
    for node in quantized.nodes:
        constants = () if unquantized is None else tuple(_changed(quantized, unquantized, node))
        if not isinstance(node.op, FakeQuant) and (node.name in owned or constants):
            units.append(Unit(node.name, tuple(owned.get(node.name, ())), constants))
    return units


def _owner(producers: Mapping[str, Node], tensor: str) -> str:
    """Returns the operator, or graph input, whose values a quantiser rounds."""
    node = producers.get(tensor)
    if node is None:
        return tensor
    return _owner(producers, node.inputs[0]) if isinstance(node.op, FakeQuant) else node.name


def _changed(quantized: Graph, unquantized: Graph, node: Node) -> list[str]:
    """Returns the constants of a node that quantisation changed."""
    names = [name for name in node.inputs if name and quantized[name].is_constant and name in unquantized.tensors]
    return [n for n in names if not np.array_equal(quantized[n].real(), unquantized[n].real())]


class _Runner:
    """Runs variants on the same samples."""

    def __init__(self, quantized: Graph, unquantized: Graph | None, samples: Samples, output: str) -> None:
        self._quantized, self._unquantized = quantized, unquantized
        self._samples, self._output = samples, output
        name = quantized.inputs[0]
        shape = quantized[name].shape
        self.count = len(samples.inputs[name]) // max(shape[0] if shape else 1, 1)

    def scores(self, lifted: Sequence[Unit]) -> FloatArray:
        """Returns the output, stacked, with the rounding of some units lifted."""
        quantizers = {name for unit in lifted for name in unit.quantizers}
        keeps = self._unquantized is None
        nodes = tuple(
            lift(node, keeps_clamp=keeps) if node.name in quantizers else node for node in self._quantized.nodes
        )
        tensors = dict(self._quantized.tensors)
        if self._unquantized is not None:
            tensors |= {name: self._unquantized[name] for unit in lifted for name in unit.constants}
        return run_float(replace(self._quantized, nodes=nodes, tensors=tensors), self._samples.inputs)[self._output]

    def figures(self, lifted: Sequence[Unit], reference: FloatArray) -> Json:
        """Returns SQNR against the network without rounding, and what the labels say."""
        scores = self.scores(lifted)
        found: Json = {"sqnr_db": _sqnr_db(reference, scores), "accuracy": None, "false_discovery_rate": None}
        labels = self._samples.labels
        if labels is not None:
            found |= _judged(scores, labels)
        return found


def lift(node: Node, *, keeps_clamp: bool) -> Node:
    """Returns a quantiser that does not round.

    Args:
        node: the quantiser.
        keeps_clamp: whether its clamp stays: one that training saw may be the model's activation.
    """
    assert isinstance(node.op, FakeQuant), f"{node.name} is a quantiser"
    if not keeps_clamp:
        return replace(node, op=Clip(-math.inf, math.inf))
    spec = node.op.spec
    ends = dequantize(np.array([spec.range.low, spec.range.high]), spec)
    return replace(node, op=Clip(float(ends.min()), float(ends.max())))


def _sqnr_db(reference: FloatArray, found: FloatArray) -> float:
    difference = np.asarray(found, np.float64) - reference
    signal, noise = float(np.square(reference, dtype=np.float64).sum()), float(np.square(difference).sum())
    return sqnr_db(signal, noise)


def _judged(scores: FloatArray, labels: np.ndarray[Any, np.dtype[np.int64]]) -> Json:
    rows = class_rows(scores, labels)
    spoken = np.arange(rows.shape[-1])[None, :] == labels[:, None]
    # Every class in turn is the keyword, pooled: as the gate does for models without --keyword.
    point = matched_point(Trials.of(spoken.reshape(-1), rows.reshape(-1)), TARGET_FRR)
    accuracy = float(np.mean(rows.argmax(-1) == labels))
    return {"accuracy": accuracy, "false_discovery_rate": point.matched.false_discovery_rate}
