"""The operators of a `.tflite` file: one row per LiteRT operator, chosen by the lowered operator's type.

A row says which operator it is, which version of it the operands need, what its options are and which constant
operands it takes. Adding an operator is one row, plus its options table in `schema` if that is new.

Source: versions and releases, LiteRT ``tools/versioning/op_version.cc`` and ``runtime_version.cc``; operand order,
each kernel's Prepare.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kwsq.ir import lowered as ir
from kwsq.ir.ops import Activation
from kwsq.targets.neon import schema
from kwsq.targets.neon.options import (
    Call,
    activation_options,
    concat_options,
    conv_options,
    dense_options,
    depthwise_options,
    empty_options,
    keeps_dims,
    leaky_options,
    no_options,
    pool_options,
    reducer_options,
    reshape_options,
    slice_options,
    softmax_options,
    split_options,
)
from kwsq.targets.neon.program import Options, TensorRecord

Operand = int | TensorRecord
"""Position among the node's inputs, or a constant kwsq adds."""


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """One LiteRT operator.

    Args:
        builtin: name in the schema's BuiltinOperator.
        options: options table of a call.
        version: version of a call.
        releases: version -> first TensorFlow Lite release with it.
        operands: operands of a call; the node's own inputs in order when None.
        applies: whether this row, among those of one lowered operator, fits; the first that does is taken.
    """

    builtin: str
    options: Callable[[Call], Options]
    version: Callable[[Call], int]
    releases: Mapping[int, str]
    operands: Callable[[Call], tuple[Operand, ...]] | None = None
    applies: Callable[[ir.LoweredOp], bool] = lambda op: True


def row_of(op: ir.LoweredOp) -> Row:
    """Returns the row that expresses `op`."""
    return next(row for row in ROWS[type(op)] if row.applies(op))


def _constant(values: npt.ArrayLike) -> TensorRecord:
    array = np.asarray(values, "<i4")
    return TensorRecord(array.shape, "INT32", data=array.tobytes())


# ---- constant operands ----


def _axes_operands(call: Call) -> tuple[Operand, ...]:
    assert isinstance(call.op, ir.Mean | ir.ReduceMax)
    return 0, _constant(call.op.axes)


def _pad_operands(call: Call) -> tuple[Operand, ...]:
    assert isinstance(call.op, ir.Pad)
    paddings = _constant(call.op.pads)
    if call.op.value is None:
        return 0, paddings
    x = call.inputs[0]
    code = np.array(call.op.value, np.int8).tobytes()
    return 0, paddings, TensorRecord((), x.type, data=code, scale=x.scale, zero_point=x.zero_point)


def _transpose_operands(call: Call) -> tuple[Operand, ...]:
    assert isinstance(call.op, ir.Transpose)
    return 0, _constant(call.op.perm)


def _slice_operands(call: Call) -> tuple[Operand, ...]:
    assert isinstance(call.op, ir.StridedSlice)
    return 0, _constant(call.op.begin), _constant(call.op.end), _constant(call.op.step)


def _split_operands(call: Call) -> tuple[Operand, ...]:
    assert isinstance(call.op, ir.Split)
    return _constant(call.op.axis), 0


def _split_v_operands(call: Call) -> tuple[Operand, ...]:
    assert isinstance(call.op, ir.Split)
    return 0, _constant(call.op.sizes), _constant(call.op.axis)


# ---- versions ----


def _fixed(number: int) -> Callable[[Call], int]:
    return lambda _: number


def _int8(call: Call) -> int:
    return 2 if call.inputs[0].type == "INT8" else 1


def _conv_version(call: Call) -> int:
    if call.inputs[1].type == "INT4":
        return 7
    grouped = isinstance(call.op, ir.Conv2D) and call.inputs[1].shape[3] != call.inputs[0].shape[3]
    return 6 if grouped else 3


def _depthwise_version(call: Call) -> int:
    # INT4 came with version 7, which ai-edge-litert 2.3.0 forgot to register for its reference kernels (6 is the
    # newest there); the kernels look at the tensor's type, not at the version.
    return 6 if call.inputs[1].type == "INT4" else 3


def _dense_version(call: Call) -> int:
    if call.inputs[1].type == "INT4":
        return 10
    if len(call.inputs) == 2:
        return 6
    return 5 if keeps_dims(call) else 4


def _mul_version(call: Call) -> int:
    a, b, y = (_scale(tensor) for tensor in (*call.inputs, call.outputs[0]))
    return 3 if a * b / y >= 1 else 2


def _scale(tensor: TensorRecord) -> np.float32:
    assert tensor.scale is not None
    return np.float32(tensor.scale[0])


def _many_dims(plain: int, beyond_four: int) -> Callable[[Call], int]:
    def version(call: Call) -> int:
        if call.rank > 4:
            return beyond_four
        return min(plain, _int8(call))

    return version


def _broadcast_many_dims(call: Call) -> int:
    return 3 if call.broadcasts and call.rank > 4 else _int8(call)


