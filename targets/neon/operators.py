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
from kwsq.targets.neon.padding import padding_scheme
from kwsq.targets.neon.program import Options, TensorRecord

ACTIVATION_CODE = {
    Activation.NONE: 0,
    Activation.RELU: 1,
    Activation.RELU_N1_TO_1: 2,
    Activation.RELU6: 3,
}


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """An operator with the tensors it is applied to, as they will be stored."""

    op: ir.LoweredOp
    inputs: tuple[TensorRecord, ...]
    outputs: tuple[TensorRecord, ...]

    @property
    def rank(self) -> int:
        """Largest number of dimensions of an input."""
        return max(len(tensor.shape) for tensor in self.inputs)

    @property
    def broadcasts(self) -> bool:
        """Whether the two inputs differ in shape."""
        return self.inputs[0].shape != self.inputs[1].shape


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


# ---- options ----


def _none(_: Call) -> Options:
    return Options()


def _empty(table: type) -> Callable[[Call], Options]:
    return lambda _: Options(table.UNION_CODE)  # type: ignore[attr-defined]  # every options class has it


def _conv_options(call: Call) -> Options:
    op, table = call.op, schema.Conv2DOptions
    assert isinstance(op, ir.Conv2D)
    kernel = call.inputs[1].shape[1:3]
    fields = {
        table.PADDING: _padding(call, (kernel[0], kernel[1]), op.stride, op.dilation, op.pads),
        table.STRIDE_W: op.stride[1],
        table.STRIDE_H: op.stride[0],
        table.FUSED_ACTIVATION_FUNCTION: ACTIVATION_CODE[op.activation],
        table.DILATION_W_FACTOR: op.dilation[1],
        table.DILATION_H_FACTOR: op.dilation[0],
    }
    return Options(table.UNION_CODE, fields)


def _depthwise_options(call: Call) -> Options:
    op, table = call.op, schema.DepthwiseConv2DOptions
    assert isinstance(op, ir.DepthwiseConv2D)
    kernel = call.inputs[1].shape[1:3]
    fields = {
        table.PADDING: _padding(call, (kernel[0], kernel[1]), op.stride, op.dilation, op.pads),
        table.STRIDE_W: op.stride[1],
        table.STRIDE_H: op.stride[0],
        table.DEPTH_MULTIPLIER: call.inputs[1].shape[3] // call.inputs[0].shape[3],
        table.FUSED_ACTIVATION_FUNCTION: ACTIVATION_CODE[op.activation],
        table.DILATION_W_FACTOR: op.dilation[1],
        table.DILATION_H_FACTOR: op.dilation[0],
    }
    return Options(table.UNION_CODE, fields)


def _pool_options(call: Call) -> Options:
    op, table = call.op, schema.Pool2DOptions
    assert isinstance(op, ir.AveragePool2D | ir.MaxPool2D)
    fields = {
        table.PADDING: _padding(call, op.kernel, op.stride, (1, 1), op.pads),
        table.STRIDE_W: op.stride[1],
        table.STRIDE_H: op.stride[0],
        table.FILTER_WIDTH: op.kernel[1],
        table.FILTER_HEIGHT: op.kernel[0],
    }
    return Options(table.UNION_CODE, fields)


def _padding(call: Call, kernel: ir.Pair, stride: ir.Pair, dilation: ir.Pair, pads: ir.Pads) -> int:
    height, width = call.inputs[0].shape[1:3]
    scheme = padding_scheme((height, width), kernel, stride, dilation, pads)
    assert scheme is not None, "legalize leaves only SAME and VALID"
    return scheme


def _dense_options(call: Call) -> Options:
    op, table = call.op, schema.FullyConnectedOptions
    assert isinstance(op, ir.FullyConnected)
    fields = {
        table.FUSED_ACTIVATION_FUNCTION: ACTIVATION_CODE[op.activation],
        table.KEEP_NUM_DIMS: _keeps_dims(call),
    }
    return Options(table.UNION_CODE, fields)


def _keeps_dims(call: Call) -> bool:
    return len(call.outputs[0].shape) != 2


