"""The footprint of an ONNX model: parameters, declared bits and what they would take packed, ours or anybody's.

An ONNX file is not flashed, so its own bytes are split coarsely: constants, and everything else.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy.typing as npt
import onnx

from kwsq.converter.footprint import (
    FLOAT_BYTES,
    Flash,
    FloatModel,
    LayerFootprint,
    MemoryReport,
    WeightTensor,
    distinct_codes,
)
from kwsq.ir.errors import UnsupportedModelError, UsageError
from kwsq.ir.graph import Graph, Node, Tensor
from kwsq.ir.ops import Conv, Dense, MatMul
from kwsq.ir.quant import Affine, Codebook, IntRange, QuantSpec
from kwsq.passes.decode import Findings, decode_tensor
from kwsq.passes.dialects import normalize
from kwsq.passes.import_graph import import_graph
from kwsq.passes.load import load_bytes
from kwsq.targets.planner import Lifetime, MemoryPlan, plan

Shape = tuple[int, ...]


def measure_onnx(data: bytes, path: str, batch: int | None, shapes: Mapping[str, Shape]) -> MemoryReport:
    """Returns the footprint of an ONNX model.

    A model that kwsq cannot convert, or whose dimensions stay symbolic, is measured by its constants alone.

    Args:
        data: the file.
        path: its name, for messages.
        batch: size of a symbolic batch dimension.
        shapes: full shapes of inputs with other symbolic dimensions.

    Raises:
        InvalidModelError: broken or unsafe.
        UsageError: `batch` or `shapes` does not fit the model.
    """
    try:
        source = load_bytes(data, path, batch=batch, shapes=shapes)
        graph = import_graph(normalize(source).graph, source.opsets[""])
    except (UnsupportedModelError, UsageError) as error:
        if isinstance(error, UsageError) and (shapes or batch is not None):
            raise
        return _by_constants(data, tuple(str(problem) for problem in error.problems))
    return _by_graph(data, graph)


_QUANTIZERS = ("QuantizeLinear", "DequantizeLinear", "Quant", "BipolarQuant", "FakeQuantize")
_CONTAINER_BITS = {
    onnx.TensorProto.INT8: 8,
    onnx.TensorProto.UINT8: 8,
    onnx.TensorProto.INT4: 4,
    onnx.TensorProto.UINT4: 4,
}


def _stored(data: bytes, constant_bytes: int) -> Flash:
    return Flash(weights_bytes=constant_bytes, graph_tables_bytes=len(data) - constant_bytes)


def _constant_bytes(data: bytes) -> int:
    # Counted in the serialised initializers, headers included, so that it never exceeds the file.
    return sum(tensor.ByteSize() for tensor in onnx.ModelProto.FromString(data).graph.initializer)


def _by_graph(data: bytes, graph: Graph) -> MemoryReport:
    steps = len(graph.nodes) + 1
    arena = plan(_lifetimes(graph, 1), steps)
    seen: set[str] = set()
    layers = [_layer(graph, node, arena.live_bytes[i], seen) for i, node in enumerate(graph.nodes, 1)]
    parameters = sum(layer.parameters for layer in layers)
    return MemoryReport(
        format="onnx",
        file_bytes=len(data),
        layers=tuple(layers),
        outside_layers=_stored(data, _constant_bytes(data)),
        plan=arena,
        state_bytes=0,
        float_model=FloatModel(parameters * FLOAT_BYTES, _float_plan(graph, steps).high_water_bytes),
        notes=("activation memory is projected: int8 activations of the unfolded graph",),
    )


def _float_plan(graph: Graph, steps: int) -> MemoryPlan:
    return plan(_lifetimes(graph, FLOAT_BYTES), steps)


def _lifetimes(graph: Graph, element_bytes: int) -> list[Lifetime]:
    first = dict.fromkeys(graph.inputs, 0)
    last = dict.fromkeys(graph.inputs, 0)
    for step, node in enumerate(graph.nodes, 1):
        first.update(dict.fromkeys(node.outputs, step))
        last.update(dict.fromkeys((*node.inputs, *node.outputs), step))
    last.update(dict.fromkeys(graph.outputs, len(graph.nodes)))
    return [
        Lifetime(name, math.prod(graph[name].shape) * element_bytes, first[name], last[name])
        for name in graph.tensors
        if name in first and not graph[name].is_constant
    ]


def _layer(graph: Graph, node: Node, live_bytes: int, seen: set[str]) -> LayerFootprint:
    constants = [t for name in node.inputs if (t := graph.constant(name)) is not None and name not in seen]
    seen.update(tensor.name for tensor in constants)
    weights = tuple(_weight(t) for t in constants if len(t.shape) > 1 and isinstance(node.op, Conv | Dense | MatMul))
    return LayerFootprint(
        name=node.outputs[0],
        operator=node.source or node.op.name,
        macs=_macs(graph, node),
        parameters=sum(math.prod(tensor.shape) for tensor in constants),
        weights=weights,
        flash=Flash(),
        output_bytes=sum(math.prod(graph[name].shape) for name in node.outputs),
        live_bytes=live_bytes,
        input_bytes=sum(math.prod(graph[name].shape) for name in node.inputs if name and graph.constant(name) is None),
    )


def _macs(graph: Graph, node: Node) -> int:
    output = math.prod(graph[node.outputs[0]].shape)
    match node.op:
        case Conv():
            return output * math.prod(graph[node.inputs[1]].shape[1:])
        case Dense() | MatMul():
            return output * graph[node.inputs[0]].shape[-1]
        case _:
            return 0


def _weight(tensor: Tensor) -> WeightTensor:
    spec, codes = tensor.quant, tensor.data
    assert codes is not None, f"{tensor.name} is a constant"
    quantized = isinstance(spec, Affine | Codebook)
    return WeightTensor(
        name=tensor.name,
        shape=tensor.shape,
        rows=tensor.shape[0],
        container_bits=8 if quantized else 32,
        declared_bits=spec.bits if isinstance(spec, Affine | Codebook) and spec.declared else None,
        needed_bits=_needed_bits(spec, codes),
        distinct=distinct_codes(codes) if quantized else None,
        scales=spec.scale.size if isinstance(spec, Affine | Codebook) else 0,
        codebook=isinstance(spec, Codebook),
    )


def _needed_bits(spec: QuantSpec, codes: npt.NDArray[Any]) -> int | None:
    if isinstance(spec, Affine):
        return min(spec.bits, IntRange(min(int(codes.min()), -1), max(int(codes.max()), 0)).bits)
    return spec.bits if isinstance(spec, Codebook) else None


def _by_constants(data: bytes, reasons: Sequence[str]) -> MemoryReport:
    """Returns what the initializers alone tell, those of quantizers' grids left out."""
    weights, parameters, graph = [], 0, onnx.ModelProto.FromString(data).graph
    quantizers = [node for node in graph.node if node.op_type in _QUANTIZERS]
    codes = {node.input[0] for node in quantizers if node.input and node.op_type == "DequantizeLinear"}
    grids = {name for node in quantizers for name in node.input[1:]}
    for tensor in graph.initializer:
        values = decode_tensor(tensor, tensor.name, Findings()) if tensor.name not in grids else None
        if values is None:
            continue
        # Codes may pass a Clip before they are read.
        is_weight = values.ndim > 1 and tensor.data_type in _CONTAINER_BITS
        if values.dtype.kind == "f" or tensor.name in codes or is_weight:
            parameters += values.size
            if values.ndim > 1:
                shape = tuple(int(size) for size in values.shape)
                bits = _CONTAINER_BITS.get(tensor.data_type, 32)
                weights.append(WeightTensor(tensor.name, shape, shape[0], bits, None, None, None, 0))
    layer = LayerFootprint("(constants)", "", 0, parameters, tuple(weights), Flash(), 0, 0)
    return MemoryReport(
        format="onnx",
        file_bytes=len(data),
        layers=(layer,),
        outside_layers=_stored(data, _constant_bytes(data)),
        plan=None,
        state_bytes=0,
        float_model=FloatModel(parameters * FLOAT_BYTES, 0),
        notes=("measured by its constants alone, because kwsq cannot read all of it", *reasons),
    )
