"""Models whose leading dimension is no batch: clips are stacked along it, and are told apart all the same."""

import numpy as np
import pytest
from builders import Model, lowered, lsb_distance, texts

from kwsq.ir import ops
from kwsq.ir.execute import run_float
from kwsq.ir.graph import Graph
from kwsq.passes.ptq import PtqOptions, quantize_float_graph
from kwsq.passes.ptq.replay import Replay

CLIPS = 150


def perceptron(shape: tuple[int, ...]) -> Graph:
    model = Model()
    x = model.input("x", shape)
    for units in (8, 6):
        weight = model.constant(model.rng.normal(size=(units, model.shape(x)[-1])), name="w")
        x = model.node(ops.Relu(), model.node(ops.Dense(), x, weight, model.bias(units)))
    return model.graph(model.node(ops.Softmax(len(shape) - 1), x, output="probabilities"))


@pytest.mark.parametrize("bits", [2, 8])
def test_a_vector_is_quantised_as_a_batch_of_one(bits: int) -> None:
    """But for last bits: operands are rounded to 2**-21 of the largest of a vector here, of a chunk of clips there."""
    x = np.random.default_rng(0).normal(size=(CLIPS, 12)).astype(np.float32)
    alone = quantize_float_graph(perceptron((12,)), {"x": x.ravel()}, PtqOptions(bits))
    batched = quantize_float_graph(perceptron((1, 12)), {"x": x}, PtqOptions(bits))
    assert texts(alone) == texts(batched)
    codes = [[c.data for c in r.graph.constants() if np.asarray(c.data).dtype == np.int8] for r in (alone, batched)]
    assert len(codes[0]) == 2
    for one, other in zip(*codes, strict=True):
        np.testing.assert_array_equal(one, other)
    for record, other in zip(alone.records, batched.records, strict=True):
        assert (record.tensor, record.method, record.scheme) == (other.tensor, other.method, other.scheme)
        # 2**5 such roundings
        np.testing.assert_allclose(
            [record.range_low, record.range_high], [other.range_low, other.range_high], rtol=2.0**-16
        )


@pytest.mark.parametrize("axis", [0, 1])
def test_a_softmax_over_either_axis_is_scored(axis: int) -> None:
    """Over 7 frames, or over the classes of each; rounding to 2 bits must be seen to cost more than to 8."""
    model = Model()
    weight = model.constant(model.rng.normal(size=(3, 12)))
    y = model.node(ops.Dense(), model.input("x", (7, 12)), weight, model.bias(3))
    graph = model.graph(model.node(ops.Softmax(axis), y))
    x = np.random.default_rng(0).normal(size=(60 * 7, 12)).astype(np.float32)
    losses = [quantize_float_graph(graph, {"x": x}, PtqOptions(bits)).records[-1].output_loss or 0.0 for bits in (8, 2)]
    assert 0 < 2 * losses[0] < losses[1] < 1


def test_logits_beside_their_softmax_over_another_axis() -> None:
    model = Model()
    weight = model.constant(model.rng.normal(size=(3, 4, 3)))
    op = ops.Conv((1,), ((0, 0),), (1,))
    logits = model.node(op, model.input("x", (1, 4, 9)), weight, model.bias(3), output="logits")
    graph = model.graph(logits, model.node(ops.Softmax(1), logits))
    x = np.random.default_rng(0).normal(size=(60, 4, 9)).astype(np.float32)
    result = quantize_float_graph(graph, {"x": x}, PtqOptions(8)).graph
    assert lsb_distance(result, lowered(result)) <= 16  # a value next to a tie in two operators; softmax amplifies


@pytest.mark.parametrize("count", [1, 65])
def test_scalars_of_a_single_clip_are_stacked(count: int) -> None:
    """Of 65 clips, the last is a chunk of its own."""
    model = Model()
    x = model.input("x", (1, 12))
    weight = model.constant(model.rng.normal(size=(3, 12)))
    y = model.node(ops.Mean((0, 1), False), model.node(ops.Dense(), x, weight, model.bias(3)), output="y")
    graph = model.graph(y)
    inputs = {"x": np.random.default_rng(0).normal(size=(count, 12)).astype(np.float32)}
    got = Replay(graph, inputs, count, [y]).finish()[y]
    assert got.shape == (count,)
    # 36 products below 8, rounded to 2**-21 before and 2**-24 after: 36 * 8 * 2**-21 / 3 < 1e-4
    np.testing.assert_allclose(got, np.atleast_1d(run_float(graph, inputs)[y]), atol=1e-4)
    assert quantize_float_graph(graph, inputs, PtqOptions(8)).graph.outputs == (y,)


def test_clips_of_one_class_are_counted_by_clip() -> None:
    """Whatever the vector, the bias of one class wins."""
    model = Model()
    weight = model.constant(model.rng.normal(size=(6, 12)))
    bias = model.constant(np.where(np.arange(6) == 2, 100.0, 0.0))
    logits = model.node(ops.Dense(), model.input("x", (12,)), weight, bias)
    graph = model.graph(model.node(ops.Softmax(0), logits))
    x = np.random.default_rng(0).normal(size=CLIPS * 12).astype(np.float32)
    said = texts(quantize_float_graph(graph, {"x": x}, PtqOptions(8)))
    assert f"class 2 is the float network's answer to {CLIPS} of {CLIPS} calibration inputs" in said
