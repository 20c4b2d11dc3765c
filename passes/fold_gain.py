"""Folds constant gains and offsets (Mul, Add, Sub by a constant) into the layer before, or joins them to one affine.

Conv or Dense before it: equation (11). Elsewhere x * gain + offset per channel becomes one ChannelAffine, which rounds
once, where separate Mul and Add would round twice. Exporters write batch norms this way too (tf2onnx).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from kwsq.ir.graph import Graph, Node
from kwsq.ir.ops import Activation, Add, ChannelAffine, Mul, Sub
from kwsq.ir.rewrite import Rewriter
from kwsq.passes.base import Note, PassResult, Semantics
from kwsq.passes.layer_affine import fold_into_layer, foldable_layer

Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class _Affine:
    """y = gain * x + offset along one axis of x; vectors of its length, or of length 1 for all channels."""

    source: str
    axis: int
    gain: Float64
    offset: Float64


def channel_axis(constant: tuple[int, ...], x: tuple[int, ...]) -> int | None:
    """Returns the axis of x along which a broadcast constant varies; -1 for a scalar, None for more than one axis.

    >>> channel_axis((64, 1, 1), (1, 64, 5, 5)), channel_axis((), (1, 8)), channel_axis((5, 5), (1, 64, 5, 5))
    (1, -1, None)
    """
    if len(constant) > len(x):
        return None
    full = (1,) * (len(x) - len(constant)) + constant
    varying = [i for i, size in enumerate(full) if size > 1]
    if any(x[i] != full[i] for i in varying) or len(varying) > 1:
        return None
    return varying[0] if varying else -1


class FoldGain:
    """See the module docstring."""

    __slots__ = ()
    name: ClassVar[str] = "fold_gain"
    requires: ClassVar[frozenset[str]] = frozenset({"batchnorm_folded"})
    establishes: ClassVar[frozenset[str]] = frozenset({"gains_folded"})
    semantics: ClassVar[Semantics] = Semantics.FLOAT_CLOSE

    def run(self, graph: Graph) -> PassResult:
        """Returns the graph with constant gains and offsets folded."""
        rewriter = Rewriter(graph)
        notes: list[Note] = []
        for node in graph.nodes:
            affine = _as_affine(rewriter, rewriter.nodes[node.name])
            if affine is not None:
                notes += self._fold(rewriter, rewriter.nodes[node.name], affine)
        return PassResult(rewriter.finish(*self.establishes), rewriter.changed, tuple(notes))

    def _fold(self, rewriter: Rewriter, node: Node, affine: _Affine) -> list[Note]:
        layer = foldable_layer(rewriter, affine.source, affine.axis)
        if layer is not None:
            channels = rewriter.tensors[layer.inputs[1]].shape[0]
            gain, offset = (np.broadcast_to(v, (channels,)) for v in (affine.gain, affine.offset))
            notes = fold_into_layer(rewriter, layer, gain, offset, self.name)
            rewriter.update_node(node.name, inputs=(affine.source,))
            rewriter.bypass(node.name)
            return notes
        return self._to_channel_affine(rewriter, node, affine)

    def _to_channel_affine(self, rewriter: Rewriter, node: Node, affine: _Affine) -> list[Note]:
        before = next((n for n in rewriter.nodes.values() if affine.source in n.outputs), None)
        uses = sum(n.inputs.count(affine.source) for n in rewriter.nodes.values())
        rank = rewriter.tensors[affine.source].rank
        axis = affine.axis if affine.axis >= 0 else (1 if rank > 1 else 0)
        if (
            before is not None
            and isinstance(before.op, ChannelAffine)
            and before.op.activation is Activation.NONE
            and (affine.axis < 0 or before.op.axis == axis)
            and uses == 1
            and affine.source not in rewriter.outputs
        ):
            gain0, offset0 = (rewriter.tensors[n].real().astype(np.float64) for n in before.inputs[1:])
            joined = _Affine(
                before.inputs[0], before.op.axis, affine.gain * gain0, affine.gain * offset0 + affine.offset
            )
            _write(rewriter, node, joined, joined.axis)
            rewriter.remove_node(before.name)
            return [Note(self.name, node.name, f"joined with {before.name}: one affine per channel, rounded once")]
        if isinstance(node.op, ChannelAffine):
            return []  # a batch norm that is one affine already
        _write(rewriter, node, affine, axis)
        return [Note(self.name, node.name, "no layer before it can take it: one affine per channel")]


def _write(rewriter: Rewriter, node: Node, affine: _Affine, axis: int) -> None:
    channels = rewriter.tensors[affine.source].shape[axis]
    vectors = (("gain", affine.gain), ("offset", affine.offset))
    names = [
        rewriter.add_constant(f"{node.name}/{part}", np.broadcast_to(v, (channels,)).astype(np.float32))
        for part, v in vectors
    ]
    rewriter.update_node(node.name, op=ChannelAffine(axis), inputs=(affine.source, *names))


def _as_affine(rewriter: Rewriter, node: Node) -> _Affine | None:
    """Returns the affine of a node with one constant operand that varies along at most one axis."""
    if isinstance(node.op, ChannelAffine) and node.op.activation is Activation.NONE:
        gain, offset = (rewriter.tensors[name].real().astype(np.float64) for name in node.inputs[1:])
        return _Affine(node.inputs[0], node.op.axis, gain, offset)
    if not isinstance(node.op, Add | Sub | Mul) or node.op.activation is not Activation.NONE:
        return None
    constant = [rewriter.tensors[name].is_constant for name in node.inputs]
    if constant.count(True) != 1:
        return None
    x, other = (node.inputs[1], node.inputs[0]) if constant[0] else (node.inputs[0], node.inputs[1])
    tensor = rewriter.tensors[other]
    axis = channel_axis(tensor.shape, rewriter.tensors[x].shape)
    if axis is None:
        return None
    values = tensor.real().astype(np.float64).reshape(-1)
    zeros, ones = np.zeros_like(values), np.ones_like(values)
    if isinstance(node.op, Mul):
        return _Affine(x, axis, values, zeros)
    if isinstance(node.op, Add):
        return _Affine(x, axis, ones, values)
    return _Affine(x, axis, -ones, values) if constant[0] else _Affine(x, axis, ones, -values)