ROWS: Mapping[type[ir.LoweredOp], tuple[Row, ...]] = {
    ir.Conv2D: (Row("CONV_2D", conv_options, _conv_version, {3: "1.14.0", 6: "2.9.0", 7: "2.11.0"}),),
    ir.DepthwiseConv2D: (Row("DEPTHWISE_CONV_2D", depthwise_options, _depthwise_version, {3: "1.14.0", 6: "2.11.0"}),),
    ir.FullyConnected: (
        Row("FULLY_CONNECTED", dense_options, _dense_version, {4: "1.14.0", 5: "2.0.0", 6: "2.1.0", 10: "2.11.0"}),
    ),
    ir.BatchMatMul: (Row("BATCH_MATMUL", empty_options(schema.BatchMatMulOptions), _fixed(2), {2: "2.3.0"}),),
    ir.Add: (Row("ADD", activation_options(schema.AddOptions), _int8, {2: "1.14.0"}),),
    ir.Sub: (Row("SUB", activation_options(schema.SubOptions), _broadcast_many_dims, {2: "1.14.0", 3: "2.3.0"}),),
    ir.Mul: (Row("MUL", activation_options(schema.MulOptions), _mul_version, {2: "1.14.0", 3: "1.15.0"}),),
    ir.SquaredDifference: (
        Row("SQUARED_DIFFERENCE", empty_options(schema.SquaredDifferenceOptions), _int8, {2: "2.5.0"}),
    ),
    ir.Maximum: (
        Row("MAXIMUM", empty_options(schema.MaximumMinimumOptions), _broadcast_many_dims, {2: "1.14.0", 3: "2.3.0"}),
    ),
    ir.Minimum: (
        Row("MINIMUM", empty_options(schema.MaximumMinimumOptions), _broadcast_many_dims, {2: "1.14.0", 3: "2.3.0"}),
    ),
    ir.Rsqrt: (Row("RSQRT", no_options, _int8, {2: "2.5.0"}),),
    ir.Abs: (Row("ABS", empty_options(schema.AbsOptions), _int8, {2: "2.4.0"}),),
    ir.AveragePool2D: (Row("AVERAGE_POOL_2D", pool_options, _int8, {2: "1.14.0"}),),
    ir.MaxPool2D: (Row("MAX_POOL_2D", pool_options, _int8, {2: "1.14.0"}),),
    ir.Mean: (Row("MEAN", reducer_options, _int8, {2: "1.14.0"}, _axes_operands),),
    ir.ReduceMax: (Row("REDUCE_MAX", reducer_options, _int8, {2: "1.14.0"}, _axes_operands),),
    ir.Rectify: (
        Row("RELU", no_options, _int8, {2: "2.1.0"}, applies=lambda op: op == ir.Rectify(Activation.RELU)),
        Row("RELU6", no_options, _int8, {2: "1.14.0"}, applies=lambda op: op == ir.Rectify(Activation.RELU6)),
        Row(
            "RELU_N1_TO_1",
            no_options,
            _fixed(1),
            {1: "1.5.0"},
            applies=lambda op: op == ir.Rectify(Activation.RELU_N1_TO_1),
        ),
    ),
    ir.LeakyRelu: (Row("LEAKY_RELU", leaky_options, _fixed(1), {1: "1.13.1"}),),
    ir.PRelu: (Row("PRELU", no_options, _fixed(1), {1: "1.8.0"}),),
    ir.Logistic: (Row("LOGISTIC", no_options, _int8, {2: "1.14.0"}),),
    ir.Tanh: (Row("TANH", no_options, _int8, {2: "1.14.0"}),),
    ir.HardSwish: (Row("HARD_SWISH", empty_options(schema.HardSwishOptions), _fixed(1), {1: "1.15.0"}),),
    ir.Softmax: (Row("SOFTMAX", softmax_options, _int8, {2: "1.14.0"}),),
    ir.Pad: (
        Row(
            "PAD",
            empty_options(schema.PadOptions),
            _many_dims(2, 4),
            {1: "1.5.0", 2: "1.14.0", 4: "2.6.0"},
            _pad_operands,
            applies=lambda op: isinstance(op, ir.Pad) and op.value is None,
        ),
        Row(
            "PADV2",
            empty_options(schema.PadV2Options),
            _many_dims(2, 4),
            {1: "1.9.0", 2: "1.14.0", 4: "2.6.0"},
            _pad_operands,
        ),
    ),
    ir.Reshape: (Row("RESHAPE", reshape_options, _fixed(1), {1: "1.5.0"}),),
    ir.Transpose: (
        Row(
            "TRANSPOSE",
            empty_options(schema.TransposeOptions),
            _many_dims(2, 4),
            {1: "1.6.0", 2: "1.14.0", 4: "2.3.0"},
            _transpose_operands,
        ),
    ),
    ir.Concat: (Row("CONCATENATION", concat_options, _int8, {1: "1.5.0", 2: "1.14.0"}),),
    ir.StridedSlice: (
        Row(
            "STRIDED_SLICE",
            slice_options,
            _many_dims(2, 4),
            {1: "1.6.0", 2: "1.14.0", 4: "2.2.0"},
            _slice_operands,
        ),
    ),
    ir.Split: (
        Row(
            "SPLIT",
            split_options(schema.SplitOptions),
            _int8,
            {1: "1.5.0", 2: "1.14.0"},
            _split_operands,
            applies=lambda op: isinstance(op, ir.Split) and len(set(op.sizes)) == 1,
        ),
        Row("SPLIT_V", split_options(schema.SplitVOptions), _int8, {1: "1.13.1", 2: "2.3.0"}, _split_v_operands),
    ),
    ir.Quantize: (Row("QUANTIZE", empty_options(schema.QuantizeOptions), _fixed(1), {1: "1.14.0"}),),
    ir.Dequantize: (Row("DEQUANTIZE", empty_options(schema.DequantizeOptions), _int8, {1: "1.13.1", 2: "1.14.0"}),),
}
"""Every lowered operator but Sum, which `legalize` rewrites."""