def _activation_options(
    table: type[schema.AddOptions | schema.SubOptions | schema.MulOptions],
) -> Callable[[Call], Options]:
    def options(call: Call) -> Options:
        assert isinstance(call.op, ir.Add | ir.Sub | ir.Mul)
        return Options(table.UNION_CODE, {table.FUSED_ACTIVATION_FUNCTION: ACTIVATION_CODE[call.op.activation]})

    return options


def _reducer_options(call: Call) -> Options:
    assert isinstance(call.op, ir.Mean | ir.ReduceMax)
    return Options(schema.ReducerOptions.UNION_CODE, {schema.ReducerOptions.KEEP_DIMS: call.op.keepdims})


def _reshape_options(call: Call) -> Options:
    assert isinstance(call.op, ir.Reshape)
    return Options(
        schema.ReshapeOptions.UNION_CODE, {schema.ReshapeOptions.NEW_SHAPE: np.array(call.op.shape, np.int32)}
    )


def _concat_options(call: Call) -> Options:
    assert isinstance(call.op, ir.Concat)
    return Options(schema.ConcatenationOptions.UNION_CODE, {schema.ConcatenationOptions.AXIS: call.op.axis})


def _split_options(table: type[schema.SplitOptions | schema.SplitVOptions]) -> Callable[[Call], Options]:
    return lambda call: Options(table.UNION_CODE, {table.NUM_SPLITS: len(call.outputs)})


def _leaky_options(call: Call) -> Options:
    assert isinstance(call.op, ir.LeakyRelu)
    return Options(schema.LeakyReluOptions.UNION_CODE, {schema.LeakyReluOptions.ALPHA: call.op.alpha})


def _softmax_options(_: Call) -> Options:
    return Options(schema.SoftmaxOptions.UNION_CODE, {schema.SoftmaxOptions.BETA: 1.0})


