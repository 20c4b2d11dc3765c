"""Operands that fit their operators: channels, kernel ranks, lengths of vectors, windows inside their input.

Shape inference reads only what it needs for the result; everything after this check may rely on the rest.
"""

from __future__ import annotations

from kwsq.ir.errors import InvalidModelError, Problem
from kwsq.ir.graph import Graph, Node, Shape
from kwsq.ir.ops import AveragePool, BatchNorm, Conv, Dense, MatMul, MaxPool


def check_operands(graph: Graph) -> None:
    """Checks the operands of every node that has weights or windows, and that no tensor is empty.

    Args:
        graph: imported graph with static shapes.

    Raises:
        InvalidModelError: naming every node whose operands do not fit.
    """
    problems = [
        Problem(node.name, text, expected, "check the model with onnx.checker", node.source or node.op.name)
        for node in graph.nodes
        for text, expected in _misfits(graph, node)
    ]
    expected = "at least one element"
    problems += [
        Problem(f"tensor {name!r}", f"shape {list(graph[name].shape)}", expected, "check pads and windows")
        for node in graph.nodes
        for name in node.outputs
        if any(dim < 1 for dim in graph[name].shape)
    ]
    if problems:
        raise InvalidModelError(problems)


def _misfits(graph: Graph, node: Node) -> list[tuple[str, str]]:
    """What does not fit, and what would."""
    x, *rest = (graph[name].shape if name else () for name in node.inputs)
    match node.op:
        case Conv(groups=groups):
            return _conv_misfits(x, rest[0], groups) + _bias_misfits(rest, rest[0][0])
        case Dense():
            return _product_misfits(x, rest[0][::-1]) + _bias_misfits(rest, rest[0][0])
        case MatMul():
            return _product_misfits(x, rest[0])
        case BatchNorm():
            channels = x[1] if len(x) > 1 else 0
            lengths = [shape for shape in rest if shape != (channels,)]
            return [(f"parameters of shapes {lengths} for {list(x)}", f"{channels} each")] if lengths else []
        case AveragePool(kernel=kernel) | MaxPool(kernel=kernel) if len(x) != len(kernel) + 2:
            return [(f"a {len(kernel)}-dimensional window over {list(x)}", "one entry per spatial dimension")]
        case _:
            return []


def _conv_misfits(x: Shape, weight: Shape, groups: int) -> list[tuple[str, str]]:
    if len(x) != len(weight) or len(x) < 3:
        return [(f"a kernel of shape {list(weight)} over {list(x)}", "equal ranks of 3 or 4")]
    if x[1] != weight[1] * groups or weight[0] % groups:
        found = f"weights {list(weight)} in {groups} groups for {x[1]} channels"
        return [(found, "channels per group times groups, and whole groups of outputs")]
    return []


def _product_misfits(a: Shape, b: Shape) -> list[tuple[str, str]]:
    inner = b[-2] if len(b) > 1 else 0
    if not a or a[-1] != inner:
        return [(f"a product of {list(a)} and {list(b)}", "equal inner dimensions")]
    return []


def _bias_misfits(rest: list[Shape], outputs: int) -> list[tuple[str, str]]:
    if len(rest) < 2 or rest[1] in ((), (outputs,)):
        return []
    return [(f"a bias of shape {list(rest[1])}", f"{outputs} values")]
