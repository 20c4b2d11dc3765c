"""Whether an operator's tensors and attributes fit each other."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from kwsq.targets.accel.format import MAX_COUNT, MAX_REACH, ElementType, Section
from kwsq.targets.accel.records import PackGraph, PackLayer, PackOperator, PackTensor, Shape
from kwsq.targets.accel.weights import layer_scales
from kwsq.targets.machine import MAX_ELEMENTS, MAX_MATMUL_DEPTH, MAX_SOFTMAX, Opcode

Sections = Mapping[Section, memoryview]
TABLE_BYTES = 256


@dataclass(frozen=True, slots=True)
class Use:
    """An operator with its tensors.

    Args:
        operator: record.
        inputs, outputs: its tensors.
        layer: its layer, None without weights.
        sections: of the pack.
    """

    operator: PackOperator
    inputs: tuple[PackTensor, ...]
    outputs: tuple[PackTensor, ...]
    layer: PackLayer | None
    sections: Sections

    @property
    def attributes(self) -> tuple[int, ...]:
        """The operator's integers."""
        return self.operator.attributes

    @property
    def x(self) -> PackTensor:
        """The first input."""
        return self.inputs[0]

    @property
    def y(self) -> PackTensor:
        """The first output."""
        return self.outputs[0]


def check_operator(operator: PackOperator, where: str, graph: PackGraph, sections: Sections) -> None:
    """Checks one operator.

    Raises:
        ValueError: "found ... in operator ..., expected ...".
    """
    rule = RULES[operator.code]
    counts = (len(operator.inputs), len(operator.outputs))
    fits = (counts[0] == rule.inputs or (rule.inputs < 0 < counts[0])) and (
        counts[1] == rule.outputs or (rule.outputs < 0 < counts[1])
    )
    if not fits:
        raise ValueError(f"found {counts[0]} inputs and {counts[1]} outputs in {where}, expected as many as it takes")
    use = _use(operator, graph, sections)
    wanted = rule.attributes if isinstance(rule.attributes, int) else rule.attributes(len(use.x.shape))
    if len(operator.attributes) != wanted:
        raise ValueError(f"found {len(operator.attributes)} attributes in {where}, expected {wanted}")
    typed = rule.types(use)
    if not typed or not rule.check(use):
        shapes = " ".join(str(list(tensor.shape)) for tensor in (*use.inputs, *use.outputs))
        found = f"{shapes} with {list(operator.attributes)} in {where}"
        raise ValueError(f"found {found}, expected tensors and attributes that fit each other")


def _use(operator: PackOperator, graph: PackGraph, sections: Sections) -> Use:
    inputs, outputs = (tuple(graph.tensors[i] for i in group) for group in (operator.inputs, operator.outputs))
    layer = graph.layers[operator.attributes[0]] if RULES[operator.code].has_layer else None
    return Use(operator, inputs, outputs, layer, sections)


def operator_work(operator: PackOperator, graph: PackGraph) -> int:
    """Returns how many element operations an operator takes, to bound what a file can ask for."""
    outputs = sum(graph.tensors[i].size for i in operator.outputs)
    inputs = sum(graph.tensors[i].size for i in operator.inputs)
    match operator.code:
        case Opcode.CONV | Opcode.DEPTHWISE | Opcode.DENSE:
            return outputs * graph.layers[operator.attributes[0]].layout.columns
        case Opcode.MATMUL:
            return outputs * graph.tensors[operator.inputs[0]].shape[-1]
        case Opcode.AVERAGE_POOL | Opcode.MAX_POOL:
            return outputs * operator.attributes[0] * operator.attributes[1]
        case _:
            return outputs + inputs


# ---- types ----


def _all_int8(use: Use) -> bool:
    return all(tensor.dtype is ElementType.INT8 for tensor in (*use.inputs, *use.outputs))


def _same_type(use: Use) -> bool:
    return use.x.dtype is use.y.dtype


