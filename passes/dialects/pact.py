"""PACT's clamp as its paper writes it: 0.5 * (|x| - |x - a| + a), which is x clamped to [0, a].

Source: Choi et al. 2018, "PACT: Parameterized Clipping Activation for Quantized Neural Networks", equation (1).
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from kwsq.passes.dialects.canonical import DialectContext

_CLIP_WITH_INPUTS = 11


def rewrite(context: DialectContext) -> None:
    """Replaces every such clamp by Clip."""
    for node in list(context.editor.nodes()):
        half = _constant_operand(context, node)
        if half is None or (node.op, float(half[1])) not in (("Mul", 0.5), ("Div", 2.0)):
            continue
        clamp = _clamp(context, half[0])
        if clamp is not None:
            _write(context, node, *clamp)


def _write(context: DialectContext, node: gs.Node, x: gs.Tensor, bound: np.float32) -> None:
    if context.opsets[""] < _CLIP_WITH_INPUTS:
        context.editor.compute(node.outputs[0], "Clip", node.name, [x], {"min": 0.0, "max": float(bound)})
        return
    limits = {"low": np.array(0, np.float32), "high": np.array(bound, np.float32)}
    bounds = [context.editor.constant(f"{node.name}.{name}", limit) for name, limit in limits.items()]
    context.editor.compute(node.outputs[0], "Clip", node.name, [x, *bounds], {})


def _clamp(context: DialectContext, total: gs.Tensor) -> tuple[gs.Tensor, np.float32] | None:
    """Returns x and a for |x| - |x - a| + a."""
    add = _producer(context, total, "Add")
    split = None if add is None else _constant_operand(context, add)
    difference = None if split is None else _producer(context, split[0], "Sub")
    if split is None or difference is None:
        return None
    first, second = (_producer(context, tensor, "Abs") for tensor in difference.inputs)
    shifted = None if second is None else _producer(context, second.inputs[0], "Sub")
    if first is None or shifted is None or shifted.inputs[0] is not first.inputs[0]:
        return None
    bound = context.value(shifted.inputs[1])
    if bound is None or bound.size != 1 or bound.reshape(-1)[0] != split[1] or not split[1] > 0:
        return None
    return first.inputs[0], split[1]


def _producer(context: DialectContext, tensor: gs.Tensor, op: str) -> gs.Node | None:
    node = context.editor.producer(tensor)
    return node if node is not None and node.op == op and not node.domain else None


def _constant_operand(context: DialectContext, node: gs.Node) -> tuple[gs.Tensor, np.float32] | None:
    """Returns the computed operand of a binary node and the scalar it meets."""
    if node.op not in ("Add", "Div", "Mul") or node.domain or len(node.inputs) != 2:
        return None
    for data, other in (node.inputs, node.inputs[::-1])[: 1 if node.op == "Div" else 2]:
        value = context.value(other)
        if value is not None and value.size == 1 and value.dtype.kind == "f" and context.value(data) is None:
            return data, np.float32(value.reshape(-1)[0])
    return None
