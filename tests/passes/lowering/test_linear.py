"""Convolutions, dense layers and per-channel affines as integers, against the float graph."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from builders import Model, assert_one_rounding, grid, kinds, lowered, lsb_distance, op_node, texts

from kwsq.ir import ops
from kwsq.ir.errors import UnsupportedModelError
from kwsq.ir.graph import Graph
from kwsq.ir.quant import INT32, Affine, Codebook, IntRange, PerAxis

X = grid(0.05)
Y = grid(0.0317, -9)
SHARE = 0.02
"""s_x * s_w / s_y is 0.05 / (127 * 6 ** 0.5) / 0.0317 = 0.005 at most for 8-bit weights."""

CONVOLUTIONS: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "plain": ((1, 3, 7, 6), {"kernel": (3, 3)}),
    "one channel": ((1, 1, 7, 6), {"kernel": (3, 3)}),
    "stride": ((1, 3, 9, 8), {"kernel": (3, 2), "strides": (2, 3)}),
    "asymmetric pads": ((1, 3, 7, 6), {"kernel": (3, 3), "pads": ((2, 0), (0, 1))}),
    "dilation": ((1, 3, 9, 9), {"kernel": (3, 2), "dilations": (2, 3)}),
    "groups": ((1, 6, 7, 6), {"kernel": (3, 3), "groups": 2}),
    "depthwise": ((1, 8, 7, 6), {"kernel": (3, 3), "groups": 8, "pads": ((1, 1), (1, 1))}),
    "depthwise multiplier": ((1, 4, 7, 6), {"kernel": (3, 3), "groups": 4}),
    "1-D": ((1, 3, 12), {"kernel": (5,)}),
    "1-D causal": ((1, 3, 12), {"kernel": (3,), "dilations": (2,), "pads": ((4, 0),)}),
    "1-D depthwise": ((1, 8, 12), {"kernel": (3,), "groups": 8, "strides": (2,)}),
    "1-D groups": ((1, 6, 12), {"kernel": (3,), "groups": 3}),
    "batch of two": ((2, 3, 7, 6), {"kernel": (3, 3)}),
    "one scale": ((1, 3, 7, 6), {"kernel": (3, 3), "per_channel": False}),
    "few bits": ((1, 3, 7, 6), {"kernel": (3, 3), "bits": 4}),
}


def convolution(name: str) -> Graph:
    shape, options = CONVOLUTIONS[name]
    channels = 24 if shape[1] == 6 else 8
    model = Model()
    return model.graph(model.quantize(model.conv(model.input("x", shape, X), channels, **options), Y))


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolution(name: str) -> None:
    graph = convolution(name)
    result = lowered(graph)
    wanted = "DepthwiseConv2D" if "depthwise" in name else "Conv2D"
    assert wanted in kinds(result.graph)
    assert kinds(result.graph).count("Transpose") <= 2  # at the boundary
    assert "inside the model" not in texts(result)
    # 4-bit steps are 18 times larger.
    assert_one_rounding(graph, result, share=0.1 if name == "few bits" else SHARE)


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_weight_codes_and_scales_are_kept(name: str) -> None:
    graph = convolution(name)
    result = lowered(graph).graph
    weight = graph[op_node(graph, "Conv").inputs[1]]
    layer = next(n for n in result.nodes if "Conv2D" in n.op.name)
    got = result[layer.inputs[1]]
    assert isinstance(weight.quant, Affine)
    assert got.data is not None
    assert weight.data is not None
    assert got.scale is not None
    np.testing.assert_array_equal(np.sort(got.data.ravel()), np.sort(weight.data.ravel()))
    np.testing.assert_array_equal(got.scale, weight.quant.scale)
    axis = 3 if layer.op.name == "DepthwiseConv2D" else 0
    assert got.quantized_dimension == (axis if got.scale.size > 1 else 0)
    assert got.shape[axis] == weight.shape[0]


@pytest.mark.parametrize("shape", [(1, 8), (3, 8), (1, 5, 8), (1, 2, 3, 8)])
def test_dense(shape: tuple[int, ...]) -> None:
    model = Model()
    graph = model.graph(model.quantize(model.dense(model.input("x", shape, X), 6), Y))
    result = lowered(graph)
    assert kinds(result.graph) == ["FullyConnected"]
    assert_one_rounding(graph, result, share=SHARE)


def test_flatten_after_a_convolution_permutes_the_columns_instead_of_the_values() -> None:
    model = Model()
    x = model.quantize(model.conv(model.input("x", (1, 3, 5, 4), X), 4, (2, 2)), grid(0.04))
    flat = model.node(ops.Reshape((1, 48)), x)
    graph = model.graph(model.quantize(model.dense(flat, 6), Y), model.quantize(model.dense(flat, 3), Y))
    result = lowered(graph)
    assert kinds(result.graph).count("Transpose") == 1  # of the input
    for node in result.graph.nodes:
        if node.op.name == "FullyConnected":
            weight = result.graph[node.inputs[1]]
            source = graph[next(n for n in graph.nodes if n.name == node.name).inputs[1]].data
            assert weight.data is not None
            assert source is not None
            order = np.arange(48).reshape(4, 4, 3).transpose(1, 2, 0).ravel()  # C, H, W stored as H, W, C
            np.testing.assert_array_equal(weight.data, source[:, order])
    # A code of the convolution may be off next to a tie, one of 48: through gain 0.04 / 0.0317 / 48 ** 0.5 a fraction.
    assert lsb_distance(graph, result) <= 2.001


def test_flatten_of_a_batch() -> None:
    model = Model()
    x = model.quantize(model.conv(model.input("x", (2, 3, 5, 4), X), 4, (2, 2)), grid(0.04))
    graph = model.graph(model.quantize(model.dense(model.node(ops.Reshape((2, 48)), x), 6), Y))
    assert lsb_distance(graph) <= 2.001


def test_flatten_read_by_others_too_is_a_real_reshape() -> None:
    model = Model()
    x = model.quantize(model.conv(model.input("x", (1, 3, 5, 4), X), 4, (2, 2)), grid(0.04))
    flat = model.node(ops.Reshape((1, 48)), x)
    graph = model.graph(model.quantize(model.dense(flat, 6), Y), model.quantize(model.node(ops.Tanh(), flat), X))
    result = lowered(graph)
    assert "inside the model" in texts(result)
    assert lsb_distance(graph, result) <= 2.001


@pytest.mark.parametrize("shape", [(1, 6), (1, 6, 5), (1, 6, 5, 4)])
@pytest.mark.parametrize("axis", [-1, 1])
@pytest.mark.parametrize("uniform", ["", "gain", "offset", "gain and offset"])
def test_channel_affine(shape: tuple[int, ...], axis: int, uniform: str) -> None:
    model = Model()
    count = shape[axis]
    gain = np.full(count, -1.3) if "gain" in uniform else model.rng.uniform(-2, 2, count)
    offset = np.full(count, 0.7) if "offset" in uniform else model.rng.normal(0, 1, count)
    x = model.input("x", shape, X)
    y = model.node(ops.ChannelAffine(axis % len(shape)), x, model.constant(gain), model.constant(offset))
    graph = model.graph(model.quantize(y, Y))
    result = lowered(graph)
    assert kinds(result.graph).count("DepthwiseConv2D") == 1
    assert_one_rounding(graph, result, share=0.05 * 2 / 127 / 0.0317)


@pytest.mark.parametrize("scale", [0.0317, 0.00047])
def test_channel_affine_of_gain_zero_keeps_its_offset_to_a_code(scale: float) -> None:
    model = Model()
    x = model.input("x", (1, 3, 4, 4), X)
    y = model.node(ops.ChannelAffine(1), x, model.constant([0.0, 1e-40, 0.001]), model.constant([0.0313, -0.0441, 0.0]))
    assert_one_rounding(model.graph(model.quantize(y, grid(scale))), share=0.05 * 1e-3 / 127 / scale)


def test_asymmetric_codes_are_recentred_or_refused() -> None:
    for zero, fits in ((10, True), (-40, False)):
        model = Model()
        codes = model.rng.integers(-100, 100, (6, 8)).astype(np.int8)
        spec = Affine(np.full(6, 0.001), np.full(6, zero), IntRange(-128, 127), PerAxis(0))
        weight = model.constant(codes, spec, "weight")
        graph = model.graph(model.quantize(model.dense(model.input("x", (1, 8), X), 6, weight=weight), Y))
        if not fits:
            with pytest.raises(UnsupportedModelError, match=r"dense .*'weight' with asymmetric codes in"):
                lowered(graph)
            continue
        result = lowered(graph).graph
        np.testing.assert_array_equal(result["weight"].data, codes - zero)
        assert_one_rounding(graph, share=SHARE)


def test_code_minus_128_is_emitted_unchanged_and_noted() -> None:
    model = Model()
    codes = np.full((4, 8), -128)
    y = model.dense(model.input("x", (1, 8), X), 4, weight=model.weight((4, 8), codes=codes))
    graph = model.graph(model.quantize(y, grid(0.2)))
    result = lowered(graph)
    np.testing.assert_array_equal(result.graph["weight"].data, codes)
    assert "contains code -128" in texts(result)
    assert_one_rounding(graph, result, share=SHARE)


def test_codebook_weights_are_their_levels() -> None:
    model = Model()
    levels = np.array([-90, -20, 3, 55])
    codes = model.rng.choice(levels, (6, 8)).astype(np.int8)
    weight = model.constant(codes, Codebook(levels, np.full(6, 0.002), 2, PerAxis(0)), "weight")
    graph = model.graph(model.quantize(model.dense(model.input("x", (1, 8), X), 6, weight=weight), Y))
    result = lowered(graph).graph
    np.testing.assert_array_equal(result["weight"].data, codes)
    np.testing.assert_array_equal(result["weight"].levels, levels)
    assert result["weight"].bits == 2
    assert_one_rounding(graph, share=SHARE)


def test_codebook_without_zero_refuses_a_vanished_scale() -> None:
    model = Model()
    codes = model.rng.choice([-1, 1], (2, 8)).astype(np.int8)
    weight = model.constant(codes, Codebook(np.array([-1, 1]), np.array([1e-12]), 1), "weight")
    graph = model.graph(model.quantize(model.dense(model.input("x", (1, 8), X), 2, weight=weight), Y))
    with pytest.raises(UnsupportedModelError, match="a codebook with a zero level"):
        lowered(graph)


def test_scales_along_the_inputs_are_refused() -> None:
    model = Model()
    spec = Affine(np.full(8, 0.01), np.zeros(8), IntRange(-8, 7), PerAxis(1))
    weight = model.constant(np.ones((4, 8), np.int8), spec, "weight")
    graph = model.graph(model.quantize(model.dense(model.input("x", (1, 8), X), 4, weight=weight), Y))
    with pytest.raises(UnsupportedModelError, match="scales along axis 1"):
        lowered(graph)


def test_float_weight_is_refused() -> None:
    model = Model()
    weight = model.constant(np.ones((4, 8)), name="weight")
    graph = model.graph(model.quantize(model.dense(model.input("x", (1, 8), X), 4, weight=weight), Y))
    with pytest.raises(UnsupportedModelError, match="'weight' without a quantiser"):
        lowered(graph)


def test_shared_weight_and_bias() -> None:
    model = Model()
    weight, bias = model.weight((6, 8)), model.bias(6)
    a, b = model.input("a", (1, 8), X), model.input("b", (1, 8), grid(0.02, 3))
    graph = model.graph(*(model.quantize(model.node(ops.Dense(), x, weight, bias), Y) for x in (a, b)))
    result = lowered(graph)
    biases = [result.graph[n.inputs[2]] for n in result.graph.nodes]
    assert not np.array_equal(biases[0].data, biases[1].data)  # type: ignore[arg-type]  # constants
    assert_one_rounding(graph, result, share=SHARE)


def test_bias_codes_of_the_source_are_kept() -> None:
    model = Model()
    weight = model.weight((6, 8))
    spec = model.builder.tensors[weight].quant
    assert isinstance(spec, Affine)
    codes = model.rng.integers(-(2**26), 2**26, 6).astype(np.int32)
    product = (np.float32(0.05) * spec.scale).astype(np.float32)
    bias = model.constant(codes, replace(spec, scale=product, range=INT32), "bias")
    y = model.node(ops.Dense(), model.input("x", (1, 8), X), weight, bias)
    result = lowered(model.graph(model.quantize(y, Y)))
    np.testing.assert_array_equal(result.graph["bias"].data, codes)
    assert "bias" not in result.real_biases


def test_product_of_two_activations() -> None:
    model = Model()
    a, b = model.input("a", (1, 2, 3, 4), X), model.input("b", (1, 2, 4, 5), grid(0.03, 7))
    graph = model.graph(model.quantize(model.node(ops.MatMul(), a, b), grid(0.213)))
    # No bias; sums are multiples of 0.0015, one in 142 a tie of 0.213.
    assert_one_rounding(graph, share=0.02)
