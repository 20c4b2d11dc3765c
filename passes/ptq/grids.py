"""Which activations need a grid of their own, and which must share one.

Operators that keep values (reshape, transpose, slice, max pool, ...) share the grid of their input, all inputs of a
concatenation share one, and so do a streaming state's input and output. Softmax, sigmoid and tanh have the runtime's
fixed output grids. Tensors that carry a quantiser already keep it. The rules are those of
`kwsq.passes.attach_scales`, which completes what a source leaves open.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from kwsq.ir import ops
from kwsq.ir.graph import Graph, Node
from kwsq.ir.quant import Affine
from kwsq.passes.attach_scales import FIXED_GRIDS, keeps_grid
from kwsq.passes.introduced_values import introduced_bounds
from kwsq.passes.ptq.ranges import Range


@dataclass(frozen=True, slots=True)
class GridGroup:
    """Activations that receive one common grid.

    Args:
        tensors: computed tensors and graph inputs to put on the grid, in topological order.
        fixed: the grid where it is not ours to choose, else None.
        introduced: real values that operators of the group add, e.g. constants of a concatenation; the grid holds them.
    """

    tensors: tuple[str, ...]
    fixed: Affine | None
    introduced: Range


def find_groups(graph: Graph) -> tuple[GridGroup, ...]:
    """Returns the activations that lack a grid, grouped, in topological order of their first tensor."""
    return _Grouping(graph).groups()


class _Grouping:
    """Union-find over the activations; a root's given or fixed grid is the grid of its whole group."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._producers = graph.producers()
        self._parents: dict[str, str] = {}
        self._given = _given_grids(graph)
        for node in graph.nodes:
            if keeps_grid(node):
                self._visit(node)
        for pair in graph.states:
            self._join(pair.input, pair.output)

    def groups(self) -> tuple[GridGroup, ...]:
        """Returns the groups with something left to quantise."""
        members: dict[str, list[str]] = {}
        for name in (*self._graph.inputs, *(o for node in self._graph.nodes for o in node.outputs)):
            if self._originates(name):
                members.setdefault(self._root(name), []).append(name)
        return tuple(
            GridGroup(tuple(names), self._grid_of(root), self._introduced(root)) for root, names in members.items()
        )

    def _visit(self, node: Node) -> None:
        inputs = self._computed(node)
        if len(inputs) == 1:
            for output in node.outputs:
                if output not in self._given:
                    self._parents[self._root(output)] = self._root(inputs[0])
        elif not any(self._grid_of(self._root(name)) is not None for name in inputs):
            for name in inputs:
                self._join(name, node.outputs[0])

    def _computed(self, node: Node) -> list[str]:
        return [name for name in node.inputs if name and not self._graph[name].is_constant]

    def _originates(self, name: str) -> bool:
        """Whether a quantiser must follow this tensor: it has no grid, and none comes with its value."""
        if name in self._given:
            return False
        node = self._producers.get(name)
        if node is None or not keeps_grid(node):
            return True
        return not any(self._root(source) == self._root(name) for source in self._computed(node))

    def _introduced(self, root: str) -> Range:
        low, high = 0.0, 0.0
        for node in self._graph.nodes:
            if keeps_grid(node) and any(self._root(name) == root for name in self._computed(node)):
                bounds = introduced_bounds(node, self._graph.tensors)
                low, high = min(low, bounds[0]), max(high, bounds[1])
        return Range(low if math.isfinite(low) else 0.0, high if math.isfinite(high) else 0.0)

    def _join(self, first: str, second: str) -> None:
        a, b = self._root(first), self._root(second)
        grids = [grid for grid in (self._grid_of(a), self._grid_of(b)) if grid is not None]
        if a == b or (len(grids) == 2 and not grids[0].same_as(grids[1])):
            return
        child, parent = (b, a) if self._grid_of(a) is not None else (a, b)
        self._parents[child] = parent

    def _root(self, name: str) -> str:
        while name in self._parents:
            name = self._parents[name]
        return name

    def _grid_of(self, root: str) -> Affine | None:
        if root in self._given:
            return self._given[root]
        node = self._producers.get(root)
        return FIXED_GRIDS.get(type(node.op)) if node is not None else None


def _given_grids(graph: Graph) -> dict[str, Affine]:
    """Returns the grids of activations that are quantised already: quantiser inputs, outputs, annotated tensors."""
    given: dict[str, Affine] = {}
    for node in graph.nodes:
        if isinstance(node.op, ops.FakeQuant):
            given[node.outputs[0]] = node.op.spec
            given[node.inputs[0]] = node.op.spec
    for tensor in graph.tensors.values():
        if not tensor.is_constant and isinstance(tensor.quant, Affine):
            given[tensor.name] = tensor.quant
    return given
