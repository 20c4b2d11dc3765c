"""Small float graphs with quantisers, built operator by operator, and what the passes make of them.

model = Model()
x = model.input("x", (1, 8), grid(0.05))
y = model.quantize(model.dense(x, 4), grid(0.1))
assert lsb_distance(model.graph(y)) <= 1
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kwsq.ir import ops
from kwsq.ir.execute import run_float, run_integer
from kwsq.ir.graph import Graph, Op, StatePair, Tensor
from kwsq.ir.lowered import LoweredGraph
from kwsq.ir.quant import (
    UNQUANTIZED,
    Affine,
    FloatArray,
    IntRange,
    PerAxis,
    PerTensor,
    QuantSpec,
    Rounding,
)
from kwsq.ir.rewrite import Rewriter
from kwsq.passes.attach_scales import AttachScales
from kwsq.passes.base import PassResult
from kwsq.passes.lower import LowerResult, lower
from kwsq.passes.observe import Observer, seeded_inputs
from kwsq.passes.place_quantizers import PlaceQuantizers
from kwsq.passes.separate_grids import SeparateGrids

Shape = tuple[int, ...]


def grid(scale: float, zero_point: int = 0, low: int = -128, high: int = 127) -> Affine:
    """Return a per-tensor grid; int8 unless a range is given."""
    return Affine.per_tensor(scale, zero_point, IntRange(low, high))


class Model:
    """A float graph under construction; tensors are referred to by name."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.builder = Rewriter(Graph("model", (), {}, (), ()))

    # ---- tensors ----

    def input(self, name: str, shape: Shape, spec: Affine | None = None) -> str:
        """Add a graph input and return it, behind a quantiser where a grid is given."""
        self.builder.tensors[name] = Tensor(name, shape, origin=name)
        self.builder.inputs = (*self.builder.inputs, name)
        return name if spec is None else self.quantize(name, spec)

    def constant(self, values: ArrayLike, quant: QuantSpec = UNQUANTIZED, name: str = "c") -> str:
        """Add a constant: real values, or codes when a grid is given."""
        data = np.asarray(values, np.float32 if quant is UNQUANTIZED else None)
        return self.builder.add_constant(name, data, quant)

    def weight(self, shape: Shape, *, bits: int = 8, per_channel: bool = True, codes: Any = None) -> str:
        """Add symmetric weight codes with random scales, bounded so that outputs stay near one unit."""
        high = 2 ** (bits - 1) - 1
        if codes is None:
            codes = self.rng.integers(-high, high + 1, shape)
        fan_in = int(np.prod(shape[1:]))
        count = shape[0] if per_channel else 1
        scale = self.rng.uniform(0.5, 1.0, count).astype(np.float32) / np.float32(high * fan_in**0.5)
        spec = Affine(scale, np.zeros(count), IntRange(-high - 1, high), PerAxis(0) if per_channel else PerTensor())
        return self.constant(np.asarray(codes, np.int8), spec, "weight")

    # ---- nodes ----

    def node(self, op: Op, *inputs: str, name: str = "", output: str = "") -> str:
        """Add an operator and return its first output."""
        return self.nodes(op, *inputs, name=name, outputs=(output,) if output else ())[0]

    def nodes(self, op: Op, *inputs: str, name: str = "", outputs: Sequence[str] = ()) -> tuple[str, ...]:
        """Add an operator and return its outputs."""
        base = self.builder.fresh_node(name or op.name.lower())
        return self.builder.add_node(base, op, inputs, outputs=outputs, source=f"{op.name} (opset 13)")

    def quantize(self, x: str, spec: Affine, rounding: Rounding = Rounding.HALF_EVEN, output: str = "") -> str:
        """Add a quantiser."""
        return self.node(ops.FakeQuant(spec, rounding), x, output=output)

    def shape(self, x: str) -> Shape:
        """Return the shape of a tensor."""
        return self.builder.tensors[x].shape

    def bias(self, channels: int, scale: float = 0.3) -> str:
        """Add a real bias."""
        return self.constant(self.rng.normal(0, scale, channels), name="bias")

    def dense(self, x: str, units: int, *, weight: str = "", bias: bool = True, **options: Any) -> str:
        """Add a dense layer; `options` go to `weight`."""
        weight = weight or self.weight((units, self.shape(x)[-1]), **options)
        return self.node(ops.Dense(), x, weight, *([self.bias(units)] if bias else []))

    def conv(
        self,
        x: str,
        channels: int,
        kernel: Shape,
        *,
        strides: Shape = (),
        pads: tuple[tuple[int, int], ...] = (),
        dilations: Shape = (),
        groups: int = 1,
        weight: str = "",
        **options: Any,
    ) -> str:
        """Add a convolution; `options` go to `weight`."""
        ones = (1,) * len(kernel)
        op = ops.Conv(strides or ones, pads or ((0, 0),) * len(kernel), dilations or ones, groups)
        weight = weight or self.weight((channels, self.shape(x)[1] // groups, *kernel), **options)
        return self.node(op, x, weight, self.bias(channels))

    def batchnorm(self, x: str, **given: Any) -> str:
        """Add a batch norm of random statistics; gamma, beta, mean, variance may be given as values or tensor names."""
        count, rng = self.shape(x)[1], self.rng
        values = {
            "gamma": rng.uniform(0.5, 1.5, count),
            "beta": rng.normal(0, 0.3, count),
            "mean": rng.normal(0, 0.2, count),
            "variance": rng.uniform(0.5, 2, count),
        } | given
        names = [v if isinstance(v, str) else self.constant(v, name=k) for k, v in values.items()]
        return self.node(ops.BatchNorm(1e-3), x, *names)

    def graph(self, *outputs: str, states: tuple[tuple[str, str], ...] = ()) -> Graph:
        """Return the verified graph."""
        self.builder.outputs = outputs
        self.builder.states = tuple(StatePair(i, o) for i, o in states)
        return self.builder.finish("imported")


# ---- what graphs hold and compute ----


def kinds(graph: Graph | LoweredGraph) -> list[str]:
    """Return the operator names in order."""
    return [node.op.name for node in graph.nodes]


def op_node(graph: Any, kind: str) -> Any:
    """Return the only node of a kind."""
    (node,) = (n for n in graph.nodes if n.op.name == kind)
    return node


def texts(result: PassResult | LowerResult) -> str:
    """Return the text of all notes, one per line, with their level."""
    return "\n".join(f"{note.level.value}: {note.where}: {note.text}" for note in result.notes)


def real_inputs(graph: Graph, samples: int = 32, seed: int = 1) -> dict[str, FloatArray]:
    """Return seeded inputs that lie on the grid of the quantiser that reads them, where there is one."""
    arrays = seeded_inputs(graph, seed, samples)
    attached = {n.inputs[0]: n.op for n in graph.nodes if isinstance(n.op, ops.FakeQuant)}
    return {name: attached[name].evaluate(x)[0] if name in attached else x for name, x in arrays.items()}


def max_difference(a: Graph, b: Graph, samples: int = 32) -> float:
    """Return the largest difference of any output, in real units, over seeded inputs."""
    inputs = seeded_inputs(a, 1, samples)
    first, second = run_float(a, inputs), run_float(b, inputs)
    assert first.keys() == second.keys()
    return max(float(np.abs(first[name] - second[name]).max()) for name in first)


def attached(graph: Graph) -> PassResult:
    """Return the graph with one grid per activation; unknown ranges come from seeded inputs."""
    placed = SeparateGrids().run(PlaceQuantizers().run(graph).graph).graph
    return AttachScales(Observer(placed, seeded_inputs(placed, 0)), "seeded inputs").run(placed)


def lowered(graph: Graph, **options: Any) -> LowerResult:
    """Return the integer graph."""
    return lower(attached(graph).graph, **options)


def codes_of(graph: LoweredGraph, name: str, real: FloatArray) -> NDArray[Any]:
    """Return the codes of real values on the grid of a lowered tensor."""
    tensor = graph[name]
    if tensor.scale is None:
        return real
    limits = np.iinfo(tensor.dtype.value)
    codes = np.rint(real / tensor.scale[0]) + tensor.zero_point
    return np.clip(codes, limits.min, limits.max).astype(tensor.dtype.numpy)


def lsb_distances(graph: Graph, result: LowerResult | None = None, samples: int = 32) -> dict[str, NDArray[Any]]:
    """Return, per output, how far the integer graph is from the float graph, in output codes."""
    inputs = real_inputs(graph, samples)
    integer = (result or lowered(graph)).graph
    got = run_integer(integer, {name: codes_of(integer, name, x) for name, x in inputs.items()})
    expected = run_float(graph, inputs)
    distances = {}
    for name in graph.outputs:
        tensor = integer[name]
        scale = np.float32(1) if tensor.scale is None else tensor.scale[0]
        real = (got[name].astype(np.float64) - tensor.zero_point) * np.float64(scale)
        assert real.shape == expected[name].shape
        distances[name] = np.abs(real - expected[name]) / np.float64(scale)
    return distances


def lsb_distance(graph: Graph, result: LowerResult | None = None, samples: int = 32) -> float:
    """Return the largest distance of any output, in output codes."""
    return max(float(d.max()) for d in lsb_distances(graph, result, samples).values())


def assert_one_rounding(graph: Graph, result: LowerResult | None = None, *, share: float, codes: int = 1) -> None:
    """Check that integer and float graph round the same values: to equal codes but next to ties.

    Both round one real value to the nearest code, so they differ by one code at most, and only where that value lies
    closer to a tie than the integer side is off: by the rounding of the bias, half of s_x * s_w / s_y codes, and of
    the multiplier. 0.001 codes allow for the float32 division that recovers codes from the float graph.

    Args:
        graph: float graph whose outputs carry quantisers.
        result: its lowering, when it is at hand.
        share: of the elements that may differ; at least s_x * s_w / s_y.
        codes: roundings on the way.
    """
    distances = np.concatenate([d.reshape(-1) for d in lsb_distances(graph, result).values()])
    assert distances.max() <= codes + 1e-3
    assert (distances > 0.5).mean() <= share


def sum_tolerance(terms: int, largest: float) -> float:
    """Return how far two float32 evaluations of a sum of products may be apart.

    Each of `terms` products of at most `largest` carries up to four roundings (constants, product) of 2**-24, and each
    of the `terms` additions one more of the whole sum.
    """
    return terms * (terms + 4) * 2.0**-24 * largest
