"""Pools and reductions as integers, against the float graph."""

import numpy as np
import pytest
from builders import Model, assert_one_rounding, grid, kinds, lowered, lsb_distance, op_node, texts

from kwsq.ir import lowered as low
from kwsq.ir import ops

X, Y = grid(0.05, 3), grid(0.0317, -9)
IMAGE = (1, 4, 7, 6)
NO_PADS = ((0, 0), (0, 0))


@pytest.mark.parametrize("pads", [NO_PADS, ((1, 0), (0, 1))])
@pytest.mark.parametrize("shape", [IMAGE, (1, 4, 9), (2, 4, 7, 6)])
def test_max_pool_is_exact(pads: tuple[tuple[int, int], ...], shape: tuple[int, ...]) -> None:
    rank = len(shape) - 2
    model = Model()
    op = ops.MaxPool((3, 2)[:rank], (2, 1)[:rank], pads[:rank])
    graph = model.graph(model.node(op, model.input("x", shape, X)))
    assert lsb_distance(graph) <= 1e-3


@pytest.mark.parametrize("grids", ["one", "two"])
@pytest.mark.parametrize("pads", [NO_PADS, ((1, 0), (0, 1))])
@pytest.mark.parametrize("count_include_pad", [False, True])
@pytest.mark.parametrize("shape", [IMAGE, (1, 4, 9)])
def test_average_pool(
    grids: str, pads: tuple[tuple[int, int], ...], count_include_pad: bool, shape: tuple[int, ...]
) -> None:
    rank = len(shape) - 2
    model = Model()
    op = ops.AveragePool((3, 2)[:rank], (2, 1)[:rank], pads[:rank], count_include_pad)
    y = model.node(op, model.input("x", shape, X))
    graph = model.graph(model.quantize(y, X if grids == "one" else Y))
    # Means of 2, 3, 4 or 6 codes have ties, up to half of them; which way they go is the kernel's choice. Padding that
    # is left out is averaged first and corrected after: half a code times 6 / 2 in the corner, half a code for the
    # map's own 8 bits, and the last rounding.
    corrected = not count_include_pad and any(map(sum, pads))
    assert lsb_distance(graph) <= (2.51 if corrected else 1.001)


def test_average_pool_between_two_grids_rounds_once() -> None:
    model = Model()
    y = model.node(ops.AveragePool((3, 3), (1, 1), NO_PADS), model.input("x", IMAGE, X))
    graph = model.graph(model.quantize(y, Y))
    result = lowered(graph)
    assert "DepthwiseConv2D" in kinds(result.graph)
    assert "rounds once" in texts(result)
    assert_one_rounding(graph, result, share=0.01)


@pytest.mark.parametrize("axes", [(2, 3), (1,), (3,), (1, 2, 3), (2,)])
@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize("scale", [0.0317, 0.0127, 0.0041])
def test_mean(axes: tuple[int, ...], keepdims: bool, scale: float) -> None:
    model = Model()
    graph = model.graph(
        model.quantize(model.node(ops.Mean(axes, keepdims), model.input("x", IMAGE, X)), grid(scale, 5))
    )
    # MEAN of the runtime rounds a second time where its multiplier is below one half: half a code at most.
    assert lsb_distance(graph) <= 1.001


@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize("count", [(7, 6), (5, 5), (12, 3), (25, 5)])
def test_spatial_mean_rounds_once(keepdims: bool, count: tuple[int, int]) -> None:
    """Whatever the multiplier of MEAN, the share of codes that differ stays that of one rounding."""
    for scale in (0.041, 0.0231, 0.0117):
        model = Model()
        x = model.input("x", (1, 4, *count), X)
        graph = model.graph(model.quantize(model.node(ops.Mean((2, 3), keepdims), x), grid(scale, 5)))
        result = lowered(graph)
        doubled = "Mean" in kinds(result.graph)
        # Where MEAN itself is used its second rounding shifts by at most 1/16 code.
        assert_one_rounding(graph, result, share=0.13 if doubled else 0.02)


@pytest.mark.parametrize("axes", [(2, 3), (1,), (3,)])
@pytest.mark.parametrize("keepdims", [False, True])
def test_reduce_max_is_exact(axes: tuple[int, ...], keepdims: bool) -> None:
    model = Model()
    graph = model.graph(model.node(ops.ReduceMax(axes, keepdims), model.input("x", IMAGE, X)))
    assert lsb_distance(graph) <= 1e-3


@pytest.mark.parametrize("keepdims", [False, True])
def test_mean_over_unit_dimensions(keepdims: bool) -> None:
    """After a global pool the dimensions are not stored any more; a second pool must still change the grid."""
    model = Model()
    x = model.quantize(model.node(ops.Mean((2, 3), True), model.input("x", IMAGE, X)), Y)
    graph = model.graph(model.quantize(model.node(ops.Mean((2, 3), keepdims), x), grid(0.047)))
    assert all(n.op.axes for n in lowered(graph).graph.nodes if n.op.name == "Mean")
    assert lsb_distance(graph) <= 0.0317 / 0.047 + 1


@pytest.mark.parametrize("kind", [ops.Mean, ops.ReduceMax, ops.ReduceSum])
@pytest.mark.parametrize("keepdims", [False, True])
def test_one_dimension_stays_where_all_stored_ones_are_reduced(kind: type[ops.Mean], keepdims: bool) -> None:
    """The runtime computes shapes itself, and would make a scalar of them."""
    model = Model()
    x = model.node(ops.ReduceMax((1,), True), model.input("x", (4, 6), X))
    y = model.node(kind((0,), keepdims), x)
    result = lowered(model.graph(model.quantize(model.node(ops.Concat(0), y, y), X))).graph
    for node in result.nodes[:2]:
        assert isinstance(node.op, low.Mean | low.ReduceMax | low.Sum)
        computed = np.zeros(result[node.inputs[0]].shape).max(axis=node.op.axes, keepdims=node.op.keepdims)
        assert result[node.outputs[0]].shape == computed.shape != ()


def test_global_pool_feeds_a_dense_layer_without_a_transpose() -> None:
    model = Model()
    x = model.quantize(model.conv(model.input("x", (1, 3, 6, 5), X), 4, (1, 1)), Y)
    x = model.quantize(model.node(ops.Mean((2, 3), True), x), grid(0.01))
    graph = model.graph(model.quantize(model.dense(model.node(ops.Reshape((1, 4)), x), 3), grid(0.01)))
    result = lowered(graph)
    assert kinds(result.graph).count("Transpose") == 1
    assert op_node(result.graph, "FullyConnected").inputs[0] in result.graph.tensors
    # A code of the mean (three, if every convolution's moves one way: none do) through a layer of gain 1.
    assert lsb_distance(graph, result) <= 3
