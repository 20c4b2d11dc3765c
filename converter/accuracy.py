"""Top-1 accuracy of the source and of the artefact on labelled data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kwsq.converter.data import Samples
from kwsq.converter.parity import SourceReference
from kwsq.converter.parity.sequences import run_vectors, zero_states
from kwsq.converter.parity.source import real_inputs
from kwsq.ir.errors import Problem, UsageError
from kwsq.ir.lowered import LoweredGraph

Array = npt.NDArray[Any]


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


NOT_ASSESSED: Mapping[str, object] = {"assessed": False}


def assess(
    graph: LoweredGraph,
    run: Callable[[Mapping[str, Array]], Mapping[str, Array]],
    source: SourceReference,
    samples: Samples,
    codes: Mapping[str, Array],
) -> Accuracy:
    """Returns the accuracy of source and artefact.

    Args:
        graph: legalised graph of the artefact.
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
    found = run_vectors(graph, run, codes, initial)[output]
    real_states = {name: real_inputs(graph, {name: array})[name] for name, array in initial.items()}
    expected = run_vectors(graph, source.run, samples.inputs, real_states)[output]
    return Accuracy(
        samples.labels.size, _top1(expected, samples.labels), _top1(found, samples.labels), output, source.name
    )


def _top1(scores: Array, labels: npt.NDArray[np.int64]) -> float:
    rows = scores.reshape(labels.size, -1) if scores.size % labels.size == 0 else scores
    classes = rows.shape[-1]
    if len(rows) != labels.size or classes < 2 or int(labels.max()) >= classes:
        found = f"labels up to {int(labels.max())} for outputs of shape {list(scores.shape)}"
        raise UsageError(Problem("--data, labels 'y'", found, "one class per output row", "check the labels"))
    return float(np.mean(rows.argmax(-1) == labels))
