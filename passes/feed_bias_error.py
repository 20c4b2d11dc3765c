"""Rounds biases by what they do to the codes, equations (41) and (42).

An integer bias is a multiple of scale_x * scale_w. With few-bit weights that step is a sizeable part of an output code,
so the rounding error is a shift of the whole channel, and shifts of 64 channels add up in the next layer. The kernel
adds a shift of its own: it rounds twice, first to 2^-n of a code and then ties upward. So instead of the nearest
integer to the bias alone, start from the nearest to what is left after the mean error of the layer's input,

    b_0 = round((bias - mean(W * (x_int - x_ref))) / (scale_x * scale_w))               (41)

and, where a step is a noticeable part of an output code, take of the integers around it the one whose output codes,
computed by the kernel itself, are closest to the reference's:

    bias_q = argmin_b mean((q_int(b) - q_ref)^2),  |b - b_0| <= reach                   (42)

x_int is what the integer graph computes, x_ref and q_ref what the float graph with the same quantisers computes, on the
same inputs. Codes and scales are untouched; a bias whose codes the source gave is left alone. If outputs stay more than
one code away, a few other criteria are tried, then single steps (see `refine_biases`), and what brings them closest is
kept.

Source: our reconstruction; (41) is bias correction (Nagel et al. 2019, "Data-Free Quantization Through Weight
Equalization and Bias Correction", section 4.2), restricted to what rounding moved.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from kwsq.ir.execute.batch import batch_obstacles
from kwsq.ir.execute.integer import run_node
from kwsq.ir.graph import Array, Graph, Node
from kwsq.ir.lowered import LoweredGraph, LoweredNode, LoweredTensor
from kwsq.ir.ops import Activation, ChannelAffine, Conv, Dense
from kwsq.ir.quant import FloatArray
from kwsq.passes.base import Note
from kwsq.passes.bias_reference import BiasReference, logical
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
"""Target of the source parity check: this share of outputs within CLOSE_LSB."""


@dataclass(frozen=True, slots=True)
class Criterion:
    """How (42) compares: integers within `reach`, mean square error plus `focus` times the squared mean error."""

    reach: int
    focus: float


CRITERIA = (Criterion(2, 0.0), Criterion(2, 20.0), Criterion(1, 0.0), Criterion(1, 20.0), Criterion(3, 5.0))
"""The first is taken unless outputs stay apart; the others weigh a channel's shift above its scatter."""


@dataclass(frozen=True, slots=True, eq=False)
class FedBiases:
    """The graph with its biases rounded anew, and what changed."""

    graph: LoweredGraph
    notes: tuple[Note, ...]


def feed_bias_error(
    result: LowerResult, attached: Graph, annotated: Graph, inputs: Mapping[str, FloatArray]
) -> FedBiases:
    """Returns the integer graph with biases rounded by equations (41) and (42).

    Args:
        result: lowered graph with its views.
        attached: the float graph that was lowered, one grid per activation.
        annotated: the float graph with explicit quantisers, the reference.
        inputs: real-valued arrays, (n * batch, ...).
    """
    if batch_obstacles(result.graph) or not result.real_biases:
        return FedBiases(result.graph, ())
    feeder = _Feeder(result, attached, BiasReference(result, attached, annotated, inputs))
    fed = feeder.run(CRITERIA[0])
    if not fed.is_close:
        few = {name: array[: FEW_VECTORS * attached[name].shape[0]] for name, array in inputs.items()}
        tried = _Feeder(result, attached, BiasReference(result, attached, annotated, few)).closer()
        fed = min(fed, feeder.measure(tried), key=lambda run: run.rms_lsb)
    text = f"{fed.moved} bias codes moved so that codes stay close to the source's: outputs at {fed.rms_lsb:.2f} LSB"
    notes = (Note(NAME, result.graph.name, text),)
    return FedBiases(replace(result.graph, tensors=fed.tensors), notes if fed.moved else ())


@dataclass(frozen=True, slots=True, eq=False)
class _Fed:
    """One run: tensors with new biases, number of bias codes moved, distance of the outputs from the reference."""

    tensors: dict[str, LoweredTensor]
    moved: int
    rms_lsb: float
    close_share: float

    @property
    def is_close(self) -> bool:
        return self.close_share >= CLOSE_SHARE


