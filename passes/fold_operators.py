"""NumPy meanings of the ONNX operators that constants go through, default domain, opsets 7 to 25.

Every function checks the size of its result before it allocates; a file of a few bytes can ask for terabytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto

from kwsq.passes.decode import MAX_DIM, MAX_ELEMENTS, MAX_RANK, Array


class FoldError(ValueError):
    """The constants of a node do not fit its operator."""


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """One application of an operator to constants.

    Args:
        inputs: arrays; None for an absent optional input.
        attrs: attributes as Python values.
        opset: version of the default domain.
    """

    inputs: Sequence[Array | None]
    attrs: Mapping[str, object]
    opset: int

    def array(self, index: int) -> Array:
        """Returns a required input."""
        value = self.optional(index)
        if value is None:
            raise FoldError(f"input {index} is missing")
        return value

    def optional(self, index: int) -> Array | None:
        """Returns an optional input, None when absent."""
        return self.inputs[index] if index < len(self.inputs) else None

    def integer(self, name: str, default: int) -> int:
        """Returns an integer attribute."""
        value = self.attrs.get(name, default)
        if not isinstance(value, int):
            raise FoldError(f"attribute {name!r} is not an integer")
        return value

    def integers(self, name: str, index: int) -> list[int] | None:
        """Returns a list that newer opsets take as input `index` and older ones as an attribute."""
        value = self.optional(index)
        if value is not None:
            return [int(item) for item in value.reshape(-1)]
        listed = self.attrs.get(name)
        if listed is None:
            return None
        if not isinstance(listed, list) or not all(isinstance(item, int) for item in listed):
            raise FoldError(f"attribute {name!r} is not a list of integers")
        return listed


def bounded(shape: Sequence[int]) -> tuple[int, ...]:
    """Returns `shape` if a tensor of it may be computed.

    Raises:
        FoldError: it has too many dimensions or elements.
    """
    if len(shape) > MAX_RANK or any(not 0 <= dim <= MAX_ELEMENTS for dim in shape) or math.prod(shape) > MAX_ELEMENTS:
        raise FoldError(f"a result of shape {list(shape)[: MAX_RANK + 3]} is too large")
    if len(shape) > 1 and any(dim > MAX_DIM for dim in shape):
        raise FoldError(f"a result of shape {list(shape)} is too large")
    return tuple(shape)


def _elementwise(function: Callable[..., Array]) -> Callable[[Call], Array]:
    def apply(call: Call) -> Array:
        arrays = [call.array(i) for i in range(len(call.inputs))]
        bounded(np.broadcast_shapes(*(array.shape for array in arrays)))
        return function(*arrays)

    return apply


def _variadic(function: Callable[[Array, Array], Array]) -> Callable[[Call], Array]:
    def apply(call: Call) -> Array:
        result = call.array(0)
        for i in range(1, len(call.inputs)):
            bounded(np.broadcast_shapes(result.shape, call.array(i).shape))
            result = function(result, call.array(i))
        return result

    return apply


def _divide(a: Array, b: Array) -> Array:
    if a.dtype.kind == "f":
        return np.divide(a, b)
    if not np.all(b):
        raise FoldError("an integer division by zero")
    # ONNX divides integers like C: towards zero; NumPy's floor division differs for negative quotients.
    quotient = np.abs(a) // np.abs(b)
    return np.asarray(np.where((a < 0) != (b < 0), -quotient, quotient), a.dtype)


def _select(condition: Array, a: Array, b: Array) -> Array:
    return np.asarray(np.where(condition.astype(bool), a, b))


def _power(a: Array, b: Array) -> Array:
    return np.asarray(np.power(a.astype(np.float64), b.astype(np.float64)), a.dtype)


def _clip(call: Call) -> Array:
    x = call.array(0)
    if call.opset < 11:
        low, high = call.attrs.get("min"), call.attrs.get("max")
    else:
        low, high = call.optional(1), call.optional(2)
    for bound, function in ((low, np.maximum), (high, np.minimum)):
        if bound is not None:
            value = np.asarray(bound)
            if value.size != 1:
                raise FoldError("a clip bound that is not a scalar")
            x = function(x, value.reshape(()).astype(x.dtype))
    return x


def _cast(call: Call) -> Array:
    elem_type = call.integer("to", 0)
    if elem_type not in _CAST_TARGETS:
        raise FoldError(f"a cast to element type {elem_type}")
    return call.array(0).astype(onnx.helper.tensor_dtype_to_np_dtype(elem_type))


def _cast_like(call: Call) -> Array:
    return call.array(0).astype(call.array(1).dtype)


_CAST_TARGETS = frozenset(
    {
        TensorProto.FLOAT,
        TensorProto.DOUBLE,
        TensorProto.FLOAT16,
        TensorProto.INT8,
        TensorProto.UINT8,
        TensorProto.INT16,
        TensorProto.UINT16,
        TensorProto.INT32,
        TensorProto.INT64,
        TensorProto.BOOL,
    }
)


def _reduce(function: Callable[..., Array]) -> Callable[[Call], Array]:
    def apply(call: Call) -> Array:
        x = call.array(0)
        axes = call.integers("axes", 1)
        if not axes:
            if call.integer("noop_with_empty_axes", 0):
                return x
            axes = list(range(x.ndim))
        axis = tuple(sorted({_axis(a, x.ndim) for a in axes}))
        result = function(x, axis=axis, keepdims=bool(call.integer("keepdims", 1)))
        return np.asarray(result, x.dtype)

    return apply


def _axis(axis: int, rank: int) -> int:
    if not -rank <= axis < rank:
        raise FoldError(f"axis {axis} of a tensor with {rank} dimensions")
    return axis % rank


def _reshape(call: Call) -> Array:
    x = call.array(0)
    target = [int(dim) for dim in call.array(1).reshape(-1)]
    if len(target) > MAX_RANK:
        raise FoldError(f"a reshape to {len(target)} dimensions")
    if not call.integer("allowzero", 0):
        if any(dim == 0 and i >= x.ndim for i, dim in enumerate(target)):
            raise FoldError(f"a reshape of {list(x.shape)} to {target}")
        target = [x.shape[i] if dim == 0 else dim for i, dim in enumerate(target)]
    return x.reshape(target)


def _flatten(call: Call) -> Array:
    x, axis = call.array(0), call.integer("axis", 1)
    if not -x.ndim <= axis <= x.ndim:
        raise FoldError(f"axis {axis} of a tensor with {x.ndim} dimensions")
    rows = math.prod(x.shape[:axis])
    return x.reshape(rows, -1) if rows and x.size else x.reshape(rows, x.size)


def _squeeze(call: Call) -> Array:
    x, axes = call.array(0), call.integers("axes", 1)
    return np.squeeze(x) if axes is None else np.squeeze(x, tuple(_axis(a, x.ndim) for a in axes))


def _unsqueeze(call: Call) -> Array:
    x, axes = call.array(0), call.integers("axes", 1)
    if axes is None or x.ndim + len(axes) > MAX_RANK:
        raise FoldError("an unsqueeze without axes or to too many dimensions")
    return np.expand_dims(x, tuple(_axis(a, x.ndim + len(axes)) for a in axes))


def _transpose(call: Call) -> Array:
    x = call.array(0)
    perm = call.integers("perm", len(call.inputs))
    if perm is not None and sorted(perm) != list(range(x.ndim)):
        raise FoldError(f"a permutation {perm} of {x.ndim} dimensions")
    return np.transpose(x, perm)


def _gather(call: Call) -> Array:
    x, indices = call.array(0), call.array(1)
    axis = _axis(call.integer("axis", 0), x.ndim)
    if indices.dtype.kind not in "iu":
        raise FoldError("indices that are not integers")
    bounded((*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]))
    return np.take(x, indices.astype(np.int64), axis=axis)


def _concat(call: Call) -> Array:
    arrays = [call.array(i) for i in range(len(call.inputs))]
    if not arrays or sum(array.size for array in arrays) > MAX_ELEMENTS:
        raise FoldError("a concatenation of nothing or of too much")
    return np.concatenate(arrays, _axis(call.integer("axis", 1 if call.opset < 4 else 0), arrays[0].ndim))


def _slice(call: Call) -> Array:
    x = call.array(0)
    starts, ends = call.integers("starts", 1), call.integers("ends", 2)
    if starts is None or ends is None or len(starts) != len(ends):
        raise FoldError("starts and ends that do not match")
    axes = call.integers("axes", 3) or list(range(len(starts)))
    steps = call.integers("steps", 4) or [1] * len(starts)
    where = [slice(None)] * x.ndim
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        # An end below -size with a negative step means "to the very first", which Python spells None.
        stop = None if step < 0 and end < -x.shape[_axis(axis, x.ndim)] else end
        where[_axis(axis, x.ndim)] = slice(start, stop, step)
    return x[tuple(where)]


def _constant_of_shape(call: Call) -> Array:
    shape = bounded([int(dim) for dim in call.array(0).reshape(-1)])
    value = call.attrs.get("value")
    filler = np.asarray(value if value is not None else np.float32(0)).reshape(-1)
    if filler.size != 1:
        raise FoldError("a value that is not one element")
    return np.full(shape, filler[0], filler.dtype)


def _expand(call: Call) -> Array:
    x = call.array(0)
    target = bounded([int(dim) for dim in call.array(1).reshape(-1)])
    return np.broadcast_to(x, bounded(np.broadcast_shapes(x.shape, target)))


def _tile(call: Call) -> Array:
    x, repeats = call.array(0), [int(n) for n in call.array(1).reshape(-1)]
    if len(repeats) != x.ndim or any(n < 0 for n in repeats):
        raise FoldError(f"repeats {repeats[:8]} for {x.ndim} dimensions")
    bounded([size * n for size, n in zip(x.shape, repeats, strict=True)])
    return np.tile(x, repeats)


def _range(call: Call) -> Array:
    start, limit, delta = (call.array(i).reshape(()) for i in range(3))
    if not delta:
        raise FoldError("a range with step 0")
    count = (float(limit) - float(start)) / float(delta)
    if not math.isfinite(count) or count > MAX_ELEMENTS:
        raise FoldError("a range that is too long")
    length = max(math.ceil(count), 0)
    return np.asarray(start + np.arange(length).astype(start.dtype) * delta, start.dtype)


FOLD_TABLE: Mapping[str, Callable[[Call], Array]] = {
    "Abs": _elementwise(np.abs),
    "Add": _elementwise(np.add),
    "And": _elementwise(np.logical_and),
    "Cast": _cast,
    "CastLike": _cast_like,
    "Ceil": _elementwise(np.ceil),
    "Clip": _clip,
    "Concat": _concat,
    "ConstantOfShape": _constant_of_shape,
    "Div": _elementwise(_divide),
    "Equal": _elementwise(np.equal),
    "Exp": _elementwise(np.exp),
    "Expand": _expand,
    "Flatten": _flatten,
    "Floor": _elementwise(np.floor),
    "Gather": _gather,
    "Greater": _elementwise(np.greater),
    "GreaterOrEqual": _elementwise(np.greater_equal),
    "Identity": lambda call: call.array(0),
    "Less": _elementwise(np.less),
    "LessOrEqual": _elementwise(np.less_equal),
    "Log": _elementwise(np.log),
    "Max": _variadic(np.maximum),
    "Min": _variadic(np.minimum),
    "Mul": _elementwise(np.multiply),
    "Neg": _elementwise(np.negative),
    "Not": _elementwise(np.logical_not),
    "Or": _elementwise(np.logical_or),
    "Pow": _elementwise(_power),
    "Range": _range,
    "Reciprocal": _elementwise(np.reciprocal),
    "ReduceL1": _reduce(lambda x, **kwargs: np.sum(np.abs(x), **kwargs)),
    "ReduceMax": _reduce(np.max),
    "ReduceMean": _reduce(np.mean),
    "ReduceMin": _reduce(np.min),
    "ReduceProd": _reduce(np.prod),
    "ReduceSum": _reduce(np.sum),
    "Relu": _elementwise(lambda x: np.maximum(x, np.zeros((), x.dtype))),
    "Reshape": _reshape,
    "Round": _elementwise(np.rint),
    "Sigmoid": _elementwise(lambda x: np.reciprocal(1 + np.exp(-x))),
    "Sign": _elementwise(np.sign),
    "Slice": _slice,
    "Sqrt": _elementwise(np.sqrt),
    "Squeeze": _squeeze,
    "Sub": _elementwise(np.subtract),
    "Tanh": _elementwise(np.tanh),
    "Tile": _tile,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
    "Where": _elementwise(_select),
}
"""Single-output operators; Shape and Size need no values and are in `kwsq.passes.fold_source`."""
