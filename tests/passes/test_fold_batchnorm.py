"""Batch norms fold into the layer before them, or become one affine per channel."""

from typing import Any

import numpy as np
import pytest
from builders import Model, assert_one_rounding, grid, kinds, lowered, max_difference, op_node, sum_tolerance, texts
from hypothesis import given
from hypothesis import strategies as st

from kwsq.ir import ops
from kwsq.ir.errors import InvalidModelError, UnsupportedModelError
from kwsq.ir.graph import Graph
from kwsq.ir.quant import Affine, Codebook
from kwsq.passes.base import PassResult
from kwsq.passes.fold_batchnorm import FoldBatchNorm, batchnorm_affine

X = grid(0.05)


def fold(graph: Graph) -> PassResult:
    return FoldBatchNorm().run(graph)


def conv_batchnorm(**options: Any) -> tuple[Model, str]:
    model = Model()
    x = model.input("x", (1, 3, 6, 5))
    return model, model.batchnorm(model.conv(x, 4, (3, 3)), **options)


@given(*[st.floats(-3, 3)] * 4, st.floats(0, 5), st.floats(1e-5, 1e-2))
def test_affine_is_the_definition(x: float, g: float, b: float, m: float, v: float, eps: float) -> None:
    gain, offset = batchnorm_affine([g], [b], [m], [v], eps)
    expected = g * (x - m) / np.sqrt(v + eps) + b
    # Five float64 roundings, and a cancellation of terms of at most |gain| * 6 + 3.
    assert gain[0] * x + offset[0] == pytest.approx(expected, abs=1e-14 * (abs(gain[0]) * 6 + 3))


@pytest.mark.parametrize("layer", ["conv", "depthwise", "conv 1-D", "dense", "dense without bias"])
def test_folds_and_keeps_the_function(layer: str) -> None:
    model = Model()
    if layer == "conv 1-D":
        y = model.conv(model.input("x", (1, 6, 9)), 4, (3,))
    elif "conv" in layer or layer == "depthwise":
        y = model.conv(model.input("x", (1, 4, 6, 5)), 4, (3, 3), groups=4 if layer == "depthwise" else 1)
    else:
        y = model.dense(model.input("x", (1, 36)), 4, bias="without" not in layer)
    before = model.graph(model.batchnorm(y))
    after = fold(before).graph
    assert len(after.nodes) == 1
    assert after.outputs == before.outputs
    assert after[after.outputs[0]].shape == before[before.outputs[0]].shape
    # 36 products of inputs up to 3 with weights up to 1 / 6, gains up to 1.5 / sqrt(0.5).
    assert max_difference(before, after) <= sum_tolerance(36, 3 / 6 * 2.2)


def test_codes_are_kept_and_the_annotated_scale_is_remembered_by_gain() -> None:
    model, y = conv_batchnorm(gamma=[0.5, 1, 2, 3])
    before = model.graph(y)
    after = fold(before).graph
    name = op_node(before, "Conv").inputs[1]
    np.testing.assert_array_equal(before[name].data, after[name].data)
    old, new, norm = before[name].quant, after[name].quant, op_node(before, "BatchNorm")
    assert isinstance(old, Affine)
    assert isinstance(new, Affine)
    gain, _ = batchnorm_affine(*(before[n].real() for n in norm.inputs[1:]), norm.op.epsilon)
    np.testing.assert_array_equal(new.scale, (old.scale * gain).astype(np.float32))


def test_is_idempotent() -> None:
    model, y = conv_batchnorm()
    once = fold(model.graph(y))
    twice = fold(once.graph)
    assert once.changed
    assert not twice.changed
    assert kinds(twice.graph) == kinds(once.graph)


def test_shared_weight_is_copied() -> None:
    model = Model()
    x, weight = model.input("x", (1, 8)), model.weight((4, 8))
    folded, plain = model.batchnorm(model.dense(x, 4, weight=weight)), model.dense(x, 4, weight=weight)
    before = model.graph(folded, plain)
    after = fold(before).graph
    assert max_difference(before, after) <= sum_tolerance(8, 3 / 3 * 2.2)
    assert len({n.inputs[1] for n in after.nodes}) == 2


def test_two_batchnorms_on_layers_of_one_weight() -> None:
    model = Model()
    x, weight = model.input("x", (1, 8)), model.weight((4, 8))
    outputs = [model.batchnorm(model.dense(x, 4, weight=weight)) for _ in range(2)]
    before = model.graph(*outputs)
    assert max_difference(before, fold(before).graph) <= sum_tolerance(8, 3 / 3 * 2.2)


@pytest.mark.parametrize("obstacle", ["other reader", "graph output", "quantiser", "clamp"])
def test_becomes_an_affine_where_the_layer_cannot_take_it(obstacle: str) -> None:
    model = Model()
    y = model.conv(model.input("x", (1, 3, 6, 5)), 4, (3, 3))
    y = {"quantiser": lambda: model.quantize(y, X), "clamp": lambda: model.node(ops.Relu(), y)}.get(
        obstacle, lambda: y
    )()
    z = model.batchnorm(y)
    outputs = {"graph output": (z, y), "other reader": (z, model.node(ops.Tanh(), y))}.get(obstacle, (z,))
    before = model.graph(*outputs)
    result = fold(before)
    assert "ChannelAffine" in kinds(result.graph)
    assert "BatchNorm" not in kinds(result.graph)
    assert "one affine per channel" in texts(result)
    # One product more than the sum of 27; a quantiser's step may turn at a tie, but none of these inputs lies on one.
    assert max_difference(before, result.graph) <= sum_tolerance(28, 3 / 5 * 2.2)