def _both_integer(use: Use) -> bool:
    return ElementType.FLOAT32 not in (use.x.dtype, use.y.dtype)


def _from_float(use: Use) -> bool:
    return use.x.dtype is ElementType.FLOAT32 is not use.y.dtype


def _to_float(use: Use) -> bool:
    return use.x.dtype is not ElementType.FLOAT32 is use.y.dtype


# ---- parts of rules ----


def _is_scaling(multiplier: int, shift: int) -> bool:
    return multiplier >= 0 and -31 <= shift <= 31


def _is_clamp(low: int, high: int) -> bool:
    return -128 <= low <= high <= 127


def broadcast(a: Shape, b: Shape) -> Shape | None:
    """Returns the common shape of two operands, None when they have none."""
    rank = max(len(a), len(b))
    pairs = zip((1,) * (rank - len(a)) + a, (1,) * (rank - len(b)) + b, strict=True)
    result = tuple(max(m, n) if 1 in (m, n) or m == n else 0 for m, n in pairs)
    return None if 0 in result else result


def _same_shape(use: Use) -> bool:
    return use.x.shape == use.y.shape


def _broadcasts(use: Use) -> bool:
    return broadcast(use.x.shape, use.inputs[1].shape) == use.y.shape


def _kept_size(use: Use) -> int | None:
    """Returns the size of a reduction's output, None when its mask names axes that do not exist."""
    mask, shape = use.attributes[0], use.x.shape
    if not 0 <= mask < 1 << len(shape):
        return None
    return math.prod(n for axis, n in enumerate(shape) if not mask >> axis & 1)


def _in_limits(values: tuple[int, ...], low: int) -> bool:
    return all(low <= value <= MAX_REACH for value in values)


def _window_fits(use: Use, reach: tuple[int, int], stride: tuple[int, ...], before: tuple[int, ...]) -> bool:
    """Bounds the image that a window operator reads, its padding included."""
    extent = 1
    for axis in (0, 1):
        needed = (use.y.shape[1 + axis] - 1) * stride[axis] + reach[axis]
        extent *= max(use.x.shape[1 + axis] + before[axis], needed)
    return extent * use.x.shape[0] * use.x.shape[3] <= MAX_ELEMENTS


# ---- layers ----


def _has_scales(use: Use) -> bool:
    assert use.layer is not None, "checked by has_layer"
    scales = layer_scales(use.layer, use.sections, use.x.scale, use.y.scale)
    return bool(np.isfinite(scales).all() and (scales > 0).all())


def _window_layer(use: Use) -> bool:
    layer = use.layer
    assert layer is not None, "checked by has_layer"
    _, low, high, *geometry = use.attributes
    stride, dilation, before = tuple(geometry[:2]), tuple(geometry[2:4]), tuple(geometry[4:])
    if len(use.x.shape) != 4 or len(use.y.shape) != 4 or use.x.shape[0] != use.y.shape[0]:
        return False
    if not (_is_clamp(low, high) and _in_limits((*stride, *dilation, *layer.kernel), 1) and _in_limits(before, 0)):
        return False
    reach = tuple((k - 1) * d + 1 for k, d in zip(layer.kernel, dilation, strict=True))
    if max(reach) > MAX_REACH or layer.layout.rows != use.y.shape[3] or not _has_scales(use):
        return False
    return _window_fits(use, (reach[0], reach[1]), stride, before)


