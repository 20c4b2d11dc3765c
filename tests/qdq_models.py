"""ONNX test models from ONNX's textual syntax, and what a quantising exporter makes of them.

    model = float_model("(float[1,4,20] x, float[8,4,3] w) => (float[1,8,20] y) { y = Conv<pads=[1,1]>(x, w) }")
    model = quantized(model, random_feeds(model, 8), weight_bits=4)

Graph inputs whose name starts with x or s (states) are data, all others become initializers with seeded values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Array = NDArray[Any]
Arrays = Mapping[str, Array]
LAYERS = ("Conv", "Gemm", "MatMul")


def float_model(text: str, opset: int = 17, seed: int = 0, constants: Arrays | None = None) -> onnx.ModelProto:
    """Return a float model with its parameters drawn from a seeded generator.

    Args:
        text: "(inputs) => (outputs) { nodes }" in ONNX's textual syntax.
        opset: version of the default domain.
        seed: of the parameters.
        constants: values of some parameters by name, instead of random ones.
    """
    header = f'<ir_version: 10, opset_import: ["" : {opset}]> model '
    model = onnx.parser.parse_model(header + text)
    rng = np.random.default_rng(seed)
    parameters = [value for value in model.graph.input if value.name[0] not in "xs"]
    for value in parameters:
        shape = tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
        array = (constants or {}).get(value.name)
        array = _parameter(rng, value.name, shape) if array is None else np.asarray(array, np.float32).reshape(shape)
        model.graph.initializer.append(numpy_helper.from_array(array, value.name))
        model.graph.input.remove(value)
    for number, node in enumerate(model.graph.node):
        node.name = node.name or f"{node.op_type.lower()}{number}"
    onnx.checker.check_model(model, full_check=True)
    return model


def _parameter(rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> Array:
    """w*: weights of unit gain; v*: positive (variances, gains); others: around zero."""
    if name[0] == "w":
        fan_in = int(np.prod(shape[1:])) if len(shape) > 2 else shape[0]
        return (rng.normal(size=shape) / np.sqrt(max(fan_in, 1))).astype(np.float32)
    if name[0] == "v":
        return rng.uniform(0.5, 1.5, shape).astype(np.float32)
    return rng.normal(0, 0.5, shape).astype(np.float32)


def random_feeds(model: onnx.ModelProto, count: int, seed: int = 1) -> dict[str, Array]:
    """Return `count` stacked vectors per float graph input, normal with mean 0.25 and deviation 1."""
    rng = np.random.default_rng(seed)
    return {
        value.name: rng.normal(0.25, 1.0, (count * dims[0], *dims[1:])).astype(np.float32)
        for value in model.graph.input
        if (dims := _dims(value))
    }


def _dims(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    return tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)


def run_onnx(model: onnx.ModelProto, feeds: Arrays, keep: tuple[str, ...] = ()) -> dict[str, Array]:
    """Run stacked vectors in onnxruntime, optimisations off; returns outputs and `keep` by name, stacked."""
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    names = [value.name for value in model.graph.output]
    shown.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in keep if name not in names)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = ort.InferenceSession(shown.SerializeToString(), options, providers=["CPUExecutionProvider"])
    first = model.graph.input[0]
    count = len(feeds[first.name]) // (_dims(first)[0] if _dims(first) else 1)
    parts = {name: np.split(array, count) for name, array in feeds.items()}
    rows = [session.run(None, {name: part[i] for name, part in parts.items()}) for i in range(count)]
    outputs = [value.name for value in session.get_outputs()]
    return {name: np.concatenate([np.atleast_1d(row[i]) for row in rows]) for i, name in enumerate(outputs)}


@dataclass(frozen=True)
class Scheme:
    """How `quantized` annotates a model.

    Attributes:
        unsigned: uint8 activations instead of int8.
        weight_bits: width of the codes; below 8 a Clip on the integer initializer declares it (QCDQ).
        per_channel: one weight scale per output channel.
        float_weights: keep the float weight with QuantizeLinear (the -Clip)- DequantizeLinear.
        skip: tensors that stay without a quantiser.
        symmetric: zero point 0 (128 for uint8).
        integer_bias: int32 bias codes behind a DequantizeLinear.
        operands: put constant operands of elementwise nodes on an int8 grid too.
        fused: no quantiser between a layer, its batch norm or bias, and its activation.
    """

    unsigned: bool = False
    weight_bits: int = 8
    per_channel: bool = True
    float_weights: bool = False
    skip: tuple[str, ...] = ()
    symmetric: bool = False
    integer_bias: bool = False
    operands: bool = False
    fused: bool = False


def quantized(model: onnx.ModelProto, feeds: Arrays, scheme: Scheme = Scheme()) -> onnx.ModelProto:
    """Return the model with QuantizeLinear and DequantizeLinear on every float activation and layer weight.

    Args:
        model: float model.
        feeds: calibration vectors.
        scheme: form of the annotations.
    """
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    typed = [*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output]
    floats = {v.name for v in typed if v.type.tensor_type.elem_type == TensorProto.FLOAT}
    computed = tuple(n for node in model.graph.node for n in node.output if n in floats)
    values = run_onnx(model, feeds, keep=computed) | dict(feeds)
    skipped = {*scheme.skip, *(_inside_layers(model) if scheme.fused else ())}
    return _Annotator(model, values, scheme).build([n for n in (*feeds, *computed) if n not in skipped])


_BEFORE = ("Conv", "Gemm", "MatMul", "BatchNormalization", "Add")
_AFTER = ("BatchNormalization", "Relu", "Clip", "HardSwish")


def _inside_layers(model: onnx.ModelProto) -> list[str]:
    """Tensors that one following batch norm or activation alone reads."""
    constants = {init.name for init in model.graph.initializer}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    inner = []
    for node in model.graph.node:
        after = readers.get(node.output[0], [])
        has_bias = len(after) == 1 and after[0].op_type == "Add" and constants & set(after[0].input)
        if node.op_type in _BEFORE and len(after) == 1 and (after[0].op_type in _AFTER or has_bias):
            inner.append(node.output[0])
    return inner


class _Annotator:
    """Builds the annotated copy of a model, node by node."""

    def __init__(self, model: onnx.ModelProto, values: Arrays, scheme: Scheme) -> None:
        self.model = onnx.ModelProto()
        self.model.CopyFrom(model)
        self.values, self.scheme = values, scheme
        self.opset = model.opset_import[0].version
        self.weights = {init.name: numpy_helper.to_array(init) for init in model.graph.initializer}
        self.scales: dict[str, float] = {}
        self.nodes: list[onnx.NodeProto] = []
        self.added: dict[str, Array] = {}

    def build(self, activations: list[str]) -> onnx.ModelProto:
        graph = self.model.graph
        outputs = {value.name for value in graph.output}
        source = list(graph.node)
        renamed: dict[str, str] = {}
        for name in (value.name for value in graph.input):
            if name in activations:
                renamed[name] = self._activation(name, name, f"{name}_dq")
        for node in source:
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            copy.input[:] = [renamed.get(name, name) for name in copy.input]
            self._annotate_constants(node, copy)
            raw = {name: f"{name}_raw" for name in node.output if name in outputs and name in activations}
            copy.output[:] = [raw.get(name, name) for name in node.output]
            self.nodes.append(copy)
            for name in node.output:
                if name in activations:
                    final = name if name in outputs else f"{name}_dq"
                    renamed[name] = self._activation(name, raw.get(name, name), final)
        del graph.node[:]
        graph.node.extend(self.nodes)
        used = {name for node in graph.node for name in node.input}
        kept = [init for init in graph.initializer if init.name in used and init.name not in self.added]
        del graph.initializer[:]
        graph.initializer.extend([*kept, *(numpy_helper.from_array(a, n) for n, a in self.added.items())])
        del graph.value_info[:]
        onnx.checker.check_model(self.model, full_check=True)
        return self.model

    def _activation(self, name: str, source: str, target: str) -> str:
        low, high = min(float(self.values[name].min()), 0.0), max(float(self.values[name].max()), 0.0)
        dtype, bottom = (np.uint8, 0) if self.scheme.unsigned else (np.int8, -128)
        if self.scheme.symmetric:
            scale = np.float32(max(-low, high, 1e-3) / 127)
            zero = bottom + 128
        else:
            scale = np.float32(max(high - low, 1e-3) / 255)
            zero = int(np.clip(np.rint(bottom - low / scale), bottom, bottom + 255))
        self.scales[target] = float(scale)
        self._quantize_dequantize(target, source, scale, np.asarray(zero, dtype))
        return target

    def _quantize_dequantize(
        self, target: str, source: str, scale: Array, zero: Array, axis: int | None = None, clip: int | None = None
    ) -> None:
        self._grid(target, scale, zero)
        along = {} if axis is None or self.opset < 13 else {"axis": axis}
        grid = [f"{target}_scale", f"{target}_zero"]
        codes = f"{target}_codes"
        self._node("QuantizeLinear", [source, *grid], codes, **along)
        self._node("DequantizeLinear", [self._clipped(target, codes, clip), *grid], target, **along)

    def _clipped(self, target: str, codes: str, limit: int | None) -> str:
        if limit is None:
            return codes
        self.added[f"{target}_low"], self.added[f"{target}_high"] = np.int8([-limit])[0:1].reshape(()), np.int8(limit)
        self._node("Clip", [codes, f"{target}_low", f"{target}_high"], f"{target}_clipped")
        return f"{target}_clipped"

    def _grid(self, target: str, scale: Array, zero: Array) -> None:
        self.added[f"{target}_scale"], self.added[f"{target}_zero"] = np.asarray(scale, np.float32), zero

    def _node(self, op: str, inputs: list[str], output: str, **attributes: int) -> None:
        self.nodes.append(helper.make_node(op, inputs, [output], f"{output}_{op}", **attributes))

    def _annotate_constants(self, node: onnx.NodeProto, copy: onnx.NodeProto) -> None:
        weight = next((i for i in (1, 0) if node.op_type in LAYERS and node.input[i] in self.weights), None)
        if weight is not None:
            copy.input[weight] = self._weight(node, weight)
            bias = self.weights.get(node.input[2]) if len(node.input) > 2 else None
            if self.scheme.integer_bias and bias is not None and bias.ndim == 1:
                copy.input[2] = self._bias(node, copy)
        elif self.scheme.operands and node.op_type in ("Add", "Sub", "Mul", "Concat"):
            for i, name in enumerate(node.input):
                if name in self.weights:
                    copy.input[i] = self._operand(name)

    def _operand(self, name: str) -> str:
        target = f"{name}_dq"
        scale = np.float32(np.abs(self.weights[name]).max() / 127)
        self._quantize_dequantize(target, name, scale, np.int8(0))
        return target

    def _weight(self, node: onnx.NodeProto, index: int) -> str:
        name, values = node.input[index], self.weights[node.input[index]]
        transposed = index == 1 and (
            node.op_type == "MatMul"
            or (node.op_type == "Gemm" and not any(a.name == "transB" and a.i for a in node.attribute))
        )
        per_channel = self.scheme.per_channel and self.opset >= 13 and values.ndim >= 2
        axis = (values.ndim - 1 if transposed else 0) if per_channel else None
        limit = 2 ** (self.scheme.weight_bits - 1) - 1
        others = tuple(i for i in range(values.ndim) if i != axis)
        scale = np.asarray(
            np.maximum(np.abs(values).max(others if axis is not None else None), 1e-6) / limit, np.float32
        )
        target = f"{name}_dq"
        clip = limit if self.scheme.weight_bits < 8 else None
        zero = np.zeros(scale.shape, np.int8)
        self.scales[target] = scale  # type: ignore[assignment]
        if self.scheme.float_weights:
            self._quantize_dequantize(target, name, scale, zero, axis, clip)
            return target
        self._grid(target, scale, zero)
        shaped = scale.reshape([-1 if i == axis else 1 for i in range(values.ndim)])
        self.added[f"{target}_codes"] = np.clip(np.rint(values / shaped), -limit, limit).astype(np.int8)
        codes = self._clipped(target, f"{target}_codes", clip)
        along = {} if axis is None else {"axis": axis}
        self._node("DequantizeLinear", [codes, f"{target}_scale", f"{target}_zero"], target, **along)
        return target

    def _bias(self, node: onnx.NodeProto, copy: onnx.NodeProto) -> str:
        name, values = node.input[2], self.weights[node.input[2]]
        scale = np.float32(self.scales[copy.input[0]]) * np.asarray(self.scales[copy.input[1]], np.float32)
        target = f"{name}_dq"
        self.added[f"{target}_scale"] = scale.astype(np.float32)
        self.added[f"{target}_codes"] = np.rint(values / scale).astype(np.int32)
        self.added[f"{target}_zero"] = np.zeros(scale.shape, np.int32)
        along = {} if scale.ndim == 0 else {"axis": 0}
        self._node("DequantizeLinear", [f"{target}_codes", f"{target}_scale", f"{target}_zero"], target, **along)
        return target


def shape_of(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    """Return the static shape of a graph input or output."""
    return _dims(value)
