"""Fuses Relu and Clip into the operator before, and drops a clamp that the following quantiser already makes.

A clamp hidden in a quantiser is an activation: the grid's own saturation keeps it, so a Relu before an unsigned
quantiser is redundant, never the other way round.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import numpy as np

from kwsq.ir.graph import Graph, Node
from kwsq.ir.ops import Activation, Add, ChannelAffine, Clip, Conv, Dense, FakeQuant, Mul, Relu, Sub
from kwsq.ir.quant import Affine
from kwsq.ir.rewrite import Rewriter
from kwsq.passes.base import Note, PassResult, Semantics

_FUSED = {(0.0, np.inf): Activation.RELU, (0.0, 6.0): Activation.RELU6, (-1.0, 1.0): Activation.RELU_N1_TO_1}
_HOSTS = (Conv, Dense, Add, Sub, Mul, ChannelAffine)


def clamp_of(node: Node) -> tuple[float, float] | None:
    """Returns the bounds of a Relu or Clip node, None for any other."""
    if isinstance(node.op, Relu):
        return (0.0, np.inf)
    return (node.op.low, node.op.high) if isinstance(node.op, Clip) else None


def grid_bounds(spec: Affine) -> tuple[float, float]:
    """Returns the smallest and largest real value of a per-tensor grid."""
    zero, scale = int(spec.zero_point[0]), float(spec.scale[0])
    return (spec.range.low - zero) * scale, (spec.range.high - zero) * scale


def has_zero(spec: Affine) -> bool:
    """Returns whether real 0 is a value of a per-tensor grid."""
    return spec.range.low <= int(spec.zero_point[0]) <= spec.range.high


class FuseActivation:
    """See the module docstring."""

    __slots__ = ()
    name: ClassVar[str] = "fuse_activation"
    requires: ClassVar[frozenset[str]] = frozenset({"gains_folded"})
    establishes: ClassVar[frozenset[str]] = frozenset({"activations_fused"})
    semantics: ClassVar[Semantics] = Semantics.EXACT

    def run(self, graph: Graph) -> PassResult:
        """Returns the graph with clamps fused or dropped where that is exact."""
        rewriter = Rewriter(graph)
        notes: list[Note] = []
        for node in graph.nodes:
            bounds = clamp_of(node)
            if bounds is not None:
                notes += self._fuse(rewriter, node, bounds)
        return PassResult(rewriter.finish(*self.establishes), rewriter.changed, tuple(notes))

    def _fuse(self, rewriter: Rewriter, node: Node, bounds: tuple[float, float]) -> list[Note]:
        current = rewriter.nodes[node.name]
        source, target = current.inputs[0], current.outputs[0]
        if bounds == (-np.inf, np.inf) and rewriter.can_bypass(node.name):
            rewriter.bypass(node.name)
            return [Note(self.name, node.name, "dropped: it has no bounds")]
        if _implied(_consumers(rewriter, target), bounds) and target not in rewriter.outputs:
            rewriter.bypass(node.name)
            return [Note(self.name, node.name, "dropped: the quantiser after it clamps at least as tightly")]
        producer = next((n for n in rewriter.nodes.values() if source in n.outputs), None)
        if producer is not None and isinstance(producer.op, FakeQuant) and _swap(rewriter, producer, current):
            return self._fuse(rewriter, node, bounds)
        if producer is None or len(_consumers(rewriter, source)) != 1 or source in rewriter.outputs:
            return []
        activation = _FUSED.get(bounds)
        if activation is None or not isinstance(producer.op, _HOSTS) or producer.op.activation is not Activation.NONE:
            return []
        rewriter.update_node(producer.name, op=replace(producer.op, activation=activation))
        rewriter.bypass(node.name)
        return []


def _swap(rewriter: Rewriter, quantizer: Node, clamp: Node) -> bool:
    """Moves a Relu before the quantiser that feeds it: both are monotone and keep 0, so they commute exactly."""
    source, middle, target = quantizer.inputs[0], clamp.inputs[0], clamp.outputs[0]
    assert isinstance(quantizer.op, FakeQuant)
    alone = len(_consumers(rewriter, middle)) == 1 and len(_consumers(rewriter, source)) == 1
    public = {middle, source, target} & {*rewriter.outputs, *rewriter.inputs}
    if not isinstance(clamp.op, Relu) or not has_zero(quantizer.op.spec) or not alone or public:
        return False
    rewriter.update_node(clamp.name, inputs=(source,), outputs=(middle,))
    rewriter.update_node(quantizer.name, inputs=(middle,), outputs=(target,))
    return True


def _consumers(rewriter: Rewriter, tensor: str) -> list[Node]:
    return [node for node in rewriter.nodes.values() if tensor in node.inputs]


def _implied(consumers: Sequence[Node], bounds: tuple[float, float]) -> bool:
    """Whether every consumer is a quantiser whose grid lies inside the bounds, up to half a step, which rounds back."""
    if not consumers:
        return False
    for node in consumers:
        if not isinstance(node.op, FakeQuant):
            return False
        low, high = grid_bounds(node.op.spec)
        if low < bounds[0] or high - float(node.op.spec.scale[0]) / 2 >= bounds[1]:
            return False
    return True
