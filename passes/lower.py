"""From the float graph with grids to the integer graph."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from kwsq.ir import lowered as low
from kwsq.ir.errors import Problem
from kwsq.ir.graph import Graph, Node
from kwsq.ir.lowered import DType, LoweredGraph, LoweredTensor, verify
from kwsq.ir.numerics import KernelRangeError
from kwsq.ir.ops import Conv, Dense
from kwsq.ir.quant import Unquantized
from kwsq.passes.base import Note
from kwsq.passes.lowering import lowering_of
from kwsq.passes.lowering.context import (
    INT8_LOW,
    LoweringContext,
    LoweringRefusedError,
    View,
    grid_problem,
    int8_grid,
    raise_all,
)
from kwsq.passes.lowering.forms import channels_last, identity_form
from kwsq.passes.lowering.linear import layer_weight_codes
from kwsq.passes.lowering.preference import prefers_channels_last


@dataclass(frozen=True, slots=True, eq=False)
class LowerResult:
    """The integer graph, how it stands for the float graph, and the notes for the report.

    Args:
        graph: integer graph.
        notes: for the report.
        views: what the stored activations hold, by lowered name.
        real_biases: (C_out,) float64 real bias behind every rounded integer bias, by lowered name; a bias whose codes
            the source gave is not listed.
    """

    graph: LoweredGraph
    notes: tuple[Note, ...]
    views: Mapping[str, View]
    real_biases: Mapping[str, npt.NDArray[np.float64]]


def lower(graph: Graph, *, float_io: bool = False) -> LowerResult:
    """Returns the integer graph.

    Args:
        graph: after attach_scales.
        float_io: float32 inputs and outputs through Quantize and Dequantize; streaming states stay int8.

    Raises:
        UnsupportedModelError: naming every node that has no integer form.
    """
    raise_all(_grid_problems(graph))
    ctx = LoweringContext(graph)
    for name in graph.inputs:
        _lower_input(ctx, name, float_io=float_io)
    problems = [problem for node in graph.nodes for problem in _lower_node(ctx, node)]
    raise_all(problems)
    _finish_outputs(ctx)
    _boundary(ctx, float_io=float_io)
    result = LoweredGraph(graph.name, tuple(ctx.nodes), _used(ctx), graph.inputs, graph.outputs, graph.states)
    verify(result)
    return LowerResult(result, tuple(ctx.notes), dict(ctx.views), dict(ctx.real_biases))


def check_lowerable(graph: Graph) -> None:
    """Refuses what no grid of an activation changes: scalar inputs, operators without an int8 kernel, other weights.

    Args:
        graph: after folding; weights that have no grid yet are not judged.

    Raises:
        UnsupportedModelError: naming every such input and node.
    """
    remedy = "give it a dimension of size 1"
    scalars = [
        Problem(f"graph input {name!r}", "a scalar", "at least one dimension", remedy)
        for name in graph.inputs
        if not graph[name].shape
    ]
    raise_all([*scalars, *(problem for node in graph.nodes for problem in _standing_problems(graph, node))])


def _standing_problems(graph: Graph, node: Node) -> list[Problem]:
    try:
        lowering_of(node)
        if isinstance(node.op, Conv | Dense) and not isinstance(graph[node.inputs[1]].quant, Unquantized):
            layer_weight_codes(graph[node.inputs[1]])
    except LoweringRefusedError as refused:
        return [refused.problem(node)]
    return []


def _grid_problems(graph: Graph) -> list[Problem]:
    computed = [*graph.inputs, *(name for node in graph.nodes for name in node.outputs)]
    problems = (grid_problem(graph[name]) for name in computed)
    return [problem for problem in problems if problem is not None]


def _lower_input(ctx: LoweringContext, name: str, *, float_io: bool) -> None:
    tensor = ctx.graph[name]
    form = identity_form(tensor.rank)
    ctx.forms[name] = form
    ctx.names[name] = name
    ctx.views[name] = View(name, form)
    ctx.activation(name, tensor, tensor.shape)
    grid = int8_grid(ctx.spec(name))
    if grid.low > INT8_LOW:
        clamped = ctx.activation(ctx.fresh(f"{name}/clamped"), tensor, tensor.shape)
        ctx.clamp(name, name, clamped, grid)
        ctx.names[name] = clamped
        ctx.views[clamped] = View(name, form)
    if prefers_channels_last(ctx.graph, name):
        wanted = channels_last(tensor.rank, dims=4)
        ctx.names[name], ctx.forms[name] = ctx.get(name, wanted), wanted


def _lower_node(ctx: LoweringContext, node: Node) -> list[Problem]:
    try:
        lowering_of(node)(ctx, node)
    except LoweringRefusedError as error:
        refused = error
    except KernelRangeError as error:
        # The arithmetic of a kernel refuses a ratio of scales that its multipliers cannot hold.
        expected, remedy = "scales int8 kernels can hold", "check the ranges the quantizers of this layer learned"
        refused = LoweringRefusedError(str(error), expected, remedy)
    else:
        return []
    for name in node.outputs:
        # As if it had been lowered, so that its readers are judged too.
        ctx.define(name, identity_form(ctx.graph[name].rank))
    return [refused.problem(node)]


def _finish_outputs(ctx: LoweringContext) -> None:
    """Brings the graph outputs into logical order under their public names."""
    sources = {n: ctx.get(n, identity_form(ctx.graph[n].rank), boundary=True) for n in ctx.graph.outputs}
    shared = {source for source, count in Counter(sources.values()).items() if count > 1}
    for name, source in sources.items():
        if source != name:
            _publish(ctx, name, source, rename=source not in shared)


def _publish(ctx: LoweringContext, name: str, source: str, *, rename: bool) -> None:
    """Gives a tensor in logical order its public name: its producer writes it where nobody else needs it."""
    tensor = ctx.graph[name]
    producer = next((i for i, node in enumerate(ctx.nodes) if source in node.outputs), None)
    readers = [node for node in ctx.nodes if source in node.inputs]
    ctx.tensors[name] = replace(ctx.tensors[source], name=name, shape=tensor.shape)
    if producer is None or readers or not rename or source in ctx.graph.outputs:
        ctx.add(f"{name}/copy", low.Reshape(tensor.shape), [source], [name], "")
        _run_early(ctx, source)
        return
    node = ctx.nodes[producer]
    ctx.nodes[producer] = replace(node, outputs=tuple(name if n == source else n for n in node.outputs))


def _run_early(ctx: LoweringContext, source: str) -> None:
    """Moves the last node, which reads `source` alone, behind its producer and the first others that do so.

    LiteRT lets an operator write over what it reads through a Reshape, though a later node is still to read it.
    """
    producer = next((i for i, node in enumerate(ctx.nodes) if source in node.outputs), None)
    if producer is not None:
        last = ctx.nodes.pop()
        later = range(producer + 1, len(ctx.nodes))
        place = next((i for i in later if ctx.nodes[i].inputs != (source,)), len(ctx.nodes))
        ctx.nodes.insert(place, last)


def _boundary(ctx: LoweringContext, *, float_io: bool) -> None:
    """Gives inputs and outputs their public element type."""
    states = {pair.input for pair in ctx.graph.states} | {pair.output for pair in ctx.graph.states}
    for name in ctx.graph.inputs:
        if ctx.graph.integer_io.get(name) == "uint8":
            _cast_input(ctx, name, DType.UINT8)
        elif float_io and name not in states and name not in ctx.graph.integer_io:
            _cast_input(ctx, name, DType.FLOAT32)
    for name in ctx.graph.outputs:
        if ctx.graph.integer_io.get(name) == "uint8":
            _cast_output(ctx, name, DType.UINT8)
        elif float_io and name not in states and name not in ctx.graph.integer_io:
            _cast_output(ctx, name, DType.FLOAT32)


def _public(ctx: LoweringContext, name: str, dtype: DType) -> LoweredTensor:
    tensor = ctx.tensors[name]
    if dtype is DType.FLOAT32:
        return LoweredTensor(name, tensor.shape, dtype, origin=tensor.origin)
    spec = ctx.spec(name)
    scale = np.array([spec.scale[0]], np.float32)
    return LoweredTensor(name, tensor.shape, dtype, None, scale, int(spec.zero_point[0]), origin=tensor.origin)


def _cast_input(ctx: LoweringContext, name: str, dtype: DType) -> None:
    inner = ctx.fresh(f"{name}/int8")
    ctx.tensors[inner] = replace(ctx.tensors[name], name=inner)
    ctx.nodes[:] = [replace(n, inputs=tuple(inner if i == name else i for i in n.inputs)) for n in ctx.nodes]
    ctx.tensors[name] = _public(ctx, name, dtype)
    ctx.add(f"{name}/quantize", low.Quantize(), [name], [inner], "")
    ctx.nodes.insert(0, ctx.nodes.pop())


def _cast_output(ctx: LoweringContext, name: str, dtype: DType) -> None:
    inner = ctx.fresh(f"{name}/int8")
    ctx.tensors[inner] = replace(ctx.tensors[name], name=inner)
    rename = {name: inner}
    ctx.nodes[:] = [
        replace(
            n,
            inputs=tuple(rename.get(i, i) for i in n.inputs),
            outputs=tuple(rename.get(o, o) for o in n.outputs),
        )
        for n in ctx.nodes
    ]
    ctx.tensors[name] = _public(ctx, name, dtype)
    op: low.LoweredOp = low.Dequantize() if dtype is DType.FLOAT32 else low.Quantize()
    ctx.add(f"{name}/{'dequantize' if dtype is DType.FLOAT32 else 'quantize'}", op, [inner], [name], "")
    producer = next((node for node in ctx.nodes if inner in node.outputs), None)
    if producer is not None and isinstance(producer.op, low.Reshape):
        others = [node for node in ctx.nodes if producer.inputs[0] in node.inputs and node is not producer]
        if others:
            _run_early(ctx, inner)  # inside, the copy of what they read is as short-lived as that


def _used(ctx: LoweringContext) -> dict[str, LoweredTensor]:
    used = {name for node in ctx.nodes for name in (*node.inputs, *node.outputs)}
    used |= {*ctx.graph.inputs, *ctx.graph.outputs}
    return {name: tensor for name, tensor in ctx.tensors.items() if name in used}
