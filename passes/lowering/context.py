"""The integer graph under construction, and the physical form of every tensor in it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from kwsq.ir import lowered as low
from kwsq.ir.errors import Problem, UnsupportedModelError
from kwsq.ir.graph import Array, Graph, Node, Tensor
from kwsq.ir.lowered import DType, LoweredNode, LoweredOp, LoweredTensor
from kwsq.ir.ops import Activation
from kwsq.ir.quant import Affine, IntRange
from kwsq.passes.base import Level, Note
from kwsq.passes.lowering.forms import (
    Form,
    broadcast_form,
    identity_form,
    physical_shape,
    same_order,
    transpose_perm,
)

INT8_LOW, INT8_HIGH = -128, 127


class LoweringRefusedError(Exception):
    """Raised by a lowering for a node the integer graph cannot express; collected, never shown raw."""

    def __init__(self, found: str, expected: str, remedy: str) -> None:
        self.found, self.expected, self.remedy = found, expected, remedy
        super().__init__(found)

    def problem(self, node: Node) -> Problem:
        """Returns the problem with the node's name and operator filled in."""
        return Problem(node.name, self.found, self.expected, self.remedy, node.source or node.op.name)


@dataclass(frozen=True, slots=True)
class Int8Grid:
    """A per-tensor grid shifted into int8: q_int8 = q + offset, same scale, same real values, equation (38).

    Args:
        scale: float32 value.
        zero_point: shifted.
        low, high: clamp of the codes after the shift; high is 127 for grids narrower than int8.
    """

    scale: np.float32
    zero_point: int
    low: int
    high: int


def int8_grid(spec: Affine) -> Int8Grid:
    """Returns the int8 form of an activation grid.

    A grid with fewer codes than int8 is moved up to end at 127, so that saturation keeps its upper clamp for free.
    """
    codes: IntRange = spec.range
    offset = INT8_HIGH - codes.high
    return Int8Grid(spec.scale[0], int(spec.zero_point[0]) + offset, codes.low + offset, INT8_HIGH)


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """What a lowered activation holds: a tensor of the float graph, stored as `form`.

    Args:
        name: tensor of the float graph.
        form: stored form.
        features: stored position -> logical feature, where a flattened tensor keeps its storage order; else None.
    """

    name: str
    form: Form
    features: Array | None = None


