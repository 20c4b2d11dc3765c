"""Constant folding on the source graph, on demand.

The dialects ask for the value of a scale, a bound or a shape; whole constant subgraphs are computed only where
somebody asks, so that a chain that quantizes a constant weight is still a chain when a dialect looks at it.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_graphsurgeon as gs

from kwsq.ir.errors import InvalidModelError, Problem
from kwsq.passes.decode import MAX_ELEMENTS, Array
from kwsq.passes.fold_operators import FOLD_TABLE, Call
from kwsq.passes.source_graph import SourceEditor

Shape = tuple[int, ...]

MAX_FOLDED_ELEMENTS = 4 * MAX_ELEMENTS
"""Sum over all computed constants: many small bombs are as bad as a large one."""

ROUNDING_OPS = frozenset({"Round", "Floor", "Ceil", "Sign"})
"""Operators that put values on a grid: folding one on a weight would lose the declared width."""


class ConstantEvaluator:
    """Values of tensors that depend on constants only.

    Args:
        editor: the graph.
        opset: version of the default domain.
        shapes: static shapes of computed tensors by name, for Shape and Size.
    """

    def __init__(self, editor: SourceEditor, opset: int, shapes: Mapping[str, Shape]) -> None:
        self._editor = editor
        self._opset = opset
        self._shapes = shapes
        self._known: dict[int, Array | None] = {}
        # Keyed by id, so the tensors must outlive the evaluator.
        self._alive: list[gs.Tensor] = []
        self._folded_elements = 0

    def value(self, tensor: gs.Tensor) -> Array | None:
        """Returns the value of a constant or of a tensor computed from constants, else None.

        Raises:
            InvalidModelError: the constants do not fit their operator, or the result is too large.
        """
        stack = [tensor]
        while stack:
            top = stack[-1]
            if id(top) in self._known:
                stack.pop()
                continue
            blocker = self._blocker(top)
            if blocker is not None:
                stack.append(blocker)
                continue
            self._remember(top, self._compute(top))
            stack.pop()
        return self._known[id(tensor)]

    def _remember(self, tensor: gs.Tensor, value: Array | None) -> None:
        self._known[id(tensor)] = value
        self._alive.append(tensor)

    def _blocker(self, tensor: gs.Tensor) -> gs.Tensor | None:
        """An input that must be known first; None when `tensor` can be decided now."""
        node = self._editor.producer(tensor)
        if isinstance(tensor, gs.Constant) or node is None or not _is_foldable(node) or _needs_no_values(node):
            return None
        present = [item for item in node.inputs if item.name]
        if any(self._known.get(id(item), item) is None for item in present):
            return None
        return next((item for item in present if id(item) not in self._known), None)

    def _compute(self, tensor: gs.Tensor) -> Array | None:
        if isinstance(tensor, gs.Constant):
            return np.asarray(tensor.values)
        node = self._editor.producer(tensor)
        if node is None or not _is_foldable(node):
            return None
        if _needs_no_values(node):
            return self._shape_of(node)
        # An unknown input here means that another one is known to depend on activations.
        inputs = [self._known.get(id(item)) if item.name else None for item in node.inputs]
        if any(value is None for value, item in zip(inputs, node.inputs, strict=True) if item.name):
            return None
        return self._apply(node, inputs)

    def _apply(self, node: gs.Node, inputs: list[Array | None]) -> Array:
        call = Call(inputs, node.attrs, self._opset)
        try:
            with np.errstate(all="ignore"):
                result = np.asarray(FOLD_TABLE[node.op](call))
        except (ValueError, IndexError, TypeError, OverflowError) as error:
            raise self._unfit(node, str(error)) from error
        self._folded_elements += result.size
        if self._folded_elements > MAX_FOLDED_ELEMENTS:
            raise self._unfit(node, f"more than {MAX_FOLDED_ELEMENTS} elements of computed constants")
        return result

    def _unfit(self, node: gs.Node, found: str) -> InvalidModelError:
        expected = "constants that fit the operator and a result of reasonable size"
        return InvalidModelError(
            Problem(f"node {node.name!r}", found, expected, "export the model again", node.op, self._opset)
        )

    def _shape_of(self, node: gs.Node) -> Array | None:
        shape = self.shape(node.inputs[0]) if node.inputs else None
        if shape is None:
            return None
        if node.op == "Size":
            return np.array(int(np.prod(shape, dtype=np.int64)))
        start, end = node.attrs.get("start", 0), node.attrs.get("end")
        return np.array(shape[start:end], np.int64)

    def shape(self, tensor: gs.Tensor) -> Shape | None:
        """Returns the static shape of a tensor where it is known."""
        if isinstance(tensor, gs.Constant):
            return tuple(tensor.values.shape)
        if tensor.shape is not None:
            return tuple(tensor.shape)
        return self._shapes.get(tensor.name)


def _needs_no_values(node: gs.Node) -> bool:
    return node.op in ("Shape", "Size")


def _is_foldable(node: gs.Node) -> bool:
    return not node.domain and (node.op in FOLD_TABLE or _needs_no_values(node))


def fold_constants(editor: SourceEditor, evaluator: ConstantEvaluator) -> None:
    """Turns every remaining tensor computed from constants into a constant, grids excepted.

    What a rounding operator computes is not folded: after the dialects have run, it is a quantizer nobody
    recognised, and the caller refuses it by name.
    """
    gridded: set[int] = set()
    for node in list(editor.nodes()):
        if not _is_foldable(node):
            continue
        if node.op in ROUNDING_OPS or any(id(tensor) in gridded for tensor in node.inputs):
            gridded.update(id(tensor) for tensor in node.outputs)
            continue
        value = evaluator.value(node.outputs[0])
        if value is not None:
            _freeze(editor, node.outputs[0], value)


def _freeze(editor: SourceEditor, tensor: gs.Tensor, value: Array) -> None:
    if editor.is_output(tensor):
        return
    tensor.to_constant(value)
    editor.forget(tensor)
