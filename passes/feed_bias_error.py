"""Rounds biases so that the errors made before a layer do not add up, equation (9).

An integer bias is a multiple of scale_x * scale_w. With few-bit weights that step is a sizeable part of an output code,
so the rounding error is a shift of the whole channel, and shifts of 64 channels add up in the next layer. Instead of
the nearest integer to the bias alone, take the nearest to what is left after the mean error of the layer's input:

    bias_q = round((bias - mean(W * (x_int - x_ref))) / (scale_x * scale_w))                        (9)

x_int is what the integer graph computes, x_ref what the float graph with the same quantisers computes, on the same
inputs. Codes and scales are untouched; a bias whose codes the source gave is left alone.
Source: our reconstruction of bias correction (Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization
and Bias Correction", section 4.2), restricted to what rounding moved.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from kwsq.ir.execute import run_float
from kwsq.ir.execute.batch import batch_obstacles
from kwsq.ir.execute.integer import run_node
from kwsq.ir.graph import Array, Graph, Node
from kwsq.ir.lowered import LoweredGraph, LoweredTensor
from kwsq.ir.ops import Activation, ChannelAffine, Conv, Dense
from kwsq.ir.quant import Affine, FloatArray, dequantize, quantize
from kwsq.passes.base import Note
from kwsq.passes.lower import LowerResult
from kwsq.passes.lowering.context import View

Float64 = npt.NDArray[np.float64]
NAME = "feed_bias_error"


@dataclass(frozen=True, slots=True)
class FedBiases:
    """The graph with its biases rounded anew, and what changed."""

    graph: LoweredGraph
    notes: tuple[Note, ...]


def feed_bias_error(
    result: LowerResult, attached: Graph, annotated: Graph, inputs: Mapping[str, FloatArray]
) -> FedBiases:
    """Returns the integer graph with biases rounded by equation (9).

    Args:
        result: lowered graph with its views.
        attached: the float graph that was lowered, one grid per activation.
        annotated: the float graph with explicit quantisers, the reference.
        inputs: real-valued arrays, (n * batch, ...).
    """
    graph = result.graph
    layers = {node.name: node for node in attached.nodes if isinstance(node.op, Conv | Dense | ChannelAffine)}
    if batch_obstacles(graph) or not result.real_biases:
        return FedBiases(graph, ())
    reference = _Reference(attached, annotated, inputs)
    values: dict[str, Array] = {t.name: t.data for t in graph.tensors.values() if t.data is not None}
    values |= {name: reference.codes(graph[name], name) for name in graph.inputs}
    count = reference.count
    tensors, moved = dict(graph.tensors), 0
    for node in graph.nodes:
        layer = layers.get(node.name)
        view = result.views.get(node.inputs[0])
        if layer is not None and view is not None and len(node.inputs) > 2 and node.inputs[2] in result.real_biases:
            error = _mean_error(graph[node.inputs[0]], values[node.inputs[0]], view, reference)
            bias = _fed(tensors[node.inputs[2]], result.real_biases[node.inputs[2]], attached, layer, error)
            moved += int(np.count_nonzero(bias.data != tensors[bias.name].data))
            tensors[bias.name] = bias
            values[bias.name] = bias.data  # type: ignore[assignment]  # a constant has data
        values |= run_node(graph, node, values, count)
    text = f"{moved} bias codes moved to cancel the mean rounding error before their layer"
    notes = (Note(NAME, graph.name, text),) if moved else ()
    return FedBiases(replace(graph, tensors=tensors), notes)


class _Reference:
    """Mean values of the float graph's activations, on their grids."""

    def __init__(self, attached: Graph, annotated: Graph, inputs: Mapping[str, FloatArray]) -> None:
        self.attached = attached
        self.inputs = inputs
        wanted = [
            node.inputs[0]
            for node in attached.nodes
            if isinstance(node.op, Conv | Dense | ChannelAffine) and node.inputs[0] in annotated.tensors
        ]
        known = [name for name in dict.fromkeys(wanted) if name not in annotated.inputs]
        self.values = run_float(annotated, inputs, keep=known) | dict(inputs)
        first = attached.inputs[0]
        self.count = len(inputs[first]) // attached[first].shape[0]

    def codes(self, tensor: LoweredTensor, name: str) -> Array:
        """Returns the codes of a graph input in its lowered element type."""
        if tensor.scale is None:
            return self.inputs[name]
        limits = np.iinfo(tensor.dtype.numpy)
        codes = np.rint(self.inputs[name] / tensor.scale[0]) + tensor.zero_point
        return np.clip(codes, limits.min, limits.max).astype(tensor.dtype.numpy)

    def mean(self, name: str) -> Float64 | None:
        """Returns the mean over all vectors of a tensor rounded to its grid, batch size 1; None when unknown."""
        if name not in self.values:
            return None
        spec = self.attached[name].quant
        assert isinstance(spec, Affine)
        real = dequantize(quantize(self.values[name], spec), spec)
        return real.astype(np.float64).mean(axis=0, keepdims=True)


def _mean_error(tensor: LoweredTensor, codes: Array, view: View, reference: _Reference) -> Float64 | None:
    """Returns the mean of x_int - x_ref in logical order, batch size 1."""
    expected = reference.mean(view.name)
    if expected is None or tensor.scale is None:
        return None
    mean = (codes.astype(np.float64).mean(axis=0, keepdims=True) - tensor.zero_point) * float(tensor.scale[0])
    return _logical(mean, view, expected.shape) - expected


def _logical(stored: Float64, view: View, shape: tuple[int, ...]) -> Float64:
    if view.features is not None:
        flat = np.empty(stored.size)
        flat[view.features] = stored.reshape(-1)
        return flat.reshape(shape)
    axes = [axis for axis in view.form if axis is not None and shape[axis] > 1]
    core = stored.reshape([shape[axis] for axis in axes])
    return core.transpose(np.argsort(axes)).reshape(shape)


def _fed(bias: LoweredTensor, real: Float64, graph: Graph, layer: Node, error: Float64 | None) -> LoweredTensor:
    assert bias.scale is not None and bias.data is not None
    if error is None:
        return bias
    shift = _response(graph, layer, error)
    codes = np.rint((real - shift) / bias.scale.astype(np.float64))
    # A channel zeroed or saturated by its own bias keeps it: nothing before it matters there.
    keep = np.abs(codes) > 2**30
    data = np.where(keep, bias.data, codes).astype(np.int32)
    data.setflags(write=False)
    return replace(bias, data=data)


def _response(graph: Graph, layer: Node, error: Float64) -> Float64:
    """Returns the mean change of the layer's output per channel for a change of its input."""
    op = layer.op
    assert isinstance(op, Conv | Dense | ChannelAffine)
    weight = graph[layer.inputs[1]].real()
    linear = replace(op, activation=Activation.NONE)
    if isinstance(linear, ChannelAffine):
        zero = np.zeros(weight.shape, np.float32)
        change = linear.evaluate(error.astype(np.float32), weight, zero)[0]
        axis = linear.axis
    else:
        change = linear.evaluate(error.astype(np.float32), weight)[0]
        axis = 1 if isinstance(linear, Conv) else change.ndim - 1
    others = tuple(i for i in range(change.ndim) if i != axis)
    return change.astype(np.float64).mean(axis=others)
