"""Biases rounded against the mean error made before their layer."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from builders import Model, attached, codes_of, grid, kinds
from numpy.typing import NDArray

from kwsq.ir import ops
from kwsq.ir.execute import run_float, run_integer
from kwsq.ir.graph import Graph
from kwsq.ir.lowered import LoweredGraph
from kwsq.ir.quant import INT32, Affine, IntRange, PerAxis
from kwsq.passes import feed_bias_error as feeding
from kwsq.passes.feed_bias_error import feed_bias_error
from kwsq.passes.lower import LowerResult, lower
from kwsq.passes.observe import seeded_inputs

X = grid(0.05)


def network(kind: str = "dense", output_scale: float = 0.002) -> Graph:
    """Two layers of few-bit weights: an integer step of the first bias is a good part of an output code, or several."""
    model = Model(3)
    if kind == "dense":
        y = model.quantize(model.dense(model.input("x", (1, 8), X), 48, bits=2), grid(0.04, -128))
        y = model.dense(y, 6, bits=8)
    else:
        y = model.quantize(model.conv(model.input("x", (1, 3, 6, 5), X), 16, (3, 3), bits=2), grid(0.04, -128))
        y = model.node(ops.Reshape((1, 192)), y) if kind == "flattened" else y
        y = model.dense(y, 6, bits=8) if kind == "flattened" else model.conv(y, 6, (2, 2), bits=8)
    return model.graph(model.quantize(y, grid(output_scale)))


def feed(graph: Graph) -> tuple[LowerResult, Any, dict[str, NDArray[Any]]]:
    inputs = seeded_inputs(graph, 5, 128)
    after = attached(graph).graph
    result = lower(after)
    return result, feed_bias_error(result, after, graph, inputs), inputs


def mean_error(graph: Graph, integer: LoweredGraph, inputs: dict[str, NDArray[Any]]) -> float:
    """Return the largest mean error of an output channel, in codes."""
    got = run_integer(integer, {name: codes_of(integer, name, x) for name, x in inputs.items()})
    (name,) = graph.outputs
    tensor = integer[name]
    assert tensor.scale is not None
    error = (got[name].astype(float) - tensor.zero_point) - run_float(graph, inputs)[name] / tensor.scale[0]
    return float(np.abs(error.reshape(len(error), 6, -1).mean(axis=(0, 2))).max())


@pytest.mark.parametrize("kind", ["dense", "conv", "flattened"])
def test_mean_error_shrinks(kind: str) -> None:
    graph = network(kind)
    before, fed, inputs = feed(graph)
    # Measured 0.11, 0.34 and 0.65 of it.
    assert mean_error(graph, fed.graph, inputs) < 0.7 * mean_error(graph, before.graph, inputs)


@pytest.mark.parametrize("kind", ["dense", "conv"])
def test_only_biases_change_and_by_a_few_steps(kind: str) -> None:
    before, fed, _ = feed(network(kind))
    moved = 0
    for name, tensor in before.graph.tensors.items():
        new = fed.graph[name]
        if name not in before.real_biases:
            assert new is tensor
            continue
        assert tensor.data is not None
        assert new.data is not None
        moved += np.count_nonzero(new.data != tensor.data)
        assert new.scale is tensor.scale
    assert moved
    assert f"{moved} bias codes moved" in fed.notes[0].text
    assert kinds(fed.graph) == kinds(before.graph)


@pytest.mark.parametrize("kind", ["dense", "conv", "flattened"])
def test_nearest_codes_stay_where_outputs_are_close(kind: str) -> None:
    graph = network(kind, output_scale=0.01)
    before, fed, _ = feed(graph)
    assert fed.graph is before.graph
    assert not fed.notes
    for name, real in before.real_biases.items():
        bias = before.graph[name]
        assert bias.data is not None
        assert bias.scale is not None
        np.testing.assert_array_equal(bias.data, np.rint(real / bias.scale.astype(np.float64)))


def test_an_output_that_is_close_does_not_speak_for_another() -> None:
    model = Model(3)
    x = model.input("x", (1, 3, 20, 20), X)
    large = model.quantize(model.node(ops.Reshape((1, 1200)), x), X)
    y = model.quantize(model.conv(x, 16, (3, 3), bits=2, strides=(3, 3)), grid(0.04, -128))
    small = model.quantize(model.dense(model.node(ops.Reshape((1, 576)), y), 6, bits=8), grid(0.003))
    _, fed, _ = feed(model.graph(small, large))
    assert fed.notes


def test_biases_of_a_graph_with_states_are_fed() -> None:
    """One step is close with the nearest codes; a shift of 0.1 codes a step ends as one of a whole code."""
    model = Model(3)
    x, state = model.input("x", (1, 1, 8), X), model.input("s", (1, 1, 16), grid(0.1))
    codes = np.concatenate([model.rng.integers(-1, 2, (16, 8)), np.eye(16)], axis=1).astype(np.int8)
    spec = Affine(np.full(16, 0.9, np.float32), np.zeros(16), IntRange(-2, 1), PerAxis(0))
    joined = model.node(ops.Concat(2), x, state)
    held = model.quantize(model.dense(joined, 16, weight=model.constant(codes, spec, "weight")), grid(0.1), output="s2")
    y = model.quantize(model.dense(held, 6, bits=8), grid(0.1))
    _, fed, _ = feed(model.graph(y, held, states=(("s", held),)))
    assert fed.notes


def test_a_single_output_far_away_is_reason_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = network(output_scale=0.01)
    monkeypatch.setattr(feeding, "LARGEST_LSB", 0.5)
    assert feed(graph)[1].notes


def test_is_reproducible() -> None:
    first, second = (feed(network())[1].graph for _ in range(2))
    for name, tensor in first.tensors.items():
        if tensor.data is not None:
            np.testing.assert_array_equal(tensor.data, second[name].data)


def test_biases_whose_codes_the_source_gave_are_untouched() -> None:
    graph = network()
    first, second = (node for node in graph.nodes if node.op.name == "Dense")
    annotated = dict(graph.tensors)
    scales = {first.name: np.float32(0.05), second.name: np.float32(0.04)}
    for node in (first, second):
        weight = graph[node.inputs[1]].quant
        assert isinstance(weight, Affine)
        spec = replace(weight, scale=(scales[node.name] * weight.scale).astype(np.float32), range=INT32)
        bias = graph[node.inputs[2]]
        codes = np.rint(bias.real() / spec.scale).astype(np.int32)
        annotated[bias.name] = replace(bias, data=codes, quant=spec)
    before, fed, _ = feed(replace(graph, tensors=annotated))
    assert not before.real_biases
    assert fed.graph is before.graph
    assert not fed.notes


def test_a_graph_that_mixes_vectors_is_left_alone() -> None:
    model = Model()
    y = model.quantize(model.dense(model.input("x", (4, 8), X), 8), grid(0.04))
    y = model.node(ops.Transpose((1, 0)), y)
    before, fed, _ = feed(model.graph(model.quantize(model.dense(y, 3), grid(0.02))))
    assert fed.graph is before.graph
