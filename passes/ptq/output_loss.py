"""How far the quantised network's output is from the float network's, clip by clip and without labels.

For a classifier with float logits z and quantised logits z',

    D = KL(softmax(z) || softmax(z')) + |z' - z|^2 / var(z)
    loss = sqrt(1 - exp(-D))                                                                                   (50)

with logits centred over the classes, and var(z) the mean over clips of the squared distance of z from its mean. The
first term is what a decision sees, dominated by the few undecided clips; the second speaks for all clips, which
steadies the comparison on a small calibration set. D is a squared distance; the root makes it a distance, and the
exponential bounds it by 1. A plain mean of D would be decided by a handful of clips that are far off whatever is
done, a silent clip whose huge first coefficient is clipped for one, at the cost of all others.
Outputs that are no logits keep the second term only.

Source: our construction.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from kwsq.ir import ops
from kwsq.ir.graph import Graph
from kwsq.ir.quant import FloatArray

Float64 = npt.NDArray[np.float64]
Kind = Literal["softmax", "sigmoid", "plain"]

MOST_CLASSES = 1000  # a wider plain output is taken for features rather than logits


@dataclass(frozen=True, slots=True)
class Head:
    """One scored output.

    Args:
        tensor: logits, the input of the final softmax or sigmoid where there is one.
        kind: distribution the logits stand for.
        axis: class axis.
    """

    tensor: str
    kind: Kind
    axis: int


def find_heads(graph: Graph) -> tuple[Head, ...]:
    """Returns the outputs to score; streaming states only when there is nothing else."""
    states = {pair.output for pair in graph.states}
    outputs = [name for name in graph.outputs if name not in states and not graph[name].is_constant]
    outputs = outputs or [name for name in graph.outputs if not graph[name].is_constant]
    return tuple(dict.fromkeys(_head(graph, name) for name in outputs))


def _head(graph: Graph, output: str) -> Head:
    producers = graph.producers()
    name = output
    while (node := producers.get(name)) is not None:
        match node.op:
            case ops.Softmax(axis=axis):
                return Head(node.inputs[0], "softmax", axis)
            case ops.Sigmoid():
                return Head(node.inputs[0], "sigmoid", max(graph[node.inputs[0]].rank - 1, 0))
            case ops.FakeQuant() | ops.Reshape() | ops.Transpose():
                name = node.inputs[0]
            case _:
                break
    shape = graph[output].shape
    is_logits = len(shape) == 2 and 2 <= shape[1] <= MOST_CLASSES
    return Head(output, "softmax" if is_logits else "plain", max(len(shape) - 1, 0))


class OutputLoss:
    """The loss of equation (50) against one float run.

    Args:
        heads: scored outputs.
        reference: float values of their tensors, stacked over the clips.
        samples: number of clips.
    """

    def __init__(self, heads: tuple[Head, ...], reference: Mapping[str, FloatArray], samples: int) -> None:
        self._heads = heads
        self._samples, self._rows = samples, len(reference[heads[0].tensor])
        # By head, not by tensor: an output and the softmax of it are two heads of one tensor.
        self._reference = {head: _scored(head, reference[head.tensor], samples) for head in heads}
        self._variance = {head: _variance(z) for head, z in self._reference.items()}

    def per_clip(self, outputs: Mapping[str, FloatArray]) -> Float64:
        """Returns the loss of the first clips, as many as `outputs` holds.

        Args:
            outputs: quantised values of the scored tensors, stacked over the clips.
        """
        clips = len(outputs[self._heads[0].tensor]) * self._samples // self._rows
        total = np.zeros(clips)
        for head in self._heads:
            z = self._reference[head][:clips]
            other = _scored(head, outputs[head.tensor], clips)
            total += np.square(other - z).sum(axis=(1, 2)) / self._variance[head] + _divergence(head, z, other)
        total[np.isnan(total)] = np.inf  # an undefined output is as unlike as can be
        return np.sqrt(-np.expm1(-np.maximum(total, 0)))  # a divergence may round to just below zero

    def kept_spread(self, outputs: Mapping[str, FloatArray]) -> dict[str, float]:
        """Returns by scored tensor how far its values spread over the clips, as a share of the float run's spread.

        The spread is the median deviation from the median, which single outliers do not move; an output that is the
        same on most clips in float has none to keep and is left out. Of several heads of one tensor, the least counts.

        Args:
            outputs: quantised values of the scored tensors, stacked over all clips.
        """
        spreads: dict[str, float] = {}
        for head in self._heads:
            full = _median_deviation(self._reference[head])
            kept = _median_deviation(_scored(head, outputs[head.tensor], self._samples))
            if full > 0:
                spreads[head.tensor] = min(spreads.get(head.tensor, np.inf), kept / full)
        return spreads


def _median_deviation(z: Float64) -> float:
    return float(np.median(np.abs(z - np.median(z, axis=0)), axis=0).sum())


def by_clip(head: Head, z: FloatArray, clips: int) -> FloatArray:
    """Returns a scored tensor as (clips, positions, classes).

    Args:
        head: whose tensor it is.
        z: its values, stacked over the clips along the leading dimension, which may itself hold the classes.
        clips: how many are stacked.
    """
    classes_last = np.moveaxis(z.reshape(clips, -1, *z.shape[1:]), head.axis + 1, -1)
    return classes_last.reshape(clips, -1, classes_last.shape[-1])


def _scored(head: Head, z: FloatArray, clips: int) -> Float64:
    """Returns (clips, positions, classes), centred over the classes for a softmax."""
    wide = by_clip(head, z, clips).astype(np.float64)
    return wide - wide.mean(axis=2, keepdims=True) if head.kind == "softmax" else wide


def _variance(z: Float64) -> float:
    variance = float(np.square(z - z.mean(axis=0)).sum(axis=(1, 2)).mean())
    return variance if variance > 0 else 1.0


def _divergence(head: Head, z: Float64, other: Float64) -> Float64:
    match head.kind:
        case "softmax":
            p, q = _log_softmax(z), _log_softmax(other)
            divergence: Float64 = (np.exp(p) * (p - q)).sum(axis=2).mean(axis=1)
        case "sigmoid":
            p = _log_sigmoid(z)
            divergence = np.exp(p) * (p - _log_sigmoid(other))
            divergence = divergence + np.exp(_log_sigmoid(-z)) * (_log_sigmoid(-z) - _log_sigmoid(-other))
            divergence = divergence.sum(axis=2).mean(axis=1)
        case "plain":
            divergence = np.zeros(len(z))
    return divergence


def _log_softmax(z: Float64) -> Float64:
    shifted = z - z.max(axis=2, keepdims=True)
    result: Float64 = shifted - np.log(np.exp(shifted).sum(axis=2, keepdims=True))
    return result


def _log_sigmoid(z: Float64) -> Float64:
    result: Float64 = -np.logaddexp(0, -z)
    return result
