"""A lowered graph under rewriting."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from kwsq.ir.lowered import LoweredGraph, LoweredNode, LoweredOp, LoweredTensor, Shape, verify


class Draft:
    """The nodes rewritten so far, and all tensors.

    Args:
        graph: graph to start from; its nodes are added one by one, as they are or rewritten.
    """

    def __init__(self, graph: LoweredGraph) -> None:
        self._graph = graph
        self.nodes: list[LoweredNode] = []
        self.tensors: dict[str, LoweredTensor] = dict(graph.tensors)

    def graph(self) -> LoweredGraph:
        """Returns the graph of the nodes added, verified, without the tensors that none of them uses."""
        ends = {*self._graph.inputs, *self._graph.outputs}
        used = {name for node in self.nodes for name in (*node.inputs, *node.outputs)} | ends
        tensors = {name: tensor for name, tensor in self.tensors.items() if name in used}
        rewritten = replace(self._graph, nodes=tuple(self.nodes), tensors=tensors)
        verify(rewritten)
        return rewritten

    def add_tensor(self, like: LoweredTensor, suffix: str, shape: Shape, **fields: object) -> str:
        """Adds a tensor with the grid of `like`, other fields as given, and returns its name."""
        name = f"{like.name}/{suffix}"
        while name in self.tensors:
            name += "_"
        self.tensors[name] = replace(like, name=name, shape=shape, **fields)  # type: ignore[arg-type]  # replace checks
        return name

    def add_node(self, base: LoweredNode, suffix: str, op: LoweredOp, inputs: tuple[str, ...], output: str) -> None:
        """Adds a node that stands for (a part of) `base`."""
        self.nodes.append(LoweredNode(f"{base.name}/{suffix}", op, inputs, (output,), base.origins))


def same_grid(a: LoweredTensor, b: LoweredTensor) -> bool:
    """Returns whether two tensors have the same scales, bit for bit, and zero point; or neither has a scale."""
    if a.scale is None or b.scale is None:
        return a.scale is b.scale
    return np.array_equal(a.scale, b.scale) and a.zero_point == b.zero_point
