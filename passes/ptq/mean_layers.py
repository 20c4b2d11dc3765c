"""Means of depthwise convolutions become depthwise convolutions of their own, so that they round once.

A mean over positions is far smaller than what it averages: taken over int8 codes, it inherits their step. Both
operators are linear, so the mean of a depthwise convolution over an axis of P positions and stride s is one with a tap
for every element p of the padded axis,

    w'[c, p] = 1/P  sum of w[c, k] over positions j and taps k with j s + k d = p,                               (61)

which reads the convolution's input and rounds only its result. Broadcasted-residual networks take such means beside
the convolution's own output. Wider convolutions would need as many taps for every pair of channels, and stay.

Source: our construction.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from kwsq.ir.graph import Graph, Node
from kwsq.ir.ops import Activation, Conv, Mean, Reshape
from kwsq.ir.quant import Unquantized
from kwsq.ir.rewrite import Rewriter

Float64 = npt.NDArray[np.float64]

MOST_TAPS = 64
"""Taps per channel up to which a merged filter is worth its bytes."""


def merge_means(graph: Graph) -> Graph:
    """Returns the graph in which every mean of a float depthwise convolution is one depthwise convolution."""
    rewriter = Rewriter(graph)
    producers = graph.producers()
    for node in graph.nodes:
        layer = producers.get(node.inputs[0]) if isinstance(node.op, Mean) else None
        if layer is not None and _is_depthwise(graph, layer) and _is_small(graph, layer, node):
            _merge(graph, rewriter, layer, node)
    return rewriter.finish()


def _is_depthwise(graph: Graph, layer: Node) -> bool:
    if not isinstance(layer.op, Conv) or layer.op.activation is not Activation.NONE:
        return False
    parameters = [graph[name] for name in layer.inputs[1:] if name]
    floats = all(p.is_constant and isinstance(p.quant, Unquantized) for p in parameters)
    return floats and layer.op.groups == graph[layer.inputs[0]].shape[1]


def _is_small(graph: Graph, layer: Node, mean: Node) -> bool:
    assert isinstance(mean.op, Mean)
    source, kernel = graph[layer.inputs[0]].shape, graph[layer.inputs[1]].shape
    taps = math.prod(source[axis] if axis in mean.op.axes else kernel[axis] for axis in range(2, len(source)))
    return min(mean.op.axes) >= 2 and taps <= MOST_TAPS


def _merge(graph: Graph, rewriter: Rewriter, layer: Node, mean: Node) -> None:
    assert isinstance(layer.op, Conv)
    assert isinstance(mean.op, Mean)
    op, weight = layer.op, graph[layer.inputs[1]].real().astype(np.float64)
    pads, strides, dilations = list(op.pads), list(op.strides), list(op.dilations)
    for axis in mean.op.axes:
        i, size = axis - 2, graph[layer.inputs[0]].shape[axis]
        weight = mean_taps(weight, axis, size, graph[layer.outputs[0]].shape[axis], op)
        pads[i], strides[i], dilations[i] = (0, 0), 1, 1
    merged = replace(op, pads=tuple(pads), strides=tuple(strides), dilations=tuple(dilations))
    taps = rewriter.add_constant(f"{mean.name}/weight", weight.astype(np.float32))
    target = mean.outputs[0]
    rewriter.remove_node(mean.name)
    inputs = (layer.inputs[0], taps, *layer.inputs[2:])
    if mean.op.keepdims:
        rewriter.add_node(mean.name, merged, inputs, outputs=(target,), source=mean.source)
        return
    (wide,) = rewriter.add_node(mean.name, merged, inputs, source=mean.source)
    rewriter.add_node(f"{mean.name}/squeeze", Reshape(graph[target].shape), (wide,), outputs=(target,))


def mean_taps(weight: Float64, axis: int, size: int, positions: int, op: Conv) -> Float64:
    """Returns the taps of equation (61) along one axis.

    Args:
        weight: (C_out, 1, *K) taps.
        axis: spatial axis to average, counted from the batch.
        size: elements of the input along it.
        positions: elements of the convolution's output along it, P.
        op: attributes of the convolution.
    """
    stride, dilation, before = op.strides[axis - 2], op.dilations[axis - 2], op.pads[axis - 2][0]
    shape = list(weight.shape)
    shape[axis] = size
    taps = np.zeros(shape)
    for k in range(weight.shape[axis]):
        for j in range(positions):
            p = j * stride + k * dilation - before
            if 0 <= p < size:
                taps.swapaxes(0, axis)[p] += weight.swapaxes(0, axis)[k] / positions
    return taps
