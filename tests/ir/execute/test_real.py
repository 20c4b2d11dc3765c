"""Many samples at once give what each sample gives alone, whatever the operators do with the leading dimension."""

import numpy as np
import pytest
from builders import Model, grid

from kwsq.ir import ops
from kwsq.ir.errors import UsageError
from kwsq.ir.execute import real, run_float
from kwsq.ir.graph import Graph, Op
from kwsq.ir.quant import Affine, FloatArray, IntRange, PerAxis

SAMPLES = 5
TOLERANCE = 1e-5  # a matrix product of a few dozen terms below 10 may add in another order: 64 * 2**-24 * 10 < 1e-4 / 2


def one_input(shape: tuple[int, ...], *operators: Op) -> Graph:
    model = Model()
    x = model.input("x", shape)
    for op in operators:
        x = model.node(op, x)
    return model.graph(x)


def per_axis(size: int, axis: int) -> Affine:
    return Affine(np.linspace(0.01, 0.1, size, dtype=np.float32), np.zeros(size), IntRange(-8, 7), PerAxis(axis))


UNARY = {
    "relu": ((1, 3, 4), ops.Relu()),
    "softmax": ((2, 3), ops.Softmax(1)),
    "softmax over batch": ((2, 3), ops.Softmax(0)),
    "log softmax": ((2, 3), ops.LogSoftmax(1)),
    "log softmax over batch": ((2, 3), ops.LogSoftmax(0)),
    "reshape": ((1, 6, 4), ops.Reshape((2, 12))),
    "reshape of a batch of 2": ((2, 6, 2), ops.Reshape((4, 6))),
    "reshape to a vector": ((1, 6), ops.Reshape((6,))),
    "reshape to a scalar": ((1, 1), ops.Reshape(())),
    "transpose": ((1, 3, 4), ops.Transpose((0, 2, 1))),
    "transpose of the batch": ((2, 3, 4), ops.Transpose((1, 0, 2))),
    "slice": ((2, 5), ops.Slice((0, 1), (2, 5), (1, 2))),
    "slice of the batch": ((3, 5), ops.Slice((1, 0), (3, 5), (1, 1))),
    "slice with a step over the batch": ((4, 5), ops.Slice((0, 0), (4, 5), (2, 1))),
    "pad": ((1, 3), ops.Pad(((0, 0), (1, 2)))),
    "pad of the batch": ((1, 3), ops.Pad(((1, 0), (0, 0)), 2.0)),
    "mean": ((2, 3, 4), ops.Mean((1, 2), False)),
    "mean over batch": ((2, 3), ops.Mean((0,), True)),
    "max over batch": ((2, 3), ops.ReduceMax((0, 1), True)),
    "average pool": ((1, 2, 6, 4), ops.AveragePool((2, 2), (2, 2), ((0, 0), (0, 0)))),
    "max pool": ((1, 2, 6, 4), ops.MaxPool((3, 3), (1, 1), ((1, 1), (1, 1)))),
    "fake quantiser": ((1, 3), ops.FakeQuant(grid(0.1))),
    "fake quantiser per channel": ((1, 3, 2), ops.FakeQuant(per_axis(3, 1))),
    "fake quantiser per sample": ((3, 2), ops.FakeQuant(per_axis(3, 0))),
}


@pytest.mark.parametrize("case", UNARY)
def test_one_operator(case: str) -> None:
    shape, op = UNARY[case]
    assert_stackable(one_input(shape, op))


def two_inputs(op: Op, first: tuple[int, ...], second: tuple[int, ...]) -> Graph:
    model = Model()
    return model.graph(model.node(op, model.input("a", first), model.input("b", second)))


def with_constant(op: Op, shape: tuple[int, ...], constant: tuple[int, ...], *, first: bool = False) -> Graph:
    model = Model()
    x, c = model.input("x", shape), model.constant(model.rng.uniform(0.5, 2, constant))
    return model.graph(model.node(op, c, x) if first else model.node(op, x, c))


