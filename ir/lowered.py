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
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from kwsq.ir.errors import InternalError, Problem
from kwsq.ir.graph import StatePair
from kwsq.ir.ops import Activation
from kwsq.ir.quant import FloatArray, IntArray

Shape = tuple[int, ...]
Pair = tuple[int, int]
Pads = tuple[Pair, Pair]
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


@dataclass(frozen=True, slots=True)
class Conv2D:
    """Convolution; inputs x, weight OHWI, bias int32. `pads` = ((top, bottom), (left, right)), filled with the zero point."""

    stride: Pair
    dilation: Pair
    pads: Pads
    activation: Activation = Activation.NONE
    name: ClassVar[str] = "Conv2D"


@dataclass(frozen=True, slots=True)
class DepthwiseConv2D:
    """Depthwise convolution; inputs x, weight 1HWO (O = C * multiplier), bias int32."""

    stride: Pair
    dilation: Pair
    pads: Pads
    activation: Activation = Activation.NONE
    name: ClassVar[str] = "DepthwiseConv2D"


@dataclass(frozen=True, slots=True)
class FullyConnected:
    """Dense layer over the last dimension; inputs x, weight OI, bias int32."""

    activation: Activation = Activation.NONE
    name: ClassVar[str] = "FullyConnected"


@dataclass(frozen=True, slots=True)
class BatchMatMul:
    """Product of two activations."""

    name: ClassVar[str] = "BatchMatMul"


@dataclass(frozen=True, slots=True)
class Add:
    """Broadcast sum of two inputs."""

    activation: Activation = Activation.NONE
    name: ClassVar[str] = "Add"


@dataclass(frozen=True, slots=True)
class Sub:
    """Broadcast difference of two inputs."""

    activation: Activation = Activation.NONE
    name: ClassVar[str] = "Sub"


@dataclass(frozen=True, slots=True)
class Mul:
    """Broadcast product of two inputs."""

    activation: Activation = Activation.NONE
    name: ClassVar[str] = "Mul"


@dataclass(frozen=True, slots=True)
class SquaredDifference:
    """Broadcast squared difference of two inputs."""

    name: ClassVar[str] = "SquaredDifference"


@dataclass(frozen=True, slots=True)
class Maximum:
    """Broadcast maximum of two inputs on one grid."""

    name: ClassVar[str] = "Maximum"


@dataclass(frozen=True, slots=True)
class Minimum:
    """Broadcast minimum of two inputs on one grid."""

    name: ClassVar[str] = "Minimum"


@dataclass(frozen=True, slots=True)
class Rsqrt:
    """Reciprocal square root."""

    name: ClassVar[str] = "Rsqrt"


@dataclass(frozen=True, slots=True)
class Abs:
    """Absolute value."""

    name: ClassVar[str] = "Abs"


@dataclass(frozen=True, slots=True)
class AveragePool2D:
    """Window mean, padding not counted; input and output share one grid."""

    kernel: Pair
    stride: Pair
    pads: Pads
    name: ClassVar[str] = "AveragePool2D"


@dataclass(frozen=True, slots=True)
class MaxPool2D:
    """Window maximum; input and output share one grid."""

    kernel: Pair
    stride: Pair
    pads: Pads
    name: ClassVar[str] = "MaxPool2D"


@dataclass(frozen=True, slots=True)
class Mean:
    """Mean over physical `axes`, with its own output grid."""

    axes: Shape
    keepdims: bool
    name: ClassVar[str] = "Mean"


@dataclass(frozen=True, slots=True)
class ReduceMax:
    """Maximum over physical `axes`; input and output share one grid."""

    axes: Shape
    keepdims: bool
    name: ClassVar[str] = "ReduceMax"


@dataclass(frozen=True, slots=True)
class Sum:
    """Sum over physical `axes`, with its own output grid."""

    axes: Shape
    keepdims: bool
    name: ClassVar[str] = "Sum"


@dataclass(frozen=True, slots=True)
class Rectify:
    """Stand-alone clamp (RELU, RELU6 or RELU_N1_TO_1), may requantise."""

    activation: Activation
    name: ClassVar[str] = "Rectify"


@dataclass(frozen=True, slots=True)
class LeakyRelu:
    """x for x >= 0, alpha * x below."""

    alpha: float
    name: ClassVar[str] = "LeakyRelu"


@dataclass(frozen=True, slots=True)
class PRelu:
    """x for x >= 0, slope * x below; second input is the int8 slope."""

    name: ClassVar[str] = "PRelu"


@dataclass(frozen=True, slots=True)
class Logistic:
    """Sigmoid; output grid fixed to scale 1/256, zero point -128."""

    name: ClassVar[str] = "Logistic"


@dataclass(frozen=True, slots=True)
class Tanh:
    """Hyperbolic tangent; output grid fixed to scale 1/128, zero point 0."""

    name: ClassVar[str] = "Tanh"


@dataclass(frozen=True, slots=True)
class HardSwish:
    """x * clip(x + 3, 0, 6) / 6."""

    name: ClassVar[str] = "HardSwish"


@dataclass(frozen=True, slots=True)
class Softmax:
    """Softmax over the last dimension; output grid fixed to scale 1/256, zero point -128."""

    name: ClassVar[str] = "Softmax"


@dataclass(frozen=True, slots=True)
class Pad:
    """Padding by (before, after) per dimension with the zero point, or with the constant code `value`."""

    pads: tuple[Pair, ...]
    value: int | None = None
    name: ClassVar[str] = "Pad"


@dataclass(frozen=True, slots=True)
class Reshape:
    """Row-major reshape."""

    shape: Shape
    name: ClassVar[str] = "Reshape"


@dataclass(frozen=True, slots=True)
class Transpose:
    """Permutation."""

    perm: Shape
    name: ClassVar[str] = "Transpose"


@dataclass(frozen=True, slots=True)
class Concat:
    """Concatenation of tensors on one grid."""

    axis: int
    name: ClassVar[str] = "Concat"


@dataclass(frozen=True, slots=True)
class StridedSlice:
    """x[begin:end:step]."""

    begin: Shape
    end: Shape
    step: Shape
    name: ClassVar[str] = "StridedSlice"


@dataclass(frozen=True, slots=True)
class Split:
    """Split along `axis` into parts of `sizes`."""

    axis: int
    sizes: Shape
    name: ClassVar[str] = "Split"


@dataclass(frozen=True, slots=True)
class Quantize:
    """Change of grid, or float32 to integer at the input boundary."""

    name: ClassVar[str] = "Quantize"


@dataclass(frozen=True, slots=True)
class Dequantize:
    """Integer to float32 at the output boundary."""

    name: ClassVar[str] = "Dequantize"


LoweredOp = (
    Conv2D
    | DepthwiseConv2D
    | FullyConnected
    | BatchMatMul
    | Add
    | Sub
    | Mul
    | SquaredDifference
    | Maximum
    | Minimum
    | Rsqrt
    | Abs
    | AveragePool2D
    | MaxPool2D
    | Mean
    | ReduceMax
    | Sum
    | Rectify
    | LeakyRelu
    | PRelu
    | Logistic
    | Tanh
    | HardSwish
    | Softmax
    | Pad
    | Reshape
    | Transpose
    | Concat
    | StridedSlice
    | Split
    | Quantize
    | Dequantize
)


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
