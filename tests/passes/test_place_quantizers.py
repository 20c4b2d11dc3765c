"""Quantisers move to the operator that computes the value, without changing a value."""

import pytest
from builders import Model, grid, kinds, max_difference, op_node

from kwsq.ir import ops
from kwsq.ir.graph import Op
from kwsq.passes.place_quantizers import PlaceQuantizers

SPEC = grid(0.05, 3, -20, 20)
MOVES: dict[str, Op] = {
    "reshape": ops.Reshape((4, 9)),
    "transpose": ops.Transpose((0, 2, 1, 3)),
    "slice": ops.Slice((0, 0, 1, 0), (1, 4, 3, 3), (1, 1, 1, 2)),
    "max pool": ops.MaxPool((2, 2), (1, 1), ((0, 1), (1, 0))),
    "reduce max": ops.ReduceMax((2, 3), True),
    "pad": ops.Pad(((0, 0), (0, 0), (1, 2), (0, 1))),
}


def moved(op: Op) -> tuple[Model, str]:
    model = Model()
    return model, model.node(op, model.conv(model.input("x", (1, 3, 5, 5), grid(0.05)), 4, (3, 3)))


@pytest.mark.parametrize("move", MOVES)
def test_moves_before(move: str) -> None:
    model, y = moved(MOVES[move])
    before = model.graph(model.quantize(y, SPEC))
    result = PlaceQuantizers().run(before)
    assert kinds(result.graph) == ["FakeQuant", "Conv", "FakeQuant", MOVES[move].name]
    assert result.graph.outputs == before.outputs
    assert max_difference(before, result.graph) == 0
    assert not PlaceQuantizers().run(result.graph).changed


def test_moves_before_every_part_of_a_concat() -> None:
    model = Model()
    x = model.input("x", (1, 3, 5, 5), grid(0.05))
    y = model.node(ops.Concat(1), model.conv(x, 4, (3, 3)), model.conv(x, 2, (3, 3)))
    before = model.graph(model.quantize(y, SPEC))
    after = PlaceQuantizers().run(before).graph
    assert kinds(after).count("FakeQuant") == 3
    assert isinstance(after.producers()[after.outputs[0]].op, ops.Concat)
    assert max_difference(before, after) == 0


def test_moves_through_a_chain() -> None:
    model, y = moved(MOVES["max pool"])
    before = model.graph(model.quantize(model.node(ops.Reshape((1, 36)), y), SPEC))
    after = PlaceQuantizers().run(before).graph
    assert kinds(after) == ["FakeQuant", "Conv", "FakeQuant", "MaxPool", "Reshape"]
    assert max_difference(before, after) == 0


COMPUTES: dict[str, Op] = {
    "pad of 0.7": ops.Pad(((0, 0), (0, 0), (1, 2), (0, 1)), 0.7),
    "mean": ops.Mean((2, 3), True),
    "average pool": ops.AveragePool((2, 2), (1, 1), ((0, 0), (0, 0))),
}


@pytest.mark.parametrize("op", COMPUTES.values(), ids=COMPUTES)
def test_stays_behind_operators_that_compute(op: Op) -> None:
    model, y = moved(op)
    assert not PlaceQuantizers().run(model.graph(model.quantize(y, SPEC))).changed


def test_stays_behind_padding_that_its_grid_would_change() -> None:
    """The grid starts at 0.25: zeros added after rounding would stay zeros."""
    model, y = moved(MOVES["pad"])
    before = model.graph(model.quantize(y, grid(0.05, -20, -15, 15)))
    after = PlaceQuantizers().run(before).graph
    assert max_difference(before, after) == 0


@pytest.mark.parametrize("obstacle", ["other reader", "graph output", "quantised input"])
def test_stays_where_moving_would_change_others(obstacle: str) -> None:
    model, y = moved(MOVES["reshape"])
    if obstacle == "quantised input":
        model = Model()
        x = model.input("x", (1, 3, 5, 5), grid(0.05))
        y = model.node(ops.Reshape((1, 75)), x)
    outputs = {"other reader": (model.node(ops.Tanh(), y),), "graph output": (y,)}.get(obstacle, ())
    before = model.graph(model.quantize(y, SPEC), *outputs)
    after = PlaceQuantizers().run(before).graph
    assert kinds(after) == kinds(before)
    assert max_difference(before, after) == 0


def test_equal_quantisers_merge_and_different_ones_do_not() -> None:
    model = Model()
    y = model.dense(model.input("x", (1, 8)), 4)
    tanh, relu = model.node(ops.Tanh(), model.quantize(y, SPEC)), model.node(ops.Relu(), model.quantize(y, SPEC))
    sigmoid = model.node(ops.Sigmoid(), model.quantize(y, grid(0.1)))
    before = model.graph(tanh, relu, sigmoid)
    after = PlaceQuantizers().run(before).graph
    assert kinds(after).count("FakeQuant") == 2
    assert op_node(after, "Tanh").inputs == op_node(after, "Relu").inputs != op_node(after, "Sigmoid").inputs
    assert max_difference(before, after) == 0


def test_equal_quantisers_that_are_outputs_keep_their_names() -> None:
    model = Model()
    y = model.dense(model.input("x", (1, 8)), 4)
    before = model.graph(model.quantize(y, SPEC), model.quantize(y, SPEC))
    after = PlaceQuantizers().run(before).graph
    assert after.outputs == before.outputs
    assert max_difference(before, after) == 0
