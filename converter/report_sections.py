"""The parts of the report that describe a conversion: model, boundary, weights, activations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from kwsq.converter.footprint import distinct_codes
from kwsq.ir.lowered import (
    Conv2D,
    DepthwiseConv2D,
    DType,
    FullyConnected,
    LoweredGraph,
    LoweredNode,
    LoweredTensor,
    Transpose,
)
from kwsq.ir.quant import FloatArray
from kwsq.passes.dialects import Normalized
from kwsq.passes.load import Source
from kwsq.passes.pipeline import PipelineResult
from kwsq.passes.widths import WeightWidth

Json = dict[str, Any]


def model_section(source: Source, normalized: Normalized, result: PipelineResult) -> Json:
    """Returns what the source is and how it was quantised."""
    return {
        "name": result.source.name,
        "source_sha256": source.sha256,
        "source_bytes": len(source.data),
        "producer": source.producer,
        "opsets": {domain or "ai.onnx": version for domain, version in sorted(source.opsets.items())},
        "dialects": list(normalized.dialects),
        "quantization": "ptq" if result.is_ptq else "qat",
        "weight_bits": result.weight_bits,
        "states": [{"input": pair.input, "output": pair.output} for pair in result.source.states],
    }


def interface_section(graph: LoweredGraph, names: Sequence[str]) -> list[Json]:
    """Returns the artefact's inputs or outputs."""
    return [_tensor(graph[name]) for name in names]


def activations_section(graph: LoweredGraph) -> list[Json]:
    """Returns the grid of every tensor that is computed."""
    return [_tensor(t) for t in graph.tensors.values() if not t.is_constant and t.scale is not None]


def _tensor(tensor: LoweredTensor) -> Json:
    facts: Json = {"name": tensor.name, "shape": list(tensor.shape), "dtype": tensor.dtype.value}
    if tensor.scale is None or tensor.dtype is DType.FLOAT32:
        return {**facts, "scale": None, "zero_point": None, "real_low": None, "real_high": None}
    limits, scale = np.iinfo(tensor.dtype.value), float(tensor.scale[0])
    return {
        **facts,
        "scale": scale,
        "zero_point": tensor.zero_point,
        "real_low": (limits.min - tensor.zero_point) * scale,
        "real_high": (limits.max - tensor.zero_point) * scale,
    }


def weights_section(graph: LoweredGraph, result: PipelineResult, header: Mapping[str, Any]) -> list[Json]:
    """Returns width, container and scales, annotated and emitted, of every weight tensor.

    Args:
        graph: legalised graph.
        result: of the pipeline, for the widths.
        header: of the artefact, for the containers.
    """
    widths = {width.tensor: width for width in (*result.source_widths, *result.widths)}
    chosen = {record.tensor for record in result.ptq_records if record.kind == "weight"}
    rows = []
    for node in graph.nodes:
        if isinstance(node.op, Conv2D | DepthwiseConv2D | FullyConnected):
            weight = graph[node.inputs[1]]
            width = widths.get(weight.name) or widths.get(weight.origin)
            if weight.data is not None:
                annotated = None if chosen & {weight.name, weight.origin} else weight.source_scale
                rows.append(_weight(node, replace(weight, source_scale=annotated), width, result.weight_bits, header))
    return rows


def _weight(
    node: LoweredNode, weight: LoweredTensor, width: WeightWidth | None, expected: int, header: Mapping[str, Any]
) -> Json:
    assert weight.data is not None, f"{weight.name} is a constant"
    assert weight.scale is not None, f"{weight.name} is quantised"
    kept = header.get("kept_tensors", {})
    annotated = weight.source_scale
    return {
        "layer": node.name,
        "tensor": weight.name,
        "operator": node.op.name,
        "elements": weight.size,
        "bits": weight.bits,
        "bits_declared": width is None or width.declared,
        "wider_than_requested": weight.bits > expected,
        "container": header["containers"].get(weight.name, header["container"]),
        "why_kept_int8": kept.get(weight.name),
        "distinct_codes": distinct_codes(weight.data),
        "levels": None if weight.levels is None else [int(level) for level in weight.levels],
        "emitted_scale": [float(s) for s in weight.scale],
        "annotated_scale": None if annotated is None else [float(s) for s in annotated],
        "gain_folded": annotated is not None and not _same(annotated, weight.scale),
    }


def _same(annotated: FloatArray, emitted: FloatArray) -> bool:
    """Returns whether folding changed nothing; one annotated scale may serve all channels."""
    return bool(np.all(np.broadcast_to(annotated, np.broadcast_shapes(annotated.shape, emitted.shape)) == emitted))


def boundary_section(graph: LoweredGraph) -> list[Json]:
    """Returns the transposes that bring inputs and outputs from the source's dimension order and back."""
    public = {*graph.inputs, *graph.outputs}
    casts = {n.outputs[0] for n in graph.nodes if n.inputs[0] in graph.inputs}
    rows = []
    for node in graph.nodes:
        if isinstance(node.op, Transpose):
            outer = {node.inputs[0], node.outputs[0]} & (public | casts)
            rows.append(
                {
                    "node": node.name,
                    "permutation": list(node.op.perm),
                    "bytes": graph[node.outputs[0]].size_bytes,
                    "at_boundary": bool(outer),
                }
            )
    return rows
