"""The options tables of the operators, from the lowered operators' attributes and their tensors' shapes.

Source: tensorflow/compiler/mlir/lite/schema/schema.fbs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

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


def no_options(_: Call) -> Options:
    """Returns no table."""
    return Options()


def empty_options(table: type) -> Callable[[Call], Options]:
    """Returns the function that gives a table without fields."""
    return lambda _: Options(table.UNION_CODE)  # type: ignore[attr-defined]  # every options class has it


def conv_options(call: Call) -> Options:
    """Returns the options of CONV_2D."""
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


def depthwise_options(call: Call) -> Options:
    """Returns the options of DEPTHWISE_CONV_2D."""
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


def pool_options(call: Call) -> Options:
    """Returns the options of a pool."""
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


def dense_options(call: Call) -> Options:
    """Returns the options of FULLY_CONNECTED."""
    op, table = call.op, schema.FullyConnectedOptions
    assert isinstance(op, ir.FullyConnected)
    fields = {
        table.FUSED_ACTIVATION_FUNCTION: ACTIVATION_CODE[op.activation],
        table.KEEP_NUM_DIMS: keeps_dims(call),
    }
    return Options(table.UNION_CODE, fields)


def keeps_dims(call: Call) -> bool:
    """Returns whether a dense layer keeps its leading dimensions instead of making a matrix of them."""
    return len(call.outputs[0].shape) != 2


def activation_options(
    table: type[schema.AddOptions | schema.SubOptions | schema.MulOptions],
) -> Callable[[Call], Options]:
    """Returns the function that gives a table with a fused activation only."""

    def options(call: Call) -> Options:
        assert isinstance(call.op, ir.Add | ir.Sub | ir.Mul)
        return Options(table.UNION_CODE, {table.FUSED_ACTIVATION_FUNCTION: ACTIVATION_CODE[call.op.activation]})

    return options


def reducer_options(call: Call) -> Options:
    """Returns the options of a reduction."""
    assert isinstance(call.op, ir.Mean | ir.ReduceMax)
    return Options(schema.ReducerOptions.UNION_CODE, {schema.ReducerOptions.KEEP_DIMS: call.op.keepdims})


def reshape_options(call: Call) -> Options:
    """Returns the options of RESHAPE."""
    assert isinstance(call.op, ir.Reshape)
    return Options(
        schema.ReshapeOptions.UNION_CODE, {schema.ReshapeOptions.NEW_SHAPE: np.array(call.op.shape, np.int32)}
    )


def concat_options(call: Call) -> Options:
    """Returns the options of CONCATENATION."""
    assert isinstance(call.op, ir.Concat)
    return Options(schema.ConcatenationOptions.UNION_CODE, {schema.ConcatenationOptions.AXIS: call.op.axis})


def split_options(table: type[schema.SplitOptions | schema.SplitVOptions]) -> Callable[[Call], Options]:
    """Returns the function that gives the options of a split."""
    return lambda call: Options(table.UNION_CODE, {table.NUM_SPLITS: len(call.outputs)})


def leaky_options(call: Call) -> Options:
    """Returns the options of LEAKY_RELU."""
    assert isinstance(call.op, ir.LeakyRelu)
    return Options(schema.LeakyReluOptions.UNION_CODE, {schema.LeakyReluOptions.ALPHA: call.op.alpha})


def softmax_options(_: Call) -> Options:
    """Returns the options of SOFTMAX."""
    return Options(schema.SoftmaxOptions.UNION_CODE, {schema.SoftmaxOptions.BETA: 1.0})


def slice_options(call: Call) -> Options:
    """Returns the options of STRIDED_SLICE."""
    # A dimension taken whole is masked, so that the operator also runs on another batch size.
    assert isinstance(call.op, ir.StridedSlice)
    whole = [
        begin == 0 and end == size and step == 1
        for begin, end, step, size in zip(call.op.begin, call.op.end, call.op.step, call.inputs[0].shape, strict=True)
    ]
    mask = sum(1 << i for i, flag in enumerate(whole) if flag)
    table = schema.StridedSliceOptions
    return Options(table.UNION_CODE, {table.BEGIN_MASK: mask, table.END_MASK: mask})
