"""ONNX's own operator tests as models a static converter can be given.

The tests feed weights, axes and pads as graph inputs; here every input but the data becomes an initializer. Only the
files inside the installed onnx package are read, nothing is downloaded.

Source: onnx.backend.test (policy: every test in reach converts or is refused by name).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper
from onnx.backend.test.loader import load_model_tests

Array = NDArray[Any]

OPERATORS = frozenset(
    """
    Abs Add AveragePool BatchNormalization Clip Concat Conv ConvInteger Div Dropout Flatten GRU Gather Gemm
    GlobalAveragePool GlobalMaxPool HardSigmoid HardSwish Identity LSTM LayerNormalization LeakyRelu LogSoftmax MatMul
    MatMulInteger Max MaxPool Min Mul Neg PRelu Pad Pow QLinearConv QLinearMatMul Reciprocal ReduceMax ReduceMean
    ReduceSum Relu Reshape Sigmoid Slice Softmax Split Sqrt Squeeze Sub Sum Tanh Transpose Unsqueeze
    """.split()
)
"""What keyword spotters are made of, and what their exporters leave behind."""

COMPUTED = frozenset("Add Concat Div MatMul Max Min Mul QLinearMatMul Sub Sum".split())
"""Operators whose operands may all be data."""


@dataclass(frozen=True)
class NodeTest:
    """One operator test.

    Attributes:
        name: of the test; with the ending "[computed]" when every operand is data.
        model: frozen model.
        data: values of the data inputs by name.
        outputs: expected outputs by name.
    """

    name: str
    model: onnx.ModelProto
    data: dict[str, Array]
    outputs: dict[str, Array]


def node_tests() -> Iterator[NodeTest]:
    """Yield the tests in reach: one node, float32 or 8-bit tensors, data of rank 1 to 5 with elements.

    The mean and deviation outputs of LayerNormalization, which only training reads, are left out.
    """
    for test in load_model_tests(kind="node"):
        if test.model_dir is None or "_expanded" in test.name:
            continue
        folder = Path(test.model_dir)
        model = onnx.load(folder / "model.onnx")
        if model.graph.node and model.graph.node[0].op_type == "LayerNormalization":
            del model.graph.output[1:], model.graph.node[0].output[1:]
        if _in_reach(model):
            yield from _variants(test.name, model, folder / "test_data_set_0")


def exported_tests() -> Iterator[NodeTest]:
    """Yield the small networks and operators that PyTorch exported for opsets 6 to 9, brought to opset 13.

    Left out: models onnxruntime cannot run after that (slopes of PRelu were broadcast differently in opset 6).
    """
    for kind in ("pytorch-converted", "pytorch-operator"):
        for test in load_model_tests(kind=kind):
            assert test.model_dir is not None
            folder = Path(test.model_dir)
            model = _modern(onnx.load(folder / "model.onnx"))
            names = [value.name for value in model.graph.input]
            arrays = _arrays(folder / "test_data_set_0", "input", names)
            outputs = _arrays(folder / "test_data_set_0", "output", [value.name for value in model.graph.output])
            if _is_exported_in_reach(model, arrays, outputs):
                yield NodeTest(test.name, model, arrays, outputs)


def _modern(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model at opset 13, its initializers no longer listed as inputs, its nodes named."""
    model.ir_version = 10
    if model.opset_import[0].version < 13:
        model = onnx.version_converter.convert_version(model, 13)
    constants = {init.name for init in model.graph.initializer}
    for value in [value for value in model.graph.input if value.name in constants]:
        model.graph.input.remove(value)
    for number, node in enumerate(model.graph.node):
        node.name = node.name or f"{node.op_type.lower()}{number}"
    return model


def _is_exported_in_reach(model: onnx.ModelProto, arrays: dict[str, Array], outputs: dict[str, Array]) -> bool:
    values = [*arrays.values(), *outputs.values()]
    slopes = {init.name for init in model.graph.initializer if len(init.dims) == 1 and init.dims[0] > 1}
    if any(node.op_type == "PRelu" and node.input[1] in slopes for node in model.graph.node):
        return False
    return all(v.dtype == np.float32 and 1 <= v.ndim <= 5 and 0 < max(v.shape) <= 2**16 for v in values)


def _in_reach(model: onnx.ModelProto) -> bool:
    graph = model.graph
    if len(graph.node) != 1 or graph.node[0].op_type not in OPERATORS or not graph.input:
        return False
    values = [graph.input[0], *graph.output]
    types = {value.type.tensor_type.elem_type for value in values}
    ranks = [len(value.type.tensor_type.shape.dim) for value in values]
    is_empty = any(
        dim.HasField("dim_value") and not dim.dim_value for v in values for dim in v.type.tensor_type.shape.dim
    )
    is_quantized = graph.node[0].op_type.startswith("QLinear") or graph.node[0].op_type.endswith("Integer")
    allowed = {TensorProto.UINT8, TensorProto.INT8, TensorProto.INT32} if is_quantized else {TensorProto.FLOAT}
    return types <= allowed and not is_empty and ranks[0] >= 1 and max(ranks) <= 5


def _variants(name: str, model: onnx.ModelProto, folder: Path) -> Iterator[NodeTest]:
    arrays = _arrays(folder, "input", [value.name for value in model.graph.input])
    outputs = _arrays(folder, "output", [value.name for value in model.graph.output])
    names = list(arrays)
    yield _frozen(name, model, arrays, outputs, names[:1])
    # Scales and zero points of the QOperator format are scalars or vectors.
    ranks = 2 if model.graph.node[0].op_type.startswith("QLinear") else 1
    operands = [key for key in names if arrays[key].dtype == arrays[names[0]].dtype and arrays[key].ndim >= ranks]
    if model.graph.node[0].op_type in COMPUTED and len(operands) > 1:
        yield _frozen(f"{name}[computed]", model, arrays, outputs, operands)


def _arrays(folder: Path, kind: str, names: list[str]) -> dict[str, Array]:
    """Read test_data_set_0; an optional input without data has no file and no name."""
    arrays = {}
    for i, name in enumerate(names):
        proto = TensorProto.FromString((folder / f"{kind}_{i}.pb").read_bytes())
        arrays[name] = numpy_helper.to_array(proto)
    return arrays


def _frozen(
    name: str, model: onnx.ModelProto, arrays: dict[str, Array], outputs: dict[str, Array], data: list[str]
) -> NodeTest:
    frozen = onnx.ModelProto()
    frozen.CopyFrom(model)
    graph = frozen.graph
    graph.node[0].name = graph.node[0].op_type.lower()
    kept = [value for value in graph.input if value.name in data]
    constants = [numpy_helper.from_array(arrays[value.name], value.name) for value in graph.input if value not in kept]
    inputs = [onnx.ValueInfoProto.FromString(value.SerializeToString()) for value in kept]
    del graph.input[:]
    graph.input.extend(inputs)
    graph.initializer.extend(constants)
    return NodeTest(name, frozen, {key: arrays[key] for key in data}, outputs)
