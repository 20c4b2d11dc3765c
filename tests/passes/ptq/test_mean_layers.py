"""Means of depthwise convolutions: the merged filter computes the same, and only where it is worth it."""

import numpy as np
import pytest
from builders import Model

from kwsq.ir import ops
from kwsq.ir.execute import run_float
from kwsq.ir.graph import Graph
from kwsq.ir.ops import Activation
from kwsq.passes.ptq.mean_layers import MOST_TAPS, merge_means

C = 4


def network(
    op: ops.Conv,
    axes: tuple[int, ...],
    *,
    keepdims: bool = True,
    size: tuple[int, int] = (9, 7),
    other_use: bool = True,
) -> Graph:
    model = Model()
    x = model.input("x", (1, C, *size))
    weight = model.constant(model.rng.normal(size=(2 * C, C // op.groups, 3, 2)))
    y = model.node(op, x, weight, model.bias(2 * C))
    mean = model.node(ops.Mean(axes, keepdims), y)
    outputs = [model.node(ops.Relu(), mean), *([model.node(ops.Relu(), y)] if other_use else [])]
    return model.graph(*outputs)


def kinds(graph: Graph) -> list[str]:
    return sorted(node.op.name for node in graph.nodes)


PLAIN = ops.Conv((1, 1), ((1, 1), (0, 1)), (1, 1), C)
CASES = {
    "plain": PLAIN,
    "strides": ops.Conv((2, 3), ((1, 0), (0, 2)), (1, 1), C),
    "dilations": ops.Conv((1, 2), ((2, 2), (0, 0)), (3, 2), C),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("axes", [(2,), (3,), (2, 3)])
@pytest.mark.parametrize("keepdims", [True, False])
def test_the_merged_filter_is_the_mean(case: str, axes: tuple[int, ...], keepdims: bool) -> None:
    graph = network(CASES[case], axes, keepdims=keepdims)
    merged = merge_means(graph)
    assert "Mean" not in kinds(merged)
    assert kinds(merged).count("Conv") == 2
    x = np.random.default_rng(1).normal(size=(3, C, 9, 7)).astype(np.float32)
    expected, got = run_float(graph, {"x": x}), run_float(merged, {"x": x})
    for name in graph.outputs:
        np.testing.assert_allclose(got[name], expected[name], atol=1e-5)  # sums of 126 products below 10 in float32


def test_the_convolution_goes_when_only_its_mean_was_used() -> None:
    merged = merge_means(network(PLAIN, (3,), other_use=False))
    assert kinds(merged) == ["Conv", "Relu"]


@pytest.mark.parametrize(
    "graph",
    [
        network(ops.Conv((1, 1), ((0, 0), (0, 0)), (1, 1), 1), (3,)),
        network(ops.Conv((1, 1), ((0, 0), (0, 0)), (1, 1), C, Activation.RELU), (3,)),
        network(PLAIN, (1,)),
        network(PLAIN, (2, 3), size=(MOST_TAPS, 3)),
    ],
    ids=["adds channels up", "clamped", "over channels", "too many taps"],
)
def test_other_means_stay(graph: Graph) -> None:
    assert kinds(merge_means(graph)) == kinds(graph)


def test_quantized_weights_stay() -> None:
    model = Model()
    weight = model.weight((C, 1, 3, 3))
    y = model.node(ops.Conv((1, 1), ((1, 1), (1, 1)), (1, 1), C), model.input("x", (1, C, 5, 5)), weight, model.bias(C))
    graph = model.graph(model.node(ops.Relu(), model.node(ops.Mean((3,), True), y)))
    assert kinds(merge_means(graph)) == kinds(graph)
