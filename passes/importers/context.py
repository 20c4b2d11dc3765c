"""What an importer sees of the source and how it adds to the graph under construction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import onnx_graphsurgeon as gs

from kwsq.ir.errors import Problem
from kwsq.ir.graph import Array, Graph, Op, Tensor
from kwsq.ir.quant import PerAxis, QuantSpec, Unquantized
from kwsq.ir.rewrite import Rewriter


class UnsupportedNodeError(Exception):
    """Raised by an importer for a node it cannot express; collected, never shown raw."""

    def __init__(self, found: str, expected: str, remedy: str = "change the model or remove the operator") -> None:
        self.found, self.expected, self.remedy = found, expected, remedy
        super().__init__(found)

    def problem(self, node: gs.Node, opset: int) -> Problem:
        """Returns the problem with the node's name, operator and opset filled in."""
        return Problem(node.name or "unnamed node", self.found, self.expected, self.remedy, node.op, opset)


@dataclass
class ImportContext:
    """A graph under construction and the aliases of tensors that need no node of their own.

    Args:
        opset: version of the default domain.
        public: names of the source's outputs.
        builder: the graph under construction.
        aliases: tensor of the source -> tensor that holds the same.
        moved: constant and what became of it, such as "transposed" -> constant that holds its values so.
    """

    opset: int
    public: frozenset[str] = frozenset()
    builder: Rewriter = field(default_factory=lambda: Rewriter(Graph("model", (), {}, (), ())))
    aliases: dict[str, str] = field(default_factory=dict)
    moved: dict[tuple[str, str], str] = field(default_factory=dict)

    def name(self, tensor: gs.Tensor | None) -> str:
        """Returns the graph's name of a source tensor, importing constants on first use; "" for an absent input."""
        if tensor is None or tensor.is_empty():
            return ""
        name: str = tensor.name
        while name in self.aliases:
            name = self.aliases[name]
        if isinstance(tensor, gs.Constant) and name not in self.builder.tensors:
            values = np.asarray(tensor.values)
            self.builder.tensors[name] = Tensor(name, tuple(values.shape), values.astype(np.float32), origin=name)
        return name

    def tensor(self, tensor: gs.Tensor) -> Tensor:
        """Returns the graph's tensor for a source tensor."""
        return self.builder.tensors[self.name(tensor)]

    def inputs(self, node: gs.Node) -> list[str]:
        """Returns the names of the node's inputs, trailing absent ones dropped."""
        names = [self.name(tensor) for tensor in node.inputs]
        while names and not names[-1]:
            names.pop()
        return names

    def constant(self, node: gs.Node, index: int) -> Array | None:
        """Returns the constant value of an input, None when it is absent.

        Raises:
            UnsupportedNodeError: the input is computed.
        """
        if index >= len(node.inputs) or node.inputs[index].is_empty():
            return None
        tensor = node.inputs[index]
        if isinstance(tensor, gs.Constant):
            return np.asarray(tensor.values)
        known = self.builder.tensors.get(self.name(tensor))
        if known is not None and known.is_constant:
            return known.real()
        raise UnsupportedNodeError(f"input {index} ({tensor.name}) computed at run time", "a constant")

    def weight(self, node: gs.Node, index: int, what: str) -> Tensor:
        """Returns a constant tensor (float, codes or levels) that a node needs as `what`.

        Raises:
            UnsupportedNodeError: it is computed.
        """
        tensor = self.tensor(node.inputs[index])
        if not tensor.is_constant:
            raise UnsupportedNodeError(f"{what} {tensor.name!r} computed at run time", f"a constant {what}")
        return tensor

    def reads_beyond_first(self, node: gs.Node) -> bool:
        """Returns whether something reads another output of the node than its first."""
        return any(tensor.outputs or tensor.name in self.public for tensor in node.outputs[1:])

    def shape(self, node: gs.Node, index: int = 0) -> tuple[int, ...]:
        """Returns the static shape of an input."""
        return self.tensor(node.inputs[index]).shape

    def alias(self, node: gs.Node, target: str) -> None:
        """Lets the node's first output be the tensor `target`."""
        self.aliases[node.outputs[0].name] = target

    def add(self, node: gs.Node, op: Op, inputs: Sequence[str], *, last: bool = True, part: str = "") -> str:
        """Adds an operator for (a part of) a source node and returns its first output.

        Args:
            node: source node.
            op: operator.
            inputs: tensor names.
            last: whether the outputs are the source node's own.
            part: suffix of the node name for the other parts of a decomposition.

        Raises:
            UnsupportedNodeError: all inputs are constants; those that are not folded yet are on a grid.
        """
        if all(not name or self.builder.tensors[name].is_constant for name in inputs):
            raise UnsupportedNodeError(
                f"an operator on the quantised constant {inputs[0]!r}",
                "a quantiser as the last step before the layer",
                "quantise the constant after this operator",
            )
        base = node.name + (f"/{part}" if part else "")
        outputs = self._results(node) if last else []
        source = f"{node.op} (opset {self.opset})"
        return self.builder.add_node(base, op, inputs, outputs=outputs, source=source)[0]

    @staticmethod
    def _results(node: gs.Node) -> list[str]:
        """Returns the names of what is computed: of every operator but Split the first output, nothing reads more."""
        named = [tensor.name for tensor in node.outputs if not tensor.is_empty()]
        return named if node.op == "Split" else named[:1]

    def scalar(self, node: gs.Node, part: str, value: float) -> str:
        """Adds a scalar float constant and returns its name."""
        return self.builder.add_constant(f"{node.name}/{part}", np.array(value, np.float32))

    def moved_constant(self, name: str, how: str, data: Array, axis: Callable[[int], int | None]) -> str | None:
        """Returns the constant that holds the values of `name` moved; the same one whenever they are moved so.

        Args:
            name: constant.
            how: what becomes of it.
            data: its values, moved.
            axis: maps the axis of its grid.

        Returns:
            None when the grid's axis does not survive the move.
        """
        if (name, how) not in self.moved:
            new_name = self.builder.fresh(f"{name}/{how}")
            if not self.move_constant(name, new_name, data, axis):
                return None
            self.moved[name, how] = new_name
        return self.moved[name, how]

    def move_constant(self, name: str, new_name: str, data: Array, axis: Callable[[int], int | None]) -> bool:
        """Adds `data`, the moved values of constant `name`, with its grid's axis mapped by `axis`.

        Returns:
            False when the grid's axis does not survive the move; nothing is added then.
        """
        old = self.builder.tensors[name]
        quant = moved_quant(old.quant, axis)
        if quant is None:
            return False
        self.builder.tensors[new_name] = Tensor(new_name, tuple(data.shape), data, quant, old.origin, old.source_scale)
        return True


def moved_quant(quant: QuantSpec, axis: Callable[[int], int | None]) -> QuantSpec | None:
    """Returns the grid after its tensor's dimensions moved; None when the channel axis was lost."""
    if isinstance(quant, Unquantized) or not isinstance(quant.granularity, PerAxis):
        return quant
    target = axis(quant.granularity.axis)
    return None if target is None else replace(quant, granularity=PerAxis(target))


Importer = Callable[[ImportContext, gs.Node], None]


def positive_axis(axis: int, rank: int) -> int:
    """Returns an ONNX axis, which may count from the end, counted from the start.

    Raises:
        ValueError: a tensor of that rank has no such axis.
    """
    if not -rank <= axis < rank:
        raise ValueError(f"axis {axis} of a tensor with {rank} dimensions")
    return axis % rank
