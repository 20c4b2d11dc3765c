"""Caps on what a model may make us compute, checked on shapes before anything is allocated.

A file of a few hundred bytes can describe a product of terabytes; everything after this check may evaluate the graph.
"""

from __future__ import annotations

import math

from kwsq.ir.errors import InvalidModelError, Problem
from kwsq.ir.graph import Graph, Node
from kwsq.ir.ops import Conv, Dense, MatMul
from kwsq.passes.decode import MAX_DIM, MAX_ELEMENTS, MAX_RANK

MAX_TOTAL_ELEMENTS = 2**24
"""All tensors together; a residual network of 15 layers over 101 frames has 3 million."""
MAX_MACS = 2**30
"""Per inference; the largest published keyword spotters (res15) take about 0.9 billion."""


def check_caps(graph: Graph) -> None:
    """Refuses a graph whose evaluation would take too much memory or time.

    Args:
        graph: imported graph with static shapes.

    Raises:
        InvalidModelError: naming every tensor that is too large, or the total.
    """
    problems = [
        Problem(f"tensor {name!r}", f"shape {list(tensor.shape)}", _EXPECTED, _REMEDY)
        for name, tensor in graph.tensors.items()
        if not _is_sane(tensor.shape)
    ]
    elements = sum(math.prod(tensor.shape) for tensor in graph.tensors.values())
    macs = sum(node_macs(graph, node) for node in graph.nodes)
    for found, cap, what in (
        (elements, MAX_TOTAL_ELEMENTS, "elements in all tensors"),
        (macs, MAX_MACS, "multiply-accumulates per inference"),
    ):
        if found > cap:
            problems.append(Problem("graph", f"{found} {what}", f"at most {cap}", _REMEDY))
    if problems:
        raise InvalidModelError(problems)


_EXPECTED = f"at most {MAX_RANK + 1} dimensions of up to {MAX_DIM} and {MAX_ELEMENTS} elements"
_REMEDY = "check the model; no keyword spotter is that large"


def _is_sane(shape: tuple[int, ...]) -> bool:
    # One dimension more than in files: importing may unfold a grouped axis.
    small = len(shape) <= MAX_RANK + 1 and all(0 <= dim <= MAX_ELEMENTS for dim in shape)
    return small and math.prod(shape) <= MAX_ELEMENTS


def node_macs(graph: Graph, node: Node) -> int:
    """Returns the multiply-accumulates of one node, 0 for operators without weights."""
    output = math.prod(graph[node.outputs[0]].shape)
    match node.op:
        case Conv() | Dense():
            return output * math.prod(graph[node.inputs[1]].shape[1:])
        case MatMul():
            return output * graph[node.inputs[0]].shape[-1]
        case _:
            return 0
