"""Activations whose channels may be scaled: which of them share one gain per channel, and which layers absorb it.

A layer may multiply output channel c by g_c > 0 and the layers behind divide input channel c by it, as long as
everything between is positively homogeneous and keeps channels apart: ReLU, pooling, means over positions,
additions of equally scaled tensors. Such tensors form a *stream*; one gain per channel holds for all of it. A residual
network has one stream along its additions.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

from kwsq.ir.graph import Graph, Node, Op, Shape
from kwsq.ir.ops import (
    Abs,
    Activation,
    Add,
    AveragePool,
    ChannelAffine,
    Concat,
    Conv,
    Dense,
    LeakyRelu,
    MaxPool,
    Mean,
    Neg,
    Pad,
    ReduceMax,
    ReduceSum,
    Relu,
    Reshape,
    Slice,
    Split,
    Sub,
    Transpose,
)
from kwsq.ir.quant import Unquantized

HOMOGENEOUS = (Activation.NONE, Activation.RELU)


@dataclass(frozen=True, slots=True)
class ChannelAxis:
    """Where a tensor has its channels.

    Args:
        axis: dimension.
        repeats: consecutive elements of that dimension that belong to one channel; more than 1 after a reshape that
            merged the channels with the dimensions behind them.
    """

    axis: int
    repeats: int = 1


@dataclass(frozen=True, slots=True)
class Stream:
    """Tensors that share one gain per channel.

    Args:
        channels: number of channels, C.
        axes: channel axis by tensor, in topological order.
        producers: layers that write a tensor of the stream: their output channels take the gain.
        consumers: layers that read one: their input channels lose it.
    """

    channels: int
    axes: dict[str, ChannelAxis]
    producers: tuple[Node, ...]
    consumers: tuple[Node, ...]


def find_streams(graph: Graph) -> tuple[Stream, ...]:
    """Returns the streams whose every tensor may be scaled, in topological order of their first tensor."""
    return _Walk(graph).streams()


class _Walk:
    """Union-find over the activations; a fixed tensor keeps its whole stream as it is."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._parents: dict[str, str] = {}
        self._axes: dict[str, ChannelAxis] = {}
        annotated = (t.name for t in graph.tensors.values() if not isinstance(t.quant, Unquantized))
        self._fixed: set[str] = {*graph.inputs, *graph.outputs, *annotated}
        self._uses = Counter(name for node in graph.nodes for name in node.inputs)
        self._layers = {node.name for node in graph.nodes if self._is_layer(node)}
        for node in graph.nodes:
            if node.name in self._layers:
                self._visit_layer(node)
            else:
                self._visit_other(node)

    def streams(self) -> tuple[Stream, ...]:
        """Returns what may be scaled."""
        members: dict[str, list[str]] = {}
        for node in self._graph.nodes:
            for name in node.outputs:
                members.setdefault(self._root(name), []).append(name)
        fixed = {self._root(name) for name in self._fixed}
        return tuple(self._stream(names) for root, names in members.items() if root not in fixed)

    def _stream(self, names: list[str]) -> Stream:
        axes = {name: self._axes[name] for name in names}
        layers = [node for node in self._graph.nodes if node.name in self._layers]
        first = axes[names[0]]
        return Stream(
            self._graph[names[0]].shape[first.axis] // first.repeats,
            axes,
            tuple(node for node in layers if node.outputs[0] in axes),
            tuple(node for node in layers if node.inputs[0] in axes),
        )

    def _is_layer(self, node: Node) -> bool:
        """Whether the node's constants are float and its own, so that they can take gains."""
        if not isinstance(node.op, Conv | Dense | ChannelAffine) or self._graph[node.inputs[0]].is_constant:
            return False
        parameters = [self._graph[name] for name in node.inputs[1:] if name]
        return all(p.is_constant and isinstance(p.quant, Unquantized) and self._uses[p.name] == 1 for p in parameters)

    def _visit_layer(self, node: Node) -> None:
        assert isinstance(node.op, Conv | Dense | ChannelAffine)
        source, target = node.inputs[0], node.outputs[0]
        axis = _layer_axis(node.op, self._graph[source].rank)
        if source in self._axes and self._axes[source].axis != axis:
            self._fixed.add(source)
        self._axes[target] = ChannelAxis(axis)
        if node.op.activation not in HOMOGENEOUS:
            self._fixed.add(target)

    def _visit_other(self, node: Node) -> None:
        given = [name for name in node.inputs if name]
        axes = {self._moved(node, name) for name in given}
        axis = axes.pop() if len(axes) == 1 else None
        if axis is None:
            self._fixed.update((*given, *node.outputs))
            return
        for output in node.outputs:
            self._axes[output] = axis
            for name in given:
                self._parents[self._root(name)] = self._root(output)

    def _moved(self, node: Node, source: str) -> ChannelAxis | None:
        """Returns the channel axis of the node's output, None where it mixes, bends or moves channels."""
        if source not in self._axes:
            return None
        at, shape, result = self._axes[source], self._graph[source].shape, self._graph[node.outputs[0]].shape
        match node.op:
            case Relu() | LeakyRelu() | Abs() | Neg():
                return at
            case Mean() | ReduceMax() | ReduceSum():
                return _reduced(at, node.op.axes, keepdims=node.op.keepdims)
            case Transpose(perm=perm):
                return ChannelAxis(perm.index(at.axis), at.repeats)
            case Reshape():
                return reshaped(at, shape, result)
            case Add(activation=activation) | Sub(activation=activation) if activation in HOMOGENEOUS:
                axis = at.axis + len(result) - len(shape)
                return ChannelAxis(axis, at.repeats) if shape[at.axis] == result[axis] else None
            case op:
                return at if _keeps_channels(op, at.axis, shape, result) else None

    def _root(self, name: str) -> str:
        while self._parents.get(name, name) != name:
            name = self._parents[name]
        return name


