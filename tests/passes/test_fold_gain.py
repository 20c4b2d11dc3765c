"""Gains and offsets written as Mul, Add and Sub join the layer before them or become one affine per channel."""

from collections.abc import Callable

import numpy as np
import pytest
from builders import Model, assert_one_rounding, grid, kinds, lowered, max_difference, sum_tolerance, texts
from hypothesis import given
from hypothesis import strategies as st

from kwsq.ir import ops
from kwsq.ir.graph import Op
from kwsq.passes.fold_batchnorm import FoldBatchNorm
from kwsq.passes.fold_gain import FoldGain, channel_axis

X = grid(0.05)
TOLERANCE = sum_tolerance(40, 3 / 6 * 3)  # 36 products, a gain of up to 3, two more affine maps


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.data())
def test_channel_axis_is_where_broadcasting_varies(x: list[int], data: st.DataObject) -> None:
    constant = tuple(data.draw(st.sampled_from([1, n])) for n in x[data.draw(st.integers(0, len(x))) :])
    axis = channel_axis(constant, tuple(x))
    full = (1,) * (len(x) - len(constant)) + constant
    varying = [i for i, n in enumerate(full) if n > 1]
    assert axis == (None if len(varying) > 1 else varying[0] if varying else -1)


def test_channel_axis_refuses_a_constant_that_enlarges() -> None:
    assert channel_axis((1, 8), (1, 1)) is None
    assert channel_axis((1, 1, 8), (1, 8)) is None


OPERATORS: dict[str, tuple[Op, bool]] = {
    "x * c": (ops.Mul(), False),
    "c * x": (ops.Mul(), True),
    "x + c": (ops.Add(), False),
    "x - c": (ops.Sub(), False),
    "c - x": (ops.Sub(), True),
}


@pytest.mark.parametrize("spelling", OPERATORS)
@pytest.mark.parametrize("layer", ["conv", "dense", "dense rank 3"])
@pytest.mark.parametrize("scalar", [False, True])
def test_folds_into_the_layer(spelling: str, layer: str, scalar: bool) -> None:
    model = Model()
    if layer == "conv":
        y, shape = model.conv(model.input("x", (1, 4, 6, 5)), 4, (3, 3)), (4, 1, 1)
    else:
        y, shape = model.dense(model.input("x", (1, 36) if layer == "dense" else (1, 3, 36)), 4), (4,)
    c = model.constant(np.float32(-1.5) if scalar else model.rng.uniform(-3, 3, shape))
    op, swapped = OPERATORS[spelling]
    before = model.graph(model.node(op, c, y) if swapped else model.node(op, y, c))
    result = FoldGain().run(before)
    assert len(result.graph.nodes) == 1
    assert result.graph.outputs == before.outputs
    assert max_difference(before, result.graph) <= TOLERANCE
    assert not FoldGain().run(result.graph).changed


def test_batchnorm_written_as_mul_and_add_folds() -> None:
    model = Model()
    y = model.conv(model.input("x", (1, 4, 6, 5)), 4, (3, 3))
    y = model.node(ops.Mul(), y, model.constant(model.rng.uniform(0.5, 2, (1, 4, 1, 1))))
    before = model.graph(model.node(ops.Add(), y, model.constant(model.rng.normal(size=(1, 4, 1, 1)))))
    result = FoldGain().run(before)
    assert kinds(result.graph) == ["Conv"]
    assert max_difference(before, result.graph) <= TOLERANCE


def test_mul_and_add_between_quantisers_join_to_one_affine_rounded_once() -> None:
    model = Model()
    x = model.input("x", (1, 4, 6, 5), X)
    y = model.node(ops.Mul(), x, model.constant(model.rng.uniform(-2, 2, (4, 1, 1))))
    y = model.node(ops.Sub(), y, model.constant(model.rng.normal(size=(4, 1, 1))))
    before = model.graph(model.quantize(y, grid(0.06, -5)))
    result = FoldGain().run(before)
    assert kinds(result.graph) == ["FakeQuant", "ChannelAffine", "FakeQuant"]
    assert "rounded once" in texts(result)
    integer = lowered(result.graph)
    assert kinds(integer.graph).count("DepthwiseConv2D") == 1
    assert_one_rounding(before, integer, share=0.05 * 2 / 127 / 0.06 + 0.001)