@dataclass(slots=True, eq=False)
class LoweringContext:
    """See the module docstring."""

    graph: Graph
    names: dict[str, str] = field(default_factory=dict)
    forms: dict[str, Form] = field(default_factory=dict)
    feature_order: dict[str, Array] = field(default_factory=dict)
    tensors: dict[str, LoweredTensor] = field(default_factory=dict)
    nodes: list[LoweredNode] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)
    converted: dict[tuple[str, str, Form], str] = field(default_factory=dict)
    views: dict[str, View] = field(default_factory=dict)
    real_biases: dict[str, npt.NDArray[np.float64]] = field(default_factory=dict)

    # -- names and tensors ------------------------------------------------------------------------------------------
    def fresh(self, base: str) -> str:
        """Returns a tensor name that is not used yet, neither here nor by a tensor still to be lowered."""
        name, count = base, 1
        while name in self.tensors or name in self.graph.tensors:
            name, count = f"{base}_{count}", count + 1
        return name

    def note(self, where: str, text: str, level: Level = Level.INFO) -> None:
        """Adds a note to the report."""
        self.notes.append(Note("lower", where, text, level))

    def spec(self, name: str) -> Affine:
        """Returns the grid of an activation."""
        quant = self.graph[name].quant
        assert isinstance(quant, Affine), f"{name} has no grid after attach_scales"
        return quant

    def activation(self, name: str, base: Tensor, shape: tuple[int, ...], *, spec: Affine | None = None) -> str:
        """Adds an int8 activation tensor on the grid of `base` (or `spec`) and returns its name."""
        grid = int8_grid(spec or self.spec(base.name))
        scale = np.array([grid.scale], np.float32)
        self.tensors[name] = LoweredTensor(
            name, shape, DType.INT8, None, scale, grid.zero_point, origin=base.origin or base.name
        )
        return name

    def add(self, base: str, op: LoweredOp, inputs: Sequence[str], outputs: Sequence[str], origin: str) -> None:
        """Adds a node."""
        taken = {node.name for node in self.nodes}
        name, count = base, 1
        while name in taken:
            name, count = f"{base}_{count}", count + 1
        self.nodes.append(LoweredNode(name, op, tuple(inputs), tuple(outputs), (origin,) if origin else ()))

    # -- reading operands -------------------------------------------------------------------------------------------
    def form(self, name: str) -> Form:
        """Returns the form in which an activation is stored."""
        return self.forms[name]

    def get(self, name: str, form: Form, *, rank: int | None = None, boundary: bool = False) -> str:
        """Returns the lowered name of activation `name` stored as `form`, adding a reshape or transpose if needed.

        Args:
            name: tensor of the float graph.
            form: wanted form, in axes of a tensor of `rank`.
            rank: rank the operand is broadcast to; its own when None.
            boundary: whether the conversion belongs to a graph output.
        """
        tensor = self.graph[name]
        shape, stored = tensor.shape, self.forms[name]
        if rank is not None and rank != tensor.rank:
            stored = broadcast_form(stored, tensor.rank, rank)
            shape = (1,) * (rank - tensor.rank) + shape
        if name in self.feature_order:
            raise AssertionError(f"{name} is stored in permuted feature order")
        source = self.names[name]
        if stored == form:
            return source
        # Aliases share a source but number its dimensions differently: the same form means another order there.
        key = (name, source, form)
        if key not in self.converted:
            self.converted[key] = self._convert(source, tensor, shape, stored, form, boundary=boundary)
            self.views.setdefault(self.converted[key], View(name, form))
        return self.converted[key]

    def _convert(
        self, source: str, tensor: Tensor, shape: tuple[int, ...], stored: Form, form: Form, *, boundary: bool
    ) -> str:
        target_shape = physical_shape(form, shape)
        current = source
        if not same_order(stored, form, shape):
            perm = transpose_perm(stored, form, shape)
            moved = tuple(self.tensors[source].shape[i] for i in perm)
            current = self._like(self.fresh(f"{tensor.name}/transposed"), source, moved)
            self.add(f"{tensor.name}/transpose", low.Transpose(perm), [source], [current], "")
            outside = boundary or source in self.graph.inputs or tensor.name in self.graph.inputs
            place = "at the boundary" if outside else "inside the model"
            level = Level.INFO if outside else Level.WARNING
            self.note(tensor.name, f"one transpose {place}, {list(perm)}", level)
        if self.tensors[current].shape == target_shape:
            return current
        reshaped = self._like(self.fresh(f"{tensor.name}/reshaped"), source, target_shape)
        self.add(f"{tensor.name}/reshape", low.Reshape(target_shape), [current], [reshaped], "")
        return reshaped

    def _like(self, name: str, source: str, shape: tuple[int, ...]) -> str:
        self.tensors[name] = replace(self.tensors[source], name=name, shape=shape)
        return name

    # -- writing results --------------------------------------------------------------------------------------------
    def define(self, name: str, form: Form, *, store: bool = True) -> str:
        """Declares that activation `name` is stored as `form` and returns the tensor to write.

        A graph output must end in logical order: it is written under another name first where the form differs, and
        `finish_output` converts it.
        """
        tensor = self.graph[name]
        self.forms[name] = form
        public = name in self.graph.outputs
        lowered = name if not public or self.is_final(tensor, form) else self.fresh(f"{name}/physical")
        self.names[name] = lowered
        self.views[lowered] = View(name, form, self.feature_order.get(name))
        if store:
            self.activation(lowered, tensor, physical_shape(form, tensor.shape))
        return lowered

    def is_final(self, tensor: Tensor, form: Form) -> bool:
        """Returns whether `form` is the tensor's logical order."""
        return form == identity_form(tensor.rank)

    def alias(self, name: str, source: str, form: Form) -> None:
        """Declares that activation `name` is the stored value of `source`, seen as `form`."""
        self.forms[name] = form
        self.names[name] = self.names[source]

    def constant(
        self,
        base: str,
        data: Array,
        dtype: DType,
        scale: Array | None = None,
        zero_point: int = 0,
        *,
        origin: str = "",
        bits: int | None = None,
    ) -> str:
        """Adds a constant tensor and returns its name."""
        name = self.fresh(base)
        frozen = np.ascontiguousarray(data, dtype.numpy)
        frozen.setflags(write=False)
        self.tensors[name] = LoweredTensor(
            name,
            tuple(frozen.shape),
            dtype,
            frozen,
            None if scale is None else np.atleast_1d(np.asarray(scale, np.float32)),
            zero_point,
            bits=8 * dtype.size_bytes if bits is None else bits,
            origin=origin or base,
        )
        return name

    # -- clamps -----------------------------------------------------------------------------------------------------
    def fused(self, name: str, activation: Activation) -> tuple[Activation, bool]:
        """Returns the activation to fuse before tensor `name`, and whether an explicit clamp must follow.

        The lower clamp of a grid narrower than int8 is a rectifier when it lies at real 0.
        """
        grid = int8_grid(self.spec(name))
        if grid.low <= INT8_LOW or (activation in _AT_ZERO and grid.zero_point >= grid.low):
            return activation, False
        if activation is Activation.NONE and grid.low == grid.zero_point:
            return Activation.RELU, False
        return activation, True

    def emit(
        self,
        node: Node,
        make: Callable[[Activation], LoweredOp],
        inputs: Sequence[str],
        form: Form,
        *,
        activation: Activation = Activation.NONE,
        fuses: bool = True,
        moves: bool = False,
    ) -> None:
        """Adds the operator computing the first output of `node`, with the clamps its grid hides.

        Args:
            node: source node.
            make: returns the operator for a fused activation.
            inputs: lowered names.
            form: form of the output.
            activation: clamp of the source operator.
            fuses: whether the operator can carry a fused activation.
            moves: whether it only picks among its inputs' codes, which the grid's clamp has been applied to already.
        """
        name = node.outputs[0]
        if moves:
            self.add(node.name, make(activation), inputs, [self.define(name, form)], node.name)
            return
        fused, clamp = self.fused(name, activation)
        if not fuses and fused is not activation:
            fused, clamp = activation, True
        target = self.define(name, form)
        if not clamp:
            self.add(node.name, make(fused), inputs, [target], node.name)
            return
        raw = self._like(self.fresh(f"{name}/unclamped"), target, self.tensors[target].shape)
        self.add(node.name, make(fused), inputs, [raw], node.name)
        self.clamp(node.name, raw, target, int8_grid(self.spec(name)))

    def clamp(self, base: str, source: str, target: str, grid: Int8Grid) -> None:
        """Adds the lower clamp of a grid narrower than int8; the upper one is int8's own saturation."""
        rank = len(self.tensors[source].shape)
        bound = self.constant(
            f"{base}/low", np.full((1,) * rank, grid.low), DType.INT8, np.array([grid.scale]), grid.zero_point
        )
        self.add(f"{base}/clamp", low.Maximum(), [source, bound], [target], base)
        self.note(base, f"explicit clamp at code {grid.low}: the annotated range is narrower than int8")


_AT_ZERO = (Activation.RELU, Activation.RELU6)


def grid_problem(tensor: Tensor) -> Problem | None:
    """Returns why the grid of an activation has no int8 form, None when it has one."""
    spec = tensor.quant
    assert isinstance(spec, Affine), f"{tensor.name} has no grid after attach_scales"
    grid = int8_grid(spec)
    found = ""
    if grid.low < INT8_LOW:
        found = f"{spec.range.high - spec.range.low + 1} codes ({spec.range.bits} bits)"
    elif not INT8_LOW <= grid.zero_point <= INT8_HIGH:
        found = f"zero point {int(spec.zero_point[0])} with codes [{spec.range.low}, {spec.range.high}]"
    if not found:
        return None
    expected = "at most 256 codes, and a zero point that int8 holds once the codes end at 127"
    return Problem(f"tensor {tensor.name!r}", found, expected, "train with 8-bit activations whose range contains 0")


def raise_all(problems: Sequence[Problem]) -> None:
    """Raises UnsupportedModelError when there is any problem."""
    if problems:
        raise UnsupportedModelError(problems)
