"""Places of the fields kwsq writes in the TFLite schema's tables.

Kept here because importing the generated schema and packing its objects takes longer than converting a model;
tests/targets/neon/test_schema.py compares every number with the generated schema of ai-edge-litert.

Source: tensorflow/compiler/mlir/lite/schema/schema.fbs.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import ClassVar

from kwsq.targets.neon.schema_names import BUILTIN_OPERATORS, TENSOR_TYPES

FILE_IDENTIFIER = b"TFL3"
SCHEMA_VERSION = 3
SAME, VALID = 0, 1
TENSOR_TYPE = {name: code for code, (name, _) in enumerate(TENSOR_TYPES)}
BUILTIN_OPERATOR = {name: code for code, name in enumerate(BUILTIN_OPERATORS)}
LARGEST_DEPRECATED_CODE = 127
"""Operator codes were one signed byte; the old field then holds this placeholder."""


class Kind(Enum):
    """How a field lies in its table: the flatbuffers type name and its size in bytes."""

    OFFSET = ("UOffsetTRelative", 4)
    FLOAT32 = ("Float32", 4)
    INT32 = ("Int32", 4)
    UINT32 = ("Uint32", 4)
    INT8 = ("Int8", 1)
    UINT8 = ("Uint8", 1)
    BOOL = ("Bool", 1)

    @property
    def size_bytes(self) -> int:
        """Bytes in the table."""
        return self.value[1]


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a table.

    Args:
        slot: position in the vtable.
        kind: type.
        default: value that is not written.
    """

    slot: int
    kind: Kind
    default: float = 0


class Model:
    """Root table."""

    VERSION: ClassVar = Field(0, Kind.UINT32)
    OPERATOR_CODES: ClassVar = Field(1, Kind.OFFSET)
    SUBGRAPHS: ClassVar = Field(2, Kind.OFFSET)
    DESCRIPTION: ClassVar = Field(3, Kind.OFFSET)
    BUFFERS: ClassVar = Field(4, Kind.OFFSET)
    METADATA: ClassVar = Field(6, Kind.OFFSET)


class OperatorCode:
    """An operator and the version of its meaning."""

    DEPRECATED_BUILTIN_CODE: ClassVar = Field(0, Kind.INT8)
    CUSTOM_CODE: ClassVar = Field(1, Kind.OFFSET)
    VERSION: ClassVar = Field(2, Kind.INT32, 1)
    BUILTIN_CODE: ClassVar = Field(3, Kind.INT32)


class SubGraph:
    """Tensors and operators."""

    TENSORS: ClassVar = Field(0, Kind.OFFSET)
    INPUTS: ClassVar = Field(1, Kind.OFFSET)
    OUTPUTS: ClassVar = Field(2, Kind.OFFSET)
    OPERATORS: ClassVar = Field(3, Kind.OFFSET)


class Tensor:
    """A tensor."""

    SHAPE: ClassVar = Field(0, Kind.OFFSET)
    TYPE: ClassVar = Field(1, Kind.INT8)
    BUFFER: ClassVar = Field(2, Kind.UINT32)
    NAME: ClassVar = Field(3, Kind.OFFSET)
    QUANTIZATION: ClassVar = Field(4, Kind.OFFSET)


class QuantizationParameters:
    """Scales and zero points."""

    SCALE: ClassVar = Field(2, Kind.OFFSET)
    ZERO_POINT: ClassVar = Field(3, Kind.OFFSET)
    QUANTIZED_DIMENSION: ClassVar = Field(6, Kind.INT32)


class Operator:
    """An operator applied to tensors."""

    OPCODE_INDEX: ClassVar = Field(0, Kind.UINT32)
    INPUTS: ClassVar = Field(1, Kind.OFFSET)
    OUTPUTS: ClassVar = Field(2, Kind.OFFSET)
    BUILTIN_OPTIONS_TYPE: ClassVar = Field(3, Kind.UINT8)
    BUILTIN_OPTIONS: ClassVar = Field(4, Kind.OFFSET)


class Buffer:
    """Bytes of a constant or of a metadata entry."""

    DATA: ClassVar = Field(0, Kind.OFFSET)


class Metadata:
    """A named buffer."""

    NAME: ClassVar = Field(0, Kind.OFFSET)
    BUFFER: ClassVar = Field(1, Kind.UINT32)


class Conv2DOptions:
    """Options of CONV_2D."""

    UNION_CODE: ClassVar = 1
    PADDING: ClassVar = Field(0, Kind.INT8)
    STRIDE_W: ClassVar = Field(1, Kind.INT32)
    STRIDE_H: ClassVar = Field(2, Kind.INT32)
    FUSED_ACTIVATION_FUNCTION: ClassVar = Field(3, Kind.INT8)
    DILATION_W_FACTOR: ClassVar = Field(4, Kind.INT32, 1)
    DILATION_H_FACTOR: ClassVar = Field(5, Kind.INT32, 1)


