"""Moves quantisers to where the integer runtime needs them: onto the operator that computes the value.

1. Equal quantisers of one tensor become one.
2. A quantiser after an operator that only moves values moves before it: rounding and moving commute.
"""

from __future__ import annotations

from typing import ClassVar

from kwsq.ir.graph import Graph, Node
from kwsq.ir.ops import Concat, FakeQuant, MaxPool, Pad, ReduceMax, Reshape, Slice, Transpose
from kwsq.ir.rewrite import Rewriter
from kwsq.passes.base import PassResult, Semantics
from kwsq.passes.fuse_activation import has_zero

_MOVES = (Reshape, Transpose, Slice, MaxPool, ReduceMax, Concat, Pad)


class PlaceQuantizers:
    """See the module docstring."""

    __slots__ = ()
    name: ClassVar[str] = "place_quantizers"
    requires: ClassVar[frozenset[str]] = frozenset({"activations_fused"})
    establishes: ClassVar[frozenset[str]] = frozenset({"quantizers_placed"})
    semantics: ClassVar[Semantics] = Semantics.EXACT

    def run(self, graph: Graph) -> PassResult:
        """Returns the graph with merged and hoisted quantisers."""
        rewriter = Rewriter(graph)
        moved = True
        while moved:
            _merge_equal(rewriter)
            moved = any([_hoist(rewriter, node) for node in list(rewriter.nodes.values())])
        return PassResult(rewriter.finish(*self.establishes), rewriter.changed)


def _merge_equal(rewriter: Rewriter) -> None:
    seen: dict[str, list[Node]] = {}
    for node in list(rewriter.nodes.values()):
        if not isinstance(node.op, FakeQuant) or node.outputs[0] in rewriter.outputs:
            continue
        twins = seen.setdefault(node.inputs[0], [])
        twin = next((n for n in twins if isinstance(n.op, FakeQuant) and n.op.spec.same_as(node.op.spec)), None)
        if twin is None:
            twins.append(node)
            continue
        rewriter.remove_node(node.name)
        rewriter.replace_uses(node.outputs[0], twin.outputs[0])


def _hoist(rewriter: Rewriter, quantizer: Node) -> bool:
    """Moves one quantiser before the moving operator that feeds it; False when that is not possible."""
    if quantizer.name not in rewriter.nodes or not isinstance(quantizer.op, FakeQuant):
        return False
    source = quantizer.inputs[0]
    mover = next((n for n in rewriter.nodes.values() if source in n.outputs), None)
    uses = sum(node.inputs.count(source) for node in rewriter.nodes.values())
    if mover is None or not isinstance(mover.op, _MOVES) or uses != 1 or source in rewriter.outputs:
        return False
    # Padding and rounding commute for a value that the quantiser keeps.
    if isinstance(mover.op, Pad) and (mover.op.value != 0.0 or not has_zero(quantizer.op.spec)):
        return False
    producers = {output: node for node in rewriter.nodes.values() for output in node.outputs}
    quantized = {name for name in mover.inputs if name in producers and isinstance(producers[name].op, FakeQuant)}
    if quantized or any(rewriter.tensors[name].is_constant for name in mover.inputs):
        return False
    rewriter.bypass(quantizer.name)
    inputs = [
        rewriter.add_node(f"{quantizer.name}/{i}", quantizer.op, [name], source=quantizer.source)[0]
        for i, name in enumerate(mover.inputs)
    ]
    rewriter.update_node(mover.name, inputs=tuple(inputs))
    return True
