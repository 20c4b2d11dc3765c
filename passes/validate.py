"""The gate before anything in a model file is trusted.

Checks what onnx.checker does not (sizes of data, finite values, domains, opsets, name rules) and what a reader relies
on, with all caps applied before anything is allocated. Nothing here computes with the model.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import onnx
from onnx import AttributeProto

from kwsq.ir.errors import InvalidModelError, Problem, UnsupportedModelError
from kwsq.passes.decode import MAX_DIM, MAX_RANK, Array, Findings, decode_tensor, is_supported_type, type_name
from kwsq.passes.known_ops import OPSET_HIGH, OPSET_LOW, canonical_domain, is_known, refusal

MAX_FILE_BYTES = 64 * 2**20
MAX_NODES = 20_000
MAX_INITIALIZERS = 20_000
MAX_TOTAL_ELEMENTS = 2**25
MAX_ATTRIBUTES = 64
MAX_LISTED = 100
"""Problems printed for an invalid file; a broken file may have one per byte."""

_MAX_IR_VERSION = 14
_PLAIN_ATTRIBUTES = frozenset(
    {
        AttributeProto.FLOAT,
        AttributeProto.INT,
        AttributeProto.STRING,
        AttributeProto.TENSOR,
        AttributeProto.FLOATS,
        AttributeProto.INTS,
        AttributeProto.STRINGS,
    }
)
_SUBGRAPHS = frozenset({AttributeProto.GRAPH, AttributeProto.GRAPHS})


@dataclass(frozen=True, slots=True)
class CheckedModel:
    """What validation established.

    Args:
        order: indices of the nodes in topological order.
        constants: decoded initializers by name.
        attributes: per node (in file order), attribute values as Python objects; tensors as arrays.
        opsets: version per domain, "" for the default one.
    """

    order: tuple[int, ...]
    constants: dict[str, Array]
    attributes: tuple[dict[str, object], ...]
    opsets: dict[str, int]


def validate(model: onnx.ModelProto) -> CheckedModel:
    """Checks a parsed model.

    Args:
        model: as parsed; not changed.

    Returns:
        Decoded constants and attributes, and a topological order.

    Raises:
        InvalidModelError: the model is broken or unsafe; lists every problem found.
        UnsupportedModelError: the model is sound but uses something kwsq cannot express; lists every node.
    """
    findings = Findings()
    opsets = _check_header(model, findings)
    if not _within_caps(model.graph, findings):
        _raise(findings)
    constants = _decode_initializers(model.graph, findings)
    attributes = tuple(_decode_attributes(node, i, findings) for i, node in enumerate(model.graph.node))
    _check_interface(model.graph, constants, findings)
    order = _check_wiring(model.graph, findings)
    _check_operators(model.graph, opsets, findings)
    _raise(findings)
    return CheckedModel(order, constants, attributes, opsets)


def _raise(findings: Findings) -> None:
    if findings.invalid:
        listed = findings.invalid[:MAX_LISTED]
        more = len(findings.invalid) - len(listed)
        if more:
            listed.append(Problem("model", f"{more} more problems", "none", "export the model again"))
        raise InvalidModelError(listed)
    if findings.unsupported:
        raise UnsupportedModelError(findings.unsupported)


def _check_header(model: onnx.ModelProto, findings: Findings) -> dict[str, int]:
    if not model.HasField("graph"):
        findings.broken("model", "no graph", "an ONNX model", "check that the file is an .onnx model")
    if not 3 <= model.ir_version:
        findings.broken("model", f"IR version {model.ir_version}", f"3 to {_MAX_IR_VERSION}")
    elif model.ir_version > _MAX_IR_VERSION:
        findings.refuse(
            "model", f"IR version {model.ir_version}", f"3 to {_MAX_IR_VERSION}", "export with an older onnx"
        )
    if model.functions:
        names = ", ".join(sorted({function.name for function in model.functions})[:8])
        findings.refuse("model", f"model-local functions ({names})", "none", "inline them with onnx.inliner")
    counts = Counter(canonical_domain(opset.domain) for opset in model.opset_import)
    for domain in sorted(domain for domain, count in counts.items() if count > 1):
        findings.broken("opset_import", f"domain {domain or 'ai.onnx'!r} twice", "each domain once")
    opsets = {canonical_domain(opset.domain): opset.version for opset in model.opset_import}
    _check_default_opset(opsets, findings)
    return opsets


def _check_default_opset(opsets: dict[str, int], findings: Findings) -> None:
    version = opsets.get("")
    if version is None:
        findings.broken("opset_import", "no version of the default domain", f"{OPSET_LOW} to {OPSET_HIGH}")
    elif version < 1:
        findings.broken("opset_import", f"version {version}", f"{OPSET_LOW} to {OPSET_HIGH}")
    elif not OPSET_LOW <= version <= OPSET_HIGH:
        remedy = f"export with an opset of {OPSET_LOW} to {OPSET_HIGH} or use onnx.version_converter"
        findings.refuse("opset_import", f"opset {version}", f"{OPSET_LOW} to {OPSET_HIGH}", remedy)


def _within_caps(graph: onnx.GraphProto, findings: Findings) -> bool:
    edges = (
        sum(len(node.input) + len(node.output) for node in graph.node) if len(graph.node) <= MAX_NODES else 0
    )
    for found, cap, what in (
        (len(graph.node), MAX_NODES, "nodes"),
        (len(graph.initializer), MAX_INITIALIZERS, "initializers"),
        (len(graph.input) + len(graph.output), MAX_INITIALIZERS, "graph inputs and outputs"),
        (edges, 8 * MAX_NODES, "node inputs and outputs"),
    ):
        if found > cap:
            findings.broken(
                "graph",
                f"{found} {what}",
                f"at most {cap}",
                "check the file; no keyword spotter is that large",
            )
    if graph.sparse_initializer:
        findings.refuse("graph", "sparse initializers", "dense ones", "export dense weights")
    return not findings.invalid


def _decode_initializers(graph: onnx.GraphProto, findings: Findings) -> dict[str, Array]:
    constants: dict[str, Array] = {}
    total = 0
    for tensor in graph.initializer:
        where = f"initializer {tensor.name!r}"
        if not tensor.name or tensor.name in constants:
            findings.broken(where, "an empty or repeated name", "a unique name")
            continue
        values = decode_tensor(tensor, where, findings)
        total += 0 if values is None else values.size
        if total > MAX_TOTAL_ELEMENTS:
            findings.broken(
                "graph", f"more than {MAX_TOTAL_ELEMENTS} constant elements", "fewer", "check the file"
            )
            _raise(findings)
        if values is not None:
            constants[tensor.name] = values
    return constants


def node_label(node: onnx.NodeProto, index: int) -> str:
    """Returns how messages call a node: its name, or what it computes where it has none."""
    output = next(iter(node.output), "")
    return f"node {node.name!r}" if node.name else f"node {index} ({node.op_type} -> {output!r})"


def _decode_attributes(node: onnx.NodeProto, index: int, findings: Findings) -> dict[str, object]:
    where = node_label(node, index)
    if len(node.attribute) > MAX_ATTRIBUTES:
        findings.broken(where, f"{len(node.attribute)} attributes", f"at most {MAX_ATTRIBUTES}")
        return {}
    values: dict[str, object] = {}
    for attribute in node.attribute:
        if not attribute.name or attribute.name in values:
            findings.broken(
                where, f"attribute {attribute.name!r} repeated or unnamed", "unique attribute names"
            )
        elif attribute.ref_attr_name:
            findings.broken(where, f"attribute {attribute.name!r} refers to a function's", "a value")
        elif attribute.type in _PLAIN_ATTRIBUTES:
            values[attribute.name] = _attribute_value(attribute, where, findings)
        else:
            _note_attribute(attribute, where, findings)
    return values


def _note_attribute(attribute: onnx.AttributeProto, where: str, findings: Findings) -> None:
    found = f"attribute {attribute.name!r}"
    if attribute.type in _SUBGRAPHS:
        findings.refuse(
            where, f"{found} holding a subgraph", "no control flow", "trace the model so that it is unrolled"
        )
    elif (
        attribute.type in AttributeProto.AttributeType.values() and attribute.type != AttributeProto.UNDEFINED
    ):
        kind = AttributeProto.AttributeType.Name(attribute.type)
        findings.refuse(
            where, f"{found} of type {kind}", "numbers, strings or a tensor", "export with standard operators"
        )
    else:
        findings.broken(where, f"{found} of unknown type {attribute.type}", "an ONNX attribute type")


def _attribute_value(attribute: onnx.AttributeProto, where: str, findings: Findings) -> object:
    name = f"{where} attribute {attribute.name!r}"
    match attribute.type:
        case AttributeProto.FLOAT | AttributeProto.FLOATS:
            floats = list(attribute.floats) if attribute.type == AttributeProto.FLOATS else [attribute.f]
            if any(value != value for value in floats):
                findings.broken(name, "NaN", "a number")
            return floats if attribute.type == AttributeProto.FLOATS else attribute.f
        case AttributeProto.INT:
            return attribute.i
        case AttributeProto.INTS:
            return list(attribute.ints)
        case AttributeProto.TENSOR:
            return decode_tensor(attribute.t, name, findings)
        case _:
            return _text(attribute, name, findings)


def _text(attribute: onnx.AttributeProto, where: str, findings: Findings) -> str | list[str]:
    stored = [attribute.s] if attribute.type == AttributeProto.STRING else list(attribute.strings)
    try:
        texts = [text.decode("utf-8") for text in stored]
    except UnicodeDecodeError:
        findings.broken(where, "bytes that are not UTF-8", "text")
        return ""
    return texts[0] if attribute.type == AttributeProto.STRING else texts


def _check_interface(graph: onnx.GraphProto, constants: dict[str, Array], findings: Findings) -> None:
    inputs = [value for value in graph.input if value.name not in constants]
    if not inputs:
        findings.broken("graph", "no inputs", "at least one that is not an initializer")
    if not graph.output:
        findings.broken("graph", "no outputs", "at least one")
    for kind, values in (("input", graph.input), ("output", graph.output)):
        for name, count in Counter(value.name for value in values).items():
            if not name or count > 1:
                findings.broken(f"graph {kind} {name!r}", "an empty or repeated name", "a unique name")
    for value in inputs:
        _check_value_type(value, f"graph input {value.name!r}", findings)
    for value in graph.output:
        _check_value_type(value, f"graph output {value.name!r}", findings, needs_type=False)


def _check_value_type(
    value: onnx.ValueInfoProto, where: str, findings: Findings, *, needs_type: bool = True
) -> None:
    kind = value.type.WhichOneof("value")
    if kind is None:
        if needs_type:
            findings.broken(where, "no type", "a tensor type")
        return
    if kind != "tensor_type":
        findings.refuse(
            where,
            f"a {kind.removesuffix('_type')} value",
            "a tensor",
            "export with tensor inputs and outputs",
        )
        return
    elem_type = value.type.tensor_type.elem_type
    if not is_supported_type(elem_type):
        findings.refuse(
            where, f"element type {type_name(elem_type)}", "float32, uint8 or int8", "cast outside the model"
        )
    dims = value.type.tensor_type.shape.dim
    if len(dims) > MAX_RANK:
        findings.broken(where, f"{len(dims)} dimensions", f"at most {MAX_RANK}")
    for dim in dims:
        if dim.HasField("dim_value") and not 1 <= dim.dim_value <= MAX_DIM:
            findings.broken(where, f"dimension {dim.dim_value}", f"1 to {MAX_DIM}, or a symbol")


def _check_wiring(graph: onnx.GraphProto, findings: Findings) -> tuple[int, ...]:
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
            findings.broken(
                node_label(node, index), f"input {name!r}, which nothing defines", "a defined tensor"
            )
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


def _check_operators(graph: onnx.GraphProto, opsets: dict[str, int], findings: Findings) -> None:
    for index, node in enumerate(graph.node):
        where, domain = node_label(node, index), canonical_domain(node.domain)
        if not node.op_type:
            findings.broken(where, "no operator type", "an operator")
            continue
        if domain not in opsets:
            findings.broken(
                where, f"domain {domain!r}, which opset_import does not list", "an imported domain"
            )
        if not is_known(domain, node.op_type):
            what, remedy = refusal(domain, node.op_type)
            name = f"{domain}.{node.op_type}" if domain else node.op_type
            expected = "an operator kwsq supports"
            problem = Problem(where, what, expected, remedy, name, opsets.get(domain))
            findings.unsupported.append(problem)
