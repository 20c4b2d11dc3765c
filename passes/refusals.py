"""What else a model is refused for, once the front door has refused operators that no step reads.

Such operators and everything computed from them are cut out; what is left is a model of known operators, which the
later steps judge. Without it a model would be repaired one refusal at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import onnx

from kwsq.ir.errors import KwsqError, Problem, UnsupportedModelError
from kwsq.passes.dialects import normalize
from kwsq.passes.known_ops import canonical_domain, is_known
from kwsq.passes.load import NO_SHAPES, Shape, Source, load_bytes
from kwsq.passes.pipeline import check_operators


def load_or_list(
    data: bytes, path: str, *, batch: int | None = None, shapes: Mapping[str, Shape] = NO_SHAPES
) -> Source:
    """Loads a model as `load_bytes` does; where that refuses it, lists what the later steps refuse as well.

    Raises:
        As `load_bytes`.
    """
    try:
        return load_bytes(data, path, batch=batch, shapes=shapes)
    except UnsupportedModelError as error:
        problems = dict.fromkeys([*error.problems, *_later_problems(data, path, batch, shapes)])
        raise UnsupportedModelError(list(problems), error.summary) from error


def _later_problems(data: bytes, path: str, batch: int | None, shapes: Mapping[str, Shape]) -> Sequence[Problem]:
    model = onnx.ModelProto.FromString(data)
    _keep_known(model.graph)
    try:
        source = load_bytes(model.SerializeToString(), path, batch=batch, shapes=shapes)
        check_operators(normalize(source), source.opsets[""])
    except UnsupportedModelError as error:
        # Where the model was cut are outputs that it does not have.
        return [problem for problem in error.problems if not problem.where.startswith("graph output")]
    except KwsqError:
        return []  # nothing is left, or only as a whole does it make sense
    return []


def _keep_known(graph: onnx.GraphProto) -> None:
    """Leaves the nodes that no unknown operator feeds; what those that go read of them becomes an output."""
    nodes = list(graph.node)
    unknown = {i for i, node in enumerate(nodes) if not is_known(canonical_domain(node.domain), node.op_type)}
    lost = unknown | _computed_from(nodes, (name for i in unknown for name in nodes[i].output))
    constants = {tensor.name for tensor in graph.initializer}
    inputs = (value.name for value in graph.input if value.name not in constants)
    # A quantizer without the nodes that read its codes is none to judge.
    kept = (i for i in _computed_from(nodes, inputs) - lost if nodes[i].op_type != "QuantizeLinear")
    computed = {name for i in kept for name in nodes[i].output if name}
    asked = [value.name for value in graph.output] + [name for i in sorted(lost) for name in nodes[i].input]
    del graph.node[:], graph.output[:]
    graph.node.extend(node for i, node in enumerate(nodes) if i not in lost)
    cut = [name for name in dict.fromkeys(asked) if name in computed]
    graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in cut)


def _computed_from(nodes: Sequence[onnx.NodeProto], names: Iterable[str]) -> set[int]:
    """Returns the places of the nodes that read one of the tensors, or what is computed from them."""
    readers: dict[str, list[int]] = {}
    for i, node in enumerate(nodes):
        for name in node.input:
            readers.setdefault(name, []).append(i)
    found: set[int] = set()
    stack = [name for name in names if name]
    while stack:
        for i in readers.pop(stack.pop(), ()):
            if i not in found:
                found.add(i)
                stack += [name for name in nodes[i].output if name]
    return found
