"""Which graph inputs are transposed once at the boundary, so that no transpose is needed inside."""

from __future__ import annotations

from kwsq.ir.graph import Graph
from kwsq.ir.ops import AveragePool, Conv, Dense, FakeQuant, MatMul, MaxPool, Reshape, Softmax, Transpose

_CHANNELS_LAST = (Conv, AveragePool, MaxPool)
_CHANGES_MEANING = (Reshape, Transpose, Dense, MatMul, Softmax)


def prefers_channels_last(graph: Graph, name: str) -> bool:
    """Returns whether a graph input reaches a convolution or a pool through operators that keep its dimensions.

    Args:
        graph: float graph.
        name: graph input in logical order (N, C, spatial).
    """
    if graph[name].rank not in (3, 4):
        return False
    consumers = graph.consumers()
    queue, seen = [name], {name}
    while queue:
        for node in consumers[queue.pop()]:
            if isinstance(node.op, _CHANNELS_LAST):
                return True
            keeps = isinstance(node.op, FakeQuant) or not isinstance(node.op, _CHANGES_MEANING)
            if not keeps or graph[node.outputs[0]].rank != graph[name].rank:
                continue
            fresh = [output for output in node.outputs if output not in seen]
            seen.update(fresh)
            queue += fresh
    return False