class DepthwiseConv2DOptions:
    """Options of DEPTHWISE_CONV_2D."""

    UNION_CODE: ClassVar = 2
    PADDING: ClassVar = Field(0, Kind.INT8)
    STRIDE_W: ClassVar = Field(1, Kind.INT32)
    STRIDE_H: ClassVar = Field(2, Kind.INT32)
    DEPTH_MULTIPLIER: ClassVar = Field(3, Kind.INT32)
    FUSED_ACTIVATION_FUNCTION: ClassVar = Field(4, Kind.INT8)
    DILATION_W_FACTOR: ClassVar = Field(5, Kind.INT32, 1)
    DILATION_H_FACTOR: ClassVar = Field(6, Kind.INT32, 1)


class FullyConnectedOptions:
    """Options of FULLY_CONNECTED."""

    UNION_CODE: ClassVar = 8
    FUSED_ACTIVATION_FUNCTION: ClassVar = Field(0, Kind.INT8)
    KEEP_NUM_DIMS: ClassVar = Field(2, Kind.BOOL)


class Pool2DOptions:
    """Options of AVERAGE_POOL_2D and MAX_POOL_2D."""

    UNION_CODE: ClassVar = 5
    PADDING: ClassVar = Field(0, Kind.INT8)
    STRIDE_W: ClassVar = Field(1, Kind.INT32)
    STRIDE_H: ClassVar = Field(2, Kind.INT32)
    FILTER_WIDTH: ClassVar = Field(3, Kind.INT32)
    FILTER_HEIGHT: ClassVar = Field(4, Kind.INT32)
    FUSED_ACTIVATION_FUNCTION: ClassVar = Field(5, Kind.INT8)


class SoftmaxOptions:
    """Options of SOFTMAX."""

    UNION_CODE: ClassVar = 9
    BETA: ClassVar = Field(0, Kind.FLOAT32)


class ConcatenationOptions:
    """Options of CONCATENATION."""

    UNION_CODE: ClassVar = 10
    AXIS: ClassVar = Field(0, Kind.INT32)
    FUSED_ACTIVATION_FUNCTION: ClassVar = Field(1, Kind.INT8)


class AddOptions:
    """Options of ADD."""

    UNION_CODE: ClassVar = 11
    FUSED_ACTIVATION_FUNCTION: ClassVar = Field(0, Kind.INT8)


class SubOptions:
    """Options of SUB."""

    UNION_CODE: ClassVar = 28
    FUSED_ACTIVATION_FUNCTION: ClassVar = Field(0, Kind.INT8)


class MulOptions:
    """Options of MUL."""

    UNION_CODE: ClassVar = 21
    FUSED_ACTIVATION_FUNCTION: ClassVar = Field(0, Kind.INT8)


class ReshapeOptions:
    """Options of RESHAPE."""

    UNION_CODE: ClassVar = 17
    NEW_SHAPE: ClassVar = Field(0, Kind.OFFSET)


class ReducerOptions:
    """Options of MEAN, REDUCE_MAX and SUM."""

    UNION_CODE: ClassVar = 27
    KEEP_DIMS: ClassVar = Field(0, Kind.BOOL)


class StridedSliceOptions:
    """Options of STRIDED_SLICE."""

    UNION_CODE: ClassVar = 32
    BEGIN_MASK: ClassVar = Field(0, Kind.INT32)
    END_MASK: ClassVar = Field(1, Kind.INT32)


class SplitOptions:
    """Options of SPLIT."""

    UNION_CODE: ClassVar = 35
    NUM_SPLITS: ClassVar = Field(0, Kind.INT32)


class SplitVOptions:
    """Options of SPLIT_V."""

    UNION_CODE: ClassVar = 79
    NUM_SPLITS: ClassVar = Field(0, Kind.INT32)


class LeakyReluOptions:
    """Options of LEAKY_RELU."""

    UNION_CODE: ClassVar = 75
    ALPHA: ClassVar = Field(0, Kind.FLOAT32)


class BatchMatMulOptions:
    """Options of BATCH_MATMUL."""

    UNION_CODE: ClassVar = 101


class SquaredDifferenceOptions:
    """Options of SQUARED_DIFFERENCE."""

    UNION_CODE: ClassVar = 76


class MaximumMinimumOptions:
    """Options of MAXIMUM and MINIMUM."""

    UNION_CODE: ClassVar = 39


class AbsOptions:
    """Options of ABS."""

    UNION_CODE: ClassVar = 78


class PadOptions:
    """Options of PAD."""

    UNION_CODE: ClassVar = 22


class PadV2Options:
    """Options of PADV2."""

    UNION_CODE: ClassVar = 43


class TransposeOptions:
    """Options of TRANSPOSE."""

    UNION_CODE: ClassVar = 26


class QuantizeOptions:
    """Options of QUANTIZE."""

    UNION_CODE: ClassVar = 89


class DequantizeOptions:
    """Options of DEQUANTIZE."""

    UNION_CODE: ClassVar = 38


class HardSwishOptions:
    """Options of HARD_SWISH."""

    UNION_CODE: ClassVar = 91
