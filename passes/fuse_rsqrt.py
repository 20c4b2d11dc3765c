"""Rewrites 1 / sqrt(x) to Rsqrt, the only root the integer runtime has.

Reciprocal(Sqrt(x)) -> Rsqrt(x);   a / Sqrt(x) -> a * Rsqrt(x);   Sqrt may be written Pow(x, 0.5).
"""

from __future__ import annotations

from typing import ClassVar

from kwsq.ir.graph import Graph, Node
from kwsq.ir.ops import Div, Mul, Pow, Reciprocal, Rsqrt, Sqrt
from kwsq.ir.rewrite import Rewriter
from kwsq.passes.base import PassResult, Semantics


class FuseRsqrt:
    """See the module docstring."""

    __slots__ = ()
    name: ClassVar[str] = "fuse_rsqrt"
    requires: ClassVar[frozenset[str]] = frozenset({"imported"})
    establishes: ClassVar[frozenset[str]] = frozenset()
    semantics: ClassVar[Semantics] = Semantics.FLOAT_CLOSE

    def run(self, graph: Graph) -> PassResult:
        """Returns the graph with reciprocal roots fused."""
        rewriter = Rewriter(graph)
        producers = graph.producers()
        for node in graph.nodes:
            root = producers.get(node.inputs[-1]) if node.inputs else None
            if root is None or not _is_root(graph, root):
                continue
            if isinstance(node.op, Reciprocal):
                rewriter.update_node(node.name, op=Rsqrt(), inputs=(root.inputs[0],))
            elif isinstance(node.op, Div):
                inverse = rewriter.add_node(f"{node.name}/rsqrt", Rsqrt(), [root.inputs[0]], source=node.source)[0]
                rewriter.update_node(node.name, op=Mul(), inputs=(node.inputs[0], inverse))
        return PassResult(rewriter.finish(), rewriter.changed)


def _is_root(graph: Graph, node: Node) -> bool:
    if isinstance(node.op, Sqrt):
        return True
    exponent = graph.constant(node.inputs[1]) if isinstance(node.op, Pow) else None
    return exponent is not None and bool((exponent.real() == 0.5).all())
