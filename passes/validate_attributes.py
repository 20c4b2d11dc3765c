"""Attributes of nodes as Python values, checked."""

from __future__ import annotations

import onnx
from onnx import AttributeProto

from kwsq.passes.decode import Findings, decode_tensor

MAX_ATTRIBUTES = 64
MAX_ATTRIBUTE_VALUES = 2**16

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


def node_label(node: onnx.NodeProto, index: int) -> str:
    """Returns how messages call a node: its name, or what it computes where it has none."""
    output = next(iter(node.output), "")
    return f"node {node.name!r}" if node.name else f"node {index} ({node.op_type} -> {output!r})"


def decode_attributes(node: onnx.NodeProto, index: int, findings: Findings) -> dict[str, object]:
    """Returns the attributes of a node by name: numbers, text as str, lists, tensors as arrays.

    Args:
        node: node of the file.
        index: its position, for messages.
        findings: receives the problems.
    """
    where = node_label(node, index)
    if len(node.attribute) > MAX_ATTRIBUTES:
        findings.broken(where, f"{len(node.attribute)} attributes", f"at most {MAX_ATTRIBUTES}")
        return {}
    values: dict[str, object] = {}
    for attribute in node.attribute:
        if max(len(attribute.ints), len(attribute.floats), len(attribute.strings)) > MAX_ATTRIBUTE_VALUES:
            expected = f"at most {MAX_ATTRIBUTE_VALUES} values"
            findings.broken(where, f"a longer attribute {attribute.name[:64]!r}", expected)
        elif not attribute.name or attribute.name in values:
            findings.broken(where, f"attribute {attribute.name!r} repeated or unnamed", "unique attribute names")
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
    elif attribute.type in AttributeProto.AttributeType.values() and attribute.type != AttributeProto.UNDEFINED:
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