OPERANDS = {
    "add": two_inputs(ops.Add(), (2, 3), (2, 3)),
    "broadcast in the batch": two_inputs(ops.Mul(), (2, 3), (1, 3)),
    "broadcast in rank": two_inputs(ops.Sub(), (1, 4, 3), (4, 3)),
    "constant below the batch": with_constant(ops.Add(), (1, 4, 3), (4, 1)),
    "constant with batch 1": with_constant(ops.Add(), (2, 3), (1, 3)),
    "constant per sample": with_constant(ops.Mul(), (2, 3), (2, 1)),
    "constant of higher rank": with_constant(ops.Mul(), (2, 3), (4, 2, 3), first=True),
    "concatenation": two_inputs(ops.Concat(1), (1, 2), (1, 3)),
    "concatenation of the batch": two_inputs(ops.Concat(0), (1, 3), (2, 3)),
    "concatenation with a constant": with_constant(ops.Concat(1), (1, 3), (1, 2)),
    "matmul": two_inputs(ops.MatMul(), (1, 2, 3), (1, 3, 2)),
    "matmul of matrices": two_inputs(ops.MatMul(), (2, 3), (3, 2)),
    "matmul with a constant": with_constant(ops.MatMul(), (2, 3), (3, 4)),
    "matmul by a constant": with_constant(ops.MatMul(), (3, 4), (2, 3), first=True),
}


@pytest.mark.parametrize("case", OPERANDS)
def test_two_operands(case: str) -> None:
    assert_stackable(OPERANDS[case])


@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize("batch", [1, 2])
def test_networks(groups: int, batch: int) -> None:
    model = Model()
    x = model.conv(model.input("x", (batch, 6, 9, 5)), 6, (3, 2), strides=(2, 1), pads=((1, 1), (0, 1)), groups=groups)
    x = model.node(ops.Relu(), x)
    x = model.node(ops.Mean((2, 3), False), x)
    assert_stackable(model.graph(model.dense(x, 4)))


def test_a_dense_layer_on_vectors() -> None:
    model = Model()
    assert_stackable(model.graph(model.dense(model.input("x", (4,)), 3)))


def test_values_that_depend_on_no_input() -> None:
    model = Model()
    x = model.input("x", (2, 3))
    constant = model.node(ops.Relu(), model.constant(model.rng.normal(0, 1, (2, 3))))
    assert_stackable(model.graph(model.node(ops.Add(), x, constant)))


def test_chunks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = one_input((1, 2, 6, 4), ops.MaxPool((3, 3), (1, 1), ((1, 1), (1, 1))), ops.Relu())
    inputs = samples_of(graph)
    whole = run_float(graph, inputs)
    monkeypatch.setattr(real, "CHUNK_SAMPLES", 2)
    np.testing.assert_array_equal(run_float(graph, inputs)[graph.outputs[0]], whole[graph.outputs[0]])


def test_kept_tensors_come_back_stacked() -> None:
    graph = one_input((1, 3), ops.Relu(), ops.Neg())
    relu = graph.nodes[0].outputs[0]
    values = run_float(graph, samples_of(graph), keep=[relu])
    np.testing.assert_array_equal(values[graph.outputs[0]], -values[relu])
    assert values[relu].shape == (SAMPLES, 3)


@pytest.mark.parametrize(
    "shapes", [{"a": (4, 3)}, {"a": (3, 3), "b": (3, 3)}, {"a": (4, 3), "b": (6, 3)}, {"a": (4, 2), "b": (4, 3)}]
)
def test_inputs_that_do_not_fit_are_refused(shapes: dict[str, tuple[int, ...]]) -> None:
    graph = two_inputs(ops.Add(), (2, 3), (2, 3))
    with pytest.raises(UsageError, match="leading dimension times the same number"):
        run_float(graph, {name: np.zeros(shape, np.float32) for name, shape in shapes.items()})


def samples_of(graph: Graph) -> dict[str, FloatArray]:
    rng = np.random.default_rng(3)
    return {
        name: rng.normal(0, 1, (SAMPLES * graph[name].shape[0], *graph[name].shape[1:])).astype(np.float32)
        for name in graph.inputs
    }


def assert_stackable(graph: Graph) -> None:
    """Compare one run of all samples with one run per sample."""
    inputs = samples_of(graph)
    stacked = run_float(graph, inputs)
    parts = {name: np.split(array, SAMPLES) for name, array in inputs.items()}
    single = [run_float(graph, {name: part[i] for name, part in parts.items()}) for i in range(SAMPLES)]
    for name in graph.outputs:
        expected = np.concatenate([np.atleast_1d(values[name]) for values in single])
        np.testing.assert_allclose(stacked[name], expected, atol=TOLERANCE, rtol=0)
