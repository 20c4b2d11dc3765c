"""Operators of the float graph: a frozen dataclass per operator with its shape rule and its float32 meaning.

Logical dimension order is ONNX's: N, C, then spatial. Batch is an ordinary static dimension.
"""

from kwsq.ir.ops.activation import (
    Clip,
    HardSigmoid,
    HardSwish,
    LeakyRelu,
    LogSoftmax,
    PRelu,
    Relu,
    Sigmoid,
    Softmax,
    Tanh,
)
from kwsq.ir.ops.arithmetic import (
    Abs,
    Activation,
    Add,
    Div,
    Maximum,
    Minimum,
    Mul,
    Neg,
    Pow,
    Reciprocal,
    Rsqrt,
    Sqrt,
    SquaredDifference,
    Sub,
)
from kwsq.ir.ops.linear import BatchNorm, ChannelAffine, Conv, Dense, MatMul
from kwsq.ir.ops.movement import Concat, Pad, Reshape, Slice, Split, Transpose
from kwsq.ir.ops.pooling import AveragePool, MaxPool, Mean, ReduceMax, ReduceSum
from kwsq.ir.ops.quantization import FakeQuant

__all__ = [
    "Abs",
    "Activation",
    "Add",
    "AveragePool",
    "BatchNorm",
    "ChannelAffine",
    "Clip",
    "Concat",
    "Conv",
    "Dense",
    "Div",
    "FakeQuant",
    "HardSigmoid",
    "HardSwish",
    "LeakyRelu",
    "LogSoftmax",
    "MatMul",
    "MaxPool",
    "Maximum",
    "Mean",
    "Minimum",
    "Mul",
    "Neg",
    "PRelu",
    "Pad",
    "Pow",
    "Reciprocal",
    "ReduceMax",
    "ReduceSum",
    "Relu",
    "Reshape",
    "Rsqrt",
    "Sigmoid",
    "Slice",
    "Softmax",
    "Split",
    "Sqrt",
    "SquaredDifference",
    "Sub",
    "Tanh",
    "Transpose",
]
