"""Equalised channels: what the gains are, that nothing grows, and what an int8 tensor keeps of a faint channel."""

import numpy as np
from builders import Model
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from kwsq.ir import ops
from kwsq.ir.execute import run_float
from kwsq.ir.graph import Graph
from kwsq.ir.ops import Activation
from kwsq.passes.ptq import PtqOptions, quantize_float_graph
from kwsq.passes.ptq.equalize import MOST_GAIN, equalize_channels, gain_of
from kwsq.passes.ptq.replay import Replay

C = 8
SPREAD = 2.0 ** -np.arange(C)  # each channel half as large as the one before


def network(*, depthwise: bool, spread: NDArray[np.float64] = SPREAD, unbatched: bool = False) -> Graph:
    """A layer with unequal channels, read by a depthwise or an ordinary convolution, maybe without a batch between."""
    model = Model()
    shape = (-1, 1, 1, 1)
    weight = model.constant(spread.reshape(shape) * model.rng.uniform(0.5, 1, (C, 1, 3, 3)))
    same = ((1, 1), (1, 1))
    x = model.node(ops.Conv((1, 1), same, (1, 1), 1), model.input("x", (1, 1, 8, 6)), weight, name="unequal")
    if unbatched:
        rows = model.node(ops.Relu(), model.node(ops.Reshape((C, 8, 6)), x))
        x = model.node(ops.Reshape((1, C, 8, 6)), rows)
    groups = C if depthwise else 1
    undo = (1 / np.where(spread > 0, spread, 1)).reshape(shape if depthwise else (1, -1, 1, 1))
    weight = model.constant(undo * model.rng.normal(size=(C, C // groups, 3, 3)))
    y = model.node(ops.Conv((1, 1), same, (1, 1), groups, Activation.RELU), x, weight, model.bias(C))
    pooled = model.node(ops.Mean((2, 3), False), y)
    weight = model.constant(model.rng.normal(size=(4, C)))
    return model.graph(model.node(ops.Dense(), pooled, weight, model.bias(4)))


def clips(count: int = 64, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(count, 1, 8, 6)).astype(np.float32)


def equalized(graph: Graph) -> tuple[Graph, list[str]]:
    result, notes = equalize_channels(Replay(graph, {"x": clips()}, 64, graph.outputs))
    return result, [note.text for note in notes]


def magnitudes(graph: Graph) -> NDArray[np.float64]:
    first = graph.nodes[0]
    weight = np.abs(graph[first.inputs[1]].real()).sum(axis=(1, 2, 3))
    return np.asarray(weight, np.float64)


def test_faint_channels_are_brought_up() -> None:
    graph = network(depthwise=True)
    result, notes = equalized(graph)
    assert magnitudes(graph).min() * 50 < magnitudes(graph).max()
    assert magnitudes(result).min() * 3 > magnitudes(result).max()  # up to MOST_GAIN, by ranges rather than sums
    assert len(notes) == 1
    assert "scaled by up to" in notes[0]
    x = clips(5, seed=1)
    before, after = (run_float(g, {"x": x})[graph.outputs[0]] for g in (graph, result))
    np.testing.assert_allclose(after, before, atol=1e-5 * np.abs(before).max())


def test_channels_along_the_axis_that_clips_are_stacked_on() -> None:
    graph = network(depthwise=True, unbatched=True)
    result, notes = equalized(graph)
    assert len(notes) == 1
    assert magnitudes(result).min() * 3 > magnitudes(result).max()  # as with a batch, above
    x = clips(5, seed=1)
    before, after = (run_float(g, {"x": x})[graph.outputs[0]] for g in (graph, result))
    np.testing.assert_allclose(after, before, atol=1e-5 * np.abs(before).max())


def test_a_layer_that_adds_channels_up_is_left_alone() -> None:
    graph = network(depthwise=False)
    result, notes = equalized(graph)
    assert result is graph
    assert not notes


def test_a_silent_channel_keeps_its_weights() -> None:
    spread = np.where(np.arange(C) == 3, 0.0, SPREAD)
    result, _ = equalized(network(depthwise=True, spread=spread))
    assert magnitudes(result)[3] == 0
    assert all(np.isfinite(tensor.real()).all() for tensor in result.constants())


@given(st.lists(arrays(np.float64, C, elements=st.floats(0, 1e6)), min_size=1, max_size=4))
def test_no_tensor_grows(ranges: list[NDArray[np.float64]]) -> None:
    gain = gain_of(ranges, C)
    assert (gain >= 1).all()
    assert (gain <= MOST_GAIN).all()
    for largest in ranges:
        assert (gain * largest).max() <= largest.max() * (1 + 1e-12)


def test_quantization_after_training_keeps_faint_channels() -> None:
    """The faintest channel has 2**-7 of the range: 2 codes in int8 without equalising, all of them with it."""
    graph = network(depthwise=True)
    x = clips(50, seed=2)
    reference = run_float(graph, {"x": x})[graph.outputs[0]]
    errors = {}
    for scheme in ("per_channel", "per_tensor"):  # equalised with the first only
        options = PtqOptions(8, scheme=scheme, bias_correction=False, error_feedback=False)  # type: ignore[arg-type]
        result = quantize_float_graph(graph, {"x": clips()}, options)
        errors[scheme] = np.abs(run_float(result.graph, {"x": x})[graph.outputs[0]] - reference).mean()
        assert any("scaled by up to" in note.text for note in result.notes) == (scheme == "per_channel")
    assert errors["per_channel"] * 4 < errors["per_tensor"], errors