def _slice_options(call: Call) -> Options:
    # A dimension taken whole is masked, so that the operator also runs on another batch size.
    assert isinstance(call.op, ir.StridedSlice)
    whole = [
        begin == 0 and end == size and step == 1
        for begin, end, step, size in zip(call.op.begin, call.op.end, call.op.step, call.inputs[0].shape, strict=True)
    ]
    mask = sum(1 << i for i, flag in enumerate(whole) if flag)
    table = schema.StridedSliceOptions
    return Options(table.UNION_CODE, {table.BEGIN_MASK: mask, table.END_MASK: mask})


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
    return 5 if _keeps_dims(call) else 4


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
    ir.Conv2D: (Row("CONV_2D", _conv_options, _conv_version, {3: "1.14.0", 6: "2.9.0", 7: "2.11.0"}),),
    ir.DepthwiseConv2D: (Row("DEPTHWISE_CONV_2D", _depthwise_options, _depthwise_version, {3: "1.14.0", 6: "2.11.0"}),),
    ir.FullyConnected: (
        Row("FULLY_CONNECTED", _dense_options, _dense_version, {4: "1.14.0", 5: "2.0.0", 6: "2.1.0", 10: "2.11.0"}),
    ),
    ir.BatchMatMul: (Row("BATCH_MATMUL", _empty(schema.BatchMatMulOptions), _fixed(2), {2: "2.3.0"}),),
    ir.Add: (Row("ADD", _activation_options(schema.AddOptions), _int8, {2: "1.14.0"}),),
    ir.Sub: (Row("SUB", _activation_options(schema.SubOptions), _broadcast_many_dims, {2: "1.14.0", 3: "2.3.0"}),),
    ir.Mul: (Row("MUL", _activation_options(schema.MulOptions), _mul_version, {2: "1.14.0", 3: "1.15.0"}),),
    ir.SquaredDifference: (Row("SQUARED_DIFFERENCE", _empty(schema.SquaredDifferenceOptions), _int8, {2: "2.5.0"}),),
    ir.Maximum: (
        Row("MAXIMUM", _empty(schema.MaximumMinimumOptions), _broadcast_many_dims, {2: "1.14.0", 3: "2.3.0"}),
    ),
    ir.Minimum: (
        Row("MINIMUM", _empty(schema.MaximumMinimumOptions), _broadcast_many_dims, {2: "1.14.0", 3: "2.3.0"}),
    ),
    ir.Rsqrt: (Row("RSQRT", _none, _int8, {2: "2.5.0"}),),
    ir.Abs: (Row("ABS", _empty(schema.AbsOptions), _int8, {2: "2.4.0"}),),
    ir.AveragePool2D: (Row("AVERAGE_POOL_2D", _pool_options, _int8, {2: "1.14.0"}),),
    ir.MaxPool2D: (Row("MAX_POOL_2D", _pool_options, _int8, {2: "1.14.0"}),),
    ir.Mean: (Row("MEAN", _reducer_options, _int8, {2: "1.14.0"}, _axes_operands),),
    ir.ReduceMax: (Row("REDUCE_MAX", _reducer_options, _int8, {2: "1.14.0"}, _axes_operands),),
    ir.Rectify: (
        Row("RELU", _none, _int8, {2: "2.1.0"}, applies=lambda op: op == ir.Rectify(Activation.RELU)),
        Row("RELU6", _none, _int8, {2: "1.14.0"}, applies=lambda op: op == ir.Rectify(Activation.RELU6)),
        Row(
            "RELU_N1_TO_1",
            _none,
            _fixed(1),
            {1: "1.5.0"},
            applies=lambda op: op == ir.Rectify(Activation.RELU_N1_TO_1),
        ),
    ),
    ir.LeakyRelu: (Row("LEAKY_RELU", _leaky_options, _fixed(1), {1: "1.13.1"}),),
    ir.PRelu: (Row("PRELU", _none, _fixed(1), {1: "1.8.0"}),),
    ir.Logistic: (Row("LOGISTIC", _none, _int8, {2: "1.14.0"}),),
    ir.Tanh: (Row("TANH", _none, _int8, {2: "1.14.0"}),),
    ir.HardSwish: (Row("HARD_SWISH", _empty(schema.HardSwishOptions), _fixed(1), {1: "1.15.0"}),),
    ir.Softmax: (Row("SOFTMAX", _softmax_options, _int8, {2: "1.14.0"}),),
    ir.Pad: (
        Row(
            "PAD",
            _empty(schema.PadOptions),
            _many_dims(2, 4),
            {1: "1.5.0", 2: "1.14.0", 4: "2.6.0"},
            _pad_operands,
            applies=lambda op: isinstance(op, ir.Pad) and op.value is None,
        ),
        Row(
            "PADV2",
            _empty(schema.PadV2Options),
            _many_dims(2, 4),
            {1: "1.9.0", 2: "1.14.0", 4: "2.6.0"},
            _pad_operands,
        ),
    ),
    ir.Reshape: (Row("RESHAPE", _reshape_options, _fixed(1), {1: "1.5.0"}),),
    ir.Transpose: (
        Row(
            "TRANSPOSE",
            _empty(schema.TransposeOptions),
            _many_dims(2, 4),
            {1: "1.6.0", 2: "1.14.0", 4: "2.3.0"},
            _transpose_operands,
        ),
    ),
    ir.Concat: (Row("CONCATENATION", _concat_options, _int8, {1: "1.5.0", 2: "1.14.0"}),),
    ir.StridedSlice: (
        Row(
            "STRIDED_SLICE",
            _slice_options,
            _many_dims(2, 4),
            {1: "1.6.0", 2: "1.14.0", 4: "2.2.0"},
            _slice_operands,
        ),
    ),
    ir.Split: (
        Row(
            "SPLIT",
            _split_options(schema.SplitOptions),
            _int8,
            {1: "1.5.0", 2: "1.14.0"},
            _split_operands,
            applies=lambda op: isinstance(op, ir.Split) and len(set(op.sizes)) == 1,
        ),
        Row("SPLIT_V", _split_options(schema.SplitVOptions), _int8, {1: "1.13.1", 2: "2.3.0"}, _split_v_operands),
    ),
    ir.Quantize: (Row("QUANTIZE", _empty(schema.QuantizeOptions), _fixed(1), {1: "1.14.0"}),),
    ir.Dequantize: (Row("DEQUANTIZE", _empty(schema.DequantizeOptions), _int8, {1: "1.13.1", 2: "1.14.0"}),),
}
"""Every lowered operator but Sum, which `legalize` rewrites."""
