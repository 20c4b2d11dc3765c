"""One function per lowered operator: derive the constants from the tensors' grids, then compute."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from kwsq.ir import lowered as ir
from kwsq.ir import numerics
from kwsq.ir.execute.call import Call, grid
from kwsq.ir.ops import Activation

Array = npt.NDArray[Any]
Results = tuple[Array, ...]


# ---- layers with weights ----


def _conv2d(call: Call) -> Results:
    op = call.op
    assert isinstance(op, ir.Conv2D)
    window = call.window(op.stride, op.dilation, op.pads)
    params = conv_params(call, op.activation)
    return (numerics.conv2d(call.codes(), call.codes(1), call.bias, params, window=window),)


def _depthwise_conv2d(call: Call) -> Results:
    op = call.op
    assert isinstance(op, ir.DepthwiseConv2D)
    window = call.window(op.stride, op.dilation, op.pads)
    params = conv_params(call, op.activation)
    return (numerics.depthwise_conv2d(call.codes(), call.codes(1), call.bias, params, window=window),)


def _fully_connected(call: Call) -> Results:
    op = call.op
    assert isinstance(op, ir.FullyConnected)
    return (numerics.fully_connected(call.codes(), call.codes(1), call.bias, dense_params(call, op.activation)),)


def _batch_matmul(call: Call) -> Results:
    a, b = call.source, grid(call.inputs[1])
    scale = numerics.effective_scale_matmul(a.scale, b.scale, call.target.scale)
    params = numerics.derive_fixed_point(scale, input_zero_point=a.zero_point, output_zero_point=call.target.zero_point)
    return (numerics.batch_matmul(call.codes(), call.codes(1), params, b_zero_point=b.zero_point),)


def dense_params(call: Call, activation: Activation) -> numerics.RealParams:
    """Returns the constants of FULLY_CONNECTED."""
    low, high = call.bounds(activation)
    return numerics.RealParams(call.source.zero_point, call.target.zero_point, _layer_scale(call), low, high)


def conv_params(call: Call, activation: Activation) -> numerics.FixedPointParams:
    """Returns the constants of CONV_2D and DEPTHWISE_CONV_2D."""
    low, high = call.bounds(activation)
    return numerics.derive_fixed_point(
        _layer_scale(call),
        input_zero_point=call.source.zero_point,
        output_zero_point=call.target.zero_point,
        low=low,
        high=high,
    )


def _layer_scale(call: Call) -> npt.NDArray[np.float64]:
    weight_scale = call.inputs[1].scale
    assert weight_scale is not None
    return numerics.effective_scale_conv(call.source.scale, weight_scale, call.target.scale)


# ---- two inputs ----


def _add(call: Call) -> Results:
    assert isinstance(call.op, ir.Add)
    low, high = call.bounds(call.op.activation)
    params = numerics.derive_add(call.source, grid(call.inputs[1]), call.target, low=low, high=high)
    return (numerics.add(call.codes(), call.codes(1), params),)


def _sub(call: Call) -> Results:
    assert isinstance(call.op, ir.Sub)
    low, high = call.bounds(call.op.activation)
    params = numerics.derive_sub(call.source, grid(call.inputs[1]), call.target, low=low, high=high)
    return (numerics.sub(call.codes(), call.codes(1), params),)


def _mul(call: Call) -> Results:
    assert isinstance(call.op, ir.Mul)
    low, high = call.bounds(call.op.activation)
    params = numerics.derive_mul(call.source, grid(call.inputs[1]), call.target, low=low, high=high)
    return (numerics.mul(call.codes(), call.codes(1), params),)


def _squared_difference(call: Call) -> Results:
    params = numerics.derive_squared_difference(call.source, grid(call.inputs[1]), call.target)
    return (numerics.squared_difference(call.codes(), call.codes(1), params),)


def _maximum(call: Call) -> Results:
    return (numerics.maximum(call.codes(), call.codes(1)),)


def _minimum(call: Call) -> Results:
    return (numerics.minimum(call.codes(), call.codes(1)),)


# ---- one input, one code at a time ----


def _rectify(call: Call) -> Results:
    assert isinstance(call.op, ir.Rectify)
    low, high = (None if np.isinf(bound) else bound for bound in call.op.activation.bounds)
    return _looked_up(call, numerics.relu_table(call.source, call.target, low=low, high=high))


def _leaky_relu(call: Call) -> Results:
    assert isinstance(call.op, ir.LeakyRelu)
    return _looked_up(call, numerics.leaky_relu_table(call.source, call.target, alpha=call.op.alpha))


def _prelu(call: Call) -> Results:
    params = numerics.derive_prelu(call.source, grid(call.inputs[1]), call.target)
    return (numerics.prelu(call.codes(), call.codes(1), params),)


def _logistic(call: Call) -> Results:
    return _looked_up(call, numerics.logistic_table(call.source, call.target))


def _tanh(call: Call) -> Results:
    return _looked_up(call, numerics.tanh_table(call.source, call.target))


def _hard_swish(call: Call) -> Results:
    return _looked_up(call, numerics.hard_swish_table(call.source, call.target))


def _abs(call: Call) -> Results:
    return _looked_up(call, numerics.abs_table(call.source, call.target))


def _rsqrt(call: Call) -> Results:
    return (numerics.rsqrt(call.codes(), numerics.derive_rsqrt(call.source, call.target)),)


def _looked_up(call: Call, table: Array) -> Results:
    return (numerics.look_up(call.codes(), table),)


def _softmax(call: Call) -> Results:
    return (numerics.softmax(call.codes(), numerics.derive_softmax(input_scale=call.source.scale)),)


def _quantize(call: Call) -> Results:
    x, target, is_unsigned = call.arrays[0], call.target, call.output.dtype is ir.DType.UINT8
    if call.inputs[0].dtype is ir.DType.FLOAT32:
        low, high = (0, 255) if is_unsigned else (-128, 127)
        codes = numerics.quantize(x, scale=target.scale, zero_point=target.zero_point, low=low, high=high)
        return (codes,)
    params = numerics.derive_requantize(call.source, target, target_is_unsigned=is_unsigned)
    if call.inputs[0].dtype is ir.DType.INT8 and not is_unsigned:
        return _looked_up(call, numerics.requantize_table(params))
    return (numerics.requantize(x, params),)


def _dequantize(call: Call) -> Results:
    source = call.source
    return (numerics.dequantize(call.arrays[0], scale=source.scale, zero_point=source.zero_point),)


# ---- windows and reductions ----


def _average_pool2d(call: Call) -> Results:
    op = call.op
    assert isinstance(op, ir.AveragePool2D)
    return (numerics.average_pool2d(call.codes(), kernel=op.kernel, window=call.window(op.stride, (1, 1), op.pads)),)


def _max_pool2d(call: Call) -> Results:
    op = call.op
    assert isinstance(op, ir.MaxPool2D)
    return (numerics.max_pool2d(call.codes(), kernel=op.kernel, window=call.window(op.stride, (1, 1), op.pads)),)


def _mean(call: Call) -> Results:
    op, x = call.op, call.codes()
    assert isinstance(op, ir.Mean)
    count = int(np.prod([x.shape[axis] for axis in op.axes]))
    params = numerics.derive_mean(call.source, call.target, count=count)
    return (numerics.mean(x, params, axis=op.axes, keepdims=op.keepdims),)


def _reduce_max(call: Call) -> Results:
    op = call.op
    assert isinstance(op, ir.ReduceMax)
    return (numerics.reduce_max(call.codes(), axis=op.axes, keepdims=op.keepdims),)


def _sum(call: Call) -> Results:
    op = call.op
    assert isinstance(op, ir.Sum)
    total = (call.codes().astype(np.int64) - call.source.zero_point).sum(axis=op.axes, keepdims=op.keepdims)
    codes = np.rint(total * (call.source.scale / call.target.scale)) + call.target.zero_point
    return (np.clip(codes, -128, 127).astype(np.int8),)


# ---- movement ----


def _pad(call: Call) -> Results:
    assert isinstance(call.op, ir.Pad)
    fill = call.target.zero_point if call.op.value is None else call.op.value
    return (numerics.pad(call.codes(), call.op.pads, zero_point=fill),)


def _reshape(call: Call) -> Results:
    return (call.arrays[0],)


def _transpose(call: Call) -> Results:
    assert isinstance(call.op, ir.Transpose)
    return (call.arrays[0].transpose(call.op.perm),)


def _concat(call: Call) -> Results:
    assert isinstance(call.op, ir.Concat)
    parts = [(codes, grid(tensor)) for codes, tensor in zip(call.arrays, call.inputs, strict=True)]
    return (numerics.concatenate(parts, axis=call.op.axis, output=call.target),)


def _strided_slice(call: Call) -> Results:
    op = call.op
    assert isinstance(op, ir.StridedSlice)
    x, declared = call.arrays[0], call.inputs[0].shape
    # A first dimension taken whole holds however many vectors there are.
    ends = [size if end == full else end for end, full, size in zip(op.end, declared, x.shape, strict=True)]
    return (x[tuple(slice(*part) for part in zip(op.begin, ends, op.step, strict=True))],)


def _split(call: Call) -> Results:
    op = call.op
    assert isinstance(op, ir.Split)
    return tuple(np.split(call.arrays[0], np.cumsum(op.sizes)[:-1], axis=op.axis))


Kernel = Callable[[Call], Results]
Kernels = Mapping[type[ir.LoweredOp], Kernel]

KERNELS: Kernels = {
    ir.Conv2D: _conv2d,
    ir.DepthwiseConv2D: _depthwise_conv2d,
    ir.FullyConnected: _fully_connected,
    ir.BatchMatMul: _batch_matmul,
    ir.Add: _add,
    ir.Sub: _sub,
    ir.Mul: _mul,
    ir.SquaredDifference: _squared_difference,
    ir.Maximum: _maximum,
    ir.Minimum: _minimum,
    ir.Rsqrt: _rsqrt,
    ir.Abs: _abs,
    ir.AveragePool2D: _average_pool2d,
    ir.MaxPool2D: _max_pool2d,
    ir.Mean: _mean,
    ir.ReduceMax: _reduce_max,
    ir.Sum: _sum,
    ir.Rectify: _rectify,
    ir.LeakyRelu: _leaky_relu,
    ir.PRelu: _prelu,
    ir.Logistic: _logistic,
    ir.Tanh: _tanh,
    ir.HardSwish: _hard_swish,
    ir.Softmax: _softmax,
    ir.Pad: _pad,
    ir.Reshape: _reshape,
    ir.Transpose: _transpose,
    ir.Concat: _concat,
    ir.StridedSlice: _strided_slice,
    ir.Split: _split,
    ir.Quantize: _quantize,
    ir.Dequantize: _dequantize,
}
"""Every lowered operator. Sum is the exact one: LiteRT's int8 kernel is wrong, so targets rewrite it (see legalize)."""
