"""The integer graph targets see: integer tensors, NHWC, no Q/DQ, batch norm or gain nodes.

Only `kwsq.passes.lower` builds one from a model; a target may legalise it into another. Dimension order is physical:
activations N, H, W, C (lower ranks keep their order), convolution weights O, H, W, I, depthwise weights 1, H, W, O,
dense weights O, I. Scales stay real (float32); `kwsq.ir.numerics` derives multipliers and shifts from them exactly as
the runtime does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from kwsq.ir.errors import InternalError, Problem
from kwsq.ir.graph import StatePair
from kwsq.ir.lowered_ops import (
    Abs,
    Add,
    AveragePool2D,
    BatchMatMul,
    Concat,
    Conv2D,
    DepthwiseConv2D,
    Dequantize,
    FullyConnected,
    HardSwish,
    LeakyRelu,
    Logistic,
    LoweredOp,
    Maximum,
    MaxPool2D,
    Mean,
    Minimum,
    Mul,
    Pad,
    Pads,
    Pair,
    PRelu,
    Quantize,
    Rectify,
    ReduceMax,
    Reshape,
    Rsqrt,
    Shape,
    Softmax,
    Split,
    SquaredDifference,
    StridedSlice,
    Sub,
    Sum,
    Tanh,
    Transpose,
)
from kwsq.ir.quant import FloatArray, IntArray

__all__ = [
    "Abs",
    "Add",
    "Array",
    "AveragePool2D",
    "BatchMatMul",
    "Concat",
    "Conv2D",
    "DType",
    "DepthwiseConv2D",
    "Dequantize",
    "FullyConnected",
    "HardSwish",
    "LeakyRelu",
    "Logistic",
    "LoweredGraph",
    "LoweredNode",
    "LoweredOp",
    "LoweredTensor",
    "MaxPool2D",
    "Maximum",
    "Mean",
    "Minimum",
    "Mul",
    "PRelu",
    "Pad",
    "Pads",
    "Pair",
    "Quantize",
    "Rectify",
    "ReduceMax",
    "Reshape",
    "Rsqrt",
    "Shape",
    "Softmax",
    "Split",
    "SquaredDifference",
    "StridedSlice",
    "Sub",
    "Sum",
    "Tanh",
    "Transpose",
    "verify",
]

Array = npt.NDArray[np.generic]


class DType(Enum):
    """Element type of a lowered tensor."""

    INT8 = "int8"
    UINT8 = "uint8"
    INT16 = "int16"
    INT32 = "int32"
    FLOAT32 = "float32"

    @property
    def numpy(self) -> np.dtype[np.generic]:
        """The NumPy type."""
        return np.dtype(self.value)

    @property
    def size_bytes(self) -> int:
        """Bytes per element."""
        return self.numpy.itemsize


@dataclass(frozen=True, slots=True, eq=False)
class LoweredTensor:
    """A tensor of integers (float32 only at the model boundary).

    Args:
        name: unique name.
        shape: physical shape.
        dtype: element type.
        data: constant data of `dtype`, read-only, or None.
        scale: (1,) or (C,) float32; None for tensors without a grid (shapes, float32).
        zero_point: shared by all channels.
        quantized_dimension: physical axis of a per-channel scale.
        bits: declared width of weight codes; 8 for activations, 32 for biases.
        levels: codebook levels when the codes are one of few, else None.
        origin: name of the source tensor.
        source_scale: weight scale as annotated, before folding, else None.
    """

    name: str
    shape: Shape
    dtype: DType
    data: Array | None = None
    scale: FloatArray | None = None
    zero_point: int = 0
    quantized_dimension: int = 0
    bits: int = 8
    levels: IntArray | None = None
    origin: str = ""
    source_scale: FloatArray | None = None

    @property
    def is_constant(self) -> bool:
        """Whether the tensor has data."""
        return self.data is not None

    @property
    def size(self) -> int:
        """Number of elements."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def size_bytes(self) -> int:
        """Bytes of the tensor in its container type."""
        return self.size * self.dtype.size_bytes


@dataclass(frozen=True, slots=True, eq=False)
class LoweredNode:
    """An integer operator on named tensors; `origins` are the names of the source nodes it stands for."""

    name: str
    op: LoweredOp
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    origins: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class LoweredGraph:
    """Topologically ordered integer nodes.

    Args:
        name: model name.
        nodes, tensors, inputs, outputs, states: as in `kwsq.ir.graph.Graph`, all physical.
    """

    name: str
    nodes: tuple[LoweredNode, ...]
    tensors: Mapping[str, LoweredTensor]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    states: tuple[StatePair, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.tensors, MappingProxyType):
            object.__setattr__(self, "tensors", MappingProxyType(dict(self.tensors)))

    def __getitem__(self, name: str) -> LoweredTensor:
        return self.tensors[name]


def verify(graph: LoweredGraph) -> None:
    """Checks that the graph is integer and well formed.

    Raises:
        InternalError: naming every tensor or node that breaks a rule.
    """
    problems = [p for tensor in graph.tensors.values() for p in _tensor_problems(graph, tensor)]
    defined = {t.name for t in graph.tensors.values() if t.is_constant} | set(graph.inputs)
    for node in graph.nodes:
        problems += [_problem(node.name, f"input {n!r} is not defined") for n in node.inputs if n and n not in defined]
        problems += [_problem(node.name, f"output {n!r} defined twice") for n in node.outputs if n in defined]
        defined.update(node.outputs)
    problems += [_problem("graph output", f"{n!r} is not computed") for n in graph.outputs if n not in defined]
    if problems:
        raise InternalError(problems, "integer graph rules broken")


def _tensor_problems(graph: LoweredGraph, tensor: LoweredTensor) -> list[Problem]:
    problems = []
    boundary = {*graph.inputs, *graph.outputs}
    if tensor.dtype is DType.FLOAT32 and tensor.name not in boundary:
        problems.append(_problem(tensor.name, "a float32 tensor inside the graph"))
    if tensor.dtype in (DType.INT8, DType.UINT8) and tensor.scale is None:
        problems.append(_problem(tensor.name, "an 8-bit tensor without a scale"))
    if tensor.scale is not None and not (np.isfinite(tensor.scale).all() and (tensor.scale > 0).all()):
        problems.append(_problem(tensor.name, "a scale that is not finite and positive"))
    if tensor.data is not None and (tensor.data.shape != tensor.shape or tensor.data.dtype != tensor.dtype.numpy):
        problems.append(_problem(tensor.name, f"{tensor.data.dtype} data of shape {tensor.data.shape}"))
    return problems


def _problem(where: str, found: str) -> Problem:
    return Problem(where, found, "a well-formed integer graph", "report this as a defect of kwsq")
