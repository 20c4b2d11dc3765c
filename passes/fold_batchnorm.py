"""Folds batch normalisation into the layer before it, or into one affine per channel.

y = gamma * (x - mean) / sqrt(variance + epsilon) + beta = gain * x + offset,
gain = gamma / sqrt(variance + epsilon), offset = beta - gain * mean            (10)
Conv or Dense before it: weight' = gain * weight, bias' = gain * bias + offset  (11)

Folding goes into the scale of integer weights, never into their codes (equation (12)). A batch norm between two
quantisers has no layer to fold into and becomes a ChannelAffine, which rounds once.
Source: Ioffe & Szegedy 2015, and equations (10)-(12) of docs/quantization.md.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import numpy.typing as npt

from kwsq.ir.errors import InvalidModelError, Problem
from kwsq.ir.graph import Graph, Node
from kwsq.ir.ops import BatchNorm, ChannelAffine
from kwsq.ir.rewrite import Rewriter
from kwsq.passes.base import Note, PassResult, Semantics
from kwsq.passes.layer_affine import fold_into_layer, foldable_layer

Float64 = npt.NDArray[np.float64]


def batchnorm_affine(
    gamma: npt.ArrayLike, beta: npt.ArrayLike, mean: npt.ArrayLike, variance: npt.ArrayLike, epsilon: float
) -> tuple[Float64, Float64]:
    """Returns (gain, offset) of equation (10), float64.

    >>> gain, offset = batchnorm_affine([2.0], [1.0], [3.0], [4.0], 0.0)
    >>> float(gain[0]), float(offset[0])
    (1.0, -2.0)
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        gain = np.asarray(gamma, np.float64) / np.sqrt(np.asarray(variance, np.float64) + epsilon)
    return gain, np.asarray(beta, np.float64) - gain * np.asarray(mean, np.float64)


class FoldBatchNorm:
    """See the module docstring."""

    __slots__ = ()
    name: ClassVar[str] = "fold_batchnorm"
    requires: ClassVar[frozenset[str]] = frozenset({"imported"})
    establishes: ClassVar[frozenset[str]] = frozenset({"batchnorm_folded"})
    semantics: ClassVar[Semantics] = Semantics.FLOAT_CLOSE

    def run(self, graph: Graph) -> PassResult:
        """Returns the graph without BatchNorm nodes.

        Raises:
            InvalidModelError: a variance makes the gain infinite or undefined.
            UnsupportedModelError: a negative gain meets codes that cannot absorb it.
        """
        rewriter = Rewriter(graph)
        notes: list[Note] = []
        for node in graph.nodes:
            if isinstance(node.op, BatchNorm):
                notes += self._fold(rewriter, node, node.op)
        return PassResult(rewriter.finish(*self.establishes), rewriter.changed, tuple(notes))

    def _fold(self, rewriter: Rewriter, node: Node, op: BatchNorm) -> list[Note]:
        gamma, beta, mean, variance = (rewriter.tensors[name].real() for name in node.inputs[1:])
        gain, offset = batchnorm_affine(gamma, beta, mean, variance, op.epsilon)
        _check_finite(node, gain, offset)
        layer = foldable_layer(rewriter, node.inputs[0], axis=1)
        if layer is not None:
            notes = fold_into_layer(rewriter, layer, gain, offset, self.name)
            rewriter.bypass(node.name)
            return notes
        gain_name = rewriter.add_constant(f"{node.name}/gain", gain.astype(np.float32))
        offset_name = rewriter.add_constant(f"{node.name}/offset", offset.astype(np.float32))
        rewriter.update_node(node.name, op=ChannelAffine(1), inputs=(node.inputs[0], gain_name, offset_name))
        return [Note(self.name, node.name, "no layer before it can take it: one affine per channel, rounded once")]


def _check_finite(node: Node, gain: Float64, offset: Float64) -> None:
    if np.isfinite(gain).all() and np.isfinite(offset).all():
        return
    channels = np.flatnonzero(~(np.isfinite(gain) & np.isfinite(offset))).tolist()
    found = f"a gain or offset that is not finite in channels {channels}"
    remedy = "check the running variance of this layer for zeros and negative values"
    raise InvalidModelError(Problem(node.name, found, "variance + epsilon above 0", remedy, node.source))
