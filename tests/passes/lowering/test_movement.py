"""Operators that move values: forms change, values do not."""

import pytest
from builders import Model, grid, kinds, lowered, lsb_distance, texts
from hypothesis import given, settings
from hypothesis import strategies as st

from kwsq.ir import ops

X = grid(0.05)
IMAGE = (1, 4, 6, 5)
EXACT = 1e-3


def image(model: Model) -> str:
    """A value stored channels last, computed exactly: an identity convolution."""
    return model.node(ops.MaxPool((1, 1), (1, 1), ((0, 0), (0, 0))), model.input("x", IMAGE, X))


@given(st.permutations(range(4)), st.permutations(range(4)))
@settings(max_examples=40)
def test_transposes_join(first: list[int], second: list[int]) -> None:
    model = Model()
    y = model.node(ops.Transpose(tuple(second)), model.node(ops.Transpose(tuple(first)), image(model)))
    graph = model.graph(y)
    assert kinds(lowered(graph).graph).count("Transpose") <= 2  # one at each boundary
    assert lsb_distance(graph) <= EXACT


def test_transpose_to_the_stored_order_is_free() -> None:
    model = Model()
    result = lowered(model.graph(model.node(ops.Transpose((0, 2, 3, 1)), image(model))))
    assert kinds(result.graph) == ["Transpose", "MaxPool2D"]


def test_two_outputs_of_one_stored_value() -> None:
    model = Model()
    x = image(model)
    graph = model.graph(x, model.node(ops.Transpose((0, 2, 3, 1)), x), model.node(ops.Transpose((0, 2, 3, 1)), x))
    assert lsb_distance(graph) <= EXACT
    model = Model()
    x = image(model)
    graph = model.graph(*(model.node(ops.Transpose((0, 2, 3, 1)), x) for _ in range(2)))
    assert lsb_distance(graph) <= EXACT


def test_output_of_a_stored_value_that_is_read_inside_too() -> None:
    model = Model()
    x = image(model)
    graph = model.graph(model.node(ops.Transpose((0, 2, 3, 1)), x), model.node(ops.ReduceMax((2, 3), False), x))
    assert lsb_distance(graph) <= EXACT


def test_output_that_is_a_view_of_an_input() -> None:
    model = Model()
    x = model.input("x", IMAGE, X)
    graph = model.graph(model.node(ops.Transpose((0, 1, 2, 3)), x), model.node(ops.Transpose((0, 1, 3, 2)), x))
    assert lsb_distance(graph) <= EXACT
    assert lowered(graph).graph.outputs == graph.outputs


@pytest.mark.parametrize("shape", [(1, 4, 30), (4, 30), (1, 120), (120,), (1, 1, 4, 6, 5), (4, 1, 6, 5), (2, 60)])
def test_reshape_at_the_output(shape: tuple[int, ...]) -> None:
    model = Model()
    graph = model.graph(model.node(ops.Reshape(shape), image(model)))
    result = lowered(graph)
    assert result.graph[graph.outputs[0]].shape == shape
    assert lsb_distance(graph, result) <= EXACT


@pytest.mark.parametrize("shape", [(1, 4, 30), (4, 6, 5), (1, 4, 1, 6, 5)])
def test_reshape_inside(shape: tuple[int, ...]) -> None:
    model = Model()
    y = model.node(ops.Reshape(shape), image(model))
    whole = ops.Slice((0,) * len(shape), shape, (1,) * len(shape))
    graph = model.graph(model.node(ops.Relu(), y), model.node(whole, y))
    assert lsb_distance(graph) <= EXACT


def test_unit_dimensions_cost_nothing() -> None:
    model = Model()
    y = model.node(ops.Reshape((1, 1, 49, 10)), model.input("x", (1, 49, 10), X))
    graph = model.graph(model.quantize(model.conv(y, 4, (3, 3)), X))
    assert kinds(lowered(graph).graph) == ["Reshape", "Conv2D", "Transpose"]


@pytest.mark.parametrize("axis", [0, 1, 2, 3])
def test_concat_split_and_slice_along_any_axis(axis: int) -> None:
    model = Model()
    x = image(model)
    joined = model.node(ops.Concat(axis), x, model.node(ops.Relu(), x), x)
    size = 3 * IMAGE[axis]
    sizes = (1, size - 1)
    parts = model.nodes(ops.Split(axis, sizes), joined)
    begin, end, step = [0] * 4, list(model.shape(joined)), [1] * 4
    begin[axis], step[axis] = 1, 2
    graph = model.graph(model.node(ops.Slice(tuple(begin), tuple(end), tuple(step)), joined), *parts)
    assert lsb_distance(graph) <= EXACT


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_concat_of_lower_ranks(rank: int) -> None:
    model = Model()
    shape = (2, 3, 4)[:rank]
    a, b = model.input("a", shape, X), model.input("b", shape, X)
    assert lsb_distance(model.graph(model.node(ops.Concat(rank - 1), a, b))) <= EXACT


def test_concat_with_a_constant_and_of_pooled_values() -> None:
    model = Model()
    x = model.node(ops.ReduceMax((2, 3), True), image(model))
    constant = model.constant(model.rng.integers(-20, 20, (1, 2, 1, 1)) * 0.05)
    y = model.node(ops.Concat(1), x, constant, x)
    graph = model.graph(model.node(ops.Concat(2), y, y))
    assert lsb_distance(graph) <= EXACT


@pytest.mark.parametrize("value", [0.0, 0.35])
def test_pad(value: float) -> None:
    model = Model()
    graph = model.graph(model.node(ops.Pad(((0, 0), (1, 0), (2, 3), (0, 1)), value), image(model)))
    assert lsb_distance(graph) <= EXACT


def test_pad_of_a_dimension_that_is_not_stored() -> None:
    model = Model()
    x = model.node(ops.ReduceMax((2, 3), True), image(model))
    graph = model.graph(model.node(ops.Pad(((0, 0), (0, 0), (2, 3), (0, 1))), x))
    assert lsb_distance(graph) <= EXACT


def test_transposes_inside_are_warned_of() -> None:
    model = Model()
    y = model.node(ops.Reshape((1, 24, 5)), image(model))
    graph = model.graph(model.quantize(model.dense(y, 3), X))
    assert "warning" in texts(lowered(graph))
    assert "inside the model" in texts(lowered(graph))
