"""Editing an onnx-graphsurgeon graph by substitution.

graphsurgeon keeps producer and consumer lists in step by searching them, which is quadratic where one tensor has many
consumers. Here nothing is detached: a new node takes over a tensor, and `finish` rebuilds all lists in one sweep and
drops what no output needs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import onnx_graphsurgeon as gs


class UniqueNames:
    """Hands out names that are not taken, without searching the same suffixes twice.

    Args:
        taken: names in use; changed.
    """

    def __init__(self, taken: set[str]) -> None:
        self._taken = taken
        self._suffix: dict[str, int] = {}

    def free(self, base: str) -> str:
        """Returns `base`, or `base` with the first free number, and takes it."""
        name, count = base, self._suffix.get(base, 0)
        while name in self._taken:
            count += 1
            name = f"{base}_{count}"
        self._suffix[base] = count
        self._taken.add(name)
        return name


class SourceEditor:
    """Who produces and consumes each tensor of a graph, while nodes are being substituted.

    Args:
        graph: graph whose nodes are in topological order; `finish` changes it.
    """

    def __init__(self, graph: gs.Graph) -> None:
        self.graph = graph
        self._inputs = {id(tensor) for tensor in graph.inputs}
        self._outputs = {id(tensor) for tensor in graph.outputs}
        self._producers: dict[int, gs.Node] = {}
        self._consumers: dict[int, list[gs.Node]] = {}
        self._sorted: list[gs.Node] | None = None
        tensors = {tensor.name for node in graph.nodes for tensor in (*node.inputs, *node.outputs)}
        self._node_names = UniqueNames({node.name for node in graph.nodes})
        self._tensor_names = UniqueNames(tensors | {tensor.name for tensor in graph.inputs})
        for node in graph.nodes:
            self._register(node)

    def _register(self, node: gs.Node) -> None:
        self._sorted = None
        for tensor in node.outputs:
            self._producers[id(tensor)] = node
        for tensor in node.inputs:
            self._consumers.setdefault(id(tensor), []).append(node)

    def producer(self, tensor: gs.Tensor) -> gs.Node | None:
        """Returns the node that computes `tensor`, None for constants, graph inputs and absent inputs."""
        return self._producers.get(id(tensor))

    def consumers(self, tensor: gs.Tensor) -> Sequence[gs.Node]:
        """Returns the nodes that read `tensor`, a node once per use, including nodes already replaced."""
        return self._consumers.get(id(tensor), ())

    def is_input(self, tensor: gs.Tensor) -> bool:
        """Returns whether `tensor` is a graph input."""
        return id(tensor) in self._inputs

    def is_output(self, tensor: gs.Tensor) -> bool:
        """Returns whether `tensor` is a graph output."""
        return id(tensor) in self._outputs

    def nodes(self) -> Iterator[gs.Node]:
        """Yields the nodes the outputs need, in topological order."""
        if self._sorted is None:
            self._sorted = _sorted_live(self._producers, self.graph.outputs)
        return iter(self._sorted)

    def variable(self, base: str) -> gs.Variable:
        """Returns a new tensor with a free name."""
        return gs.Variable(self._tensor_names.free(base))

    def constant(self, base: str, values: object) -> gs.Constant:
        """Returns a new constant with a free name."""
        return gs.Constant(self._tensor_names.free(base), values)

    def compute(
        self, tensor: gs.Tensor, op: str, name: str, inputs: Sequence[gs.Tensor], attrs: dict[str, object]
    ) -> gs.Node:
        """Makes a new node the producer of `tensor`, in place of whatever computed it.

        Args:
            tensor: output of the new node.
            op: operator.
            name: name for the node; the replaced node's own name may be used again.
            inputs: inputs of the new node.
            attrs: attributes of the new node.
        """
        old = self._producers.get(id(tensor))
        if old is None or old.name != name:
            name = self._node_names.free(name)
        node = gs.Node(op, name, attrs)
        # Plain lists: graphsurgeon's synchronised ones are filled by `finish`.
        list.extend(node.inputs, inputs)
        list.append(node.outputs, tensor)
        self._register(node)
        return node

    def redirect(self, tensor: gs.Tensor, replacement: gs.Tensor) -> None:
        """Makes every reader of `tensor` read `replacement`."""
        self._sorted = None
        readers = self._consumers.pop(id(tensor), [])
        for node in readers:
            for index, item in enumerate(node.inputs):
                if item is tensor:
                    # Plain assignment: graphsurgeon's own would search both lists.
                    list.__setitem__(node.inputs, index, replacement)
        self._consumers.setdefault(id(replacement), []).extend(readers)

    def rename_output(self, tensor: gs.Tensor, replacement: gs.Tensor) -> None:
        """Makes the producer of `tensor` compute `replacement` instead; nothing computes `tensor` then."""
        self._sorted = None
        node = self._producers.pop(id(tensor))
        for index, item in enumerate(node.outputs):
            if item is tensor:
                list.__setitem__(node.outputs, index, replacement)
        self._producers[id(replacement)] = node

    def forget(self, tensor: gs.Tensor) -> None:
        """Makes `tensor` a tensor nobody computes, once it has become a constant."""
        self._sorted = None
        self._producers.pop(id(tensor), None)

    def finish(self) -> gs.Graph:
        """Returns the graph with the nodes its outputs need, topologically sorted, all cross references rebuilt."""
        nodes = list(self.nodes())
        stale = (*self.graph.nodes, *nodes)
        for tensor in _tensors(stale):
            list.clear(tensor.inputs)
            list.clear(tensor.outputs)
        for node in nodes:
            for tensor in node.inputs:
                list.append(tensor.outputs, node)
            for tensor in node.outputs:
                list.append(tensor.inputs, node)
        self.graph.nodes = nodes
        return self.graph


def _tensors(nodes: Iterable[gs.Node]) -> Iterator[gs.Tensor]:
    for node in nodes:
        yield from node.inputs
        yield from node.outputs


def _sorted_live(producers: dict[int, gs.Node], outputs: Iterable[gs.Tensor]) -> list[gs.Node]:
    order: list[gs.Node] = []
    done: set[int] = set()
    roots = [producers[id(tensor)] for tensor in outputs if id(tensor) in producers]
    # An explicit stack: a model may be thousands of nodes deep, Python's call stack is not.
    stack = [(node, False) for node in reversed(roots)]
    while stack:
        node, ready = stack.pop()
        if id(node) in done:
            continue
        if ready:
            done.add(id(node))
            order.append(node)
            continue
        stack.append((node, True))
        needed = (producers.get(id(tensor)) for tensor in reversed(node.inputs))
        stack += [(other, False) for other in needed if other is not None and id(other) not in done]
    return order
