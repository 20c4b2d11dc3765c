"""Whether several input vectors can go through a lowered graph at once, stacked along the first dimension."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from kwsq.ir import lowered as ir
from kwsq.ir.lowered import LoweredGraph, LoweredNode

Keeps = Callable[[LoweredGraph, LoweredNode], bool]


def batch_obstacles(graph: LoweredGraph) -> tuple[str, ...]:
    """Returns the names of the nodes that would mix stacked vectors, empty when the graph can be run on a stack.

    A node keeps vectors apart when block i of its output along the first dimension depends on block i of its
    activations only. Row-major Reshape does; so does everything that works within the other dimensions.
    """
    return tuple(node.name for node in graph.nodes if not _keeps_apart(graph, node))


def _keeps_apart(graph: LoweredGraph, node: LoweredNode) -> bool:
    has_first = all(graph[name].shape for name in (*node.inputs, *node.outputs) if name and not graph[name].is_constant)
    return has_first and _RULES.get(type(node.op), _always)(graph, node)


def _always(graph: LoweredGraph, node: LoweredNode) -> bool:
    return True


def _reduction(graph: LoweredGraph, node: LoweredNode) -> bool:
    assert isinstance(node.op, ir.Mean | ir.ReduceMax | ir.Sum)
    return 0 not in node.op.axes


def _softmax(graph: LoweredGraph, node: LoweredNode) -> bool:
    return len(graph[node.inputs[0]].shape) > 1


def _dense(graph: LoweredGraph, node: LoweredNode) -> bool:
    return len(graph[node.inputs[0]].shape) > 1


def _broadcast(graph: LoweredGraph, node: LoweredNode) -> bool:
    """Activations share the first dimension of the result; constants do not have it."""
    result = graph[node.outputs[0]].shape
    for name in node.inputs:
        tensor = graph[name]
        aligned = len(tensor.shape) == len(result)
        if tensor.is_constant:
            if aligned and tensor.shape[0] != 1:
                return False
        elif not aligned or tensor.shape[0] != result[0]:
            return False
    return True


def _matmul(graph: LoweredGraph, node: LoweredNode) -> bool:
    return len(graph[node.outputs[0]].shape) > 2 and _broadcast(graph, node)


def _concat(graph: LoweredGraph, node: LoweredNode) -> bool:
    # A constant part would have to be repeated for every vector.
    return node.op.axis != 0 and not any(graph[n].is_constant for n in node.inputs)  # type: ignore[union-attr]  # Concat


def _split(graph: LoweredGraph, node: LoweredNode) -> bool:
    assert isinstance(node.op, ir.Split)
    return node.op.axis != 0


def _pad(graph: LoweredGraph, node: LoweredNode) -> bool:
    assert isinstance(node.op, ir.Pad)
    return node.op.pads[0] == (0, 0)


def _transpose(graph: LoweredGraph, node: LoweredNode) -> bool:
    assert isinstance(node.op, ir.Transpose)
    return node.op.perm[0] == 0


def _slice(graph: LoweredGraph, node: LoweredNode) -> bool:
    op = node.op
    assert isinstance(op, ir.StridedSlice)
    return (op.begin[0], op.end[0], op.step[0]) == (0, graph[node.inputs[0]].shape[0], 1)


_RULES: Mapping[type[ir.LoweredOp], Keeps] = {
    ir.FullyConnected: _dense,
    ir.BatchMatMul: _matmul,
    ir.Add: _broadcast,
    ir.Sub: _broadcast,
    ir.Mul: _broadcast,
    ir.SquaredDifference: _broadcast,
    ir.Maximum: _broadcast,
    ir.Minimum: _broadcast,
    ir.PRelu: _broadcast,
    ir.Mean: _reduction,
    ir.ReduceMax: _reduction,
    ir.Sum: _reduction,
    ir.Softmax: _softmax,
    ir.Pad: _pad,
    ir.Transpose: _transpose,
    ir.Concat: _concat,
    ir.StridedSlice: _slice,
    ir.Split: _split,
}
