"""One-bit weights written out: Sign(w) * alpha, Where(w >= 0, 1, -1) * alpha, Cast(w > 0) * 2 - 1, times alpha.

alpha is the scale, often mean(|w|) per output channel, computed in the graph. ONNX Sign(0) is 0: a weight that is
exactly zero makes the tensor ternary, which costs a second bit and is reported.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_graphsurgeon as gs
from onnx import TensorProto

from kwsq.passes.base import Level, Note
from kwsq.passes.dialects.canonical import DialectContext, Refused
from kwsq.passes.dialects.chain import downstream
from kwsq.passes.dialects.weight_grid import weight_grid

DIALECT = "sign"

_ARITHMETIC = frozenset({"Add", "Div", "Max", "Min", "Mul", "Sub", "Where"})
_COMPARISONS = frozenset({"Greater", "GreaterOrEqual", "Less", "LessOrEqual"})


def rewrite(context: DialectContext) -> None:
    """Replaces every recognised chain that starts with the signs of a constant."""
    readers = context.live_consumers()
    for node in list(context.editor.nodes()):
        if not _makes_signs(context, node):
            continue
        try:
            _rewrite(context, node, readers)
        except Refused:
            continue


def _makes_signs(context: DialectContext, node: gs.Node) -> bool:
    if node.domain or node.op not in ("Sign", "Where", "Cast"):
        return False
    if node.op == "Cast":
        source = context.editor.producer(node.inputs[0])
        if source is None or source.op not in _COMPARISONS or node.attrs.get("to") == TensorProto.BOOL:
            return False
    value = context.value(node.outputs[0])
    # A matrix at least: signs of a scale or of a shape are not weights.
    if value is None or sum(size > 1 for size in value.shape) < 2:
        return False
    return set(np.unique(value).tolist()) <= {-1.0, 0.0, 1.0}


def _goes_on(context: DialectContext, user: gs.Node) -> bool:
    """Whether the weight is not finished yet: a mask makes it ternary. Its values then speak for themselves."""
    return user.op in _ARITHMETIC and not user.domain and context.value(user.outputs[0]) is not None


def _rewrite(context: DialectContext, node: gs.Node, readers: Mapping[int, Sequence[gs.Node]]) -> None:
    signs = context.value(node.outputs[0])
    assert signs is not None, "checked by _makes_signs"
    after = downstream(context, node.outputs[0], readers)
    if any(_goes_on(context, user) for user in readers.get(id(after[-1].tensor), ())):
        context.editor.redirect(node.outputs[0], context.editor.constant(f"{node.name}.signs", signs))
        return
    if node.op == "Sign" and bool(np.any(signs == 0)):
        text = f"{int(np.sum(signs == 0))} weights are exactly 0 and Sign(0) is 0: ternary weights, 2 bits"
        context.notes.append(Note(DIALECT, node.name, text, Level.WARNING))
    weight_grid(context, node, signs, after[-1], None, DIALECT)
