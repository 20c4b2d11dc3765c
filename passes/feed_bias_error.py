"""Rounds biases so that the errors made before a layer do not add up, equation (41).

An integer bias is a multiple of scale_x * scale_w. With few-bit weights that step is a sizeable part of an output code,
so the rounding error is a shift of the whole channel, and shifts of 64 channels add up in the next layer. Instead of
the nearest integer to the bias alone, take the nearest to what is left after the mean error of the layer's input:

    bias_q = round((bias - mean(W * (x_int - x_ref))) / (scale_x * scale_w) + dither)               (41)

x_int is what the integer graph computes, x_ref what the float graph with the same quantisers computes, on the same
inputs. Codes and scales are untouched; a bias whose codes the source gave is left alone. The dither is 0 unless that
leaves too many outputs further than one code from the source; then, layer by layer, a few seeded ones are tried and
kept when they bring the outputs closer.

Source: our reconstruction of bias correction (Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization
and Bias Correction", section 4.2), restricted to what rounding moved.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from kwsq.ir.execute import run_float
from kwsq.ir.execute.batch import batch_obstacles
from kwsq.ir.execute.integer import run_node
from kwsq.ir.graph import Array, Graph, Node
from kwsq.ir.lowered import DType, LoweredGraph, LoweredNode, LoweredTensor
from kwsq.ir.ops import Activation, ChannelAffine, Conv, Dense
from kwsq.ir.quant import Affine, FloatArray, dequantize, quantize
from kwsq.passes.base import Note
from kwsq.passes.lower import LowerResult
from kwsq.passes.lowering.context import View

Float64 = npt.NDArray[np.float64]
NAME = "feed_bias_error"

CLOSE_LSB = 1.001
CLOSE_SHARE = 0.99
"""Target of the source parity check: this share of outputs within this many codes (one, and float32 noise)."""
SEARCH_VECTORS = 32
SEARCH_TRIES = 8
SEARCH_PASSES = 3
SEARCH_MACS = 4_000_000_000
"""Work the search may take, in multiply-accumulates: counted, not timed, so that every machine finds the same biases."""
DITHER = 0.5
DITHER_SHARE = 0.05
"""A try moves this share of a layer's biases by up to half a step."""


@dataclass(frozen=True, slots=True)
class FedBiases:
    """The graph with its biases rounded anew, and what changed."""

    graph: LoweredGraph
    notes: tuple[Note, ...]


def feed_bias_error(
    result: LowerResult, attached: Graph, annotated: Graph, inputs: Mapping[str, FloatArray], *, seed: int = 0
) -> FedBiases:
    """Returns the integer graph with biases rounded by equation (41).

    Args:
        result: lowered graph with its views.
        attached: the float graph that was lowered, one grid per activation.
        annotated: the float graph with explicit quantisers, the reference.
        inputs: real-valued arrays, (n * batch, ...).
        seed: of the dithers.
    """
    if batch_obstacles(result.graph) or not result.real_biases:
        return FedBiases(result.graph, ())
    feeder = _Feeder(result, attached, _Reference(attached, annotated, inputs))
    try:
        fed = feeder.run({})
    except ValueError:  # scales no kernel can hold: the target refuses the node by name
        return FedBiases(result.graph, ())
    notes = [Note(NAME, result.graph.name, f"{fed.moved} bias codes moved to cancel the mean error before their layer")]
    if not fed.is_close:
        few = _first_vectors(attached, inputs)
        dithers = _search(_Feeder(result, attached, _Reference(attached, annotated, few)), seed)
        dithered = feeder.run(dithers)
        if dithered.rms_lsb < fed.rms_lsb:
            change = f"{fed.rms_lsb:.2f} -> {dithered.rms_lsb:.2f} LSB"
            text = f"biases of {len(dithers)} layers dithered: output error {change}"
            notes.append(Note(NAME, result.graph.name, text))
            fed = dithered
    return FedBiases(replace(result.graph, tensors=fed.tensors), tuple(notes) if fed.moved else ())


