"""Single steps of biases that bring the outputs closer to the reference."""

from dataclasses import replace

import numpy as np
import pytest
from builders import Model, attached, grid

from kwsq.ir import ops
from kwsq.ir.execute.kernel_sets import DEFAULT_KERNELS, REFERENCE_KERNELS, KernelSet
from kwsq.ir.graph import Graph
from kwsq.passes import feed_bias_error as feeding
from kwsq.passes.bias_reference import REFERENCE_WEIGHT, BiasReference, Distance
from kwsq.passes.feed_bias_error import FedBiases, feed_bias_error
from kwsq.passes.lower import LowerResult, lower
from kwsq.passes.observe import seeded_inputs
from kwsq.passes.refine_biases import REACH, refine_biases

X = grid(0.05)


def coarse_network() -> Graph:
    """2-bit depthwise layers in a row: a bias step is a good part of a code, and channels shift as a whole."""
    model = Model(3)
    y = model.input("x", (1, 8, 12, 6), X)
    for _ in range(4):
        y = model.quantize(model.conv(y, 8, (3, 3), bits=2, groups=8, pads=((1, 1), (1, 1))), grid(0.03, -128))
        y = model.quantize(model.conv(y, 8, (1, 1), bits=2), grid(0.03, -128))
    y = model.node(ops.Mean((2, 3), keepdims=False), y)
    return model.graph(model.quantize(model.dense(y, 6), grid(0.001)))


def fine_network() -> Graph:
    """3-bit weights and a fine output: the second rounding of every layer shows in it."""
    model = Model(7)
    y = model.input("x", (1, 8, 12, 6), X)
    for _ in range(4):
        y = model.quantize(model.conv(y, 8, (3, 3), bits=3, groups=8, pads=((1, 1), (1, 1))), grid(0.03, -128))
        y = model.quantize(model.conv(y, 8, (1, 1), bits=3), grid(0.03, -128))
    return model.graph(model.quantize(model.conv(y, 6, (12, 6), bits=8), grid(0.002)))


def prepared(samples: int = 32, graph: Graph | None = None) -> tuple[LowerResult, BiasReference, FedBiases]:
    graph = graph or coarse_network()
    inputs = seeded_inputs(graph, 5, samples)
    after = attached(graph).graph
    result = lower(after)
    reference = BiasReference(result, after, graph, inputs)
    return result, reference, feed_bias_error(result, after, graph, inputs)


BOTH = (REFERENCE_KERNELS, DEFAULT_KERNELS)


def distance(
    result: LowerResult, reference: BiasReference, fed: FedBiases, kernels: KernelSet = REFERENCE_KERNELS
) -> Distance:
    graph = fed.graph
    values = {t.name: t.data for t in graph.tensors.values() if t.data is not None}
    values |= {name: reference.codes(graph[name], name) for name in graph.inputs}
    for node in graph.nodes:
        values |= feeding.run_node(graph, node, values, reference.count, kernels.kernels)
    return reference.distance(graph, [values])


def test_biases_chosen_by_their_codes_halve_the_error_of_nearest_rounding() -> None:
    result, reference, fed = prepared()
    nearest = distance(result, reference, FedBiases(result.graph, ())).rms_lsb
    assert distance(result, reference, fed).rms_lsb < 0.5 * nearest


def test_biases_for_the_reference_kernels_alone_shift_the_default_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    result, reference, fed = prepared(graph=fine_network())
    both = distance(result, reference, fed, DEFAULT_KERNELS).rms_lsb
    monkeypatch.setattr(feeding, "kernel_sets", lambda graph: (REFERENCE_KERNELS,))
    _, _, alone = prepared(graph=fine_network())
    assert both < 0.9 * distance(result, reference, alone, DEFAULT_KERNELS).rms_lsb


def test_codes_and_scales_stay_and_no_bias_leaves_its_reach() -> None:
    result, reference, _ = prepared()
    layers = [node for node in result.graph.nodes if len(node.inputs) > 2 and node.inputs[2] in result.real_biases]
    assert len(layers) == 9
    codes = refine_biases(result.graph, layers, reference, BOTH, close_share=1.0)
    assert set(codes) == set(result.real_biases)
    steps = [np.asarray(codes[name]) - np.asarray(result.graph[name].data) for name in codes]
    assert max(np.abs(step).max() for step in steps) == REACH
    tensors = dict(result.graph.tensors)
    for name, data in codes.items():
        tensors[name] = replace(tensors[name], data=data)
    refined = FedBiases(replace(result.graph, tensors=tensors), ())

    def excess(fed: FedBiases) -> float:
        reference_kernels, default_kernels = (distance(result, reference, fed, kernels).excess for kernels in BOTH)
        return REFERENCE_WEIGHT * reference_kernels + default_kernels

    assert excess(refined) < excess(FedBiases(result.graph, ()))


def test_nothing_is_tried_where_outputs_are_close() -> None:
    result, reference, _ = prepared()
    layers = [node for node in result.graph.nodes if len(node.inputs) > 2 and node.inputs[2] in result.real_biases]
    codes = refine_biases(result.graph, layers, reference, BOTH, close_share=0.0)
    assert all(np.array_equal(codes[name], np.asarray(result.graph[name].data)) for name in codes)


@pytest.mark.parametrize("samples", [8])
def test_a_dead_channel_keeps_the_bias_of_its_mean_error(samples: int) -> None:
    """Where every integer gives the same codes, the nearest to equation (41) is taken, not an end of the reach."""
    model = Model(1)
    bias = model.constant(np.full(4, -40.03, np.float32))
    weight = model.weight((4, 8), bits=2)
    y = model.node(ops.Dense(), model.input("x", (1, 8), X), weight, bias)
    graph = model.graph(model.quantize(y, grid(0.02, -128)))
    after = attached(graph).graph
    result = lower(after)
    fed = feed_bias_error(result, after, graph, seeded_inputs(graph, 5, samples))
    (name,) = result.real_biases
    assert np.array_equal(np.asarray(fed.graph[name].data), np.asarray(result.graph[name].data))
