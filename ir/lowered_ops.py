"""Operators of the integer graph; see `kwsq.ir.lowered` for the dimension order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from kwsq.ir.ops import Activation

Shape = tuple[int, ...]
Pair = tuple[int, int]
Pads = tuple[Pair, Pair]


# Operators with equal attributes share a dataclass: generating methods for each would double the time of the import.


@dataclass(frozen=True, slots=True)
class _Plain:
    """An operator without attributes."""


@dataclass(frozen=True, slots=True)
class _Fused:
    """An operator with a clamp of its own."""

    activation: Activation = Activation.NONE


@dataclass(frozen=True, slots=True)
class _Convolution:
    """A window of weights."""

    stride: Pair
    dilation: Pair
    pads: Pads
    activation: Activation = Activation.NONE


@dataclass(frozen=True, slots=True)
class _Pool2D:
    """A window without weights."""

    kernel: Pair
    stride: Pair
    pads: Pads


@dataclass(frozen=True, slots=True)
class _Reduction:
    """What leaves dimensions out, or of size 1."""

    axes: Shape
    keepdims: bool


class Conv2D(_Convolution):
    """Convolution; inputs x, weight OHWI, bias int32. `pads` = ((top, bottom), (left, right)) of the zero point."""

    __slots__ = ()
    name: ClassVar[str] = "Conv2D"


class DepthwiseConv2D(_Convolution):
    """Depthwise convolution; inputs x, weight 1HWO (O = C * multiplier), bias int32."""

    __slots__ = ()
    name: ClassVar[str] = "DepthwiseConv2D"


class FullyConnected(_Fused):
    """Dense layer over the last dimension; inputs x, weight OI, bias int32."""

    __slots__ = ()
    name: ClassVar[str] = "FullyConnected"


class BatchMatMul(_Plain):
    """Product of two activations."""

    __slots__ = ()
    name: ClassVar[str] = "BatchMatMul"


class Add(_Fused):
    """Broadcast sum of two inputs."""

    __slots__ = ()
    name: ClassVar[str] = "Add"


class Sub(_Fused):
    """Broadcast difference of two inputs."""

    __slots__ = ()
    name: ClassVar[str] = "Sub"


class Mul(_Fused):
    """Broadcast product of two inputs."""

    __slots__ = ()
    name: ClassVar[str] = "Mul"


class SquaredDifference(_Plain):
    """Broadcast squared difference of two inputs."""

    __slots__ = ()
    name: ClassVar[str] = "SquaredDifference"


class Maximum(_Plain):
    """Broadcast maximum of two inputs on one grid."""

    __slots__ = ()
    name: ClassVar[str] = "Maximum"


class Minimum(_Plain):
    """Broadcast minimum of two inputs on one grid."""

    __slots__ = ()
    name: ClassVar[str] = "Minimum"


class Rsqrt(_Plain):
    """Reciprocal square root."""

    __slots__ = ()
    name: ClassVar[str] = "Rsqrt"


class Abs(_Plain):
    """Absolute value."""

    __slots__ = ()
    name: ClassVar[str] = "Abs"


class AveragePool2D(_Pool2D):
    """Window mean, padding not counted; input and output share one grid."""

    __slots__ = ()
    name: ClassVar[str] = "AveragePool2D"


class MaxPool2D(_Pool2D):
    """Window maximum; input and output share one grid."""

    __slots__ = ()
    name: ClassVar[str] = "MaxPool2D"


class Mean(_Reduction):
    """Mean over physical `axes`, with its own output grid."""

    __slots__ = ()
    name: ClassVar[str] = "Mean"


class ReduceMax(_Reduction):
    """Maximum over physical `axes`; input and output share one grid."""

    __slots__ = ()
    name: ClassVar[str] = "ReduceMax"


class Sum(_Reduction):
    """Sum over physical `axes`, with its own output grid."""

    __slots__ = ()
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


class PRelu(_Plain):
    """x for x >= 0, slope * x below; second input is the int8 slope."""

    __slots__ = ()
    name: ClassVar[str] = "PRelu"


class Logistic(_Plain):
    """Sigmoid; output grid fixed to scale 1/256, zero point -128."""

    __slots__ = ()
    name: ClassVar[str] = "Logistic"


class Tanh(_Plain):
    """Hyperbolic tangent; output grid fixed to scale 1/128, zero point 0."""

    __slots__ = ()
    name: ClassVar[str] = "Tanh"


class HardSwish(_Plain):
    """x * clip(x + 3, 0, 6) / 6."""

    __slots__ = ()
    name: ClassVar[str] = "HardSwish"


class Softmax(_Plain):
    """Softmax over the last dimension; output grid fixed to scale 1/256, zero point -128."""

    __slots__ = ()
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


class Quantize(_Plain):
    """Change of grid, or float32 to integer at the input boundary."""

    __slots__ = ()
    name: ClassVar[str] = "Quantize"


class Dequantize(_Plain):
    """Integer to float32 at the output boundary."""

    __slots__ = ()
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
