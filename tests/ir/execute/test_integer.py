"""The integer executor on stacked vectors, its errors, and what it keeps."""

from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
from lowered_cases import CASES, build
from lowered_models import LoweredModel, random_inputs

from kwsq.ir import lowered as ir
from kwsq.ir.errors import UsageError
from kwsq.ir.execute import run_integer
from kwsq.ir.execute.batch import batch_obstacles
from kwsq.ir.execute.kernels import KERNELS
from kwsq.ir.lowered import DType, LoweredGraph

EXECUTED = [name for name in CASES if name != "sum" and not name.startswith("sum ")]
# The first dimension of these is not a list of vectors.
MIXING = {"transpose batch"}


def one_by_one(graph: LoweredGraph, inputs: dict[str, np.ndarray], count: int) -> dict[str, np.ndarray]:
    parts = [
        run_integer(graph, {name: np.split(array, count)[i] for name, array in inputs.items()}) for i in range(count)
    ]
    return {name: np.concatenate([np.atleast_1d(part[name]) for part in parts]) for name in graph.outputs}


@pytest.mark.parametrize("name", EXECUTED)
def test_a_stack_of_vectors_equals_the_vectors_one_by_one(name: str) -> None:
    graph = build(name)
    inputs = random_inputs(graph, 5)
    np.testing.assert_equal(run_integer(graph, inputs), one_by_one(graph, inputs, 5))
    assert bool(batch_obstacles(graph)) == (name in MIXING)


@pytest.mark.parametrize(
    ("build_mixing", "shape"),
    [
        (lambda m, x: m.reduce(ir.Mean((0,), True), x, (0.05, 0)), (4, 6)),
        (lambda m, x: m.node(ir.Concat(0), [x, x], (8, 6), (0.05, -3)), (4, 6)),
        (lambda m, x: m.node(ir.StridedSlice((1, 0), (3, 6), (1, 1)), [x], (2, 6), (0.05, -3)), (4, 6)),
        (lambda m, x: m.node(ir.Pad(((1, 0), (0, 0))), [x], (5, 6), (0.05, -3)), (4, 6)),
        (lambda m, x: m.binary(ir.Add(), x, m.reshape(x, (6, 4)), (0.1, 0)), (4, 1)),
        (
            lambda m, x: m.binary(
                ir.Add(), x, m.constant("c", np.arange(24, dtype=np.int8).reshape(4, 6), (0.1, 0)), (0.1, 0)
            ),
            (4, 6),
        ),
        (lambda m, x: m.node(ir.Split(0, (2, 2)), [x], (2, 6), (0.05, -3)), (4, 6)),
        (lambda m, x: m.dense(x, 3), (6,)),
        (lambda m, x: m.unary(ir.Softmax(), x, (1 / 256, -128)), (6,)),
        (lambda m, x: m.reduce(ir.Mean((0, 1), False), x, (0.05, 0)), (4, 6)),
    ],
)
def test_operators_that_mix_vectors_are_run_one_by_one(build_mixing: object, shape: tuple[int, ...]) -> None:
    """Mutation: with the obstacle ignored, each of these would compute something else or fail."""
    model = LoweredModel()
    x = model.input("x", shape)
    if shape == (4, 1):
        model.tensors["x"] = replace(model.tensors["x"], shape=(4, 6))
        y = model.binary(ir.Add(), x, model.reshape(model.reshape(x, (24,)), (4, 6)), (0.1, 0))
    else:
        y = build_mixing(model, x)  # type: ignore[operator]
    node = model.nodes[-1]
    if isinstance(node.op, ir.Split):
        second = model.tensor("second", (2, 6), (0.05, -3))
        model.nodes[-1] = replace(node, outputs=(y, second))
    graph = model.graph(y)
    inputs = random_inputs(graph, 3)
    np.testing.assert_equal(run_integer(graph, inputs), one_by_one(graph, inputs, 3))
    if shape != (4, 1):
        assert batch_obstacles(graph) == (node.name,)


def test_every_operator_has_a_kernel() -> None:
    assert set(KERNELS) == set(get_args(ir.LoweredOp))


def test_intermediates_are_returned_on_request_only() -> None:
    model = LoweredModel()
    h = model.dense(model.input("x", (1, 8)), 6)
    graph = model.graph(model.dense(h, 4))
    inputs = random_inputs(graph, 2)
    assert set(run_integer(graph, inputs)) == set(graph.outputs)
    kept = run_integer(graph, inputs, keep=["x", h])
    assert set(kept) == {"x", h, *graph.outputs}
    assert kept[h].shape == (2, 6)
    np.testing.assert_array_equal(kept["x"], inputs["x"])


def test_wrong_inputs_are_all_named() -> None:
    model = LoweredModel()
    names = [model.input(n, (1, 4)) for n in ("missing", "float", "shape")]
    total = model.binary(ir.Add(), model.binary(ir.Add(), names[0], names[1], (0.1, 0)), names[2], (0.1, 0))
    graph = model.graph(total)
    with pytest.raises(UsageError) as caught:
        run_integer(graph, {"float": np.zeros((1, 4), np.float32), "shape": np.zeros((1, 5), np.int8)})
    assert [problem.where for problem in caught.value.problems] == names


def test_inputs_of_different_counts_are_refused() -> None:
    model = LoweredModel()
    total = model.binary(ir.Add(), model.input("a", (1, 4)), model.input("b", (1, 4)), (0.1, 0))
    with pytest.raises(UsageError, match=r"\[2, 3\] vectors"):
        run_integer(model.graph(total), {"a": np.zeros((2, 4), np.int8), "b": np.zeros((3, 4), np.int8)})


def test_a_graph_output_may_be_an_input_or_used_inside() -> None:
    model = LoweredModel()
    h = model.dense(model.input("x", (1, 8)), 6)
    graph = model.graph("x", h, model.dense(h, 4))
    inputs = random_inputs(graph, 2)
    outputs = run_integer(graph, inputs)
    assert list(outputs) == list(graph.outputs)
    np.testing.assert_array_equal(outputs["x"], inputs["x"])


def test_uint8_and_float_boundaries() -> None:
    model = LoweredModel()
    raw = model.input("raw", (1, 4), (0.05, 125), DType.UINT8)
    codes = model.unary(ir.Quantize(), raw, (0.05, -3))
    real = model.node(ir.Dequantize(), [codes], (1, 4), None, dtype=DType.FLOAT32)
    graph = model.graph(codes, real)
    values = np.array([[0, 125, 126, 255]], np.uint8)
    outputs = run_integer(graph, {"raw": values})
    np.testing.assert_array_equal(outputs[codes], values.astype(np.int16) - 128)
    np.testing.assert_array_equal(outputs[real], (values.astype(np.float32) - 125) * np.float32(0.05))
