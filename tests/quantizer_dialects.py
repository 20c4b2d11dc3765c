"""A model with QuantizeLinear and DequantizeLinear (see `qdq_models`) rewritten to other ways of saying the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper, numpy_helper
from qdq_models import Array, Arrays


@dataclass(frozen=True)
class Quantizer:
    """One quantiser of the model.

    Attributes:
        source: tensor it rounds; the latent float weight of integer weights.
        output: its result.
        scale: full rank for weights.
        zero_point: of the codes.
        limit: symmetric clamp of the codes, None for the container's.
    """

    source: str
    output: str
    scale: Array
    zero_point: Array
    limit: int | None


Writer = Callable[[Quantizer, dict[str, Array]], list[onnx.NodeProto]]


def rewritten(model: onnx.ModelProto, write: Writer) -> onnx.ModelProto:
    """Return the model with every quantiser replaced by the nodes `write` returns for it.

    Args:
        model: annotated model; weight codes become the float weights they stand for.
        write: returns the nodes and adds their constants to its second argument.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    constants = {init.name: numpy_helper.to_array(init) for init in graph.initializer}
    producers = {output: node for node in graph.node for output in node.output}
    nodes: list[onnx.NodeProto] = []
    added: dict[str, Array] = {}
    for node in graph.node:
        if node.op_type == "DequantizeLinear":
            nodes += write(_quantizer(node, producers, constants, added), added)
        elif node.op_type != "QuantizeLinear" and not node.name.endswith("_Clip"):
            nodes.append(onnx.NodeProto.FromString(node.SerializeToString()))
    del graph.node[:]
    graph.node.extend(nodes)
    used = {name for node in nodes for name in node.input}
    kept = {**constants, **{name: np.asarray(array) for name, array in added.items()}}
    del graph.initializer[:]
    graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in kept.items() if name in used)
    return result


def _quantizer(
    node: onnx.NodeProto, producers: Mapping[str, onnx.NodeProto], constants: Arrays, added: dict[str, Array]
) -> Quantizer:
    scale, codes, limit = constants[node.input[1]], node.input[0], None
    source = producers.get(codes)
    if source is not None and source.op_type == "Clip":
        limit, codes = int(constants[source.input[2]]), source.input[0]
        source = producers.get(codes)
    output = node.output[0]
    if source is not None:
        return Quantizer(source.input[0], output, scale, constants[node.input[2]], limit)
    axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
    shape = [-1 if i == axis else 1 for i in range(constants[codes].ndim)] if scale.ndim else []
    added[f"{output}_latent"] = (constants[codes] * scale.reshape(shape)).astype(np.float32)
    return Quantizer(f"{output}_latent", output, scale.reshape(shape), constants[node.input[2]], limit)


def as_qonnx(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model in QONNX, as Brevitas writes it: one Quant per quantiser."""
    result = rewritten(model, _quant)
    result.opset_import.append(helper.make_opsetid("qonnx.custom_op.general", 2))
    return result


def _quant(quantizer: Quantizer, constants: dict[str, Array]) -> list[onnx.NodeProto]:
    output, limit = quantizer.output, quantizer.limit
    bits = 8 if limit is None else limit.bit_length() + 1
    names = [f"{output}_{part}" for part in ("s", "z", "b")]
    values = (quantizer.scale, quantizer.zero_point.reshape(-1)[0], bits)
    constants.update({name: np.asarray(value, np.float32) for name, value in zip(names, values, strict=True)})
    attributes = {"signed": int(quantizer.zero_point.dtype != np.uint8), "narrow": int(limit is not None)}
    inputs = [quantizer.source, *names]
    domain = "qonnx.custom_op.general"
    return [helper.make_node("Quant", inputs, [output], f"{output}_Quant", domain=domain, **attributes)]


def as_arithmetic(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with every quantiser written out, as LSQ modules are: Div, Clip, Round, Mul; no zero points."""
    result = rewritten(model, _chain)
    onnx.checker.check_model(result, full_check=True)
    return result


def _chain(quantizer: Quantizer, constants: dict[str, Array]) -> list[onnx.NodeProto]:
    assert not quantizer.zero_point.any(), "these chains have no zero point"
    output = quantizer.output
    low, high = (-128, 127) if quantizer.limit is None else (-quantizer.limit, quantizer.limit)
    s, bottom, top = (f"{output}_{part}" for part in ("s", "low", "high"))
    constants.update({s: np.float32(quantizer.scale), bottom: np.float32(low), top: np.float32(high)})
    divided, clipped, rounded = (f"{output}_{part}" for part in ("divided", "clipped", "rounded"))
    return [
        helper.make_node("Div", [quantizer.source, s], [divided], divided),
        helper.make_node("Clip", [divided, bottom, top], [clipped], clipped),
        helper.make_node("Round", [clipped], [rounded], rounded),
        helper.make_node("Mul", [rounded, s], [output], f"{output}_Mul"),
    ]


def integer_io(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model without the QuantizeLinear of its inputs and the DequantizeLinear of its outputs."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    inputs = {value.name: value for value in graph.input}
    outputs = {value.name: value for value in graph.output}
    zeros = {init.name: init.data_type for init in graph.initializer}
    kept: list[onnx.NodeProto] = []
    renamed: dict[str, str] = {}
    for node in graph.node:
        if node.op_type == "QuantizeLinear" and node.input[0] in inputs:
            renamed[node.output[0]] = node.input[0]
            inputs[node.input[0]].type.tensor_type.elem_type = zeros[node.input[2]]
        elif node.op_type == "DequantizeLinear" and node.output[0] in outputs:
            renamed[node.input[0]] = node.output[0]
            outputs[node.output[0]].type.tensor_type.elem_type = zeros[node.input[2]]
        else:
            kept.append(onnx.NodeProto.FromString(node.SerializeToString()))
    for node in kept:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]
    del graph.node[:]
    graph.node.extend(kept)
    onnx.checker.check_model(result, full_check=True)
    return result
