"""Rounds biases by what they do to the codes, equations (41) and (42), where nearest rounding is not good enough.

The nearest codes are what the source says. They stay where outputs come within one code of the reference by both kernel
sets of LiteRT; elsewhere they move, and where a graph has states, in which a shift may add up from step to step:

An integer bias is a multiple of scale_x * scale_w. With few-bit weights that step is a sizeable part of an output code,
so the rounding error is a shift of the whole channel, and shifts of 64 channels add up in the next layer. The kernel
adds a shift of its own: it rounds twice, first to 2^-n of a code and then ties upward. So instead of the nearest
integer to the bias alone, start from the nearest to what is left after the mean error of the layer's input,

    b_0 = round((bias - mean(W * (x_int - x_ref))) / (scale_x * scale_w))               (41)

and, where a step is a noticeable part of an output code, take of the integers around it the one whose output codes,
computed by the kernels themselves, are closest to the reference's:

    bias_q = argmin_b mean((q_int(b) - q_ref)^2) + focus * mean(q_int(b) - q_ref)^2,  |b - b_0| <= reach      (42)

x_int is what the integer graph computes, x_ref and q_ref what the float graph with the same quantisers computes, on the
same inputs. LiteRT's default kernels round once, so that what cancels the shift of one kernel set is a shift in the
other: the means of (41) and (42) are taken over both. If outputs stay more than one code away by
either, a few other criteria are tried, then single steps (see `refine_biases`). The reference kernels come first: a
choice that is close by them is preferred to one that is not, whatever the default ones make of it.

Codes and scales are untouched; a bias whose codes the source gave is left alone.

Source: our reconstruction; (41) is bias correction (Nagel et al. 2019, "Data-Free Quantization Through Weight
Equalization and Bias Correction", section 4.2), restricted to what rounding moved.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from kwsq.ir.execute.batch import batch_obstacles
from kwsq.ir.execute.integer import run_node
from kwsq.ir.execute.kernel_sets import KernelSet, LayerSums, kernel_sets, layer_sums
from kwsq.ir.graph import Array, Graph, Node
from kwsq.ir.lowered import LoweredGraph, LoweredNode, LoweredTensor
from kwsq.ir.ops import Activation, ChannelAffine, Conv, Dense
from kwsq.ir.quant import FloatArray
from kwsq.passes.base import Note
from kwsq.passes.bias_reference import BiasReference, Distance, logical
from kwsq.passes.lower import LowerResult
from kwsq.passes.lowering.context import View
from kwsq.passes.refine_biases import refine_biases

Float64 = npt.NDArray[np.float64]
NAME = "feed_bias_error"

FEW_VECTORS = 32
"""Vectors on which further criteria are tried."""
PRIOR_SAMPLES = 16
"""How many positions it takes before codes outweigh (41): a step off it is expected to change that share of codes."""
CLOSE_SHARE = 0.99
"""Target of the source parity check: this share of every output within CLOSE_LSB."""
LARGEST_LSB = 2.001
"""Target of the source parity check for the rest, and float32 noise."""


@dataclass(frozen=True, slots=True)
class Criterion:
    """How (42) compares integers within `reach`.

    Args:
        reach: how far from (41).
        focus: weight of the squared mean error beside the mean square error: a shift adds up, scatter averages out.
        default_share: weight of the default kernels, against the reference ones.
    """

    reach: int
    focus: float
    default_share: float = 0.5


CRITERIA_MACS = 2_000_000_000
"""Work of trying further criteria, in multiply-accumulates; two are tried in any case."""
CRITERIA = (Criterion(1, 20.0), Criterion(2, 20.0), Criterion(2, 0.0), Criterion(3, 5.0))
"""The first is taken unless outputs stay apart."""
REFERENCE_CRITERIA = (
    Criterion(2, 20.0, 0.4),
    Criterion(1, 20.0, 0.25),
    Criterion(2, 20.0, 0.1),
    Criterion(2, 0.0, 0.0),
)
"""Where outputs by the reference kernels stay apart: the first that brings them close is taken."""


@dataclass(frozen=True, slots=True, eq=False)
class FedBiases:
    """The graph with its biases rounded anew, and what changed."""

    graph: LoweredGraph
    notes: tuple[Note, ...]


def feed_bias_error(
    result: LowerResult, attached: Graph, annotated: Graph, inputs: Mapping[str, FloatArray]
) -> FedBiases:
    """Returns the integer graph, its biases rounded by equations (41) and (42) where outputs need it.

    Args:
        result: lowered graph with its views.
        attached: the float graph that was lowered, one grid per activation.
        annotated: the float graph with explicit quantisers, the reference.
        inputs: real-valued arrays, (n * batch, ...).
    """
    if batch_obstacles(result.graph) or not result.real_biases:
        return FedBiases(result.graph, ())
    feeder = _Feeder(result, attached, BiasReference(result, attached, annotated, inputs))
    nearest = feeder.measure(dict(result.graph.tensors))
    if nearest.is_close and nearest.distance.largest <= LARGEST_LSB and not result.graph.states:
        return FedBiases(result.graph, ())
    fed = feeder.run(CRITERIA[0])
    if not fed.is_close:
        fed = min(fed, nearest, key=_Fed.rank)
        few = {name: array[: FEW_VECTORS * attached[name].shape[0]] for name, array in inputs.items()}
        tried = _Feeder(result, attached, BiasReference(result, attached, annotated, few)).closer()
        fed = min(fed, feeder.measure(tried), key=_Fed.rank)
    rms = f"{fed.distance.rms_lsb:.2f} LSB"
    text = f"{fed.moved} bias codes moved so that codes stay close to the source's: outputs at {rms}"
    notes = (Note(NAME, result.graph.name, text),)
    return FedBiases(replace(result.graph, tensors=fed.tensors), notes if fed.moved else ())


@dataclass(frozen=True, slots=True, eq=False)
class _Fed:
    """One run: tensors with new biases, number of bias codes moved, distance of the outputs from the reference."""

    tensors: dict[str, LoweredTensor]
    moved: int
    distance: Distance

    @property
    def is_close(self) -> bool:
        return min(self.distance.close_shares) >= CLOSE_SHARE

    @property
    def is_close_by_reference(self) -> bool:
        return self.distance.close_shares[0] >= CLOSE_SHARE

    def rank(self) -> tuple[bool, float, float]:
        """Sorts the better run first: one close by the reference kernels, then by the worst kernel set.

        Where no choice brings the reference kernels close, what counts is how far the outputs are by all.
        """
        worst = -min(self.distance.close_shares) if self.is_close_by_reference else 0.0
        return not self.is_close_by_reference, worst, self.distance.rms_lsb


@dataclass(slots=True, eq=False)
class _Feeder:
    """Runs the integer graph node by node, rounding each layer's bias when its turn comes."""

    result: LowerResult
    attached: Graph
    reference: BiasReference
    layers: dict[str, Node] = field(init=False)
    kernel_sets: tuple[KernelSet, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.kernel_sets = kernel_sets(self.result.graph)
        kinds = (Conv, Dense, ChannelAffine)
        self.layers = {node.name: node for node in self.attached.nodes if isinstance(node.op, kinds)}

    def _weights(self, criterion: Criterion) -> tuple[float, ...]:
        """Returns the weight of every kernel set."""
        share = criterion.default_share
        return (1 - share, share) if len(self.kernel_sets) > 1 else (1.0,)

    def _bias_of(self, node: LoweredNode) -> str:
        known = node.name in self.layers and node.inputs[0] in self.result.views and len(node.inputs) > 2
        return node.inputs[2] if known and node.inputs[2] in self.result.real_biases else ""

    def run(self, criterion: Criterion) -> _Fed:
        """Runs once by every kernel set, choosing biases by the criterion."""
        graph = self.result.graph
        runs = [self._start(graph) for _ in self.kernel_sets]
        tensors = dict(graph.tensors)
        for node in graph.nodes:
            name, done = self._bias_of(node), False
            if name:
                tensors[name], done = self._rounded(node, runs, criterion)
            for kernels, values in zip(self.kernel_sets, runs, strict=True):
                if name:
                    values[name] = np.asarray(tensors[name].data)
                if not done:
                    values |= run_node(graph, node, values, self.reference.count, kernels.kernels)
        return self._finished(tensors, runs)

    def _start(self, graph: LoweredGraph) -> dict[str, Array]:
        values: dict[str, Array] = {t.name: t.data for t in graph.tensors.values() if t.data is not None}
        return values | {name: self.reference.codes(graph[name], name) for name in graph.inputs}

    def _finished(self, tensors: dict[str, LoweredTensor], runs: Sequence[Mapping[str, Array]]) -> _Fed:
        graph = self.result.graph
        moved = sum(int(np.count_nonzero(tensors[n].data != graph[n].data)) for n in self.result.real_biases)
        return _Fed(tensors, moved, self.reference.distance(graph, runs))

    def measure(self, tensors: dict[str, LoweredTensor]) -> _Fed:
        """Runs once by every kernel set with given biases."""
        graph = replace(self.result.graph, tensors=tensors)
        runs = [self._start(graph) for _ in self.kernel_sets]
        for node in graph.nodes:
            for kernels, values in zip(self.kernel_sets, runs, strict=True):
                values |= run_node(graph, node, values, self.reference.count, kernels.kernels)
        return self._finished(tensors, runs)

    def closer(self) -> dict[str, LoweredTensor]:
        """Returns the tensors after trying further criteria, and single steps from the best."""
        allowed = max(2, CRITERIA_MACS // max(1, self.reference.macs * len(self.kernel_sets)))
        best = self._refined(self._best(CRITERIA[:allowed]))
        others = REFERENCE_CRITERIA[: max(0, allowed - len(CRITERIA))]
        for criterion in others if len(self.kernel_sets) > 1 else ():
            if best.is_close_by_reference:
                break
            best = min(best, self._refined(self.run(criterion)), key=_Fed.rank)
        return best.tensors

    def _best(self, criteria: Sequence[Criterion]) -> _Fed:
        runs = []
        for criterion in criteria:
            runs.append(self.run(criterion))
            if runs[-1].is_close:
                break
        return min(runs, key=_Fed.rank)

    def _refined(self, fed: _Fed) -> _Fed:
        graph = replace(self.result.graph, tensors=fed.tensors)
        layers = [node for node in graph.nodes if self._bias_of(node)]
        if fed.is_close or not layers:
            return fed
        codes = refine_biases(graph, layers, self.reference, self.kernel_sets, close_share=CLOSE_SHARE)
        tensors = fed.tensors | {name: _with_codes(fed.tensors[name], data) for name, data in codes.items()}
        return min(fed, self.measure(tensors), key=_Fed.rank)

    def _target(self, node: LoweredNode, arrays: Sequence[Array], weights: Sequence[float]) -> Float64:
        """Returns the bias of equation (41) before it is rounded; `arrays` are the input's codes by kernel set."""
        bias, layer = self.result.graph[node.inputs[2]], self.layers[node.name]
        source, view = self.result.graph[node.inputs[0]], self.result.views[node.inputs[0]]
        error = _mean_error(source, arrays, weights, view, self.reference)
        assert bias.scale is not None
        real = self.result.real_biases[bias.name]
        shift = 0.0 if error is None else _response(self.attached, layer, error)
        return np.asarray((real - shift) / bias.scale.astype(np.float64))

    def _rounded(
        self, node: LoweredNode, runs: Sequence[dict[str, Array]], criterion: Criterion
    ) -> tuple[LoweredTensor, bool]:
        """Returns the bias by equations (41) and (42), and whether the layer's outputs were stored in the runs."""
        bias, output = self.result.graph[node.inputs[2]], self.result.graph[node.outputs[0]]
        target = self._target(node, [values[node.inputs[0]] for values in runs], self._weights(criterion))
        wanted = self.reference.wanted.get(output.name)
        if wanted is None or target.shape != output.shape[-1:]:
            return _with_codes(bias, np.rint(target)), False
        layers = [
            self._taken_apart(node, target, values, kernels)
            for kernels, values in zip(self.kernel_sets, runs, strict=True)
        ]
        codes = self._closest(node, target, layers, criterion)
        tensor = _with_codes(bias, codes)
        done = self.reference.probes >= self.reference.count and np.array_equal(codes, np.asarray(tensor.data))
        for layer, values in zip(layers, runs, strict=True):
            if done:
                values[output.name] = _codes(layer, codes - np.rint(target))
        return tensor, done

    def _closest(
        self, node: LoweredNode, target: Float64, layers: Sequence[LayerSums], criterion: Criterion
    ) -> Float64:
        """Returns the bias codes of equation (42)."""
        bias, output = self.result.graph[node.inputs[2]], self.result.graph[node.outputs[0]]
        assert bias.scale is not None
        assert output.scale is not None
        wanted = self.reference.wanted[output.name].reshape(-1, target.size)
        prior = PRIOR_SAMPLES / len(wanted) * bias.scale.astype(np.float64) / float(output.scale[0])
        weights = self._weights(criterion)
        losses, steps = [], np.arange(-criterion.reach, criterion.reach + 1)
        for step in steps:
            square, mean = np.zeros(target.size), np.zeros(target.size)
            for weight, layer in zip(weights, layers, strict=True):
                error = _codes(layer, step).reshape(wanted.shape) - wanted
                square += weight * np.einsum("ij,ij->j", error, error) / len(wanted)
                mean += weight * error.mean(axis=0)
            distance = np.abs(np.rint(target) + step - target)
            losses.append(square + criterion.focus * mean**2 + prior * distance)
        return np.asarray(np.rint(target) + steps[np.argmin(losses, axis=0)])

    def _taken_apart(
        self, node: LoweredNode, target: Float64, values: Mapping[str, Array], kernels: KernelSet
    ) -> LayerSums:
        """Returns the layer's accumulators on the first vectors, for the integer nearest to `target`."""
        x, count = node.inputs[0], min(self.reference.probes, self.reference.count)
        few = dict(values)
        few[x] = values[x][: count * self.result.graph[x].shape[0]]
        few[node.inputs[2]] = np.rint(target).astype(np.int32)
        return layer_sums(self.result.graph, node, few, count, kernels)


def _codes(layer: LayerSums, step: npt.ArrayLike) -> npt.NDArray[np.int8]:
    """Returns the layer's output codes when its bias moves by `step`."""
    return layer.requantize(layer.sums + np.asarray(step).astype(np.int32))


def _with_codes(bias: LoweredTensor, codes: npt.NDArray[Any]) -> LoweredTensor:
    """Returns the bias with new codes; a channel whose bias alone fills the accumulator keeps its own."""
    data = np.where(np.abs(codes) > 2**30, np.asarray(bias.data), codes).astype(np.int32)
    data.setflags(write=False)
    return replace(bias, data=data)


def _mean_error(
    tensor: LoweredTensor, arrays: Sequence[Array], weights: Sequence[float], view: View, reference: BiasReference
) -> Float64 | None:
    """Returns the mean of x_int - x_ref in logical order, batch size 1; None when x_ref is unknown or not stacked."""
    expected = reference.means.get(view.name)
    vectors_last = view.form[0] != 0 and reference.attached[view.name].shape[0] > 1
    if expected is None or tensor.scale is None or vectors_last:
        return None
    means = [array.mean(axis=0, keepdims=True, dtype=np.float64) for array in arrays]
    codes = np.asarray(sum(weight * mean for weight, mean in zip(weights, means, strict=True)))
    mean = (codes - tensor.zero_point) * float(tensor.scale[0])
    return np.asarray(logical(mean, view, expected.shape) - expected)


def _response(graph: Graph, layer: Node, error: Float64) -> Float64:
    """Returns the mean change of the layer's output per channel for a change of its input."""
    op, weight = layer.op, graph[layer.inputs[1]].real()
    assert isinstance(op, Conv | Dense | ChannelAffine)
    linear = replace(op, activation=Activation.NONE)
    if isinstance(linear, ChannelAffine):
        change = linear.evaluate(error.astype(np.float32), weight, np.zeros(weight.shape, np.float32))[0]
        axis = linear.axis
    else:
        change = linear.evaluate(error.astype(np.float32), weight)[0]
        axis = 1 if isinstance(linear, Conv) else change.ndim - 1
    others = tuple(i for i in range(change.ndim) if i != axis)
    return np.asarray(change.mean(axis=others, dtype=np.float64))
