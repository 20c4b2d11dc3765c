"""Running a node on many samples at once.

A tensor of declared shape (b, ...) is *stacked* when it holds k samples one after another: (k * b, ...), and (k,) for
a scalar. Constants are never stacked, computed tensors always are. An operator that treats the leading dimension as a
mere list computes the stack in one go; any other is run sample by sample, so the result never depends on how many
samples are stacked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from kwsq.ir import ops
from kwsq.ir.graph import Op, Shape
from kwsq.ir.quant import FloatArray, PerAxis

Arrays = tuple[FloatArray, ...]
Evaluate = Callable[[Op, Sequence[FloatArray | None]], Arrays]

_LEADING = (ops.Conv, ops.AveragePool, ops.MaxPool, ops.BatchNorm)
_ELEMENTWISE = (
    ops.Abs,
    ops.Clip,
    ops.HardSigmoid,
    ops.HardSwish,
    ops.LeakyRelu,
    ops.Neg,
    ops.Reciprocal,
    ops.Relu,
    ops.Sigmoid,
    ops.Sqrt,
    ops.Tanh,
)
_BROADCAST = (
    ops.Add,
    ops.Div,
    ops.Maximum,
    ops.Minimum,
    ops.Mul,
    ops.PRelu,
    ops.Pow,
    ops.SquaredDifference,
    ops.Sub,
)


def evaluate_directly(op: Op, arguments: Sequence[FloatArray | None]) -> Arrays:
    """Returns the operator's own float32 outputs."""
    return op.evaluate(*arguments)


def evaluate_stacked(
    op: Op,
    arguments: Sequence[FloatArray | None],
    shapes: Sequence[Shape],
    stacked: Sequence[bool],
    samples: int,
    evaluate: Evaluate = evaluate_directly,
) -> Arrays:
    """Evaluates one operator on `samples` stacked samples.

    Args:
        op: operator.
        arguments: float32 inputs, None for an absent one; stacked or as declared.
        shapes: declared input shapes, () for an absent one.
        stacked: which arguments are stacked.
        samples: k, how many samples a stacked argument holds.
        evaluate: computes the operator on arrays.

    Returns:
        Stacked float32 outputs, also where no argument is stacked.
    """
    if samples == 1:
        return _float32(evaluate(op, arguments))
    if not any(stacked):
        return tuple(np.concatenate([np.atleast_1d(y)] * samples) for y in _float32(evaluate(op, arguments)))
    if keeps_samples_apart(op, shapes, stacked):
        return _float32(evaluate(_rebased(op, samples), arguments))
    return _sample_by_sample(op, arguments, stacked, samples, evaluate)


def keeps_samples_apart(op: Op, shapes: Sequence[Shape], stacked: Sequence[bool]) -> bool:
    """Whether the operator on a stack is the stack of the operator on each sample.

    Args:
        op: operator.
        shapes: declared input shapes, () for an absent one.
        stacked: which inputs are stacked.
    """
    if isinstance(op, _ELEMENTWISE):
        return True
    if isinstance(op, _BROADCAST):
        return _broadcasts_below_batch(shapes, stacked)
    if isinstance(op, _LEADING):
        return stacked[0] and not any(stacked[1:])
    return _keeps_by_attributes(op, shapes, stacked)


def _float32(arrays: Arrays) -> Arrays:
    return tuple(np.asarray(array, np.float32) for array in arrays)


def _rebased(op: Op, samples: int) -> Op:
    match op:
        case ops.Reshape(shape=shape):
            return ops.Reshape((samples * shape[0], *shape[1:]))
        case ops.Slice(begin, end, _):
            return replace(op, begin=(0, *begin[1:]), end=(samples * end[0], *end[1:]))
        case _:
            return op


def _sample_by_sample(
    op: Op, arguments: Sequence[FloatArray | None], stacked: Sequence[bool], samples: int, evaluate: Evaluate
) -> Arrays:
    parts = [
        np.split(a, samples) if a is not None and is_stacked else [a] * samples
        for a, is_stacked in zip(arguments, stacked, strict=True)
    ]
    results = [_float32(evaluate(op, sample)) for sample in zip(*parts, strict=True)]
    return tuple(np.concatenate([np.atleast_1d(y) for y in output]) for output in zip(*results, strict=True))


def _keeps_by_attributes(op: Op, shapes: Sequence[Shape], stacked: Sequence[bool]) -> bool:
    match op:
        case ops.Reshape(shape=shape):
            return len(shape) > 0
        case ops.Dense():
            return len(shapes[0]) > 1 and not any(stacked[1:])
        case ops.MatMul():
            return _batched_matmul(shapes, stacked)
        case ops.Transpose(perm=perm):
            return perm[0] == 0
        case ops.Concat(axis=axis):
            return axis > 0 and all(stacked)
        case ops.Softmax(axis=axis) | ops.LogSoftmax(axis=axis) | ops.Split(axis=axis):
            return axis > 0
        case ops.ChannelAffine(axis=axis):
            return axis > 0 and not any(stacked[1:])
        case ops.FakeQuant(spec=spec):
            return spec.granularity != PerAxis(0)
        case _:
            return _leaves_first_dimension(op, shapes[0])


def _leaves_first_dimension(op: Op, x: Shape) -> bool:
    match op:
        case ops.Slice(begin, end, step):
            return (begin[0], end[0], step[0]) == (0, x[0], 1)
        case ops.Pad(pads=pads):
            return pads[0] == (0, 0)
        case ops.Mean(axes=axes) | ops.ReduceMax(axes=axes) | ops.ReduceSum(axes=axes):
            return 0 not in axes
        case _:
            return False


def _broadcasts_below_batch(shapes: Sequence[Shape], stacked: Sequence[bool]) -> bool:
    """Stacked operands must agree in rank and leading size; the others must not reach the leading dimension."""
    leading = {
        (len(shape), shape[0]) for shape, is_stacked in zip(shapes, stacked, strict=True) if is_stacked and shape
    }
    if len(leading) != 1 or any(is_stacked and not shape for shape, is_stacked in zip(shapes, stacked, strict=True)):
        return False
    ((rank, _),) = leading
    constants = (shape for shape, is_stacked in zip(shapes, stacked, strict=True) if not is_stacked)
    return all(len(shape) < rank or (len(shape) == rank and shape[0] == 1) for shape in constants)


def _batched_matmul(shapes: Sequence[Shape], stacked: Sequence[bool]) -> bool:
    a, b = shapes
    if all(stacked):
        return len(a) == len(b) > 2 and a[0] == b[0]
    return stacked[0] and len(b) == 2 and len(a) > 1
