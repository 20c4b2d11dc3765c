"""Clamps fuse into the operator before; they are dropped only where the grid after them implies them."""

import numpy as np
import pytest
from builders import Model, assert_one_rounding, grid, kinds, lowered, max_difference, op_node, texts

from kwsq.ir import ops
from kwsq.ir.graph import Op
from kwsq.ir.ops import Activation
from kwsq.ir.quant import Affine
from kwsq.passes.base import PassResult
from kwsq.passes.fuse_activation import FuseActivation

X = grid(0.05)
WIDE = grid(0.0973)  # no sum of steps of the inputs is a tie of this one
CLAMPS: dict[str, tuple[Op, Activation]] = {
    "relu": (ops.Relu(), Activation.RELU),
    "relu6": (ops.Clip(0.0, 6.0), Activation.RELU6),
    "relu_n1_to_1": (ops.Clip(-1.0, 1.0), Activation.RELU_N1_TO_1),
}


def clamped(op: Op, spec: Affine | None, *, bias: float = 1.0) -> tuple[Model, PassResult]:
    model = Model()
    x = model.input("x", (1, 8), X)
    y = model.node(op, model.node(ops.Dense(), x, model.weight((4, 8)), model.bias(4, bias)))
    return model, FuseActivation().run(model.graph(y if spec is None else model.quantize(y, spec)))


@pytest.mark.parametrize("clamp", CLAMPS)
def test_fuses_into_the_layer(clamp: str) -> None:
    op, activation = CLAMPS[clamp]
    model, result = clamped(op, WIDE)
    assert kinds(result.graph) == ["FakeQuant", "Dense", "FakeQuant"]
    assert op_node(result.graph, "Dense").op.activation is activation
    assert max_difference(model.builder.finish(), result.graph) == 0
    assert not FuseActivation().run(result.graph).changed
    assert_one_rounding(result.graph, share=0.01)


@pytest.mark.parametrize("host", [ops.Add(), ops.Sub(), ops.Mul()])
def test_fuses_into_arithmetic(host: Op) -> None:
    model = Model()
    a, b = model.input("a", (1, 8), X), model.input("b", (1, 8), grid(0.03, 5))
    before = model.graph(model.quantize(model.node(ops.Relu(), model.node(host, a, b)), WIDE))
    result = FuseActivation().run(before)
    assert "Relu" not in kinds(result.graph)
    assert max_difference(before, result.graph) == 0
    assert_one_rounding(result.graph, share=0.01)


@pytest.mark.parametrize(
    ("op", "spec", "dropped"),
    [
        (ops.Relu(), grid(0.02, 0, 0, 255), True),
        (ops.Relu(), grid(0.02, -128), True),
        (ops.Relu(), grid(0.02, 0, 0, 15), True),
        (ops.Relu(), grid(0.02, 1, 0, 255), False),
        (ops.Relu(), grid(0.02, -127), False),
        (ops.Clip(0.0, 6.0), grid(5.9 / 255, 0, 0, 255), True),
        (ops.Clip(0.0, 6.0), grid(6.0 / 255, 0, 0, 255), True),
        (ops.Clip(0.0, 6.0), grid(6.01 / 255, 0, 0, 255), True),  # 6.01 is 0.4 of a step above 6, and 6 rounds to it
        (ops.Clip(0.0, 6.0), grid(6.02 / 255, 0, 0, 255), False),  # 0.8 of a step: 6 has a code of its own
        (ops.Clip(0.0, 6.0), grid(5.9 / 255, -127), False),
        (ops.Clip(-1.0, 1.0), grid(0.99 / 127, 0, -127, 127), True),
        (ops.Clip(-1.0, 1.0), grid(0.99 / 127), True),  # -128 steps of 0.99 / 127 end at -0.998
    ],
)
def test_dropped_only_where_the_grid_implies_it(op: Op, spec: Affine, dropped: bool) -> None:
    model, result = clamped(op, spec, bias=4.0)
    assert ("clamps at least as tightly" in texts(result)) == dropped
    node = op_node(result.graph, "Dense")
    assert (node.op.activation is Activation.NONE) == dropped
    # Bit-equal: a clamp that mattered for one of these values would show.
    assert max_difference(model.builder.finish(), result.graph, samples=2000) == 0
    assert_one_rounding(result.graph, share=0.02)


