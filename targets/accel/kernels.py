"""One function per operator code: the pack's integers into `kwsq.ir.numerics`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kwsq.ir import numerics
from kwsq.ir.numerics.linear import FixedPointParams, RealParams
from kwsq.targets.accel.format import ElementType, Section
from kwsq.targets.accel.records import Pack, PackLayer, PackOperator, PackTensor
from kwsq.targets.accel.validate_operators import TABLE_BYTES
from kwsq.targets.accel.weights import layer_biases, layer_codes, layer_multipliers, layer_scales
from kwsq.targets.machine import Opcode

Array = npt.NDArray[Any]
Results = tuple[Array, ...]
# The quantised range of exp in SOFTMAX: 5 integer bits, 26 fractional ones.
_SOFTMAX_RADIUS = 31 << 26


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """An operator about to be run.

    Args:
        pack: its pack.
        operator: its record.
        arrays: inputs, (vectors, *shape) each.
    """

    pack: Pack
    operator: PackOperator
    arrays: tuple[Array, ...]

    @property
    def attributes(self) -> tuple[int, ...]:
        """The operator's integers."""
        return self.operator.attributes

    def input(self, position: int = 0) -> PackTensor:
        """Returns the record of an input."""
        return self.pack.graph.tensors[self.operator.inputs[position]]

    @property
    def output(self) -> PackTensor:
        """The record of the first output."""
        return self.pack.graph.tensors[self.operator.outputs[0]]

    @property
    def layer(self) -> PackLayer:
        """The layer of an operator with weights."""
        return self.pack.graph.layers[self.attributes[0]]

    def pair(self) -> tuple[Array, Array]:
        """Returns two inputs with ones put between vectors and shape, so that shapes broadcast."""
        rank = max(array.ndim for array in self.arrays)
        a, b = (a.reshape(len(a), *(1,) * (rank - a.ndim), *a.shape[1:]) for a in self.arrays)
        return a, b


# ---- layers ----


def _fixed_point(run: Run) -> FixedPointParams:
    multipliers, shifts = layer_multipliers(run.layer, run.pack.sections)
    zero_points = (run.input().zero_point, run.output.zero_point)
    return FixedPointParams(*zero_points, multipliers, shifts, *run.attributes[1:3])


def _window(run: Run, geometry: tuple[int, ...]) -> numerics.Window:
    stride_height, stride_width, dilation_height, dilation_width, top, left = geometry
    _, height, width, _ = run.output.shape
    strides, dilations = (stride_height, stride_width), (dilation_height, dilation_width)
    return numerics.Window((height, width), strides, dilations, (top, left))


def _image(run: Run) -> Array:
    return run.arrays[0].reshape(-1, *run.input().shape[1:])


def _per_vector(run: Run, result: Array) -> Array:
    return result.reshape(len(run.arrays[0]), *run.output.shape)


def _conv(run: Run) -> Results:
    layer, sections = run.layer, run.pack.sections
    weights = layer_codes(layer, sections).reshape(layer.layout.rows, *layer.kernel, -1)
    window = _window(run, run.attributes[3:])
    result = numerics.conv2d(_image(run), weights, layer_biases(layer, sections), _fixed_point(run), window=window)
    return (_per_vector(run, result),)


def _depthwise(run: Run) -> Results:
    layer, sections = run.layer, run.pack.sections
    weights = np.ascontiguousarray(layer_codes(layer, sections).T).reshape(1, *layer.kernel, -1)
    window, params = _window(run, run.attributes[3:]), _fixed_point(run)
    result = numerics.depthwise_conv2d(_image(run), weights, layer_biases(layer, sections), params, window=window)
    return (_per_vector(run, result),)


