"""From any mixture of dialects to one graph with canonical quantizers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import onnx_graphsurgeon as gs

from kwsq.ir.errors import InvalidModelError, Problem, UnsupportedModelError
from kwsq.passes.base import Note
from kwsq.passes.dialects import (
    arithmetic,
    codebooks,
    integer_input,
    pact,
    qdq,
    qonnx,
    qoperator,
    signs,
    straight_through,
)
from kwsq.passes.dialects.canonical import CANONICAL, DialectContext
from kwsq.passes.dialects.qdq_parameters import is_node
from kwsq.passes.fold_source import ROUNDING_OPS, ConstantEvaluator, fold_constants
from kwsq.passes.known_ops import MICROSOFT_DOMAIN, QONNX_DOMAINS, QUANTIZER_OPS
from kwsq.passes.load import Source
from kwsq.passes.source_graph import SourceEditor
from kwsq.passes.static_shapes import computed_shapes

DIALECTS: tuple[Callable[[DialectContext], None], ...] = (
    # x + (f(x) - x) hides the end of a written-out chain; before anybody evaluates one.
    straight_through.rewrite,
    # Its clamp bounds the codes of the arithmetic after it.
    pact.rewrite,
    # Custom operators: no pattern of another dialect contains one.
    qonnx.rewrite,
    # Before signs: a written-out quantizer may contain Where or Cast, a chain of signs contains no Round.
    arithmetic.rewrite,
    signs.rewrite,
    # Its pattern ends in a DQ, which qdq would read as a uniform grid.
    codebooks.rewrite,
    # Writes QLinear operators out as the Q and DQ that qdq reads.
    qoperator.rewrite,
    # Reads what is left of standard Q and DQ nodes; after every dialect that uses a DQ as the end of its own pattern.
    qdq.rewrite,
    # After qdq, which reads the usual integer inputs: takes or refuses those that are left.
    integer_input.rewrite,
)
"""Order matters only where one dialect's pattern contains another's."""


@dataclass(frozen=True, slots=True, eq=False)
class Normalized:
    """A graph of float ONNX operators and canonical quantizers.

    Args:
        graph: topologically ordered; constants folded; see `kwsq.passes.dialects.canonical` for the quantizers.
        dialects: dialects found, in order of first use.
        notes: remarks for the report.
    """

    graph: gs.Graph
    dialects: tuple[str, ...]
    notes: tuple[Note, ...]


def normalize(source: Source) -> Normalized:
    """Rewrites every quantizer of the model to a canonical one and folds the rest of the constants.

    Args:
        source: loaded model; its graph is changed.

    Returns:
        The normalised graph.

    Raises:
        InvalidModelError: a quantizer has impossible parameters, or constants do not fit their operators.
        UnsupportedModelError: a quantizer has a form kwsq cannot express, or one was not recognised.
    """
    editor = SourceEditor(source.graph)
    evaluator = ConstantEvaluator(editor, source.opsets[""], computed_shapes(source))
    context = DialectContext(editor, evaluator, source.opsets, source.metadata)
    for rewrite in DIALECTS:
        rewrite(context)
    fold_constants(editor, evaluator)
    _refuse_leftovers(context)
    _refuse_constant_outputs(context)
    if context.findings.invalid:
        raise InvalidModelError(context.findings.invalid)
    if context.findings.unsupported:
        raise UnsupportedModelError(context.findings.unsupported)
    graph = editor.finish()
    return Normalized(graph, _dialect_names(graph, context.expanded), tuple(context.notes))


def _dialect_names(graph: gs.Graph, expanded: set[str]) -> tuple[str, ...]:
    """Names in order of first use; plain Q/DQ goes without saying in a file that is QCDQ or QOperator."""
    found = (str(node.attrs["dialect"]) for node in graph.nodes if node.op in CANONICAL)
    names = dict.fromkeys([*sorted(expanded), *found])
    implied = expanded or qdq.DIALECT_CLIPPED in names
    return tuple(name for name in names if name != qdq.DIALECT or not implied)


def _refuse_leftovers(context: DialectContext) -> None:
    context.refused |= _feeding_refused(context)
    for node in context.editor.nodes():
        if node.name not in context.refused and _is_quantizer(node):
            context.refuse(
                node,
                "a quantizer in a form kwsq does not recognise",
                "a complete quantizer of a known dialect",
                "compare with docs/dialects.md, or export with QuantizeLinear/DequantizeLinear",
            )


def _feeding_refused(context: DialectContext) -> set[str]:
    """Returns the names of the QuantizeLinear nodes whose codes a refused node reads: they stay because of it."""
    found: set[str] = set()
    seen = set(context.refused)
    stack = [node for node in context.editor.nodes() if node.name in seen]
    while stack:
        for tensor in stack.pop().inputs:
            source = context.editor.producer(tensor)
            # Above a Cast or a DequantizeLinear are other quantizers' codes.
            if source is None or source.name in seen or source.op in ("Cast", "DequantizeLinear"):
                continue
            seen.add(source.name)
            if is_node(source, "QuantizeLinear"):
                found.add(source.name)
            else:
                stack.append(source)
    return found


def _refuse_constant_outputs(context: DialectContext) -> None:
    for tensor in context.editor.graph.outputs:
        if context.value(tensor) is not None:
            found, remedy = "the same value for every input", "remove the output"
            problem = Problem(f"graph output {tensor.name!r}", found, "a computed tensor", remedy)
            context.findings.unsupported.append(problem)


def _is_quantizer(node: gs.Node) -> bool:
    domain = node.domain or ""
    if domain in QONNX_DOMAINS or domain == MICROSOFT_DOMAIN:
        return True
    return not domain and (node.op in ROUNDING_OPS or node.op in QUANTIZER_OPS)
