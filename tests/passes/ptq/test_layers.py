"""Layers as matrices: columns reproduce the operator, moments are those of NumPy, shrinkage sees rank and chance."""

import numpy as np
import pytest
from builders import Model
from numpy.typing import NDArray

from kwsq.ir import ops
from kwsq.ir.execute import run_float
from kwsq.ir.graph import Graph
from kwsq.passes.ptq.layer_weights import regularized
from kwsq.passes.ptq.layers import find_layers, input_moments, own_biases


def conv_graph(groups: int = 1, kernel: tuple[int, ...] = (3, 2), rows: int = 1, *, mixed: bool = False) -> Graph:
    model = Model()
    shape = (rows, 4, 9, 6)[: 2 + len(kernel)]
    weight = model.constant(model.rng.normal(size=(8, 4 // groups, *kernel)))
    ones = (1,) * len(kernel)
    op = ops.Conv((2, *ones[1:]), ((1, 0),) * len(kernel), ones, groups)
    y = model.node(op, model.input("x", shape), weight, model.bias(8))
    return model.graph(y, *([model.node(ops.Softmax(0), y)] if mixed else []))


def dense_graph(shape: tuple[int, ...] = (1, 12), *, bias: bool = True, mixed: bool = False) -> Graph:
    model = Model()
    weight = model.constant(model.rng.normal(size=(5, shape[-1])))
    inputs = [model.input("x", shape), weight, *([model.bias(5)] if bias else [])]
    y = model.node(ops.Dense(), *inputs)
    return model.graph(y, *([model.node(ops.Softmax(0), y)] if mixed else []))


GRAPHS = {
    "conv": conv_graph(),
    "grouped conv": conv_graph(2),
    "depthwise conv": conv_graph(4),
    "conv 1-D": conv_graph(kernel=(3,)),
    "dense": dense_graph(),
    "dense over frames": dense_graph((1, 7, 12)),
    "dense without a batch": dense_graph((12,)),
    "dense over frames without a batch": dense_graph((7, 12), mixed=True),
    "conv over frames without a batch": conv_graph(rows=3, mixed=True),
    "grouped conv over frames without a batch": conv_graph(2, rows=3, mixed=True),
}


def stacked(graph: Graph, rng: np.random.Generator, clips: int) -> NDArray[np.float32]:
    leading, *rest = graph["x"].shape
    return rng.normal(size=(clips * leading, *rest)).astype(np.float32)


@pytest.mark.parametrize("case", GRAPHS)
def test_rows_times_columns_is_the_operator(case: str) -> None:
    graph = GRAPHS[case]
    (layer,) = find_layers(graph)
    x = stacked(graph, np.random.default_rng(0), 3)
    weight = graph[layer.weight].real()
    product = layer.as_rows(weight) @ layer.columns(x, weight.shape[2:])
    assert len(product) == 3
    expected = run_float(graph, {"x": x})[graph.outputs[0]]
    by_channel = product.reshape(3, weight.shape[0], -1) + graph[layer.bias].real()[:, None]
    if isinstance(layer.node.op, ops.Dense):
        got = by_channel.swapaxes(1, 2).reshape(expected.shape)
    else:
        rows = by_channel.reshape(3, 8, graph["x"].shape[0], *expected.shape[2:])
        got = rows.swapaxes(1, 2).reshape(expected.shape)
    np.testing.assert_allclose(got, expected, atol=1e-4)  # 48 float32 products below 16: 48 * 16 * 2**-24 < 1e-4


@pytest.mark.parametrize("case", GRAPHS)
def test_moments(case: str) -> None:
    graph = GRAPHS[case]
    (layer,) = find_layers(graph)
    rng = np.random.default_rng(1)
    kernel = graph[layer.weight].shape[2:]
    reference = 1 + stacked(graph, rng, 10)
    x = reference + rng.normal(0, 0.1, reference.shape).astype(np.float32)
    moments = input_moments(layer, kernel, np.split(x, 2), np.split(reference, 2))
    columns, columns0 = (
        layer.columns(a, kernel).transpose(1, 2, 0, 3).reshape(layer.groups, moments.mean.shape[1], -1)
        for a in (x, reference)
    )
    centred, centred0 = (c - c.mean(axis=2, keepdims=True) for c in (columns, columns0))
    count = columns.shape[2]
    tolerance = 1e-3  # inputs are snapped to 2**-17 of the largest, about 5, before sums of their products
    np.testing.assert_allclose(moments.mean, columns.mean(axis=2), atol=tolerance)
    np.testing.assert_allclose(moments.reference_mean, columns0.mean(axis=2), atol=tolerance)
    np.testing.assert_allclose(moments.covariance, centred @ centred.swapaxes(1, 2) / count, atol=tolerance)
    gap = (centred0 - centred) @ centred.swapaxes(1, 2) / count
    np.testing.assert_allclose(sum(half.gap for half in moments.halves), gap, atol=tolerance)
    by_clip = layer.columns(x, kernel) - columns.mean(axis=2, keepdims=True)
    for i, half in enumerate(moments.halves):
        expected = (by_clip[i::2] @ by_clip[i::2].swapaxes(2, 3)).sum(axis=0) / count
        np.testing.assert_allclose(half.covariance, expected, atol=tolerance)


@pytest.mark.parametrize(
    ("unbatched", "batched"),
    [
        (dense_graph((12,)), dense_graph((1, 12))),
        (dense_graph((7, 12), mixed=True), dense_graph((1, 7, 12))),
    ],
)
def test_moments_are_those_of_the_same_clips_in_a_batch(unbatched: Graph, batched: Graph) -> None:
    rng = np.random.default_rng(4)
    x = np.split(stacked(batched, rng, 8), [3])
    y = [chunk + rng.normal(0, 0.1, chunk.shape).astype(np.float32) for chunk in x]
    moments = []
    for graph in (unbatched, batched):
        (layer,) = find_layers(graph)
        shape = (-1, *graph["x"].shape[1:])
        moments.append(input_moments(layer, (), *([chunk.reshape(shape) for chunk in chunks] for chunks in (x, y))))
    for name in ("mean", "reference_mean", "shrinkage"):
        np.testing.assert_array_equal(*(getattr(m, name) for m in moments))
    for half, other in zip(*(m.halves for m in moments), strict=True):
        np.testing.assert_array_equal(half.covariance, other.covariance)
        np.testing.assert_array_equal(half.gap, other.gap)


@pytest.mark.parametrize(("mixed", "clip"), [(False, (1, 12)), (True, (4, 12))])
def test_a_leading_dimension_is_a_batch_where_nothing_mixes_it(mixed: bool, clip: tuple[int, ...]) -> None:
    (layer,) = find_layers(dense_graph((4, 12), mixed=mixed))
    assert layer.clip == clip


def test_frames_merged_into_the_leading_dimension_are_one_clip() -> None:
    model = Model()
    frames = model.node(ops.Reshape((7, 12)), model.input("x", (1, 7, 12)))
    weight = model.constant(model.rng.normal(size=(5, 12)))
    (layer,) = find_layers(model.graph(model.node(ops.Dense(), frames, weight, model.bias(5))))
    assert layer.clip == (7, 12)


def test_moments_do_not_depend_on_the_chunks() -> None:
    graph = GRAPHS["conv"]
    (layer,) = find_layers(graph)
    x = np.random.default_rng(2).normal(size=(12, *graph["x"].shape[1:])).astype(np.float32)
    kernel = graph[layer.weight].shape[2:]
    y = x + np.float32(0.25) * x**2
    whole = input_moments(layer, kernel, [x], [y])
    parts = input_moments(layer, kernel, np.split(x, [1, 4, 9]), np.split(y, [1, 4, 9]))
    for name in ("mean", "reference_mean"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(parts, name))
    for one, other in zip(whole.halves, parts.halves, strict=True):
        np.testing.assert_array_equal(one.covariance, other.covariance)
        np.testing.assert_array_equal(one.gap, other.gap)


@pytest.mark.parametrize(("clips", "low", "high"), [(20, 0.5, 1.0), (2000, 0.0, 0.2)])
def test_shrinkage_falls_with_the_number_of_clips(clips: int, low: float, high: float) -> None:
    graph = dense_graph((1, 60))
    (layer,) = find_layers(graph)
    rng = np.random.default_rng(3)
    spread = np.diag(np.linspace(0.5, 2, 60))
    x = (rng.normal(size=(clips, 60)) @ spread).astype(np.float32)
    shrinkage = input_moments(layer, (), [x], [x]).shrinkage
    assert low < float(shrinkage[0]) < high


@pytest.mark.parametrize("value", [0.0, 3.0])
def test_an_input_that_never_changes_still_gives_a_definite_hessian(value: float) -> None:
    graph = dense_graph()
    (layer,) = find_layers(graph)
    x = np.full((6, 12), value, np.float32)
    hessian = regularized(input_moments(layer, (), [x], [x]))
    assert np.linalg.eigvalsh(hessian[0]).min() > 0


def test_only_float_weights_are_layers() -> None:
    model = Model()
    x = model.dense(model.input("x", (1, 6)), 4)
    weight = model.constant(np.ones((3, 4)))
    graph = model.graph(model.node(ops.Dense(), x, weight, model.bias(3)))
    assert [layer.weight for layer in find_layers(graph)] == [weight]


def test_every_layer_gets_a_bias_of_its_own() -> None:
    model = Model()
    shared = model.bias(4)
    x = model.input("x", (1, 4))
    weights = [model.constant(model.rng.normal(size=(4, 4))) for _ in range(3)]
    x = model.node(ops.Dense(), x, weights[0], shared)
    x = model.node(ops.Dense(), x, weights[1], shared)
    x = model.node(ops.Dense(), x, weights[2])
    before = model.graph(x)
    after = own_biases(before)
    assert len({layer.bias for layer in find_layers(after)} - {""}) == 3
    inputs = {"x": np.ones((1, 4), np.float32)}
    np.testing.assert_array_equal(run_float(before, inputs)[x], run_float(after, inputs)[x])
