"""Gives a tensor that is rounded to two grids, neither of which reaches as far as the other, a copy per grid.

Stored on either grid the value would be clipped before it is rounded to the other. Where an operator computes it, the
operator is computed once per grid instead, so that each copy is rounded once, as in the source. A graph input is one
tensor whatever happens: it is stored on a grid that reaches as far as all of them, and requantised to each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from kwsq.ir.graph import Graph, Node
from kwsq.ir.ops import FakeQuant
from kwsq.ir.quant import Affine
from kwsq.ir.rewrite import Rewriter
from kwsq.passes.base import Level, Note, PassResult, Semantics
from kwsq.passes.fuse_activation import grid_bounds
from kwsq.passes.observe import union_grid


class SeparateGrids:
    """See the module docstring."""

    __slots__ = ()
    name: ClassVar[str] = "separate_grids"
    requires: ClassVar[frozenset[str]] = frozenset({"quantizers_placed"})
    establishes: ClassVar[frozenset[str]] = frozenset({"grids_separated"})
    semantics: ClassVar[Semantics] = Semantics.CHANGES_GRID

    def run(self, graph: Graph) -> PassResult:
        """Returns the graph in which one of the grids of every computed tensor reaches as far as the others."""
        rewriter, notes = Rewriter(graph), []
        for source, group in quantizers_by_source(graph).items():
            specs = [_spec(node) for node in group]
            if any(covers_all(spec, specs) for spec in specs):
                continue
            producer = graph.producers().get(source)
            if producer is None:
                notes.append(_store_on_union(rewriter, source, specs))
            else:
                notes += _copy_producer(rewriter, producer.name, source, group)
        return PassResult(rewriter.finish(*self.establishes), rewriter.changed, tuple(notes))


def quantizers_by_source(graph: Graph) -> dict[str, list[Node]]:
    """Returns the quantisers of every tensor that has any, in graph order."""
    groups: dict[str, list[Node]] = {}
    for node in graph.nodes:
        if isinstance(node.op, FakeQuant):
            groups.setdefault(node.inputs[0], []).append(node)
    return groups


def covers_all(spec: Affine, others: Sequence[Affine]) -> bool:
    """Whether a value stored on `spec` still reaches the extreme codes of the others."""
    return all(_covers(spec, other) for other in others)


def _covers(spec: Affine, other: Affine) -> bool:
    half = float(other.scale[0]) / 2
    (low, high), (other_low, other_high) = grid_bounds(spec), grid_bounds(other)
    return low - half <= other_low and other_high <= high + half


def _spec(node: Node) -> Affine:
    assert isinstance(node.op, FakeQuant)
    return node.op.spec


def _store_on_union(rewriter: Rewriter, source: str, specs: Sequence[Affine]) -> Note:
    grid = union_grid(specs)
    rewriter.update_tensor(source, quant=grid)
    scales = " and ".join(f"{float(spec.scale[0]):.6g}" for spec in specs)
    text = f"its quantisers, of scales {scales}, clip what the others do not: taken on scale {float(grid.scale[0]):.6g}"
    return Note(SeparateGrids.name, source, f"{text}, then requantised to each", Level.WARNING)


def _copy_producer(rewriter: Rewriter, producer: str, source: str, group: Sequence[Node]) -> list[Note]:
    """Leaves the finest quantiser, and those it covers, where they are; every other one reads a copy of its own."""
    finest, *rest = sorted(group, key=lambda node: float(_spec(node).scale[0]))
    notes = []
    for node in rest:
        if _covers(_spec(finest), _spec(node)):
            continue
        original = rewriter.nodes[producer]
        copies = rewriter.add_node(f"{producer}/copy", original.op, original.inputs, source=original.source)
        copy = copies[original.outputs.index(source)]
        rewriter.update_tensor(copy, origin=rewriter.tensors[source].origin)
        rewriter.update_node(node.name, inputs=(copy,))
        text = f"computed again for its other grid, of scale {float(_spec(node).scale[0]):.6g}: neither reaches as far"
        notes.append(Note(SeparateGrids.name, source, text))
    return notes
