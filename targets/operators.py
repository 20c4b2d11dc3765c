"""Lowered operator -> operator of the integer machine with its integer constants, all derived by `kwsq.ir.numerics`.

An operator on single int8 codes is a table of 256 entries, so that no reader needs its arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import numpy.typing as npt

from kwsq.ir import lowered as ir
from kwsq.ir import numerics
from kwsq.ir.execute.call import Call, grid
from kwsq.ir.execute.kernels import KERNELS
from kwsq.ir.lowered import DType
from kwsq.ir.ops import Activation
from kwsq.targets.machine import Opcode

Codes = npt.NDArray[np.int8]
LAYERS = (ir.Conv2D, ir.DepthwiseConv2D, ir.FullyConnected)


@dataclass(frozen=True, slots=True, eq=False)
class Description:
    """An operator of the machine without its tensors.

    Args:
        code: what it does.
        attributes: its integers; those of a layer follow the layer's number.
        table: its table, for `Opcode.TABLE`; the table's offset comes before the attributes.
    """

    code: Opcode
    attributes: tuple[int, ...] = ()
    table: Codes | None = None


Describe = Callable[[Call], Description]


def weight_rows(node: ir.LoweredNode, weight: ir.LoweredTensor) -> Codes:
    """Returns the codes of a layer as (output channels, weights per channel)."""
    assert weight.data is not None, f"{weight.name} is a constant"
    codes = np.asarray(weight.data, np.int8)
    if isinstance(node.op, ir.DepthwiseConv2D):
        return np.ascontiguousarray(codes.reshape(-1, codes.shape[-1]).T)
    return codes.reshape(codes.shape[0], -1)


def describe(call: Call) -> Description:
    """Returns the machine's form of a lowered operator.

    Args:
        call: operator and its tensors; their contents are not looked at.

    Raises:
        KernelRangeError: the scales are out of the arithmetic's range.
    """
    return ROWS[type(call.op)](call)


def _bounds(call: Call, activation: Activation) -> tuple[int, int]:
    return call.bounds(activation)


def _window(call: Call) -> Description:
    op = call.op
    assert isinstance(op, ir.Conv2D | ir.DepthwiseConv2D)
    code = Opcode.CONV if isinstance(op, ir.Conv2D) else Opcode.DEPTHWISE
    before = (op.pads[0][0], op.pads[1][0])
    return Description(code, (*_bounds(call, op.activation), *op.stride, *op.dilation, *before))


def _dense(call: Call) -> Description:
    assert isinstance(call.op, ir.FullyConnected)
    return Description(Opcode.DENSE, _bounds(call, call.op.activation))


def _matmul(call: Call) -> Description:
    a, b = call.source, grid(call.inputs[1])
    scale = numerics.effective_scale_matmul(a.scale, b.scale, call.target.scale)
    multiplier, shift = numerics.quantize_multiplier(float(scale[0]))
    return Description(Opcode.MATMUL, (multiplier, shift))


def _sum(code: Opcode, params: numerics.SumParams) -> Description:
    a, b = params.a, params.b
    operands = (a.multiplier_q31, a.shift, b.multiplier_q31, b.shift)
    return Description(code, (*operands, params.multiplier_q31, params.shift, params.low, params.high))


def _add(call: Call) -> Description:
    assert isinstance(call.op, ir.Add)
    low, high = _bounds(call, call.op.activation)
    params = numerics.derive_add(call.source, grid(call.inputs[1]), call.target, low=low, high=high)
    return _sum(Opcode.ADD, params)


def _sub(call: Call) -> Description:
    assert isinstance(call.op, ir.Sub)
    low, high = _bounds(call, call.op.activation)
    params = numerics.derive_sub(call.source, grid(call.inputs[1]), call.target, low=low, high=high)
    return _sum(Opcode.SUB, params)


def _squared_difference(call: Call) -> Description:
    params = numerics.derive_squared_difference(call.source, grid(call.inputs[1]), call.target)
    return _sum(Opcode.SQUARED_DIFFERENCE, params)


def _mul(call: Call) -> Description:
    assert isinstance(call.op, ir.Mul)
    low, high = _bounds(call, call.op.activation)
    params = numerics.derive_mul(call.source, grid(call.inputs[1]), call.target, low=low, high=high)
    return Description(Opcode.MUL, (params.multiplier_q31, params.shift, low, high))


def _prelu(call: Call) -> Description:
    params = numerics.derive_prelu(call.source, grid(call.inputs[1]), call.target)
    return Description(Opcode.PRELU, (*params.identity, *params.slope))


def _table(call: Call) -> Description:
    codes = np.arange(-128, 128, dtype=np.int8)
    (table,) = KERNELS[type(call.op)](replace(call, arrays=(codes,)))
    return Description(Opcode.TABLE, (-128,), cast(Codes, table))


def _rsqrt(call: Call) -> Description:
    params = numerics.derive_rsqrt(call.source, call.target)
    return Description(Opcode.TABLE, (params.input_zero_point,), params.table)


def _softmax(call: Call) -> Description:
    params = numerics.derive_softmax(input_scale=call.source.scale)
    return Description(Opcode.SOFTMAX, (params.multiplier_q31, params.left_shift))


def _pool(call: Call) -> Description:
    op = call.op
    assert isinstance(op, ir.AveragePool2D | ir.MaxPool2D)
    code = Opcode.AVERAGE_POOL if isinstance(op, ir.AveragePool2D) else Opcode.MAX_POOL
    return Description(code, (*op.kernel, *op.stride, op.pads[0][0], op.pads[1][0]))


def _axes_mask(axes: tuple[int, ...]) -> int:
    return sum(1 << axis for axis in set(axes))


def _mean(call: Call) -> Description:
    op, shape = call.op, call.inputs[0].shape
    assert isinstance(op, ir.Mean)
    count = int(np.prod([shape[axis] for axis in op.axes]))
    params = numerics.derive_mean(call.source, call.target, count=count)
    return Description(Opcode.MEAN, (_axes_mask(op.axes), params.multiplier_q31, params.shift))


def _reduce_max(call: Call) -> Description:
    assert isinstance(call.op, ir.ReduceMax)
    return Description(Opcode.REDUCE_MAX, (_axes_mask(call.op.axes),))


def _pad(call: Call) -> Description:
    assert isinstance(call.op, ir.Pad)
    value = call.target.zero_point if call.op.value is None else call.op.value
    return Description(Opcode.PAD, (value, *(before for before, _ in call.op.pads)))


def _transpose(call: Call) -> Description:
    assert isinstance(call.op, ir.Transpose)
    return Description(Opcode.TRANSPOSE, call.op.perm)


def _concat(call: Call) -> Description:
    assert isinstance(call.op, ir.Concat)
    return Description(Opcode.CONCAT, (call.op.axis,))


def _slice(call: Call) -> Description:
    assert isinstance(call.op, ir.StridedSlice)
    return Description(Opcode.SLICE, (*call.op.begin, *call.op.step))


def _split(call: Call) -> Description:
    assert isinstance(call.op, ir.Split)
    return Description(Opcode.SPLIT, (call.op.axis,))


def _quantize(call: Call) -> Description:
    source, target = call.inputs[0].dtype, call.output.dtype
    if source is DType.FLOAT32:
        return Description(Opcode.QUANTIZE)
    if source is DType.INT8 and target is DType.INT8:
        return _table(call)
    params = numerics.derive_requantize(call.source, call.target, target_is_unsigned=target is DType.UINT8)
    return Description(Opcode.REQUANTIZE, (params.multiplier_q31, params.shift))


def _plain(code: Opcode) -> Describe:
    return lambda call: Description(code)


ROWS: Mapping[type[ir.LoweredOp], Describe] = {
    ir.Conv2D: _window,
    ir.DepthwiseConv2D: _window,
    ir.FullyConnected: _dense,
    ir.BatchMatMul: _matmul,
    ir.Add: _add,
    ir.Sub: _sub,
    ir.Mul: _mul,
    ir.SquaredDifference: _squared_difference,
    ir.Maximum: _plain(Opcode.MAXIMUM),
    ir.Minimum: _plain(Opcode.MINIMUM),
    ir.Rsqrt: _rsqrt,
    ir.Abs: _table,
    ir.AveragePool2D: _pool,
    ir.MaxPool2D: _pool,
    ir.Mean: _mean,
    ir.ReduceMax: _reduce_max,
    ir.Rectify: _table,
    ir.LeakyRelu: _table,
    ir.PRelu: _prelu,
    ir.Logistic: _table,
    ir.Tanh: _table,
    ir.HardSwish: _table,
    ir.Softmax: _softmax,
    ir.Pad: _pad,
    ir.Reshape: _plain(Opcode.RESHAPE),
    ir.Transpose: _transpose,
    ir.Concat: _concat,
    ir.StridedSlice: _slice,
    ir.Split: _split,
    ir.Quantize: _quantize,
    ir.Dequantize: _plain(Opcode.DEQUANTIZE),
}
"""Every lowered operator but Sum, which `kwsq.targets.sum_as_layer` rewrites."""