@dataclass(slots=True, eq=False)
class _Feeder:
    """Runs the integer graph node by node, rounding each layer's bias when its turn comes."""

    result: LowerResult
    attached: Graph
    reference: BiasReference
    layers: dict[str, Node] = field(init=False)

    def __post_init__(self) -> None:
        kinds = (Conv, Dense, ChannelAffine)
        self.layers = {node.name: node for node in self.attached.nodes if isinstance(node.op, kinds)}

    def _bias_of(self, node: LoweredNode) -> str:
        known = node.name in self.layers and node.inputs[0] in self.result.views and len(node.inputs) > 2
        return node.inputs[2] if known and node.inputs[2] in self.result.real_biases else ""

    def run(self, criterion: Criterion) -> _Fed:
        """Runs once, choosing biases by the criterion."""
        graph = self.result.graph
        values: dict[str, Array] = {t.name: t.data for t in graph.tensors.values() if t.data is not None}
        values |= {name: self.reference.codes(graph[name], name) for name in graph.inputs}
        tensors = dict(graph.tensors)
        for node in graph.nodes:
            name = self._bias_of(node)
            if name:
                tensors[name] = self._closest(node, values, criterion)
                values[name] = np.asarray(tensors[name].data)
            values |= run_node(graph, node, values, self.reference.count)
        return self._finished(tensors, values)

    def _finished(self, tensors: dict[str, LoweredTensor], values: Mapping[str, Array]) -> _Fed:
        graph = self.result.graph
        moved = sum(int(np.count_nonzero(tensors[n].data != graph[n].data)) for n in self.result.real_biases)
        rms, close = self.reference.distance(graph, values)
        return _Fed(tensors, moved, rms, close)

    def measure(self, tensors: dict[str, LoweredTensor]) -> _Fed:
        """Runs once with given biases."""
        graph = replace(self.result.graph, tensors=tensors)
        values: dict[str, Array] = {t.name: t.data for t in tensors.values() if t.data is not None}
        values |= {name: self.reference.codes(graph[name], name) for name in graph.inputs}
        for node in graph.nodes:
            values |= run_node(graph, node, values, self.reference.count)
        return self._finished(tensors, values)

    def closer(self) -> dict[str, LoweredTensor]:
        """Returns the tensors after trying all criteria, and single steps from the best."""
        runs = []
        for criterion in CRITERIA:
            runs.append(self.run(criterion))
            if runs[-1].is_close:
                break
        best = min(runs, key=lambda run: run.rms_lsb)
        graph = replace(self.result.graph, tensors=best.tensors)
        layers = [node for node in graph.nodes if self._bias_of(node)]
        codes = refine_biases(graph, layers, self.reference, close_share=CLOSE_SHARE)
        return best.tensors | {name: _with_codes(best.tensors[name], data) for name, data in codes.items()}

    def _target(self, node: LoweredNode, x: Array) -> Float64:
        """Returns the bias of equation (41) before it is rounded."""
        bias, layer = self.result.graph[node.inputs[2]], self.layers[node.name]
        error = _mean_error(self.result.graph[node.inputs[0]], x, self.result.views[node.inputs[0]], self.reference)
        assert bias.scale is not None
        real = self.result.real_biases[bias.name]
        shift = 0.0 if error is None else _response(self.attached, layer, error)
        return np.asarray((real - shift) / bias.scale.astype(np.float64))

    def _closest(self, node: LoweredNode, values: Mapping[str, Array], criterion: Criterion) -> LoweredTensor:
        """Returns the bias by equations (41) and (42)."""
        bias, output = self.result.graph[node.inputs[2]], self.result.graph[node.outputs[0]]
        target = self._target(node, values[node.inputs[0]])
        wanted = self.reference.wanted.get(output.name)
        if wanted is None or bias.scale is None or output.scale is None or target.shape != output.shape[-1:]:
            return _with_codes(bias, np.rint(target))
        wanted = wanted.reshape(-1, target.size)
        step = bias.scale.astype(np.float64) / float(output.scale[0])
        losses, candidates = [], np.rint(target) + np.arange(-criterion.reach, criterion.reach + 1)[:, None]
        for codes in candidates:
            error = self._probe(node, codes, values).reshape(wanted.shape) - wanted
            loss = (error**2).mean(axis=0) + criterion.focus * error.mean(axis=0) ** 2
            losses.append(loss + PRIOR_SAMPLES / len(wanted) * step * np.abs(codes - target))
        return _with_codes(bias, np.choose(np.argmin(losses, axis=0), candidates))

    def _probe(self, node: LoweredNode, codes: Float64, values: Mapping[str, Array]) -> npt.NDArray[np.float32]:
        """Returns the output codes of the first vectors for a bias."""
        x, count = node.inputs[0], self.reference.probes
        few = dict(values)
        few[x] = values[x][: count * self.result.graph[x].shape[0]]
        few[node.inputs[2]] = codes.astype(np.int32)
        return run_node(self.result.graph, node, few, count)[node.outputs[0]].astype(np.float32)


def _with_codes(bias: LoweredTensor, codes: npt.NDArray[Any]) -> LoweredTensor:
    """Returns the bias with new codes; a channel whose bias alone fills the accumulator keeps its own."""
    data = np.where(np.abs(codes) > 2**30, np.asarray(bias.data), codes).astype(np.int32)
    data.setflags(write=False)
    return replace(bias, data=data)


def _mean_error(tensor: LoweredTensor, codes: Array, view: View, reference: BiasReference) -> Float64 | None:
    """Returns the mean of x_int - x_ref in logical order, batch size 1; None when x_ref is unknown or not stacked."""
    expected = reference.means.get(view.name)
    vectors_last = view.form[0] != 0 and reference.attached[view.name].shape[0] > 1
    if expected is None or tensor.scale is None or vectors_last:
        return None
    mean = (codes.mean(axis=0, keepdims=True, dtype=np.float64) - tensor.zero_point) * float(tensor.scale[0])
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
