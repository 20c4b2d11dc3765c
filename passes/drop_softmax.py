"""Removes a final Softmax, LogSoftmax or Sigmoid, so that the model emits logits under the same name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from kwsq.ir.errors import Problem, UsageError
from kwsq.ir.graph import Graph, Node
from kwsq.ir.ops import FakeQuant, LogSoftmax, Reshape, Sigmoid, Softmax
from kwsq.ir.rewrite import Rewriter
from kwsq.passes.base import Note, PassResult, Semantics


class DropSoftmax:
    """See the module docstring; only applied when the user asks for logits."""

    __slots__ = ()
    name: ClassVar[str] = "drop_softmax"
    requires: ClassVar[frozenset[str]] = frozenset({"imported"})
    establishes: ClassVar[frozenset[str]] = frozenset({"emits_logits"})
    semantics: ClassVar[Semantics] = Semantics.CHANGES_GRID

    def run(self, graph: Graph) -> PassResult:
        """Returns the graph with its final probabilities replaced by logits.

        Raises:
            UsageError: no output is computed by a Softmax, LogSoftmax or Sigmoid, or something else reads one.
        """
        paths = {output: path for output in graph.outputs if (path := _path(graph, output))}
        _require_no_other_reader(graph, paths)
        if not paths:
            found = f"outputs {list(graph.outputs)} that no Softmax, LogSoftmax or Sigmoid computes"
            raise UsageError(Problem("--drop-softmax", found, "a final one", "leave the flag out"))
        rewriter = Rewriter(graph)
        notes = tuple(self._drop(rewriter, path, output) for output, path in paths.items())
        # The grid of unsigned codes was that of probabilities; logits are signed.
        unsigned = {output for output in paths if graph.integer_io.get(output) == "uint8"}
        rewriter.integer_io = {**rewriter.integer_io, **dict.fromkeys(unsigned, "int8")}
        return PassResult(rewriter.finish(*self.establishes), True, notes)

    def _drop(self, rewriter: Rewriter, path: list[Node], output: str) -> Note:
        """Removes quantisers of the probabilities and the Softmax itself, output side first; reshapes stay."""
        for node in path:
            if isinstance(node.op, Reshape) or node.name not in rewriter.nodes:
                continue  # two outputs may carry the same probabilities
            if rewriter.can_bypass(node.name):
                rewriter.bypass(node.name)
            else:  # the logits are an output too, and keep their own name
                shape = rewriter.tensors[node.outputs[0]].shape
                rewriter.update_node(node.name, op=Reshape(shape))
        return Note(self.name, path[-1].name, f"dropped on request: output {output!r} carries logits")


def _path(graph: Graph, output: str) -> list[Node]:
    """Returns what lies between an output and the Softmax that computes it, that last; nothing without one."""
    producers = graph.producers()
    path: list[Node] = []
    node = producers.get(output)
    while node is not None and isinstance(node.op, FakeQuant | Reshape):
        path.append(node)
        node = producers.get(node.inputs[0])
    if node is None or not isinstance(node.op, Softmax | LogSoftmax | Sigmoid) or node.inputs[0] in graph.inputs:
        return []
    return [*path, node]


def _require_no_other_reader(graph: Graph, paths: Mapping[str, list[Node]]) -> None:
    """Refuse to hand logits to what reads probabilities and is no output."""
    within = {node.name: node for path in paths.values() for node in path}
    computed = {name: node.name for node in within.values() for name in node.outputs}
    readers = [
        (node, name) for node in graph.nodes for name in node.inputs if name in computed and node.name not in within
    ]
    if readers:
        remedy = "leave the flag out, or cut this reader out of the model"
        raise UsageError(
            [
                Problem(
                    f"--drop-softmax: node {node.name!r}",
                    f"probabilities of {computed[name]!r}",
                    "outputs alone",
                    remedy,
                )
                for node, name in readers
            ]
        )
