"""Small ONNX models for tests, and two independent ways to run them.

model = build([node("Relu", ["x"], ["y"])], inputs={"x": (1, 4)}, outputs=["y"])
expected = run_onnxruntime(model, {"x": x})      # optimisations off
actual = run_normalized(model, {"x": x})         # loaded, normalised, imported, float executor
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from kwsq.converter.runtimes.ort import as_run
from kwsq.ir.execute.real import run_float
from kwsq.passes.dialects import Normalized, normalize
from kwsq.passes.import_graph import import_graph
from kwsq.passes.load import Source, load_bytes

QONNX = "qonnx.custom_op.general"
MICROSOFT = "com.microsoft"

Array = NDArray[Any]


def node(op: str, inputs: Sequence[str], outputs: Sequence[str], domain: str = "", **attrs: Any) -> onnx.NodeProto:
    return helper.make_node(
        op, list(inputs), list(outputs), f"{op}_{outputs[0] if outputs else ''}", domain=domain, **attrs
    )


def build(
    nodes: Sequence[onnx.NodeProto],
    *,
    inputs: Mapping[str, Sequence[int | str | None]],
    outputs: Sequence[str] = ("y",),
    constants: Mapping[str, Array | onnx.TensorProto] | None = None,
    opset: int = 17,
    types: Mapping[str, int] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> onnx.ModelProto:
    """A model; domains are imported as the nodes need them, and every input is float32 unless `types` says more."""
    kinds = dict(types or {})
    tensors = [
        value if isinstance(value, onnx.TensorProto) else numpy_helper.from_array(np.asarray(value), name)
        for name, value in (constants or {}).items()
    ]
    graph = helper.make_graph(
        list(nodes),
        "test",
        [helper.make_tensor_value_info(n, kinds.get(n, TensorProto.FLOAT), s) for n, s in inputs.items()],
        [helper.make_tensor_value_info(n, kinds.get(n, TensorProto.FLOAT), None) for n in outputs],
        tensors,
    )
    domains = {item.domain for item in nodes} - {""}
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in sorted(domains))]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10 if opset < 23 else 13)
    helper.set_model_props(model, dict(metadata or {}))
    return model


def low_bit(values: Array, elem_type: int, name: str) -> onnx.TensorProto:
    """An INT4, UINT4, INT2 or UINT2 initializer, packed by onnx itself."""
    return helper.make_tensor(name, elem_type, values.shape, values.reshape(-1).tolist())


def load(model: onnx.ModelProto, **options: Any) -> Source:
    return load_bytes(model.SerializeToString(), "test.onnx", **options)


def normalized(model: onnx.ModelProto, **options: Any) -> Normalized:
    return normalize(load(model, **options))


def canonical(result: Normalized, op: str) -> list[Any]:
    """The canonical quantizer nodes of one kind, in topological order."""
    return [item for item in result.graph.nodes if item.op == op]


def run_normalized(model: onnx.ModelProto, feeds: Mapping[str, Array], **options: Any) -> Array:
    """The first output by kwsq's own reading of the model."""
    return run_source(load(model, **options), feeds)


def run_source(source: Source, feeds: Mapping[str, Array]) -> Array:
    graph = import_graph(normalize(source).graph, source.opsets[""])
    return np.asarray(run_float(graph, dict(feeds))[graph.outputs[0]])


def run_onnxruntime(model: onnx.ModelProto, feeds: Mapping[str, Array]) -> Array:
    """The first output by ONNX Runtime with optimisations off."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    exact = as_run(model.SerializeToString())  # else sums of products saturate on processors without VNNI
    session = ort.InferenceSession(exact, options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, dict(feeds))[0])


def unstated(path: Path, folder: Path) -> Path:
    """Copy a model file into the folder without its metadata, as those were that stated no classes."""
    model = onnx.load(path)
    del model.metadata_props[:]
    onnx.save(model, folder / path.name)
    return folder / path.name
