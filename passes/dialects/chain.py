"""Chains of elementwise arithmetic with constants around a rounding operator, as affine maps with bounds.

Before the rounding, u = gain * x + offset clamped to [low, high]; after it, y = gain * n + offset with n an integer
clamped to [low, high]. A chain is walked one operator at a time and the state after every operator is kept, because
where a quantizer starts and ends is known only once both sides are known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs

from kwsq.passes.decode import Array
from kwsq.passes.dialects.canonical import DialectContext

Float64 = npt.NDArray[np.float64]

_MAX_CHAIN = 12
_COPIES = frozenset({"Cast", "CastLike", "Identity"})
_AFFINE = frozenset({"Mul", "Div", "Add", "Sub"})
_LIMITERS = frozenset({"Clip", "Max", "Min", "Relu"})


@dataclass(frozen=True, slots=True, eq=False)
class ChainState:
    """What a chain computes up to (before the rounding: from) `tensor`.

    Args:
        tensor: x before the rounding, y after it.
        gain, offset: of the affine map, float64, broadcastable.
        low, high: bounds in the space of the rounded value.
        base: what is added to the rounded value to get the code that was clamped.
        length: operators so far.
        maps: operators among them that scale or shift, clamps and copies not counted.
    """

    tensor: gs.Tensor
    gain: Float64
    offset: Float64
    low: Float64
    high: Float64
    base: float = 0.0
    length: int = 0
    maps: int = 0


def start(tensor: gs.Tensor) -> ChainState:
    """Returns the empty chain at `tensor`."""
    infinite = np.array(np.inf)
    return ChainState(tensor, np.array(1.0), np.array(0.0), -infinite, infinite)


def upstream(context: DialectContext, tensor: gs.Tensor) -> list[ChainState]:
    """Returns the states of u = f(x) for every x on the chain that ends at `tensor`, shortest first."""
    states = [start(tensor)]
    while len(states) < _MAX_CHAIN:
        node = context.editor.producer(states[-1].tensor)
        step = None if node is None or node.domain else _before(context, states[-1], node)
        if step is None:
            return states
        states.append(step)
    return states


def downstream(
    context: DialectContext, tensor: gs.Tensor, readers: Mapping[int, Sequence[gs.Node]]
) -> list[ChainState]:
    """Returns the states of y = f(n) for every y on the chain that starts at `tensor`, shortest first.

    Args:
        context: the graph.
        tensor: output of the rounding operator.
        readers: live consumers by tensor id; a chain ends where a value is used twice or leaves the graph.
    """
    states = [start(tensor)]
    while len(states) < _MAX_CHAIN:
        last = states[-1]
        users = readers.get(id(last.tensor), ())
        if len(users) != 1 or users[0].domain or context.editor.is_output(last.tensor):
            return states
        step = _after(context, last, users[0])
        if step is None:
            return states
        states.append(step)
    return states


def _operand(context: DialectContext, node: gs.Node, data: gs.Tensor) -> Float64 | None:
    """The other, constant operand of a binary node."""
    if len(node.inputs) != 2:
        return None
    other = node.inputs[1] if node.inputs[0] is data else node.inputs[0]
    value = None if other is data else context.value(other)
    if value is None or value.dtype.kind not in "fiu" or not bool(np.isfinite(value).all()):
        return None
    return np.asarray(value, np.float64)


def _data_input(context: DialectContext, node: gs.Node) -> gs.Tensor | None:
    """The input that carries the data: the computed one, or the larger of two constants."""
    if len(node.inputs) == 1 or node.op in ("Clip", "Div", "CastLike"):
        return node.inputs[0]
    if len(node.inputs) != 2:
        return None
    sizes = [_size(context.value(item)) for item in node.inputs]
    return node.inputs[0] if sizes[0] >= sizes[1] else node.inputs[1]


def _size(value: Array | None) -> float:
    return np.inf if value is None else float(value.size)


def _before(context: DialectContext, state: ChainState, node: gs.Node) -> ChainState | None:
    data = _data_input(context, node)
    if data is None:
        return None
    longer = replace(state, tensor=data, length=state.length + 1)
    if node.op in _COPIES:
        return longer if _keeps_reals(node) else None
    if node.op in _LIMITERS:
        bounds = _bounds(context, node, data)
        if bounds is None:
            return None
        low, high = (state.gain * bound + state.offset for bound in bounds)
        return replace(longer, low=np.maximum(state.low, low), high=np.minimum(state.high, high))
    if node.op not in _AFFINE or (node.op in ("Sub", "Div") and node.inputs[0] is not data):
        return None
    operand = _operand(context, node, data)
    if operand is None:
        return None
    longer = replace(longer, maps=state.maps + 1)
    # u = gain * (op of data) + offset
    if node.op in ("Mul", "Div"):
        factor = _factor(node, operand)
        return None if factor is None else replace(longer, gain=state.gain * factor)
    return replace(longer, offset=state.offset + state.gain * (operand if node.op == "Add" else -operand))


def _after(context: DialectContext, state: ChainState, node: gs.Node) -> ChainState | None:
    data, output = state.tensor, node.outputs[0]
    longer = replace(state, tensor=output, length=state.length + 1)
    if node.op in _COPIES:
        return longer if node.inputs[0] is data else None
    if node.op in _LIMITERS:
        bounds = _bounds(context, node, data)
        return None if bounds is None else _clamped(state, longer, bounds)
    if node.op not in _AFFINE or (node.op in ("Sub", "Div") and node.inputs[0] is not data):
        return None
    operand = _operand(context, node, data)
    if operand is None:
        return None
    longer = replace(longer, maps=state.maps + 1)
    if node.op in ("Mul", "Div"):
        factor = _factor(node, operand)
        return None if factor is None else replace(longer, gain=state.gain * factor, offset=state.offset * factor)
    return replace(longer, offset=state.offset + (operand if node.op == "Add" else -operand))


def _clamped(state: ChainState, longer: ChainState, bounds: tuple[Float64, Float64]) -> ChainState | None:
    """A clamp after the rounding; exact only where its bounds fall on codes."""
    low, high = ((bound - state.offset) / state.gain for bound in bounds)
    for bound in (low, high):
        finite = bound[np.isfinite(bound)]
        if finite.size and float(np.max(np.abs(finite - np.rint(finite)))) > 1e-4:
            return None
    base = float(state.offset.reshape(-1)[0]) if state.offset.size == 1 and np.all(state.gain == 1) else 0.0
    return replace(longer, low=np.maximum(state.low, low), high=np.minimum(state.high, high), base=base)


def _factor(node: gs.Node, operand: Float64) -> Float64 | None:
    if not bool((operand > 0).all()):
        return None
    return operand if node.op == "Mul" else 1.0 / operand


def _keeps_reals(node: gs.Node) -> bool:
    """Before the rounding only a cast to a float type is a copy."""
    return node.op != "Cast" or node.attrs.get("to") in (1, 10, 11)


def _bounds(context: DialectContext, node: gs.Node, data: gs.Tensor) -> tuple[Float64, Float64] | None:
    infinite = np.array(np.inf)
    if node.op == "Relu":
        return np.array(0.0), infinite
    if node.op == "Clip":
        return _clip_bounds(context, node) if node.inputs[0] is data else None
    operand = _operand(context, node, data)
    if operand is None:
        return None
    return (operand, infinite) if node.op == "Max" else (-infinite, operand)


def _clip_bounds(context: DialectContext, node: gs.Node) -> tuple[Float64, Float64] | None:
    found: list[Float64] = []
    for index, (name, default) in enumerate((("min", -np.inf), ("max", np.inf)), start=1):
        if index < len(node.inputs) and node.inputs[index].name:
            value = context.value(node.inputs[index])
            if value is None or value.size != 1:
                return None
            found.append(np.asarray(value, np.float64).reshape(()))
        else:
            attribute = node.attrs.get(name, default)
            found.append(np.asarray(attribute, np.float64))
    return found[0], found[1]
