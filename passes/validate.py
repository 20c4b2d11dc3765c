"""The gate before anything in a model file is trusted.

Checks what onnx.checker does not (sizes of data, finite values, domains, opsets, name rules) and what a reader relies
on, with all caps applied before anything is allocated. Nothing here computes with the model.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import onnx
from onnx import TensorProto

from kwsq.ir.errors import InvalidModelError, Problem, UnsupportedModelError
from kwsq.passes.decode import MAX_DIM, MAX_ELEMENTS, MAX_RANK, Array, Findings, decode_tensor, type_name
from kwsq.passes.known_ops import OPSET_HIGH, OPSET_LOW, canonical_domain
from kwsq.passes.validate_attributes import MAX_ATTRIBUTES, decode_attributes
from kwsq.passes.validate_schema import check_schemas
from kwsq.passes.validate_wiring import check_operators, check_wiring

MAX_FILE_BYTES = 32 * 2**20
MAX_NODES = 20_000
MAX_INITIALIZERS = 20_000
MAX_TOTAL_ELEMENTS = 2**25
MAX_ENTRIES = 1_000
"""Metadata entries, opset imports, functions."""
MAX_NAME_CHARACTERS = 1_024
MAX_LISTED = 100
"""Problems printed for an invalid file; a broken file may have one per byte."""

_MIN_IR_VERSION, _MAX_IR_VERSION = 3, 14
_BOUNDARY_TYPES = frozenset({TensorProto.FLOAT, TensorProto.UINT8, TensorProto.INT8})


@dataclass(frozen=True, slots=True, eq=False)
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
    if not (_has_sane_header(model, findings) and _within_caps(model.graph, findings)):
        _raise(findings)
    _check_names(model, findings)
    opsets = _check_header(model, findings)
    constants = _decode_initializers(model.graph, findings)
    attributes = tuple(decode_attributes(node, i, findings) for i, node in enumerate(model.graph.node))
    _check_interface(model.graph, constants, findings)
    order = check_wiring(model.graph, findings)
    check_operators(model.graph, opsets, findings)
    check_schemas(model.graph, opsets, findings)
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


def _has_sane_header(model: onnx.ModelProto, findings: Findings) -> bool:
    if not model.HasField("graph"):
        findings.broken("model", "no graph", "an ONNX model", "check that the file is an .onnx model")
    for what in ("metadata_props", "opset_import", "functions"):
        count = len(getattr(model, what))
        if count > MAX_ENTRIES:
            findings.broken("model", f"{count} {what}", f"at most {MAX_ENTRIES}")
    return not findings.invalid


def _check_header(model: onnx.ModelProto, findings: Findings) -> dict[str, int]:
    if model.ir_version < _MIN_IR_VERSION:
        findings.broken("model", f"IR version {model.ir_version}", f"{_MIN_IR_VERSION} to {_MAX_IR_VERSION}")
    elif model.ir_version > _MAX_IR_VERSION:
        expected = f"{_MIN_IR_VERSION} to {_MAX_IR_VERSION}"
        findings.refuse("model", f"IR version {model.ir_version}", expected, "export with an older onnx")
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
    edges = sum(len(node.input) + len(node.output) for node in graph.node) if len(graph.node) <= MAX_NODES else 0
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


def _check_names(model: onnx.ModelProto, findings: Findings) -> None:
    """Bounds every name that messages quote and later steps extend; an absurd one ends the check."""
    for name in _names(model):
        # protobuf hands out proto2 strings that are not UTF-8 as bytes.
        if not isinstance(name, str):
            findings.broken(f"name {name[:32]!r}", "bytes that are not UTF-8", "text", "the file is damaged")
            _raise(findings)
        if len(name) > MAX_NAME_CHARACTERS:
            expected = f"at most {MAX_NAME_CHARACTERS}"
            findings.broken(f"name {name[:32]!r}...", f"{len(name)} characters", expected)
            _raise(findings)


def _names(model: onnx.ModelProto) -> Iterator[str]:
    graph = model.graph
    yield from (graph.name, model.producer_name, model.producer_version)
    yield from (opset.domain for opset in model.opset_import)
    yield from (function.name for function in model.functions)
    yield from (tensor.name for tensor in graph.initializer)
    for value in (*graph.input, *graph.output):
        yield value.name
        yield from (dim.dim_param for dim in value.type.tensor_type.shape.dim[: MAX_RANK + 1])
    for node in graph.node:
        yield from (node.name, node.op_type, node.domain, *node.input, *node.output)
        yield from (attribute.name for attribute in node.attribute[: MAX_ATTRIBUTES + 1])


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
            findings.broken("graph", f"more than {MAX_TOTAL_ELEMENTS} constant elements", "fewer", "check the file")
            _raise(findings)
        if values is not None:
            constants[tensor.name] = values
    return constants


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


def _check_value_type(value: onnx.ValueInfoProto, where: str, findings: Findings, *, needs_type: bool = True) -> None:
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
    if elem_type not in _BOUNDARY_TYPES and needs_type:
        remedy = "export with float32 inputs, cast outside the model"
        findings.refuse(where, f"element type {type_name(elem_type)}", "float32, uint8 or int8", remedy)
    dims = value.type.tensor_type.shape.dim
    if len(dims) > MAX_RANK:
        findings.broken(where, f"{len(dims)} dimensions", f"at most {MAX_RANK}")
        return
    for dim in dims:
        if dim.HasField("dim_value") and not 1 <= dim.dim_value <= MAX_DIM:
            findings.broken(where, f"dimension {dim.dim_value}", f"1 to {MAX_DIM}, or a symbol")
    if math.prod(max(dim.dim_value, 1) for dim in dims) > MAX_ELEMENTS:
        findings.broken(where, f"shape {[dim.dim_value for dim in dims]}", f"at most {MAX_ELEMENTS} elements")
