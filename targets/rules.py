"""What the integer machine demands of a node; each rule's docstring is what the user reads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType

import numpy as np

from kwsq.ir import lowered as ir
from kwsq.ir import numerics
from kwsq.ir.errors import Problem, UnsupportedModelError
from kwsq.ir.execute.call import Call
from kwsq.ir.lowered import DType, LoweredGraph, LoweredNode, LoweredTensor
from kwsq.targets.base import Constraint
from kwsq.targets.draft import Draft, same_grid
from kwsq.targets.machine import MAX_COLUMNS, MAX_ELEMENTS, MAX_MATMUL_DEPTH, MAX_RANK, MAX_SOFTMAX
from kwsq.targets.operators import LAYERS, ROWS, describe, weight_rows
from kwsq.targets.sum_as_layer import sum_as_layer

_PROBABILITY = (np.float32(1 / 256), -128)


def constraint_int8(graph: LoweredGraph, node: LoweredNode) -> str | None:
    """Activations are int8; uint8 and float32 stand at the model's boundary alone."""
    odd = [t for t in _activations(graph, node) if t.dtype is not DType.INT8]
    return ", ".join(f"{t.name} is {t.dtype.value}" for t in odd) or None


def constraint_constant_weights(graph: LoweredGraph, node: LoweredNode) -> str | None:
    """Weights and biases are constants."""
    computed = [n for n in node.inputs[1:] if n and not graph[n].is_constant]
    return ", ".join(f"{name} is computed" for name in computed) or None


def constraint_symmetric_weights(graph: LoweredGraph, node: LoweredNode) -> str | None:
    """Weight codes are symmetric: zero point 0."""
    zero_point = graph[node.inputs[1]].zero_point
    return None if zero_point == 0 else f"zero point {zero_point} of {node.inputs[1]}"


def constraint_row_length(graph: LoweredGraph, node: LoweredNode) -> str | None:
    """An output channel has fewer than 131,072 weights, whose products with codes no int32 accumulator overflows on."""
    weight = graph[node.inputs[1]]
    columns = weight_rows(node, weight).shape[1] if weight.data is not None else 0
    return None if columns <= MAX_COLUMNS else f"{columns} weights per output channel of {weight.name}"


def constraint_depth(graph: LoweredGraph, node: LoweredNode) -> str | None:
    """A matrix product sums at most 33,025 terms, which no int32 accumulator can overflow on."""
    depth = graph[node.inputs[0]].shape[-1]
    return None if depth <= MAX_MATMUL_DEPTH else f"{depth} terms"


def constraint_one_grid(graph: LoweredGraph, node: LoweredNode) -> str | None:
    """All inputs and outputs have the same scale and zero point."""
    tensors = _activations(graph, node)
    odd = [t for t in tensors if not same_grid(t, tensors[0])]
    return ", ".join(f"{t.name} differs from {tensors[0].name}" for t in odd) or None


def constraint_probability_grid(graph: LoweredGraph, node: LoweredNode) -> str | None:
    """The output has scale 1/256 and zero point -128."""
    output = graph[node.outputs[0]]
    assert output.scale is not None, f"{output.name} is quantised"
    found = (output.scale[0], output.zero_point)
    return None if found == _PROBABILITY else f"scale {found[0]}, zero point {found[1]}"


def constraint_classes(graph: LoweredGraph, node: LoweredNode) -> str | None:
    """A softmax has fewer than 512 classes."""
    classes = (1, *graph[node.inputs[0]].shape)[-1]
    return None if classes <= MAX_SOFTMAX else f"{classes} classes"


def constraint_forward_steps(graph: LoweredGraph, node: LoweredNode) -> str | None:
    """Slices go forward, at least one element at a time."""
    assert isinstance(node.op, ir.StridedSlice)
    return None if min(node.op.step) > 0 else f"steps {node.op.step}"


def constraint_adjacent_axes(graph: LoweredGraph, node: LoweredNode) -> str | None:
    """A sum goes over adjacent axes."""
    assert isinstance(node.op, ir.Sum)
    return f"axes {node.op.axes}"


def constraint_size(graph: LoweredGraph, node: LoweredNode) -> str | None:
    """No tensor has more than 8 dimensions or 67,108,864 elements."""
    odd = [t for t in _tensors(graph, node) if len(t.shape) > MAX_RANK or not 0 < t.size <= MAX_ELEMENTS]
    return ", ".join(f"{t.name} of shape {list(t.shape)}" for t in odd) or None


def constraint_scales(graph: LoweredGraph, node: LoweredNode) -> str | None:
    """The ratios of the scales can be held as multipliers."""
    inputs = tuple(graph[name] for name in node.inputs if name)
    call = Call(node.op, inputs, tuple(graph[name] for name in node.outputs), ())
    try:
        describe(call)
        if isinstance(node.op, LAYERS):
            _derive_multipliers(call)
    except numerics.KernelRangeError as error:
        return str(error)
    return None