def test_between_two_quantisers_it_is_one_depthwise_with_one_rounding() -> None:
    model = Model()
    x = model.input("x", (1, 4, 6, 5), X)
    graph = fold(model.graph(model.quantize(model.batchnorm(x), grid(0.04, 3)))).graph
    result = lowered(graph)
    assert kinds(result.graph).count("DepthwiseConv2D") == 1
    # s_x * s_w / s_y with s_w = 2.2 / 127 at most.
    assert_one_rounding(graph, result, share=0.05 * 2.2 / 127 / 0.04)


def test_dense_of_rank_3_has_its_channels_elsewhere() -> None:
    model = Model()
    y = model.dense(model.input("x", (1, 4, 9)), 4)  # as many steps as outputs: a mixture would go unnoticed by shape
    before = model.graph(model.batchnorm(y))
    after = fold(before).graph
    assert kinds(after) == ["Dense", "ChannelAffine"]
    assert max_difference(before, after) <= sum_tolerance(10, 3 / 3 * 2.2)


def test_parameters_as_codes() -> None:
    model = Model()
    x = model.input("x", (1, 3, 6, 5))
    gamma = model.constant(np.array([10, 20, 30, 40], np.int8), grid(1 / 32), "gamma")
    beta = model.constant(np.array([100, -200, 300, 0], np.int32), grid(0.01, 0, -(2**31), 2**31 - 1), "beta")
    before = model.graph(model.batchnorm(model.conv(x, 4, (3, 3)), gamma=gamma, beta=beta))
    assert max_difference(before, fold(before).graph) <= sum_tolerance(27, 3 / 5 * 2.2)


def test_negative_gamma_negates_codes() -> None:
    model = Model()
    weight = model.weight((4, 8), bits=4)
    x = model.input("x", (1, 8))
    before = model.graph(model.batchnorm(model.dense(x, 4, weight=weight), gamma=[1, -1, 1, -0.5]))
    result = fold(before)
    np.testing.assert_array_equal(result.graph[weight].data[[1, 3]], -before[weight].data[[1, 3]])  # type: ignore[index]
    assert "codes of 2 output channels negated" in texts(result)
    assert max_difference(before, result.graph) <= sum_tolerance(8, 3 / 3 * 2.2)


def test_negative_gamma_on_the_lowest_code_is_refused_by_name() -> None:
    model = Model()
    codes = np.full((4, 8), 3)
    codes[1, 2] = -8
    y = model.dense(model.input("x", (1, 8)), 4, weight=model.weight((4, 8), bits=4, codes=codes))
    with pytest.raises(UnsupportedModelError, match=r"dense \(Dense \(opset 13\)\): found weight 'weight': .*code -8"):
        fold(model.graph(model.batchnorm(y, gamma=[1, -1, 1, 1])))


def test_negative_gamma_on_bipolar_weights() -> None:
    model = Model()
    levels = Codebook(np.array([-1, 1]), np.array([0.2]), 1)
    weight = model.constant(model.rng.choice([-1, 1], (4, 8)).astype(np.int8), levels, "weight")
    before = model.graph(model.batchnorm(model.dense(model.input("x", (1, 8)), 4, weight=weight), gamma=[-1, 1, -1, 1]))
    assert max_difference(before, fold(before).graph) <= sum_tolerance(8, 3 * 0.2 * 2.2)


@pytest.mark.parametrize("gamma", [0.0, 1e-12, 1e-30, -1e-30, 1e-42])
@pytest.mark.parametrize("output", [0.02, 0.0005])
def test_vanishing_gamma_keeps_the_offset_to_a_code(gamma: float, output: float) -> None:
    """At 1e-12 the bias leaves int32, below 1e-37 the scale leaves float32; either way only the offset is left."""
    model = Model()
    x = model.input("x", (1, 8), X)
    beta = [0.053, -0.031, 0.0, 0.7]
    y = model.batchnorm(model.dense(x, 4), gamma=[gamma, gamma, gamma, 1], beta=beta)
    result = fold(model.graph(model.quantize(y, grid(output, 7))))
    integer = lowered(result.graph)
    weight = integer.graph[op_node(integer.graph, "FullyConnected").inputs[1]]
    np.testing.assert_array_equal(weight.data[:2], 0)  # type: ignore[index]  # a constant
    assert "warning" in texts(result) + texts(integer)
    assert "set to zero" in texts(result) + texts(integer)
    # m = 0.05 * (2.2 / (127 * 2.8)) / output for the channel that is left, a quarter of the elements.
    assert_one_rounding(result.graph, integer, share=0.05 * 2.2 / (127 * 2.8) / output / 4)


def test_infinite_gain_is_an_invalid_model() -> None:
    model, _ = conv_batchnorm()
    negative = model.constant([1, -1, 1, 1], name="variance")
    y = model.batchnorm(model.conv("x", 4, (3, 3)), variance=negative)
    with pytest.raises(InvalidModelError, match=r"channels \[1\]"):
        fold(model.graph(y))
