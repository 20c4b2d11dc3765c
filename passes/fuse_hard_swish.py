"""Recognises hard swish written out, x * clip(x + 3, 0, 6) / 6, and makes it the runtime's one operator.

Spellings, with factors in any order: the gate as clip(x + 3, 0, 6) / 6, as clip(x / 6 + 1/2, 0, 1) (x * HardSigmoid) or
as clip((x + 3) / 6, 0, 1); the division by 6 on the gate, on x or on the product. One operator rounds once and needs
one grid, where the parts would need one each. With a quantiser between the parts the source has chosen those grids,
and they stay.
Source: Howard et al. 2019, "Searching for MobileNetV3", section 5.2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from kwsq.ir.graph import Graph, Node
from kwsq.ir.ops import Add, Clip, FakeQuant, HardSwish, Mul
from kwsq.ir.rewrite import Rewriter
from kwsq.passes.base import Note, PassResult, Semantics

TOLERANCE = 2.0**-20
"""Relative error of a constant: 1/6 and products with it, each rounded to float32, stay within a few 2**-24."""

MOST_FACTORS = 8
"""Constants in a row that are read back; written out in any way, a hard swish has fewer. It bounds the search."""


class FuseHardSwish:
    """See the module docstring."""

    __slots__ = ()
    name: ClassVar[str] = "fuse_hard_swish"
    requires: ClassVar[frozenset[str]] = frozenset({"imported"})
    establishes: ClassVar[frozenset[str]] = frozenset()
    semantics: ClassVar[Semantics] = Semantics.FLOAT_CLOSE

    def run(self, graph: Graph) -> PassResult:
        """Returns the graph with hard swishes fused."""
        rewriter = Rewriter(graph)
        notes: list[Note] = []
        strict, loose = _Matcher(graph), _Matcher(graph, through_quantizers=True)
        for node in graph.nodes:
            source = strict.hard_swish(node)
            if source is not None:
                rewriter.update_node(node.name, op=HardSwish(), inputs=(source,))
                notes.append(Note(self.name, node.name, "written-out hard swish made one operator"))
            elif loose.hard_swish(node) is not None:
                notes.append(Note(self.name, node.name, "hard swish left in parts: a quantiser stands between them"))
        return PassResult(rewriter.finish(), rewriter.changed, tuple(notes))


@dataclass(frozen=True, slots=True)
class _Line:
    """gain * x + offset."""

    gain: float
    offset: float


@dataclass(frozen=True, slots=True)
class _Scaled:
    """factor times x, or times the hard swish of x."""

    x: str
    factor: float


class _Matcher:
    """Reads small expressions backwards from their result."""

    def __init__(self, graph: Graph, *, through_quantizers: bool = False) -> None:
        self.graph = graph
        self.producers = graph.producers()
        self.through_quantizers = through_quantizers

    def hard_swish(self, node: Node) -> str | None:
        """Returns x when `node` computes exactly hard swish of x, in its shape."""
        if not isinstance(node.op, Mul):
            return None
        product = self._product(node.outputs[0])
        if product is None or not _close(product.factor, 1.0):
            return None
        return product.x if self.graph[product.x].shape == self.graph[node.outputs[0]].shape else None

    def _product(self, name: str, left: int = MOST_FACTORS) -> _Scaled | None:
        """Returns `name` as a multiple of a hard swish."""
        node = self._producer(name)
        if node is None or not isinstance(node.op, Mul):
            return None
        for a, constant in self._besides_constants(node) if left else ():
            inner = self._product(a, left - 1)
            if inner is not None:
                return _Scaled(inner.x, inner.factor * constant)
        for a, b in (node.inputs, node.inputs[::-1]):
            for factor in self._factors(a):
                gate = self._gate(b, factor.x)
                if gate is not None:
                    return _Scaled(factor.x, factor.factor * gate)
        return None

    def _factors(self, name: str) -> list[_Scaled]:
        """Returns `name` as a multiple of itself and, where it is a product with a constant, of the other factor."""
        found = [_Scaled(self._skipped(name), 1.0)]
        node = self._producer(name)
        if node is not None and isinstance(node.op, Mul):
            found += [_Scaled(self._skipped(a), constant) for a, constant in self._besides_constants(node)]
        return found

    def _gate(self, name: str, x: str, left: int = MOST_FACTORS) -> float | None:
        """Returns the factor of `name` = factor * clip(x + 3, 0, 6) / 6, None when it is something else."""
        node = self._producer(name)
        if node is not None and isinstance(node.op, Mul):
            for a, constant in self._besides_constants(node) if left else ():
                inner = self._gate(a, x, left - 1)
                if inner is not None:
                    return inner * constant
        if node is None or not isinstance(node.op, Clip) or node.op.low != 0:
            return None
        # clip(gain x + offset, 0, high) = high * clip(x + 3, 0, 6) / 6 when gain = high / 6 and offset = high / 2.
        line, high = self._line(node.inputs[0], x), node.op.high
        matches = line is not None and _close(line.gain * 6, high) and _close(line.offset * 2, high)
        return high if matches else None

    def _line(self, name: str, x: str, left: int = MOST_FACTORS) -> _Line | None:
        if self._skipped(name) == x:
            return _Line(1.0, 0.0)
        node = self._producer(name)
        if node is None or not isinstance(node.op, Add | Mul):
            return None
        for a, constant in self._besides_constants(node) if left else ():
            inner = self._line(a, x, left - 1)
            if inner is not None:
                if isinstance(node.op, Add):
                    return _Line(inner.gain, inner.offset + constant)
                return _Line(inner.gain * constant, inner.offset * constant)
        return None

    def _besides_constants(self, node: Node) -> list[tuple[str, float]]:
        """Returns the operands of a node of two whose other one is a scalar constant, each with that constant."""
        pairs = ((a, self._scalar(b)) for a, b in (node.inputs, node.inputs[::-1]))
        return [(a, constant) for a, constant in pairs if constant is not None]

    def _producer(self, name: str) -> Node | None:
        return self.producers.get(self._skipped(name))

    def _skipped(self, name: str) -> str:
        node = self.producers.get(name)
        while self.through_quantizers and node is not None and isinstance(node.op, FakeQuant):
            name = node.inputs[0]
            node = self.producers.get(name)
        return name

    def _scalar(self, name: str) -> float | None:
        """Returns the value of a constant that is the same everywhere."""
        tensor = self.graph.constant(name)
        if tensor is None or tensor.real().size == 0:
            return None
        values = tensor.real().reshape(-1)
        return float(values[0]) if (values == values[0]).all() else None


def _close(value: float, expected: float) -> bool:
    return abs(value - expected) <= TOLERANCE * abs(expected)
