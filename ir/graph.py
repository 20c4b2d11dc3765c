"""The float graph: tensors, nodes, and the rules they keep.

A graph is immutable; `kwsq.ir.rewrite.Rewriter` builds the next one. Tensors keep ONNX's logical dimension order
(NCHW); all shapes are static.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from kwsq.ir.errors import InternalError, Problem
from kwsq.ir.quant import UNQUANTIZED, Affine, Codebook, FloatArray, QuantSpec, Unquantized, dequantize

Shape = tuple[int, ...]
Array = npt.NDArray[np.generic]


@runtime_checkable
class Op(Protocol):
    """One operator with its attributes; a frozen dataclass per operator, see `kwsq.ir.ops`."""

    name: ClassVar[str]

    # Every operator has its own number of inputs: `*args: Any, **kwargs: Any` is how a protocol says so to mypy.
    def infer(self, *args: Any, **kwargs: Any) -> tuple[Shape, ...]:
        """Returns the output shapes for input shapes; () stands for an absent optional input's shape too."""
        ...

    def evaluate(self, *args: Any, **kwargs: Any) -> tuple[FloatArray, ...]:
        """Returns the outputs for float32 inputs; an absent optional input is None."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Tensor:
    """A value of the graph.

    Args:
        name: unique name; the source's name wherever the tensor exists in the source.
        shape: static shape, logical (source) order.
        data: constant data, read-only, or None. Integer codes when `quant` is Affine, int8 levels when it is a
            Codebook, float32 otherwise.
        quant: grid of the tensor.
        origin: name of the source tensor it descends from.
        source_scale: for weights, the scale as annotated, before any gain was folded into it; else None.
    """

    name: str
    shape: Shape
    data: Array | None = None
    quant: QuantSpec = UNQUANTIZED
    origin: str = ""
    source_scale: FloatArray | None = None

    def __post_init__(self) -> None:
        if self.data is not None and self.data.flags.writeable:
            frozen = self.data.view()
            frozen.setflags(write=False)
            object.__setattr__(self, "data", frozen)

    @property
    def is_constant(self) -> bool:
        """Whether the tensor has data."""
        return self.data is not None

    @property
    def rank(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    def real(self) -> FloatArray:
        """Returns the real values of a constant."""
        assert self.data is not None, f"{self.name} is not a constant"
        match self.quant:
            case Unquantized():
                return np.asarray(self.data, np.float32)
            case Affine() | Codebook() as spec:
                return dequantize(np.asarray(self.data, np.int32), spec)


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """An operator applied to named tensors; an absent optional input is the empty name.

    Args:
        name: unique name, the source's where there is one.
        op: operator and attributes.
        inputs: tensor names.
        outputs: tensor names.
        source: how the source calls it, e.g. "Conv (opset 13)", for messages.
    """

    name: str
    op: Op
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    source: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class StatePair:
    """A streaming state: graph output `output` feeds graph input `input` at the next step."""

    input: str
    output: str


@dataclass(frozen=True, slots=True, eq=False)
class Graph:
    """Topologically ordered nodes over named tensors.

    Args:
        name: name of the model.
        nodes: in topological order.
        tensors: every tensor by name.
        inputs: names of the graph inputs, source order.
        outputs: names of the graph outputs, source order.
        states: streaming states.
        facts: names of what passes have established, e.g. "batchnorm_folded".
        integer_io: element type ("int8", "uint8") of the inputs and outputs that are integer in the source.
    """

    name: str
    nodes: tuple[Node, ...]
    tensors: Mapping[str, Tensor]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    states: tuple[StatePair, ...] = ()
    facts: frozenset[str] = field(default_factory=frozenset)
    integer_io: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    def __post_init__(self) -> None:
        if not isinstance(self.tensors, MappingProxyType):
            object.__setattr__(self, "tensors", MappingProxyType(dict(self.tensors)))

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def constant(self, name: str) -> Tensor | None:
        """Returns the tensor `name` when it is a constant, else None (also for the empty name)."""
        tensor = self.tensors.get(name)
        return tensor if tensor is not None and tensor.is_constant else None

    def producers(self) -> dict[str, Node]:
        """Returns the producing node of every computed tensor."""
        return {output: node for node in self.nodes for output in node.outputs}

    def consumers(self) -> dict[str, list[Node]]:
        """Returns the consuming nodes of every tensor (a node once per use), [] for none."""
        uses: dict[str, list[Node]] = {name: [] for name in self.tensors}
        for node in self.nodes:
            for name in node.inputs:
                if name:
                    uses[name].append(node)
        return uses

    def constants(self) -> Iterator[Tensor]:
        """Yields the constants in the order in which nodes first use them."""
        seen: set[str] = set()
        for node in self.nodes:
            for name in node.inputs:
                tensor = self.constant(name)
                if tensor is not None and name not in seen:
                    seen.add(name)
                    yield tensor


def verify(graph: Graph) -> None:
    """Checks the rules every graph keeps.

    Raises:
        InternalError: a tensor is undefined, defined twice or used before it is defined, or a shape disagrees.
    """
    defined = {name for name, tensor in graph.tensors.items() if tensor.is_constant} | set(graph.inputs)
    problems: list[Problem] = []
    for node in graph.nodes:
        problems += [
            _problem(node.name, f"input {n!r} used before definition") for n in node.inputs if n and n not in defined
        ]
        problems += [_problem(node.name, f"output {n!r} defined twice") for n in node.outputs if n in defined]
        problems += [_problem(node.name, f"output {n!r} unknown") for n in node.outputs if n not in graph.tensors]
        defined.update(node.outputs)
        if not problems:
            problems += _shape_problems(graph, node)
    problems += [_problem("graph output", f"{name!r} is not computed") for name in graph.outputs if name not in defined]
    if problems:
        raise InternalError(problems, "graph rules broken")


def _shape_problems(graph: Graph, node: Node) -> list[Problem]:
    shapes = node.op.infer(*(graph[name].shape if name else () for name in node.inputs))
    return [
        _problem(node.name, f"{name!r} has shape {graph[name].shape}, operator gives {shape}")
        for name, shape in zip(node.outputs, shapes, strict=True)
        if graph[name].shape != shape
    ]


def _problem(where: str, found: str) -> Problem:
    return Problem(where, found, "a well-formed graph", "report this as a defect of kwsq")
