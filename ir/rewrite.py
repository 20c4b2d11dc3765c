"""Building the next graph from an immutable one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from kwsq.ir.graph import Graph, Node, Op, StatePair, Tensor, verify
from kwsq.ir.quant import UNQUANTIZED, FloatArray, QuantSpec


class Rewriter:
    """A mutable copy of a graph's nodes and tensors; `finish` sorts, prunes, verifies and freezes.

    Passes read the original graph and write here, so nothing is changed while it is iterated.
    """

    def __init__(self, graph: Graph) -> None:
        self.name = graph.name
        self.nodes: dict[str, Node] = {node.name: node for node in graph.nodes}
        self.tensors: dict[str, Tensor] = dict(graph.tensors)
        self.inputs: tuple[str, ...] = graph.inputs
        self.outputs: tuple[str, ...] = graph.outputs
        self.states: tuple[StatePair, ...] = graph.states
        self.facts: frozenset[str] = graph.facts
        self.integer_io = graph.integer_io
        self.changed = False
        self.reserved: frozenset[str] = frozenset()

    def fresh(self, base: str) -> str:
        """Returns a name no tensor and no node uses yet, and none that is reserved for a tensor to come."""
        name, count = base, 1
        while name in self.tensors or name in self.nodes or name in self.reserved:
            name, count = f"{base}_{count}", count + 1
        return name

    def add_constant(self, base: str, data: FloatArray, quant: QuantSpec = UNQUANTIZED, origin: str = "") -> str:
        """Adds a constant and returns its name."""
        name = self.fresh(base)
        self.tensors[name] = Tensor(name, tuple(data.shape), np.asarray(data), quant, origin or base)
        self.changed = True
        return name

    def add_node(
        self, base: str, op: Op, inputs: Sequence[str], *, outputs: Sequence[str] = (), source: str = ""
    ) -> tuple[str, ...]:
        """Adds a node and returns its output names; outputs not named are created after `base`."""
        shapes = op.infer(*(self.tensors[name].shape if name else () for name in inputs))
        names = tuple(outputs) or tuple(
            self.fresh(f"{base}.out{i}" if i else f"{base}.out") for i in range(len(shapes))
        )
        for name, shape in zip(names, shapes, strict=True):
            known = self.tensors.get(name)
            self.tensors[name] = Tensor(name, shape, origin=base) if known is None else replace(known, shape=shape)
        node_name = self.fresh_node(base)
        self.nodes[node_name] = Node(node_name, op, tuple(inputs), names, source)
        self.changed = True
        return names

    def fresh_node(self, base: str) -> str:
        """Returns a node name that is not used yet."""
        name, count = base, 1
        while name in self.nodes:
            name, count = f"{base}_{count}", count + 1
        return name

    def update_node(self, name: str, **fields: object) -> None:
        """Replaces fields of a node."""
        self.nodes[name] = replace(self.nodes[name], **fields)  # type: ignore[arg-type]  # names checked by replace
        self.changed = True

    def update_tensor(self, name: str, **fields: object) -> None:
        """Replaces fields of a tensor."""
        self.tensors[name] = replace(self.tensors[name], **fields)  # type: ignore[arg-type]  # names checked by replace
        self.changed = True

    def remove_node(self, name: str) -> None:
        """Removes a node; its outputs become undefined unless somebody else defines them."""
        del self.nodes[name]
        self.changed = True

    def replace_uses(self, old: str, new: str, *, only: Iterable[str] | None = None) -> None:
        """Makes consumers of `old` (all, or the nodes named in `only`) and graph outputs read `new`.

        A graph output keeps its public name: see `bypass`.
        """
        names = list(self.nodes) if only is None else list(only)
        for name in names:
            node = self.nodes[name]
            if old in node.inputs:
                self.nodes[name] = replace(node, inputs=tuple(new if n == old else n for n in node.inputs))
                self.changed = True

    def bypass(self, node_name: str) -> None:
        """Removes a single-input, single-output node, joining its input and output tensors.

        A graph output keeps its name: the producer of the input then writes the output tensor directly; where the
        input is itself a graph input or output, the node must stay and False is a programming error.
        """
        node = self.nodes[node_name]
        source, target = node.inputs[0], node.outputs[0]
        self.remove_node(node_name)
        if target not in self.outputs:
            self.replace_uses(target, source)
            del self.tensors[target]
            return
        self.replace_uses(source, target)
        producer = next(n for n in self.nodes.values() if source in n.outputs)
        outputs = tuple(target if name == source else name for name in producer.outputs)
        self.nodes[producer.name] = replace(producer, outputs=outputs)
        self.tensors[target] = replace(self.tensors[target], quant=self.tensors[source].quant)
        del self.tensors[source]

    def can_bypass(self, node_name: str) -> bool:
        """Returns whether `bypass` can keep all public names."""
        node = self.nodes[node_name]
        source, target = node.inputs[0], node.outputs[0]
        public = source in self.inputs or source in self.outputs or self.tensors[source].is_constant
        return target not in self.outputs or not public

    def finish(self, *facts: str) -> Graph:
        """Returns the verified graph: topologically sorted, without dead nodes and unused tensors."""
        nodes = _sorted_live(self.nodes, self.outputs)
        used = {name for node in nodes for name in (*node.inputs, *node.outputs) if name}
        used |= {*self.inputs, *self.outputs}
        tensors = {name: tensor for name, tensor in self.tensors.items() if name in used}
        graph = Graph(
            self.name,
            nodes,
            tensors,
            self.inputs,
            self.outputs,
            self.states,
            self.facts | set(facts),
            self.integer_io,
        )
        verify(graph)
        return graph


def _sorted_live(nodes: dict[str, Node], outputs: Iterable[str]) -> tuple[Node, ...]:
    producers = {output: node for node in nodes.values() for output in node.outputs}
    order: list[Node] = []
    done: set[str] = set()
    # Depth-first with an explicit stack: models may be thousands of nodes deep, Python's stack is not.
    stack: list[tuple[Node, bool]] = [(producers[name], False) for name in reversed(list(outputs)) if name in producers]
    while stack:
        node, ready = stack.pop()
        if node.name in done:
            continue
        if ready:
            done.add(node.name)
            order.append(node)
            continue
        stack.append((node, True))
        stack += [
            (producers[n], False) for n in reversed(node.inputs) if n in producers and producers[n].name not in done
        ]
    return tuple(order)