def _dense(run: Run) -> Results:
    layer, sections = run.layer, run.pack.sections
    scales = layer_scales(layer, sections, run.input().scale, run.output.scale)
    effective = numerics.effective_scale_conv(run.input().scale, scales, run.output.scale)
    params = RealParams(run.input().zero_point, run.output.zero_point, effective, *run.attributes[1:])
    codes, biases = layer_codes(layer, sections), layer_biases(layer, sections)
    return (numerics.fully_connected(run.arrays[0], codes, biases, params),)


# ---- two operands ----


def _matmul(run: Run) -> Results:
    a, b = run.pair()
    multiplier, shift = (np.array([value], np.int32) for value in run.attributes)
    params = FixedPointParams(run.input().zero_point, run.output.zero_point, multiplier, shift)
    return (numerics.batch_matmul(a, b, params, b_zero_point=run.input(1).zero_point),)


def _sum(left_shift: int, compute: Callable[[Array, Array, numerics.SumParams], Array]) -> Callable[[Run], Results]:
    def kernel(run: Run) -> Results:
        a_multiplier, a_shift, b_multiplier, b_shift, *rest = run.attributes
        a = numerics.Operand(run.input(0).zero_point, a_multiplier, a_shift)
        b = numerics.Operand(run.input(1).zero_point, b_multiplier, b_shift)
        return (compute(*run.pair(), numerics.SumParams(left_shift, a, b, run.output.zero_point, *rest)),)

    return kernel


def _mul(run: Run) -> Results:
    zero_points = (run.input(0).zero_point, run.input(1).zero_point, run.output.zero_point)
    return (numerics.mul(*run.pair(), numerics.MulParams(*zero_points, *run.attributes)),)


def _maximum(run: Run) -> Results:
    return (numerics.maximum(*run.pair()),)


def _minimum(run: Run) -> Results:
    return (numerics.minimum(*run.pair()),)


def _prelu(run: Run) -> Results:
    zero_points = (run.input(0).zero_point, run.input(1).zero_point)
    identity, slope = (run.attributes[0], run.attributes[1]), (run.attributes[2], run.attributes[3])
    target = numerics.Grid(run.output.scale, run.output.zero_point)
    return (numerics.prelu(*run.pair(), numerics.PreluParams(*zero_points, target, identity, slope)),)


# ---- one operand ----


def _table(run: Run) -> Results:
    (codes,), (offset, lowest) = run.arrays, run.attributes
    if int(codes.min()) < lowest:
        raise ValueError(
            f"found the code {int(codes.min())}, expected at least {lowest}; the function has no value there"
        )
    data = run.pack.sections[Section.CONSTANTS][offset : offset + TABLE_BYTES]
    return (numerics.look_up(np.ascontiguousarray(codes), np.frombuffer(data, np.int8)),)


def _softmax(run: Run) -> Results:
    multiplier, left_shift = run.attributes
    params = numerics.SoftmaxParams(multiplier, left_shift, -(_SOFTMAX_RADIUS >> left_shift))
    return (numerics.softmax(run.arrays[0], params),)


def _requantize(run: Run) -> Results:
    low, high = (0, 255) if run.output.dtype is ElementType.UINT8 else (-128, 127)
    multiplier, shift = run.attributes
    zero_points = (run.input().zero_point, run.output.zero_point)
    params = numerics.RequantizeParams(*zero_points, multiplier, shift, low, high)
    return (numerics.requantize(run.arrays[0], params),)


def _quantize(run: Run) -> Results:
    target = run.output
    low, high = (0, 255) if target.dtype is ElementType.UINT8 else (-128, 127)
    x, zero_point = run.arrays[0], target.zero_point
    return (numerics.quantize(x, scale=target.scale, zero_point=zero_point, low=low, high=high),)


def _dequantize(run: Run) -> Results:
    source = run.input()
    return (numerics.dequantize(run.arrays[0], scale=source.scale, zero_point=source.zero_point),)


# ---- windows and reductions ----


