"""Operators of the integer graph; see `kwsq.ir.lowered` for the dimension order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from kwsq.ir.ops import Activation

Shape = tuple[int, ...]
Pair = tuple[int, int]
Pads = tuple[Pair, Pair]


@dataclass(frozen=True, slots=True)
class Conv2D:
    """Convolution; inputs x, weight OHWI, bias int32. `pads` = ((top, bottom), (left, right)) of the zero point."""

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
