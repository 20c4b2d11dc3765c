"""Nodes against ONNX's operator schemas: number of inputs and outputs, attributes and their types and ranges.

Later steps take a node's inputs and attributes by position and name; here every known operator is shown to have them.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import onnx
from onnx import AttributeProto
from onnx.defs import OpSchema

from kwsq.passes.decode import MAX_ELEMENTS, MAX_RANK, Findings
from kwsq.passes.known_ops import MICROSOFT_DOMAIN, MICROSOFT_OPS, QONNX_DOMAINS, canonical_domain, is_known
from kwsq.passes.validate_attributes import node_label

_CUSTOM_INPUTS = {"Quant": 4, "IntQuant": 4, "BipolarQuant": 2, "Trunc": 5} | dict.fromkeys(MICROSOFT_OPS, 2)
"""Fewest inputs of operators onnx has no schema for; their readers check the rest."""

_RANGES: Mapping[str, tuple[int, int]] = {
    "axes": (-MAX_RANK, MAX_RANK),
    "axis": (-MAX_RANK, MAX_RANK),
    "block_size": (0, MAX_ELEMENTS),
    "dilations": (1, 2**16),
    "group": (1, 2**16),
    "kernel_shape": (1, 2**16),
    "pads": (0, 2**16),
    "perm": (0, MAX_RANK),
    "split": (0, MAX_ELEMENTS),
    "strides": (1, 2**16),
}
"""Bounds of integer attributes by name; the same name means the same in every operator that is read."""


def check_schemas(graph: onnx.GraphProto, opsets: Mapping[str, int], findings: Findings) -> None:
    """Notes every known node that does not have the inputs, outputs and attributes of its operator.

    Args:
        graph: graph of the file.
        opsets: version per domain.
        findings: receives the problems.
    """
    for index, node in enumerate(graph.node):
        domain = canonical_domain(node.domain)
        if not is_known(domain, node.op_type):
            continue
        where = f"{node_label(node, index)} ({node.op_type})"
        _check_ranges(node, where, findings)
        if domain in QONNX_DOMAINS or domain == MICROSOFT_DOMAIN:
            _check_counts(node, _CUSTOM_INPUTS[node.op_type], None, where, findings)
            continue
        schema = _schema(node.op_type, opsets.get("", 1))
        if schema is None:
            findings.broken(where, f"an operator that opset {opsets.get('')} does not have", "an operator of the opset")
            continue
        _check_inputs(node, schema, where, findings)
        _check_attributes(node, schema, where, findings)


@cache
def _schema(op: str, version: int) -> OpSchema | None:
    try:
        return onnx.defs.get_schema(op, max_inclusive_version=version)
    except onnx.defs.SchemaError:
        return None


def _check_counts(node: onnx.NodeProto, least: int, most: int | None, where: str, findings: Findings) -> None:
    count = len(node.input)
    if count < least or (most is not None and count > most):
        expected = f"at least {least}" if most is None else f"{least} to {most}"
        findings.broken(where, f"{count} inputs", expected)
    elif not all(node.input[:least]):
        findings.broken(where, "an empty name for a required input", "a tensor")


def _check_inputs(node: onnx.NodeProto, schema: OpSchema, where: str, findings: Findings) -> None:
    _check_counts(node, schema.min_input, schema.max_input, where, findings)
    variadic = bool(schema.inputs) and schema.inputs[-1].option == OpSchema.FormalParameterOption.Variadic
    if variadic and not all(node.input):
        findings.broken(where, "an empty name among its inputs", "tensors")
    if not schema.min_output <= len(node.output) <= schema.max_output:
        expected = f"{schema.min_output} to {schema.max_output}"
        findings.broken(where, f"{len(node.output)} outputs", expected)
    elif not all(node.output[: schema.min_output]):
        findings.broken(where, "an empty name for a required output", "a tensor")
    elif node.op_type == "Split" and not all(node.output):  # onnxruntime crashes when it runs one
        findings.refuse(where, "a part without a name", "a name for every part", "name those that nothing reads too")


def _check_attributes(node: onnx.NodeProto, schema: OpSchema, where: str, findings: Findings) -> None:
    stated = {attribute.name: attribute.type for attribute in node.attribute}
    for name, kind in stated.items():
        known = schema.attributes.get(name)
        if known is None:
            expected = "attributes of the operator at its opset"
            findings.broken(where, f"attribute {name[:64]!r}, which the operator does not have", expected)
        elif str(known.type).rpartition(".")[2] != _kind_name(kind):
            findings.broken(where, f"attribute {name!r} of type {_kind_name(kind)}", f"{known.type}")
    missing = [name for name, known in schema.attributes.items() if known.required and name not in stated]
    if missing:
        findings.broken(where, f"no attribute {', '.join(sorted(missing))}", "the operator's required attributes")


def _kind_name(kind: int) -> str:
    return next((name for name, value in AttributeProto.AttributeType.items() if value == kind), str(kind))


def _check_ranges(node: onnx.NodeProto, where: str, findings: Findings) -> None:
    for attribute in node.attribute:
        bounds = _RANGES.get(attribute.name)
        if bounds is None:
            continue
        values = [attribute.i] if attribute.type == AttributeProto.INT else attribute.ints
        outside = next((value for value in values if not bounds[0] <= value <= bounds[1]), None)
        if outside is not None:
            findings.broken(where, f"{attribute.name} {outside}", f"{bounds[0]} to {bounds[1]}")
