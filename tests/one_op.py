"""Build one-operator ``.tflite`` models and run them with a chosen LiteRT kernel set.

    model = one_op_model("FULLY_CONNECTED", [x, w, b], [y], options=schema.FullyConnectedOptionsT())
    (result,) = run_model(model, [codes], kernels=KernelSet.REFERENCE)

Tensors with ``data`` become constants, the others graph inputs in the given order.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from numpy.typing import NDArray

_TENSOR_TYPES = {
    "int8": schema.TensorType.INT8,
    "uint8": schema.TensorType.UINT8,
    "int16": schema.TensorType.INT16,
    "int32": schema.TensorType.INT32,
    "float32": schema.TensorType.FLOAT32,
    "bool": schema.TensorType.BOOL,
}


class KernelSet(enum.Enum):
    """Which kernels run the model."""

    REFERENCE = OpResolverType.BUILTIN_REF
    BUILTIN = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    XNNPACK = OpResolverType.AUTO


@dataclass(frozen=True)
class TensorSpec:
    """One tensor of the model.

    Attributes:
        shape: dimensions.
        dtype: NumPy dtype name.
        scale: one scale, several (per channel along ``axis``), or None for no quantization.
        zero_point: one for all channels.
        axis: quantized dimension.
        data: constant contents, or None for an activation.
    """

    shape: tuple[int, ...]
    dtype: str = "int8"
    scale: float | Sequence[float] | None = None
    zero_point: int = 0
    axis: int = 0
    data: NDArray[Any] | None = None


def constant(array: NDArray[Any], scale: float | Sequence[float] | None = None, axis: int = 0) -> TensorSpec:
    """Return a constant tensor with the array's own shape and dtype."""
    return TensorSpec(array.shape, array.dtype.name, scale, 0, axis, array)


def _quantization(spec: TensorSpec) -> schema.QuantizationParametersT | None:
    if spec.scale is None:
        return None
    result = schema.QuantizationParametersT()
    result.scale = np.atleast_1d(np.asarray(spec.scale, dtype=np.float32))
    result.zeroPoint = np.full(result.scale.size, spec.zero_point, dtype=np.int64)
    result.quantizedDimension = spec.axis
    return result


def _tensor(spec: TensorSpec, index: int, buffers: list[schema.BufferT]) -> schema.TensorT:
    tensor = schema.TensorT()
    tensor.name = f"t{index}".encode()
    tensor.shape = np.asarray(spec.shape, dtype=np.int32)
    tensor.type = _TENSOR_TYPES[spec.dtype]
    tensor.quantization = _quantization(spec)
    if spec.data is not None:
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(np.ascontiguousarray(spec.data).tobytes(), dtype=np.uint8)
        buffers.append(buffer)
        tensor.buffer = len(buffers) - 1
    return tensor


def one_op_model(
    operator: str,
    inputs: Sequence[TensorSpec | None],
    outputs: Sequence[TensorSpec],
    *,
    options: Any = None,
    version: int = 1,
) -> bytes:
    """Return the bytes of a model with one operator.

    Args:
        operator: name in ``schema.BuiltinOperator``.
        inputs: operator inputs in order; None for an omitted optional one.
        outputs: operator outputs.
        options: ``schema.*OptionsT`` object, or None.
        version: operator version.
    """
    buffers = [schema.BufferT()]
    present = [spec for spec in inputs if spec is not None]
    tensors = [_tensor(spec, index, buffers) for index, spec in enumerate([*present, *outputs])]
    counter = iter(range(len(present)))
    op = schema.OperatorT()
    op.inputs = [-1 if spec is None else next(counter) for spec in inputs]
    op.outputs = list(range(len(present), len(tensors)))
    if options is not None:
        op.builtinOptionsType = getattr(schema.BuiltinOptions, type(options).__name__.removesuffix("T"))
        op.builtinOptions = options
    graph = schema.SubGraphT()
    graph.tensors, graph.operators = tensors, [op]
    graph.inputs = [index for index, spec in enumerate(present) if spec.data is None]
    graph.outputs = op.outputs
    return _pack(graph, operator, version, buffers)


def _pack(graph: schema.SubGraphT, operator: str, version: int, buffers: list[schema.BufferT]) -> bytes:
    code = schema.OperatorCodeT()
    code.builtinCode = getattr(schema.BuiltinOperator, operator)
    code.deprecatedBuiltinCode = min(code.builtinCode, 127)
    code.version = version
    model = schema.ModelT()
    model.version, model.subgraphs, model.operatorCodes, model.buffers = 3, [graph], [code], buffers
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def run_model(
    model: bytes, inputs: Sequence[NDArray[Any]], *, kernels: KernelSet = KernelSet.REFERENCE
) -> list[NDArray[Any]]:
    """Run the model once and return all outputs.

    Args:
        model: bytes of a ``.tflite`` file.
        inputs: one array per graph input, exact shape and dtype.
        kernels: kernel set.
    """
    interpreter = Interpreter(model_content=model, experimental_op_resolver_type=kernels.value, num_threads=1)
    interpreter.allocate_tensors()
    for detail, array in zip(interpreter.get_input_details(), inputs, strict=True):
        interpreter.set_tensor(detail["index"], array)
    interpreter.invoke()
    return [interpreter.get_tensor(detail["index"]) for detail in interpreter.get_output_details()]