def _pool(compute: Callable[..., Array]) -> Callable[[Run], Results]:
    def kernel(run: Run) -> Results:
        height, width, stride_height, stride_width, *before = run.attributes
        window = _window(run, (stride_height, stride_width, 1, 1, *before))
        return (_per_vector(run, compute(_image(run), kernel=(height, width), window=window)),)

    return kernel


def _axes(run: Run) -> tuple[int, ...]:
    mask = run.attributes[0]
    return tuple(1 + axis for axis in range(len(run.input().shape)) if mask >> axis & 1)


def _mean(run: Run) -> Results:
    axes = _axes(run)
    count = int(np.prod([run.arrays[0].shape[axis] for axis in axes]))
    zero_points = (run.input().zero_point, run.output.zero_point)
    params = numerics.MeanParams(count, *zero_points, *run.attributes[1:])
    return (numerics.mean(run.arrays[0], params, axis=axes, keepdims=False),)


def _reduce_max(run: Run) -> Results:
    return (numerics.reduce_max(run.arrays[0], axis=_axes(run), keepdims=False),)


# ---- movement ----


def _pad(run: Run) -> Results:
    value, before = run.attributes[0], run.attributes[1:]
    sizes = zip(before, run.input().shape, run.output.shape, strict=True)
    amounts = [(b, n - m - b) for b, m, n in sizes]
    return (numerics.pad(run.arrays[0], [(0, 0), *amounts], zero_point=value),)


def _reshape(run: Run) -> Results:
    return (run.arrays[0],)


def _transpose(run: Run) -> Results:
    return (run.arrays[0].transpose(0, *(1 + axis for axis in run.attributes)),)


def _concat(run: Run) -> Results:
    vectors = max(len(array) for array in run.arrays)
    parts = [np.broadcast_to(a, (vectors, *a.shape[1:])) for a in run.arrays]
    return (np.concatenate(parts, axis=1 + run.attributes[0]),)


def _slice(run: Run) -> Results:
    rank = len(run.input().shape)
    begin, step = run.attributes[:rank], run.attributes[rank:]
    parts = [slice(b, b + (n - 1) * s + 1, s) for b, s, n in zip(begin, step, run.output.shape, strict=True)]
    return (run.arrays[0][(slice(None), *parts)],)


def _split(run: Run) -> Results:
    axis = run.attributes[0]
    sizes = [run.pack.graph.tensors[i].shape[axis] for i in run.operator.outputs]
    return tuple(np.split(run.arrays[0], np.cumsum(sizes)[:-1], axis=1 + axis))


Kernel = Callable[[Run], Results]

KERNELS: Mapping[Opcode, Kernel] = {
    Opcode.CONV: _conv,
    Opcode.DEPTHWISE: _depthwise,
    Opcode.DENSE: _dense,
    Opcode.MATMUL: _matmul,
    Opcode.ADD: _sum(20, numerics.add),
    Opcode.SUB: _sum(20, numerics.sub),
    Opcode.SQUARED_DIFFERENCE: _sum(7, numerics.squared_difference),
    Opcode.MUL: _mul,
    Opcode.MAXIMUM: _maximum,
    Opcode.MINIMUM: _minimum,
    Opcode.PRELU: _prelu,
    Opcode.TABLE: _table,
    Opcode.SOFTMAX: _softmax,
    Opcode.AVERAGE_POOL: _pool(numerics.average_pool2d),
    Opcode.MAX_POOL: _pool(numerics.max_pool2d),
    Opcode.MEAN: _mean,
    Opcode.REDUCE_MAX: _reduce_max,
    Opcode.PAD: _pad,
    Opcode.RESHAPE: _reshape,
    Opcode.TRANSPOSE: _transpose,
    Opcode.CONCAT: _concat,
    Opcode.SLICE: _slice,
    Opcode.SPLIT: _split,
    Opcode.REQUANTIZE: _requantize,
    Opcode.QUANTIZE: _quantize,
    Opcode.DEQUANTIZE: _dequantize,
}
"""Every operator code."""