def _conv(use: Use) -> bool:
    if not _window_layer(use):
        return False
    assert use.layer is not None, "checked by has_layer"
    taps, columns, channels = math.prod(use.layer.kernel), use.layer.layout.columns, use.x.shape[3]
    depth = columns // taps
    if depth == 0 or columns % taps or channels % depth or use.y.shape[3] % (channels // depth):
        return False
    positions = math.prod(use.y.shape[:3])
    return positions * columns * (channels // depth) <= MAX_ELEMENTS


def _depthwise(use: Use) -> bool:
    if not _window_layer(use):
        return False
    assert use.layer is not None, "checked by has_layer"
    return use.layer.layout.columns == math.prod(use.layer.kernel) and use.y.shape[3] % use.x.shape[3] == 0


def _dense(use: Use) -> bool:
    layer = use.layer
    assert layer is not None, "checked by has_layer"
    shape = use.x.shape
    if not shape or layer.kernel != (1, 1) or not _is_clamp(*use.attributes[1:]):
        return False
    return shape[-1] == layer.layout.columns and use.y.shape == (*shape[:-1], layer.layout.rows) and _has_scales(use)


# ---- two operands ----


def _matmul(use: Use) -> bool:
    a, b, y = use.x.shape, use.inputs[1].shape, use.y.shape
    if min(len(a), len(b)) < 2 or a[-1] != b[-2] or a[-1] > MAX_MATMUL_DEPTH:
        return False
    leading = broadcast(a[:-2], b[:-2])
    return leading is not None and y == (*leading, a[-2], b[-1]) and _is_scaling(*use.attributes)


def _sum(use: Use) -> bool:
    a, b, y = use.attributes[0:2], use.attributes[2:4], use.attributes[4:6]
    scalings = all(_is_scaling(multiplier, shift) for multiplier, shift in (a, b, y))
    return scalings and _is_clamp(*use.attributes[6:]) and _broadcasts(use)


def _mul(use: Use) -> bool:
    return _is_scaling(*use.attributes[:2]) and _is_clamp(*use.attributes[2:]) and _broadcasts(use)


def _prelu(use: Use) -> bool:
    scalings = _is_scaling(*use.attributes[:2]) and _is_scaling(*use.attributes[2:])
    return scalings and _same_shape(use) and _broadcasts(use)


# ---- one operand ----


def _table(use: Use) -> bool:
    offset, lowest = use.attributes
    room = len(use.sections[Section.CONSTANTS])
    return 0 <= offset <= room - TABLE_BYTES and -128 <= lowest <= 127 and _same_shape(use)


def _softmax(use: Use) -> bool:
    multiplier, left_shift = use.attributes
    fits = bool(use.x.shape) and use.x.shape[-1] <= MAX_SOFTMAX
    return fits and _is_scaling(multiplier, left_shift) and left_shift >= 0 and _same_shape(use)


def _pool(use: Use) -> bool:
    kernel, stride, before = use.attributes[:2], use.attributes[2:4], use.attributes[4:]
    x, y = use.x.shape, use.y.shape
    if len(x) != 4 or len(y) != 4 or (x[0], x[3]) != (y[0], y[3]):
        return False
    if not _in_limits((*kernel, *stride), 1) or not _in_limits(before, 0) or math.prod(kernel) > MAX_COUNT:
        return False
    for axis in (0, 1):  # every window covers a pixel
        last = (y[1 + axis] - 1) * stride[axis] - before[axis]
        if before[axis] >= kernel[axis] or last >= x[1 + axis]:
            return False
    return _window_fits(use, (kernel[0], kernel[1]), stride, before)


def _mean(use: Use) -> bool:
    kept = _kept_size(use)
    if kept is None or kept != use.y.size:
        return False
    return use.x.size // kept <= MAX_COUNT and _is_scaling(*use.attributes[1:])


def _reduce_max(use: Use) -> bool:
    return _kept_size(use) == use.y.size


# ---- movement ----


def _pad(use: Use) -> bool:
    value, before = use.attributes[0], use.attributes[1:]
    if len(use.y.shape) != len(use.x.shape) or not -128 <= value <= 127:
        return False
    return all(0 <= b <= n - m for b, m, n in zip(before, use.x.shape, use.y.shape, strict=True))


def _reshape(use: Use) -> bool:
    return use.x.size == use.y.size


def _transpose(use: Use) -> bool:
    perm = use.attributes
    return sorted(perm) == list(range(len(perm))) and use.y.shape == tuple(use.x.shape[axis] for axis in perm)


def _along_axis(whole: PackTensor, parts: tuple[PackTensor, ...], axis: int) -> bool:
    shape = whole.shape
    if not 0 <= axis < len(shape) or any(len(part.shape) != len(shape) for part in parts):
        return False
    rest = shape[:axis] + shape[axis + 1 :]
    same = all(part.shape[:axis] + part.shape[axis + 1 :] == rest for part in parts)
    return same and sum(part.shape[axis] for part in parts) == shape[axis]


def _concat(use: Use) -> bool:
    return _along_axis(use.y, use.inputs, use.attributes[0])


def _split(use: Use) -> bool:
    return _along_axis(use.x, use.outputs, use.attributes[0])


def _slice(use: Use) -> bool:
    rank = len(use.x.shape)
    begin, step = use.attributes[:rank], use.attributes[rank:]
    if len(use.y.shape) != rank:
        return False
    sizes = zip(begin, step, use.x.shape, use.y.shape, strict=True)
    return all(b >= 0 and s >= 1 and b + (n - 1) * s < m for b, s, m, n in sizes)


def _requantize(use: Use) -> bool:
    return _is_scaling(*use.attributes) and _same_shape(use)


@dataclass(frozen=True, slots=True)
class Rule:
    """What one operator takes.

    Args:
        inputs, outputs: how many tensors; -1 for one or more.
        attributes: how many integers, or a function of the first input's rank.
        check: whether shapes and attributes fit.
        types: whether the element types fit.
        has_layer: whether the first attribute is the number of a layer.
    """

    inputs: int
    outputs: int
    attributes: int | Callable[[int], int]
    check: Callable[[Use], bool]
    types: Callable[[Use], bool] = _all_int8
    has_layer: bool = False


RULES: Mapping[Opcode, Rule] = {
    Opcode.CONV: Rule(1, 1, 9, _conv, has_layer=True),
    Opcode.DEPTHWISE: Rule(1, 1, 9, _depthwise, has_layer=True),
    Opcode.DENSE: Rule(1, 1, 3, _dense, has_layer=True),
    Opcode.MATMUL: Rule(2, 1, 2, _matmul),
    Opcode.ADD: Rule(2, 1, 8, _sum),
    Opcode.SUB: Rule(2, 1, 8, _sum),
    Opcode.SQUARED_DIFFERENCE: Rule(2, 1, 8, _sum),
    Opcode.MUL: Rule(2, 1, 4, _mul),
    Opcode.MAXIMUM: Rule(2, 1, 0, _broadcasts),
    Opcode.MINIMUM: Rule(2, 1, 0, _broadcasts),
    Opcode.PRELU: Rule(2, 1, 4, _prelu),
    Opcode.TABLE: Rule(1, 1, 2, _table),
    Opcode.SOFTMAX: Rule(1, 1, 2, _softmax),
    Opcode.AVERAGE_POOL: Rule(1, 1, 6, _pool),
    Opcode.MAX_POOL: Rule(1, 1, 6, _pool),
    Opcode.MEAN: Rule(1, 1, 3, _mean),
    Opcode.REDUCE_MAX: Rule(1, 1, 1, _reduce_max),
    Opcode.PAD: Rule(1, 1, lambda rank: 1 + rank, _pad),
    Opcode.RESHAPE: Rule(1, 1, 0, _reshape, _same_type),
    Opcode.TRANSPOSE: Rule(1, 1, lambda rank: rank, _transpose, _same_type),
    Opcode.CONCAT: Rule(-1, 1, 1, _concat),
    Opcode.SLICE: Rule(1, 1, lambda rank: 2 * rank, _slice),
    Opcode.SPLIT: Rule(1, -1, 1, _split),
    Opcode.REQUANTIZE: Rule(1, 1, 2, _requantize, _both_integer),
    Opcode.QUANTIZE: Rule(1, 1, 0, _same_shape, _from_float),
    Opcode.DEQUANTIZE: Rule(1, 1, 0, _same_shape, _to_float),
}
