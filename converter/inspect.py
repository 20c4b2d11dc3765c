"""What a model file says about itself: dialects, tensors with their scales and bits, and what kwsq would refuse."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_graphsurgeon as gs
from google.protobuf.message import DecodeError

from kwsq.ir.errors import InvalidModelError, ModelError, Problem, UnsupportedModelError, UsageError
from kwsq.ir.quant import Affine, Codebook, PerAxis
from kwsq.passes.dialects import Normalized, normalize
from kwsq.passes.dialects.canonical import CODES, FAKE_QUANT, INTEGER_INPUT, INTEGER_OUTPUT
from kwsq.passes.load import Source
from kwsq.passes.pipeline import PipelineOptions, run_pipeline
from kwsq.passes.refusals import load_or_list
from kwsq.targets.base import TargetOptions, load_target
from kwsq.targets.neon.reader import FileTensor, read

Json = dict[str, Any]
SHOWN_SCALES = 8
"""Scales printed per tensor; the rest is a count."""


def inspect_tflite(data: bytes, path: str) -> Json:
    """Returns operators, tensors and quantization of a `.tflite` file.

    Raises:
        InvalidModelError: not a well-formed TFLite model.
    """
    model = read(data, path)
    graph = model.main
    return {
        "format": "tflite",
        "file_bytes": len(data),
        "description": model.description,
        "metadata": {name: len(body) for name, body in model.metadata.items()},
        "subgraphs": len(model.subgraphs),
        "inputs": [_file_tensor(graph.tensors[i]) for i in graph.inputs],
        "outputs": [_file_tensor(graph.tensors[i]) for i in graph.outputs],
        "operators": [
            {
                "operator": op.name,
                "version": op.version,
                "inputs": [graph.tensors[i].name if i >= 0 else "" for i in op.inputs],
                "outputs": [graph.tensors[i].name for i in op.outputs],
            }
            for op in graph.operators
        ],
        "tensors": [_file_tensor(tensor) for tensor in graph.tensors],
    }


def _file_tensor(tensor: FileTensor) -> Json:
    return {
        "name": tensor.name,
        "shape": list(tensor.shape),
        "dtype": tensor.dtype,
        "bits": tensor.element_bits or None,
        "constant": tensor.is_constant,
        "scale_count": tensor.scale.size,
        "scale": _some(tensor.scale),
        "zero_point": _some(tensor.zero_point),
        "quantized_dimension": tensor.quantized_dimension if tensor.scale.size > 1 else None,
    }


def _some(values: npt.NDArray[np.generic]) -> list[float | str]:
    # Other writers' files may hold infinite or NaN scales, which JSON cannot.
    return [v if np.isfinite(v) else str(v) for v in values[:SHOWN_SCALES].tolist()]


def inspect_onnx(data: bytes, path: str, batch: int | None, shapes: Mapping[str, tuple[int, ...]]) -> Json:
    """Returns dialects, quantized tensors and what would be refused of an ONNX model.

    Raises:
        InvalidModelError: broken or unsafe; nothing of it can be relied on.
        UsageError: symbolic dimensions that no option resolves.
    """
    try:
        source = load_or_list(data, path, batch=batch, shapes=shapes)
    except UnsupportedModelError as error:
        return {**_outline(data, path), **_refused(error.problems)}
    facts: Json = _outline(data, path) | {
        "inputs": [_interface(tensor) for tensor in source.graph.inputs],
        "outputs": [_interface(tensor) for tensor in source.graph.outputs],
    }
    try:
        normalized = normalize(source)
    except UnsupportedModelError as error:
        return {**facts, **_refused(error.problems)}
    quantizers = [q for node in normalized.graph.nodes if (q := _quantizer(node)) is not None]
    facts |= {"dialects": list(normalized.dialects), "quantizers": quantizers}
    return {**facts, **_judged(source, normalized)}


def _outline(data: bytes, path: str) -> Json:
    try:
        model = onnx.ModelProto.FromString(data)
    except DecodeError as error:
        found = "bytes that are not an ONNX model"
        raise InvalidModelError(Problem(path, found, "a ModelProto", "check the file")) from error
    counts = Counter((node.domain or "ai.onnx", node.op_type) for node in model.graph.node)
    return {
        "format": "onnx",
        "file_bytes": len(data),
        "producer": f"{model.producer_name} {model.producer_version}".strip(),
        "opsets": {entry.domain or "ai.onnx": entry.version for entry in model.opset_import},
        "operators": [{"domain": d, "operator": op, "count": n} for (d, op), n in sorted(counts.items())],
        "inputs": [],
        "outputs": [],
        "dialects": [],
        "quantizers": [],
        "weights": [],
        "notes": [],
    }


def _interface(tensor: gs.Tensor) -> Json:
    shape = None if tensor.shape is None else [d if isinstance(d, int) else str(d) for d in tensor.shape]
    return {"name": tensor.name, "shape": shape, "dtype": None if tensor.dtype is None else str(np.dtype(tensor.dtype))}


def _quantizer(node: gs.Node) -> Json | None:
    if node.op not in (FAKE_QUANT, CODES, INTEGER_INPUT, INTEGER_OUTPUT):
        return None
    spec = node.attrs["spec"]
    assert isinstance(spec, Affine | Codebook)
    constant = node.op == CODES or (node.op == FAKE_QUANT and isinstance(node.inputs[0], gs.Constant))
    facts: Json = {
        "tensor": (node.inputs if node.op == INTEGER_INPUT else node.outputs)[0].name,
        "role": "constant" if constant else "activation",
        "dialect": str(node.attrs.get("dialect", "")),
        "bits": spec.bits,
        "bits_declared": spec.declared,
        "scale_count": spec.scale.size,
        "scale": _some(spec.scale),
        "axis": spec.granularity.axis if isinstance(spec.granularity, PerAxis) else None,
    }
    if isinstance(spec, Codebook):
        return {**facts, "grid": "codebook", "levels": spec.levels.tolist(), "zero_point": [], "range": None}
    code_range = [spec.range.low, spec.range.high]
    return {**facts, "grid": "uniform", "levels": None, "zero_point": _some(spec.zero_point), "range": code_range}


def _judged(source: Source, normalized: Normalized) -> Json:
    """Returns what a conversion would do, by running all of it short of writing."""
    try:
        result = run_pipeline(normalized, source.opsets[""], PipelineOptions())
        load_target("neon").legalize(result.lowered, TargetOptions())
    except UsageError as error:
        # A float model: everything else was checked before its missing calibration.
        return {"convertible": True, "needs": [problem.to_json() for problem in error.problems], "refused": []}
    except ModelError as error:
        return _refused(error.problems)
    weights = [
        {"layer": w.layer, "tensor": w.tensor, "bits": w.bits, "bits_declared": w.declared, "elements": w.parameters}
        for w in result.widths
    ]
    notes = [note.to_json() for note in result.notes]
    return {"convertible": True, "needs": [], "refused": [], "weights": weights, "notes": notes}


def _refused(problems: Sequence[Problem]) -> Json:
    return {"convertible": False, "needs": [], "refused": [problem.to_json() for problem in problems]}
