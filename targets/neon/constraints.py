"""What LiteRT's int8 kernels demand of a node; each rule's docstring is what the user reads.

Source: the Prepare functions of the kernels in ai-edge-litert 2.3.0, and running them (tests/targets/neon).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from kwsq.ir import lowered as ir
from kwsq.ir.errors import Problem
from kwsq.ir.lowered import DType, LoweredGraph, LoweredNode, LoweredTensor
from kwsq.ir.numerics import LOGISTIC_OUTPUT, Grid
from kwsq.targets.base import Constraint
from kwsq.targets.neon.padding import padding_scheme

_MAX_SOFTMAX = 511


def constraint_int8(graph: LoweredGraph, node: LoweredNode) -> str | None:
    """Activations and weights are int8, biases int32."""
    allowed = {DType.INT8, DType.INT32} if isinstance(node.op, _LAYERS) else {DType.INT8}
    odd = [graph[n] for n in _names(node) if graph[n].dtype not in allowed]
    return ", ".join(f"{t.name} is {t.dtype.value}" for t in odd) or None


def constraint_one_grid(graph: LoweredGraph, node: LoweredNode) -> str | None:
    """All inputs and outputs have the same scale and zero point."""
    tensors = [graph[n] for n in _names(node)]
    odd = [t for t in tensors if not _same_grid(t, tensors[0])]
    return ", ".join(f"{t.name} differs from {tensors[0].name}" for t in odd) or None


def constraint_probability_grid(graph: LoweredGraph, node: LoweredNode) -> str | None:
    """The output has scale 1/256 and zero point -128."""
    output = graph[node.outputs[0]]
    assert output.scale is not None
    grid = Grid(float(output.scale[0]), output.zero_point)
    return None if grid == LOGISTIC_OUTPUT else f"scale {grid.scale}, zero point {grid.zero_point}"


def constraint_padding(graph: LoweredGraph, node: LoweredNode) -> str | None:
    """An average pool's padding is none, or as TFLite's SAME places it."""
    op = node.op
    assert isinstance(op, ir.AveragePool2D)
    height, width = graph[node.inputs[0]].shape[1:3]
    scheme = padding_scheme((height, width), op.kernel, op.stride, (1, 1), op.pads)
    return None if scheme is not None else f"padding {op.pads} with stride {op.stride}, not counted in the average"


def constraint_forward_steps(graph: LoweredGraph, node: LoweredNode) -> str | None:
    """Slices go forward, at least one element at a time."""
    assert isinstance(node.op, ir.StridedSlice)
    return None if min(node.op.step) > 0 else f"steps {node.op.step}"


def constraint_classes(graph: LoweredGraph, node: LoweredNode) -> str | None:
    """A softmax has fewer than 512 classes."""
    classes = graph[node.inputs[0]].shape[-1]
    return None if classes <= _MAX_SOFTMAX else f"{classes} classes"


def constraint_no_kernel(graph: LoweredGraph, node: LoweredNode) -> str | None:
    """An operator whose int8 kernel agrees between LiteRT's kernel sets."""
    return "no such int8 kernel"


_LAYERS = (ir.Conv2D, ir.DepthwiseConv2D, ir.FullyConnected)
_ONE_GRID = (constraint_int8, constraint_one_grid)

CONSTRAINTS: Mapping[type[ir.LoweredOp], tuple[Constraint, ...]] = {
    ir.AveragePool2D: (*_ONE_GRID, constraint_padding),
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
    ir.Logistic: (constraint_int8, constraint_probability_grid),
    ir.Softmax: (constraint_int8, constraint_probability_grid, constraint_classes),
    ir.Rsqrt: (constraint_no_kernel,),
    ir.Sum: (constraint_no_kernel,),
    ir.Quantize: (),
    ir.Dequantize: (),
}
"""Rules by operator; an operator not listed has `constraint_int8` alone."""


def rule(constraint: Constraint) -> str:
    """Returns what a constraint demands, as the object of "expected"."""
    text = str(constraint.__doc__).rstrip(".")
    return text[0].lower() + text[1:]


def problems(graph: LoweredGraph) -> Iterator[Problem]:
    """Yields what keeps the graph from being written."""
    for node in graph.nodes:
        for constraint in CONSTRAINTS.get(type(node.op), (constraint_int8,)):
            found = constraint(graph, node)
            if found is not None:
                where = ", ".join(node.origins) or node.name
                remedy = "change this part of the model, or leave it outside"
                yield Problem(where, found, rule(constraint), remedy, op=node.op.name)


def _names(node: LoweredNode) -> list[str]:
    return [name for name in (*node.inputs, *node.outputs) if name]


def _same_grid(a: LoweredTensor, b: LoweredTensor) -> bool:
    if a.scale is None or b.scale is None:
        return a.scale is b.scale
    return np.array_equal(a.scale, b.scale) and a.zero_point == b.zero_point