@pytest.mark.parametrize("layer", [False, True])
def test_gain_before_a_batchnorm_joins_it(layer: bool) -> None:
    """The batch norm is folded first, and finds a Mul that is neither a layer nor an affine yet."""
    model = Model()
    x = model.input("x", (1, 4, 6, 5), X)
    y = model.conv(x, 4, (3, 3)) if layer else x
    y = model.batchnorm(model.node(ops.Mul(), y, model.constant(model.rng.uniform(0.5, 2, (4, 1, 1)))))
    before = model.graph(model.batchnorm(y))
    result = FoldGain().run(FoldBatchNorm().run(before).graph)
    assert kinds(result.graph) == ["FakeQuant", "Conv" if layer else "ChannelAffine"]
    assert max_difference(before, result.graph) <= 2 * TOLERANCE
    assert not FoldGain().run(result.graph).changed


def test_scalar_affine_on_channels_stored_last_needs_no_transpose() -> None:
    model = Model()
    x = model.quantize(model.dense(model.input("x", (1, 5, 8), X), 6), grid(0.03))
    before = model.graph(model.quantize(model.node(ops.Mul(), x, model.constant(0.7)), grid(0.02)))
    result = lowered(FoldGain().run(before).graph)
    assert "Transpose" not in kinds(result.graph)
    # Two layers, each one rounding; the first one's is scaled by 0.03 * 0.7 / 0.02.
    assert_one_rounding(before, result, share=0.1, codes=2)


def other_reader(model: Model, y: str) -> tuple[str, ...]:
    return (model.node(ops.Tanh(), y),)


def graph_output(model: Model, y: str) -> tuple[str, ...]:
    return (y,)


@pytest.mark.parametrize("others", [other_reader, graph_output])
def test_a_layer_read_by_others_stays(others: Callable[[Model, str], tuple[str, ...]]) -> None:
    model = Model()
    y = model.dense(model.input("x", (1, 8)), 4)
    before = model.graph(model.node(ops.Mul(), y, model.constant(2.0)), *others(model, y))
    result = FoldGain().run(before)
    assert "ChannelAffine" in kinds(result.graph)
    assert "one affine per channel" in texts(result)
    assert max_difference(before, result.graph) <= TOLERANCE


def test_affines_of_different_axes_are_not_joined() -> None:
    model = Model()
    y = model.node(ops.Mul(), model.input("x", (1, 4, 6, 4)), model.constant(model.rng.normal(size=(4, 1, 1))))
    before = model.graph(model.node(ops.Add(), y, model.constant(model.rng.normal(size=(1, 4)))))
    result = FoldGain().run(before)
    assert kinds(result.graph) == ["ChannelAffine", "ChannelAffine"]
    assert max_difference(before, result.graph) <= TOLERANCE


@pytest.mark.parametrize("public", [False, True])
def test_an_affine_read_by_others_is_not_joined(public: bool) -> None:
    model = Model()
    y = model.node(ops.Mul(), model.input("x", (1, 4, 6, 5)), model.constant(model.rng.normal(size=(4, 1, 1))))
    other = y if public else model.node(ops.Relu(), y)
    before = model.graph(model.node(ops.Add(), y, model.constant(1.5)), other)
    result = FoldGain().run(before)
    assert kinds(result.graph).count("ChannelAffine") == 2
    assert max_difference(before, result.graph) <= TOLERANCE


def test_a_constant_of_two_axes_stays() -> None:
    model = Model()
    y = model.dense(model.input("x", (1, 3, 8)), 4)
    before = model.graph(model.node(ops.Add(), y, model.constant(model.rng.normal(size=(3, 4)))))
    result = FoldGain().run(before)
    assert not result.changed
    assert kinds(result.graph) == ["Dense", "Add"]


def test_two_activations_stay() -> None:
    model = Model()
    x = model.input("x", (1, 8))
    assert not FoldGain().run(model.graph(model.node(ops.Mul(), x, model.node(ops.Tanh(), x)))).changed