def test_relu_hidden_in_an_unsigned_quantiser_is_kept_by_the_grid() -> None:
    model, result = clamped(ops.Relu(), grid(0.02, 0, 0, 255))
    codes = lowered(result.graph).graph
    assert codes[codes.outputs[0]].zero_point == -128
    assert_one_rounding(model.builder.finish(), lowered(result.graph), share=0.02)


def test_not_dropped_when_one_reader_is_wider() -> None:
    model = Model()
    y = model.node(ops.Relu(), model.dense(model.input("x", (1, 8), X), 4))
    before = model.graph(model.quantize(y, grid(0.02, 0, 0, 255)), model.quantize(y, grid(0.02)))
    result = FuseActivation().run(before)
    assert op_node(result.graph, "Dense").op.activation is Activation.RELU
    assert max_difference(before, result.graph) == 0


def test_not_dropped_when_it_is_a_graph_output() -> None:
    model = Model()
    y = model.node(ops.Relu(), model.dense(model.input("x", (1, 8), X), 4))
    before = model.graph(y, model.quantize(y, grid(0.02, 0, 0, 255)))
    result = FuseActivation().run(before)
    assert result.graph.outputs == before.outputs
    assert op_node(result.graph, "Dense").op.activation is Activation.RELU
    assert max_difference(before, result.graph) == 0


@pytest.mark.parametrize("public", [False, True])
def test_not_fused_when_the_layer_has_other_readers(public: bool) -> None:
    model = Model()
    y = model.dense(model.input("x", (1, 8), X), 4)
    other = y if public else model.node(ops.Tanh(), y)
    before = model.graph(model.quantize(model.node(ops.Relu(), y), WIDE), other)
    result = FuseActivation().run(before)
    assert op_node(result.graph, "Dense").op.activation is Activation.NONE
    assert max_difference(before, result.graph) == 0


def test_relu_after_its_quantiser_moves_before_it() -> None:
    model = Model()
    y = model.quantize(model.dense(model.input("x", (1, 8), X), 4), grid(0.02, 3))
    before = model.graph(model.node(ops.Tanh(), model.node(ops.Relu(), y)))
    result = FuseActivation().run(before)
    assert kinds(result.graph) == ["FakeQuant", "Dense", "FakeQuant", "Tanh"]
    assert op_node(result.graph, "Dense").op.activation is Activation.RELU
    assert max_difference(before, result.graph) == 0


def test_relu_does_not_move_before_a_quantiser_without_zero() -> None:
    """Values below zero become the lowest code, which is 0.1: moved before, the Relu would change nothing."""
    model = Model()
    y = model.quantize(model.dense(model.input("x", (1, 8), X), 4), grid(0.02, -20, -15, 15))
    before = model.graph(model.node(ops.Tanh(), model.node(ops.Relu(), y)))
    after = FuseActivation().run(before).graph
    assert "Relu" in kinds(after)
    assert max_difference(before, after) == 0


def test_general_clip_does_not_move_before_its_quantiser() -> None:
    """0.05 lies between codes: clamped after rounding it gives 0.05, before it 0.04 or 0.06."""
    model = Model()
    y = model.quantize(model.dense(model.input("x", (1, 8), X), 4), grid(0.02))
    before = model.graph(model.node(ops.Tanh(), model.node(ops.Clip(-0.05, 0.05), y)))
    after = FuseActivation().run(before).graph
    assert max_difference(before, after) == 0


def test_two_clamps_in_a_row() -> None:
    model = Model()
    y = model.node(ops.Relu(), model.dense(model.input("x", (1, 8), X), 4))
    before = model.graph(model.quantize(model.node(ops.Clip(-1.0, 1.0), y), WIDE))
    result = FuseActivation().run(before)
    assert op_node(result.graph, "Dense").op.activation is Activation.RELU
    assert "Clip" in kinds(result.graph)
    assert max_difference(before, result.graph) == 0


def test_clip_without_bounds_disappears() -> None:
    _, result = clamped(ops.Clip(-np.inf, np.inf), WIDE)
    assert kinds(result.graph) == ["FakeQuant", "Dense", "FakeQuant"]
    assert "no bounds" in texts(result)
