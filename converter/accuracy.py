"""What the source and the artefact make of labelled data: top-1 accuracy, and the scores a gate needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kwsq.converter.class_rows import class_rows
from kwsq.converter.data import Samples
from kwsq.converter.det.saturation import BYTE_LEVELS, is_probability
from kwsq.converter.det.trials import BoolArray, FloatArray, IntArray
from kwsq.converter.parity import SourceReference
from kwsq.converter.parity.sequences import run_vectors, zero_states
from kwsq.converter.parity.source import real_inputs
from kwsq.ir import ops
from kwsq.ir.execute import run_float, run_integer
from kwsq.ir.graph import Graph
from kwsq.ir.lowered import Dequantize, LoweredGraph, Reshape, Softmax

Array = npt.NDArray[Any]
Arrays = Mapping[str, Array]
_TRANSPARENT = (Dequantize, Reshape)
"""What may stand between a softmax and the output without changing the order of scores."""


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Share of samples whose largest score is the labelled class; the first of equal scores counts.

    Args:
        samples: number of labelled samples.
        source_top1: of the source model.
        artefact_top1: of the artefact, in the runtime an application would use.
        output: the output whose scores were compared.
        source: what ran the source.
    """

    samples: int
    source_top1: float
    artefact_top1: float
    output: str
    source: str

    def to_json(self) -> dict[str, object]:
        """Returns the fields as a JSON-ready dictionary."""
        return {
            "assessed": True,
            "samples": self.samples,
            "source_top1": self.source_top1,
            "artefact_top1": self.artefact_top1,
            "output": self.output,
            "source": self.source,
        }


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """Scores of both models on the labelled samples.

    Args:
        accuracy: share of samples classified rightly.
        source: (n, classes) logits, or probabilities of a float softmax.
        artefact: (n, classes) logits; those under an int8 softmax, whose 256 levels would saturate.
        right: (n,) whether each model's class, as an application sees it, is the labelled one.
        source_runtime: what computed the source's scores.
        artefact_runtime: what computed the artefact's.
    """

    accuracy: Accuracy
    source: FloatArray
    artefact: FloatArray
    right: tuple[BoolArray, BoolArray]
    source_runtime: str
    artefact_runtime: str


NOT_ASSESSED: Mapping[str, object] = {"assessed": False}


def assess(
    graph: LoweredGraph,
    annotated: Graph,
    run: Callable[[Arrays], Arrays],
    source: SourceReference,
    samples: Samples,
    codes: Arrays,
) -> Scored:
    """Returns the scores and the accuracy of source and artefact.

    Args:
        graph: legalised graph of the artefact.
        annotated: the source's graph with its grids.
        run: runs the artefact as an application would, stacked inputs by name.
        source: the source model.
        samples: real inputs and labels.
        codes: the same inputs as the artefact takes them.

    Raises:
        UsageError: the labels do not fit the model's scores.
    """
    assert samples.labels is not None, "read_samples was asked for labels"
    states = {pair.output for pair in graph.states}
    output = next(name for name in graph.outputs if name not in states)
    initial = zero_states(graph)
    found = class_rows(run_vectors(graph, run, codes, initial)[output], samples.labels)
    real_states = {name: real_inputs(graph, {name: array})[name] for name, array in initial.items()}
    expected = class_rows(run_vectors(graph, source.run, samples.inputs, real_states)[output], samples.labels)
    right = _right(expected, samples.labels), _right(found, samples.labels)
    shares = [float(np.mean(each)) for each in right]
    accuracy = Accuracy(samples.labels.size, shares[0], shares[1], output, source.name)
    scores, runtime = _real(graph, output, expected), source.name
    if _is_coarse(scores) and not graph.states and (logits := _source_logits(annotated, output)) is not None:
        values = run_float(annotated, {n: np.asarray(a, np.float32) for n, a in samples.inputs.items()}, keep=[logits])
        scores, runtime = class_rows(values[logits], samples.labels).astype(np.float64), "kwsq's float executor, logits"
    artefact, artefact_runtime = _real(graph, output, found), "the artefact's runtime"
    if _is_coarse(artefact) and (logits := artefact_logits(graph, output)) is not None:
        values = run_vectors(graph, lambda arrays: run_integer(graph, arrays, [logits]), codes, initial)
        artefact = _real(graph, logits, class_rows(values[logits], samples.labels))
        artefact_runtime = "the integer reference, logits under the softmax"
    return Scored(accuracy, scores, artefact, right, runtime, artefact_runtime)


def artefact_logits(graph: LoweredGraph, output: str) -> str | None:
    """Returns the tensor under a final softmax, None where there is no softmax.

    The integer reference computes it; it equals the artefact's reference kernels bit for bit (docs/parity.md).
    """
    producers = {name: node for node in graph.nodes for name in node.outputs}
    at = output
    while at in producers:
        node = producers[at]
        if isinstance(node.op, Softmax):
            return node.inputs[0]
        if not isinstance(node.op, _TRANSPARENT):
            return None
        at = node.inputs[0]
    return None


def _source_logits(annotated: Graph, output: str) -> str | None:
    producer = annotated.producers().get(output)
    return producer.inputs[0] if producer is not None and isinstance(producer.op, ops.Softmax) else None


def _is_coarse(scores: FloatArray) -> bool:
    return is_probability(scores) and np.unique(scores).size <= BYTE_LEVELS


def _real(graph: LoweredGraph, name: str, scores: Array) -> FloatArray:
    """Returns scores as real numbers; codes are on the grid of the artefact's tensor, the source's too."""
    tensor = graph[name]
    if scores.dtype.kind not in "iu" or tensor.scale is None:
        return np.asarray(scores, np.float64)
    return (scores.astype(np.float64) - tensor.zero_point) * float(tensor.scale[0])


def _right(rows: Array, labels: IntArray) -> BoolArray:
    return np.asarray(rows.argmax(-1) == labels)