def _derive_multipliers(call: Call) -> None:
    weight = call.inputs[1].scale
    assert weight is not None, f"{call.inputs[1].name} is quantised"
    numerics.quantize_multipliers(numerics.effective_scale_conv(call.source.scale, weight, call.target.scale))


_LAYER = (constraint_int8, constraint_constant_weights, constraint_symmetric_weights, constraint_row_length)
_ONE_GRID = (constraint_int8, constraint_one_grid)
_DEFAULT = (constraint_int8,)

CONSTRAINTS: Mapping[type[ir.LoweredOp], tuple[Constraint, ...]] = {
    ir.Conv2D: _LAYER,
    ir.DepthwiseConv2D: _LAYER,
    ir.FullyConnected: _LAYER,
    ir.BatchMatMul: (constraint_int8, constraint_depth),
    ir.AveragePool2D: _ONE_GRID,
    ir.MaxPool2D: _ONE_GRID,
    ir.ReduceMax: _ONE_GRID,
    ir.Maximum: _ONE_GRID,
    ir.Minimum: _ONE_GRID,
    ir.Concat: _ONE_GRID,
    ir.Pad: _ONE_GRID,
    ir.Split: _ONE_GRID,
    ir.StridedSlice: (*_ONE_GRID, constraint_forward_steps),
    ir.Reshape: (constraint_one_grid,),
    ir.Transpose: (constraint_one_grid,),
    ir.Softmax: (constraint_int8, constraint_probability_grid, constraint_classes),
    ir.Sum: (constraint_adjacent_axes,),
    ir.Quantize: (),
    ir.Dequantize: (),
}
"""Rules by operator; one not listed has `constraint_int8` alone; all have `constraint_size` and `constraint_scales`."""

REMEDIES: Mapping[Constraint, str] = {
    constraint_symmetric_weights: "train these weights on a symmetric grid (zero point 0), as {-1, +1} for one bit",
    constraint_constant_weights: "make the weights constants of the model",
}
_REMEDY = "change this part of the model, or leave it outside"


def legalize(
    graph: LoweredGraph, refusal: str, further: Mapping[Constraint, str] = MappingProxyType({})
) -> LoweredGraph:
    """Returns the graph as the machine can run it, every sum as a layer of ones.

    Args:
        graph: verified graph.
        refusal: what is said above the problems.
        further: rules that a target adds for layers, each with its remedy.

    Raises:
        UnsupportedModelError: naming every node that breaks a rule.
    """
    draft = Draft(graph)
    for node in graph.nodes:
        if not sum_as_layer(draft, node):
            draft.nodes.append(node)
    legal = draft.graph()
    if found := list(problems(legal, further)):
        raise UnsupportedModelError(found, refusal)
    return legal


def rule(constraint: Constraint) -> str:
    """Returns what a constraint demands, as the object of "expected"."""
    text = str(constraint.__doc__).rstrip(".")
    return text[0].lower() + text[1:]


def problems(graph: LoweredGraph, further: Mapping[Constraint, str]) -> Iterator[Problem]:
    """Yields what keeps the graph from running on the machine; arguments as in `legalize`."""
    remedies = {**REMEDIES, **further}
    for node in graph.nodes:
        where = ", ".join(node.origins) or node.name
        own = tuple(further) if isinstance(node.op, LAYERS) else ()
        broken = [(c, found) for c in (*rules(node), *own) if (found := c(graph, node)) is not None]
        # Derived only where the rules before hold: it builds the operator's constants.
        if not broken and (found := constraint_scales(graph, node)) is not None:
            broken.append((constraint_scales, found))
        for constraint, found in broken:
            yield Problem(where, found, rule(constraint), remedies.get(constraint, _REMEDY), op=node.op.name)


def rules(node: LoweredNode) -> tuple[Constraint, ...]:
    """Returns the machine's rules of a node but `constraint_scales`."""
    assert type(node.op) in ROWS or isinstance(node.op, ir.Sum), f"{node.op.name} has a row"
    return (constraint_size, *CONSTRAINTS.get(type(node.op), _DEFAULT))


def _tensors(graph: LoweredGraph, node: LoweredNode) -> list[LoweredTensor]:
    return [graph[name] for name in (*node.inputs, *node.outputs) if name]


def _activations(graph: LoweredGraph, node: LoweredNode) -> list[LoweredTensor]:
    """Returns the tensors of a node without the weights and biases of a layer."""
    names = node.inputs[:1] if isinstance(node.op, LAYERS) else node.inputs
    return [graph[name] for name in (*names, *node.outputs) if name]
