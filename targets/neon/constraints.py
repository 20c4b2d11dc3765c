"""What LiteRT's int8 kernels demand of a node; each rule's docstring is what the user reads.

Source: the Prepare functions of the kernels in ai-edge-litert 2.3.0, and running them (tests/targets/neon).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from kwsq.ir import lowered as ir
from kwsq.ir.errors import Problem
from kwsq.ir.execute import run_integer
from kwsq.ir.lowered import DType, LoweredGraph, LoweredNode
from kwsq.ir.numerics import LOGISTIC_OUTPUT, Grid, KernelRangeError
from kwsq.targets.base import Constraint
from kwsq.targets.draft import same_grid
from kwsq.targets.neon.padding import padding_scheme
from kwsq.targets.rules import constraint_adjacent_axes, constraint_classes, constraint_forward_steps, rule


def constraint_int8(graph: LoweredGraph, node: LoweredNode) -> str | None:
    """Activations and weights are int8, biases int32."""
    allowed = {DType.INT8, DType.INT32} if isinstance(node.op, _LAYERS) else {DType.INT8}
    odd = [graph[n] for n in _names(node) if graph[n].dtype not in allowed]
    return ", ".join(f"{t.name} is {t.dtype.value}" for t in odd) or None


def constraint_one_grid(graph: LoweredGraph, node: LoweredNode) -> str | None:
    """All inputs and outputs have the same scale and zero point."""
    tensors = [graph[n] for n in _names(node)]
    odd = [t for t in tensors if not same_grid(t, tensors[0])]
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


def constraint_symmetric_weights(graph: LoweredGraph, node: LoweredNode) -> str | None:
    """Weights have zero point 0."""
    zero_point = graph[node.inputs[1]].zero_point
    return None if zero_point == 0 else f"zero point {zero_point} of {node.inputs[1]}"


def constraint_rank(graph: LoweredGraph, node: LoweredNode) -> str | None:
    """No tensor has more dimensions than the kernel takes."""
    most, rank = MAX_RANK[type(node.op)], max(len(graph[n].shape) for n in _names(node))
    return None if rank <= most else f"{rank} dimensions where {node.op.name} takes {most}"


MAX_RANK: Mapping[type[ir.LoweredOp], int] = {
    ir.BatchMatMul: 5,
    ir.Concat: 6,
    ir.FullyConnected: 6,
    ir.Mean: 6,
    ir.Pad: 5,
    ir.ReduceMax: 6,
    ir.Split: 6,
}
"""Found by running each; the other operators take at least 7 dimensions."""


def constraint_scales(graph: LoweredGraph, node: LoweredNode) -> str | None:
    """The kernel can hold the ratios of the scales as multipliers and the sums in 32 bits."""
    inputs = tuple(dict.fromkeys(n for n in node.inputs if n and not graph[n].is_constant))
    tensors = {name: graph[name] for name in _names(node)}
    zeros = {n: np.full(graph[n].shape, graph[n].zero_point, graph[n].dtype.numpy) for n in inputs}
    try:
        run_integer(LoweredGraph(node.name, (node,), tensors, inputs, node.outputs), zeros)
    except KernelRangeError as error:
        return str(error)
    return None


_LAYERS = (ir.Conv2D, ir.DepthwiseConv2D, ir.FullyConnected)
_ONE_GRID = (constraint_int8, constraint_one_grid)

CONSTRAINTS: Mapping[type[ir.LoweredOp], tuple[Constraint, ...]] = {
    ir.Conv2D: (constraint_int8, constraint_symmetric_weights),
    ir.DepthwiseConv2D: (constraint_int8, constraint_symmetric_weights),
    ir.FullyConnected: (constraint_int8, constraint_symmetric_weights, constraint_rank),
    ir.BatchMatMul: (constraint_int8, constraint_rank),
    ir.Mean: (constraint_int8, constraint_rank),
    ir.AveragePool2D: (*_ONE_GRID, constraint_padding),
    ir.MaxPool2D: _ONE_GRID,
    ir.ReduceMax: (*_ONE_GRID, constraint_rank),
    ir.Maximum: _ONE_GRID,
    ir.Minimum: _ONE_GRID,
    ir.Concat: (*_ONE_GRID, constraint_rank),
    ir.Pad: (*_ONE_GRID, constraint_rank),
    ir.Split: (*_ONE_GRID, constraint_rank),
    ir.StridedSlice: (*_ONE_GRID, constraint_forward_steps),
    ir.Reshape: (constraint_one_grid,),
    ir.Transpose: (constraint_one_grid,),
    ir.Logistic: (constraint_int8, constraint_probability_grid),
    ir.Softmax: (constraint_int8, constraint_probability_grid, constraint_classes),
    ir.Sum: (constraint_adjacent_axes,),
    ir.Quantize: (),
    ir.Dequantize: (),
}
"""Rules by operator; an operator not listed has `constraint_int8` alone; all have `constraint_scales`."""


def problems(graph: LoweredGraph) -> Iterator[Problem]:
    """Yields what keeps the graph from being written."""
    for node in graph.nodes:
        constraints = CONSTRAINTS.get(type(node.op), (constraint_int8,))
        broken = [(c, found) for c in constraints if (found := c(graph, node)) is not None]
        # Computed only where the rules before hold: it runs the operator.
        if not broken and (found := constraint_scales(graph, node)) is not None:
            broken.append((constraint_scales, found))
        where = ", ".join(node.origins) or node.name
        remedy = "change this part of the model, or leave it outside"
        for constraint, found in broken:
            yield Problem(where, found, rule(constraint), remedy, op=node.op.name)


def _names(node: LoweredNode) -> list[str]:
    return [name for name in (*node.inputs, *node.outputs) if name]
