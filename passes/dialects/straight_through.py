"""Straight-through estimators as they are exported: x + (f(x) - x), where training stopped the gradient of the bracket.

In real numbers this is f(x); float32 gives it up to the rounding of one addition. The grid of f is what the training
meant, so the sum is replaced by f(x).
"""

from __future__ import annotations

import onnx_graphsurgeon as gs

from kwsq.passes.dialects.canonical import DialectContext

_MARKS = frozenset({"BipolarQuant", "Ceil", "DequantizeLinear", "Floor", "IntQuant", "Quant", "Round", "Sign", "Where"})
"""Operators one of which ends or is inside every f that needs an estimator."""

_MAX_CHAIN = 12


def rewrite(context: DialectContext) -> None:
    """Replaces every x + (y - x) by y."""
    for node in list(context.editor.nodes()):
        if node.op != "Add" or node.domain or len(node.inputs) != 2:
            continue
        rounded = _rounded(context, node)
        if rounded is not None:
            context.editor.compute(node.outputs[0], "Identity", node.name, [rounded], {})


def _rounded(context: DialectContext, node: gs.Node) -> gs.Tensor | None:
    for i in (0, 1):
        x, difference = node.inputs[i], context.editor.producer(node.inputs[1 - i])
        if difference is not None and difference.op == "Sub" and not difference.domain and difference.inputs[1] is x:
            return difference.inputs[0] if _is_quantized(context, difference.inputs[0]) else None
    return None


def _is_quantized(context: DialectContext, tensor: gs.Tensor) -> bool:
    """Whether some rounding operator lies a few operators up; without one the sum is left as written."""
    reached = [tensor]
    for _ in range(_MAX_CHAIN):
        nodes = [node for node in map(context.editor.producer, reached) if node is not None]
        if any(node.op in _MARKS for node in nodes):
            return True
        # One operand of arithmetic on activations is a constant; following a few of both finds the chain.
        reached = [item for node in nodes for item in node.inputs][:_MAX_CHAIN]
    return False
