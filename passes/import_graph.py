"""From the normalised source graph to `kwsq.ir.graph.Graph`: float operators, fake quantisers, integer weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx_graphsurgeon as gs

from kwsq.ir.errors import Problem, UnsupportedModelError, UsageError
from kwsq.ir.graph import Graph, StatePair, Tensor
from kwsq.ir.ops import FakeQuant
from kwsq.ir.rewrite import Rewriter
from kwsq.passes.caps import check_caps
from kwsq.passes.fuse_activation import grid_bounds
from kwsq.passes.importers import IMPORTERS
from kwsq.passes.importers.context import ImportContext, UnsupportedNodeError
from kwsq.passes.operand_shapes import check_operands


def import_graph(source: gs.Graph, opset: int, *, states: Mapping[str, str] | None = None) -> Graph:
    """Returns the float graph of a normalised source.

    Args:
        source: topologically sorted graph whose shapes are static and whose dialect is normalised.
        opset: version of the default domain.
        states: graph output feeding each named state input; None pairs trailing inputs and outputs by shape.

    Raises:
        UnsupportedModelError: naming every node that cannot be expressed.
        InvalidModelError: operands do not fit, or evaluating would take too much memory or time.
        UsageError: a stated pair of states does not exist or does not match.
    """
    ctx = ImportContext(opset, frozenset(tensor.name for tensor in source.outputs))
    ctx.builder.reserved = frozenset(source.tensors())
    for tensor in source.inputs:
        ctx.builder.tensors[tensor.name] = Tensor(tensor.name, tuple(tensor.shape), origin=tensor.name)
    ctx.builder.inputs = tuple(tensor.name for tensor in source.inputs)
    ctx.builder.name = source.name or "model"
    problems = _import_nodes(ctx, source)
    if problems:
        raise UnsupportedModelError(problems)
    ctx.builder.outputs = _outputs(ctx, source)
    ctx.builder.states = _states(ctx.builder, states)
    graph = ctx.builder.finish("imported")
    check_operands(graph)
    check_caps(graph)
    return graph


def _import_nodes(ctx: ImportContext, source: gs.Graph) -> list[Problem]:
    problems: list[Problem] = []
    poisoned: set[str] = set()
    for node in source.nodes:
        importer = IMPORTERS.get(node.op)
        outputs = {tensor.name for tensor in node.outputs}
        if importer is None:
            problems.append(_unknown(node, ctx.opset))
            poisoned |= outputs
            continue
        # What an unsupported node computes has no shape; its consumers cannot be judged, so they are not blamed.
        if any(tensor.name in poisoned for tensor in node.inputs):
            poisoned |= outputs
            continue
        try:
            importer(ctx, node)
        except UnsupportedNodeError as unsupported:
            problems.append(unsupported.problem(node, ctx.opset))
            poisoned |= outputs
        except ValueError as error:
            found = UnsupportedNodeError(str(error), "shapes the operator accepts", "check the model with onnx.checker")
            problems.append(found.problem(node, ctx.opset))
            poisoned |= outputs
    return problems


def _unknown(node: gs.Node, opset: int) -> Problem:
    unsupported = UnsupportedNodeError(
        "an operator kwsq does not read",
        "one of those listed by `kwsq ops`",
        "replace it or cut it out of the model",
    )
    return unsupported.problem(node, opset)


def _outputs(ctx: ImportContext, source: gs.Graph) -> tuple[str, ...]:
    """Gives every output its public name back where an alias took it away."""
    from kwsq.ir.ops import Reshape

    names = []
    for tensor in source.outputs:
        name = ctx.name(tensor)
        if name != tensor.name:
            shape = ctx.builder.tensors[name].shape
            name = ctx.builder.add_node(f"{tensor.name}/copy", Reshape(shape), [name], outputs=[tensor.name])[0]
        names.append(name)
    return tuple(names)


def _states(builder: Rewriter, stated: Mapping[str, str] | None) -> tuple[StatePair, ...]:
    """Pairs states as stated, else the trailing inputs and outputs when all their shapes agree in order."""
    tensors, inputs, outputs = builder.tensors, builder.inputs, builder.outputs
    if stated is not None:
        return tuple(_stated_pair(tensors, inputs, outputs, i, o) for i, o in stated.items())
    count = min(len(inputs), len(outputs)) - 1
    if count < 1:
        return ()
    pairs = [StatePair(i, o) for i, o in zip(inputs[-count:], outputs[-count:], strict=True)]
    if any(tensors[p.input].shape != tensors[p.output].shape or not _feeds_back(builder, p) for p in pairs):
        return ()
    return tuple(pairs)


def _feeds_back(builder: Rewriter, pair: StatePair) -> bool:
    """Returns whether the quantiser of the input holds, to one step, all that the quantiser of the output lets through.

    Otherwise they are two tensors that happen to have the same shape.
    """
    quantizers = [node for node in builder.nodes.values() if isinstance(node.op, FakeQuant)]
    entry = next((node.op for node in quantizers if node.inputs[0] == pair.input), None)
    leave = next((node.op for node in quantizers if node.outputs[0] == pair.output), None)
    if not isinstance(entry, FakeQuant) or not isinstance(leave, FakeQuant):
        return True
    (low, high), (low_out, high_out) = grid_bounds(entry.spec), grid_bounds(leave.spec)
    step = max(float(entry.spec.scale[0]), float(leave.spec.scale[0]))
    return low_out >= low - step and high_out <= high + step


def _stated_pair(
    tensors: Mapping[str, Tensor], inputs: Sequence[str], outputs: Sequence[str], name: str, output: str
) -> StatePair:
    if name not in inputs or output not in outputs:
        expected = f"an input of {list(inputs)} and an output of {list(outputs)}"
        raise UsageError(Problem(f"--state {name}={output}", "an unknown name", expected, "name an existing pair"))
    if tensors[name].shape != tensors[output].shape:
        found = f"shapes {list(tensors[name].shape)} and {list(tensors[output].shape)}"
        raise UsageError(Problem(f"--state {name}={output}", found, "equal shapes", "name a matching pair"))
    return StatePair(name, output)