def _first_vectors(graph: Graph, inputs: Mapping[str, FloatArray]) -> dict[str, FloatArray]:
    return {name: array[: SEARCH_VECTORS * graph[name].shape[0]] for name, array in inputs.items()}


def _search(feeder: _Feeder, seed: int) -> dict[str, Float64]:
    """Returns the dithers, by layer, that bring the outputs close; a few passes over the layers."""
    rng = np.random.default_rng(seed)
    layers = feeder.layer_channels()
    kept = {name: np.zeros(channels) for name, channels in layers.items()}
    best = feeder.run(kept)
    tries = [name for name in layers for _ in range(SEARCH_TRIES)] * SEARCH_PASSES
    for name in tries[: SEARCH_MACS // feeder.macs()]:
        chosen = rng.random(layers[name]) < DITHER_SHARE
        tried = {**kept, name: np.where(chosen, rng.uniform(-DITHER, DITHER, layers[name]), kept[name])}
        run = feeder.run(tried)
        if run.rms_lsb < best.rms_lsb:
            kept, best = tried, run
        if best.is_close:
            break
    return kept


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


@dataclass(slots=True)
class _Feeder:
    """Runs the integer graph node by node, rounding each layer's bias when its turn comes."""

    result: LowerResult
    attached: Graph
    reference: _Reference
    layers: dict[str, Node] = field(init=False)

    def __post_init__(self) -> None:
        kinds = (Conv, Dense, ChannelAffine)
        self.layers = {node.name: node for node in self.attached.nodes if isinstance(node.op, kinds)}

    def layer_channels(self) -> dict[str, int]:
        """Returns the number of output channels of every layer whose bias may move, in graph order."""
        names = [node for node in self.result.graph.nodes if self._bias_of(node)]
        return {node.name: self.result.graph[node.inputs[2]].shape[0] for node in names}

    def macs(self) -> int:
        """Returns the multiply-accumulates of one run."""
        work = 0
        for node in self.layers.values():
            output, weight = self.attached[node.outputs[0]].shape, self.attached[node.inputs[1]].shape
            work += int(np.prod(output)) * int(np.prod(weight[1:]))
        return max(1, self.reference.count * work)

    def _bias_of(self, node: LoweredNode) -> str:
        known = node.name in self.layers and node.inputs[0] in self.result.views and len(node.inputs) > 2
        return node.inputs[2] if known and node.inputs[2] in self.result.real_biases else ""

    def run(self, dithers: Mapping[str, Float64]) -> _Fed:
        """Runs once with the given dithers by layer."""
        graph = self.result.graph
        values: dict[str, Array] = {t.name: t.data for t in graph.tensors.values() if t.data is not None}
        values |= {name: self.reference.codes(graph[name], name) for name in graph.inputs}
        tensors = dict(graph.tensors)
        for node in graph.nodes:
            name = self._bias_of(node)
            if name:
                tensors[name] = self._fed(node, values[node.inputs[0]], dithers.get(node.name))
                values[name] = np.asarray(tensors[name].data)
            values |= run_node(graph, node, values, self.reference.count)
        moved = sum(int(np.count_nonzero(tensors[n].data != graph[n].data)) for n in self.result.real_biases)
        rms, close = self.reference.distance(graph, values)
        return _Fed(tensors, moved, rms, close)

    def _fed(self, node: LoweredNode, x: Array, dither: Float64 | None) -> LoweredTensor:
        bias, layer = self.result.graph[node.inputs[2]], self.layers[node.name]
        error = _mean_error(self.result.graph[node.inputs[0]], x, self.result.views[node.inputs[0]], self.reference)
        if error is None or bias.scale is None or bias.data is None:
            return bias
        shift = _response(self.attached, layer, error)
        target = (self.result.real_biases[bias.name] - shift) / bias.scale.astype(np.float64)
        codes = np.rint(target if dither is None else target + dither)
        # A channel whose bias alone fills the accumulator keeps it: nothing before it matters there.
        data = np.where(np.abs(codes) > 2**30, bias.data, codes).astype(np.int32)
        data.setflags(write=False)
        return replace(bias, data=data)


class _Reference:
    """The float graph's activations on its inputs."""

    def __init__(self, attached: Graph, annotated: Graph, inputs: Mapping[str, FloatArray]) -> None:
        self.attached = attached
        self.inputs = inputs
        layers = (node for node in attached.nodes if isinstance(node.op, Conv | Dense | ChannelAffine))
        wanted = dict.fromkeys(node.inputs[0] for node in layers if node.inputs[0] in annotated.tensors)
        values = run_float(annotated, inputs, keep=[name for name in wanted if name not in annotated.inputs])
        states = {pair.output for pair in annotated.states}
        self.outputs = {name: values[name] for name in annotated.outputs if name not in states}
        self.means = {name: self._mean(name, values | dict(inputs)) for name in wanted}
        first = attached.inputs[0]
        self.count = len(inputs[first]) // attached[first].shape[0]

    def _mean(self, name: str, values: Mapping[str, FloatArray]) -> Float64:
        """Returns the mean over all vectors of a tensor rounded to its grid, batch size 1."""
        spec = self.attached[name].quant
        assert isinstance(spec, Affine)
        real = dequantize(quantize(values[name], spec), spec)
        return np.asarray(real.mean(axis=0, keepdims=True, dtype=np.float64))

    def codes(self, tensor: LoweredTensor, name: str) -> Array:
        """Returns a graph input in its lowered element type."""
        if tensor.scale is None or tensor.dtype is DType.FLOAT32:
            return self.inputs[name]
        low, high = (0, 255) if tensor.dtype is DType.UINT8 else (-128, 127)
        codes = np.rint(self.inputs[name] / tensor.scale[0]) + tensor.zero_point
        return np.asarray(np.clip(codes, low, high).astype(tensor.dtype.numpy))

    def distance(self, graph: LoweredGraph, values: Mapping[str, Array]) -> tuple[float, float]:
        """Returns root mean square distance of the outputs in codes, and the share within CLOSE_LSB."""
        parts = []
        for name, expected in self.outputs.items():
            spec = self.attached[name].quant
            assert isinstance(spec, Affine)
            tensor, scale = graph[name], float(spec.scale[0])
            found = values[name].astype(np.float64)
            real = found if tensor.scale is None else (found - tensor.zero_point) * float(tensor.scale[0])
            parts.append(np.abs(real.reshape(-1) - expected.reshape(-1)) / scale)
        errors = np.concatenate(parts) if parts else np.zeros(1)
        return float(np.sqrt(np.mean(errors**2))), float(np.mean(errors <= CLOSE_LSB))


def _mean_error(tensor: LoweredTensor, codes: Array, view: View, reference: _Reference) -> Float64 | None:
    """Returns the mean of x_int - x_ref in logical order, batch size 1; None when x_ref is unknown or not stacked."""
    expected = reference.means.get(view.name)
    vectors_last = view.form[0] != 0 and reference.attached[view.name].shape[0] > 1
    if expected is None or tensor.scale is None or vectors_last:
        return None
    mean = (codes.mean(axis=0, keepdims=True, dtype=np.float64) - tensor.zero_point) * float(tensor.scale[0])
    return np.asarray(_logical(mean, view, expected.shape) - expected)


def _logical(stored: Float64, view: View, shape: tuple[int, ...]) -> Float64:
    if view.features is not None:
        flat = np.empty(stored.size)
        flat[view.features] = stored.reshape(-1)
        return flat.reshape(shape)
    axes = [axis for axis in view.form if axis is not None and shape[axis] > 1]
    core = stored.reshape([shape[axis] for axis in axes])
    return core.transpose(np.argsort(axes)).reshape(shape)


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
