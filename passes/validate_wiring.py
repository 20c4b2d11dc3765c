"""How nodes are connected: every tensor defined once, before its use, without cycles; and which operators they are."""

from __future__ import annotations

from collections.abc import Iterable

import onnx

from kwsq.ir.errors import Problem
from kwsq.passes.decode import Findings
from kwsq.passes.known_ops import canonical_domain, is_known, refusal
from kwsq.passes.validate_attributes import node_label

_CONSTANT_FORMS = frozenset({"value", "value_float", "value_floats", "value_int", "value_ints"})


def check_wiring(graph: onnx.GraphProto, findings: Findings) -> tuple[int, ...]:
    """Returns the nodes' indices in topological order, the file's own where that is one.

    Args:
        graph: graph of the file; nodes may come in any order.
        findings: receives undefined and doubly defined tensors and cycles.
    """
    known = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    producer: dict[str, int] = {}
    for index, node in enumerate(graph.node):
        if not any(node.output):
            findings.broken(node_label(node, index), "no outputs", "at least one")
        for name in filter(None, node.output):
            if name in known or name in producer:
                findings.broken(f"tensor {name!r}", "defined twice", "one definition")
            producer[name] = index
    defined = known | producer.keys()
    for index, node in enumerate(graph.node):
        for name in sorted({name for name in node.input if name and name not in defined}):
            findings.broken(node_label(node, index), f"input {name!r}, which nothing defines", "a defined tensor")
    for value in graph.output:
        if value.name not in defined:
            findings.broken(f"graph output {value.name!r}", "nothing that computes it", "a computed tensor")
    order = _topological_order([node.input for node in graph.node], producer)
    if len(order) < len(graph.node):
        stuck = sorted(set(range(len(graph.node))) - set(order))
        found = f"a cycle through or before {len(stuck)} nodes"
        findings.broken(node_label(graph.node[stuck[0]], stuck[0]), found, "an acyclic graph")
    return order


def _topological_order(inputs: list[Iterable[str]], producer: dict[str, int]) -> tuple[int, ...]:
    """Kahn's algorithm; the file's order where that is already topological."""
    needs = [{producer[name] for name in names if name in producer} for names in inputs]
    waiting: dict[int, list[int]] = {}
    for index, needed in enumerate(needs):
        for other in needed:
            waiting.setdefault(other, []).append(index)
    missing = [len(needed) for needed in needs]
    ready = [index for index, count in enumerate(missing) if count == 0]
    order: list[int] = []
    for index in ready:  # grows while it is walked
        order.append(index)
        for other in waiting.get(index, ()):
            missing[other] -= 1
            if missing[other] == 0:
                ready.append(other)
    if order != sorted(order) and all(max(n, default=-1) < i for i, n in enumerate(needs)):
        return tuple(range(len(needs)))
    return tuple(order)


def check_operators(graph: onnx.GraphProto, opsets: dict[str, int], findings: Findings) -> None:
    """Notes every node whose operator no step of kwsq reads, with the reason and a remedy."""
    for index, node in enumerate(graph.node):
        where, domain = node_label(node, index), canonical_domain(node.domain)
        if not node.op_type:
            findings.broken(where, "no operator type", "an operator")
            continue
        if node.op_type == "Constant" and not domain and not _CONSTANT_FORMS & {a.name for a in node.attribute}:
            expected = "one of " + ", ".join(sorted(_CONSTANT_FORMS))
            findings.refuse(where, "a Constant of another form", expected, "export numeric constants")
        if domain not in opsets:
            findings.broken(where, f"domain {domain!r}, which opset_import does not list", "an imported domain")
        if not is_known(domain, node.op_type):
            what, remedy = refusal(domain, node.op_type)
            name = f"{domain}.{node.op_type}" if domain else node.op_type
            expected = "an operator kwsq supports"
            problem = Problem(where, what, expected, remedy, name, opsets.get(domain))
            findings.unsupported.append(problem)