def _keeps_channels(op: Op, axis: int, shape: Shape, result: Shape) -> bool:
    """Whether the operator leaves the channels where they are and handles each like the others."""
    match op:
        case AveragePool() | MaxPool():
            return axis == 1
        case Pad(value=value):
            return value == 0 and shape[axis] == result[axis]
        case Slice():
            return shape[axis] == result[axis]
        case Split(axis=other) | Concat(axis=other):
            return axis != other
        case _:
            return False


def _layer_axis(op: Conv | Dense | ChannelAffine, rank: int) -> int:
    """Returns the channel axis of a layer's input and output."""
    match op:
        case Conv():
            return 1
        case ChannelAffine(axis=axis):
            return axis
        case Dense():
            return rank - 1


def _reduced(at: ChannelAxis, axes: Shape, *, keepdims: bool) -> ChannelAxis | None:
    if at.axis in axes:
        return None
    return at if keepdims else ChannelAxis(at.axis - sum(axis < at.axis for axis in axes), at.repeats)


def reshaped(at: ChannelAxis, shape: Shape, result: Shape) -> ChannelAxis | None:
    """Returns where the channels are after a reshape, None when it tears them apart.

    >>> reshaped(ChannelAxis(1), (1, 24, 5, 7), (1, 120, 1, 7))
    ChannelAxis(axis=1, repeats=5)
    >>> reshaped(ChannelAxis(1, 5), (1, 120, 1, 7), (1, 24, 5, 7))
    ChannelAxis(axis=1, repeats=1)
    >>> reshaped(ChannelAxis(1), (1, 24, 7), (1, 8, 21)) is None
    True
    """
    before, channels = math.prod(shape[: at.axis]), shape[at.axis] // at.repeats
    for axis, size in enumerate(result):
        if math.prod(result[:axis]) == before and size % channels == 0:
            return ChannelAxis(axis, size // channels)
    return None
