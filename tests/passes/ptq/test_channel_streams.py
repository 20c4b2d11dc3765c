"""Streams: scaling one and undoing it behind leaves the network as it was; what bends or mixes channels is in none."""

import numpy as np
import pytest
from builders import Model

from kwsq.ir import ops
from kwsq.ir.execute import run_float
from kwsq.ir.graph import Graph
from kwsq.ir.ops import Activation
from kwsq.ir.rewrite import Rewriter
from kwsq.passes.ptq.channel_streams import ChannelAxis, find_streams, reshaped
from kwsq.passes.ptq.equalize import scale_stream

C = 6


def conv(model: Model, x: str, channels: int = C, groups: int = 1, activation: Activation = Activation.RELU) -> str:
    weight = model.constant(model.rng.normal(size=(channels, model.shape(x)[1] // groups, 3, 3)))
    op = ops.Conv((1, 1), ((1, 1), (1, 1)), (1, 1), groups, activation)
    return model.node(op, x, weight, model.bias(channels))


def head(model: Model, x: str) -> Graph:
    pooled = model.node(ops.Mean((2, 3), False), x)
    weight = model.constant(model.rng.normal(size=(4, model.shape(pooled)[1])))
    return model.graph(model.node(ops.Dense(), pooled, weight, model.bias(4)))


def residual(activation: Activation = Activation.RELU) -> Graph:
    model = Model()
    x = conv(model, model.input("x", (1, 1, 8, 5)))
    y = conv(model, x, groups=C, activation=activation)
    return head(model, model.node(ops.Relu(), model.node(ops.Add(), x, y)))


def broadcast() -> Graph:
    model = Model()
    x = conv(model, model.input("x", (1, 1, 8, 5)))
    mean = conv(model, model.node(ops.Mean((3,), True), x), groups=C, activation=Activation.NONE)
    return head(model, model.node(ops.Add(), x, mean))


def sub_bands() -> Graph:
    """Channels merged with frequencies for a normalisation per band, then taken apart again."""
    model = Model()
    x = conv(model, model.input("x", (1, 1, 4, 5)))
    bands = model.node(ops.Reshape((1, C * 4, 1, 5)), x)
    gain, offset = (model.constant(model.rng.normal(size=C * 4)) for _ in range(2))
    y = model.node(ops.ChannelAffine(1), bands, gain, offset)
    return head(model, conv(model, model.node(ops.Reshape((1, C, 4, 5)), y), groups=C))


def movers() -> Graph:
    model = Model()
    x = conv(model, model.input("x", (1, 1, 8, 6)))
    x = model.node(ops.MaxPool((2, 2), (2, 2), ((0, 0), (0, 0))), x)
    left, right = model.node(ops.Slice((0, 0, 0, 0), (1, C, 4, 2), (1, 1, 1, 1)), x), conv(model, x, groups=C)
    x = model.node(ops.Concat(3), left, right)
    x = model.node(ops.Transpose((0, 2, 3, 1)), model.node(ops.LeakyRelu(0.1), x))
    weight = model.constant(model.rng.normal(size=(4, C)))
    return model.graph(model.node(ops.Dense(), x, weight, model.bias(4)))


def flattened() -> Graph:
    model = Model()
    x = model.node(ops.Reshape((1, C * 40)), conv(model, model.input("x", (1, 1, 8, 5))))
    return model.graph(model.node(ops.Dense(), x, model.constant(model.rng.normal(size=(4, C * 40)))))


def grouped() -> Graph:
    model = Model()
    x = conv(model, model.input("x", (1, 1, 8, 5)))
    return head(model, conv(model, x, 8, groups=2))


GRAPHS = {f.__name__: f() for f in (residual, broadcast, sub_bands, movers, flattened, grouped)}
STREAMS = {"residual": 1, "broadcast": 1, "sub_bands": 2, "movers": 1, "flattened": 1, "grouped": 2}


@pytest.mark.parametrize("case", GRAPHS)
def test_scaling_a_stream_leaves_the_outputs(case: str) -> None:
    graph = GRAPHS[case]
    x = np.random.default_rng(1).normal(size=(3, *graph["x"].shape[1:])).astype(np.float32)
    before = run_float(graph, {"x": x})[graph.outputs[0]]
    streams = find_streams(graph)
    assert len(streams) == STREAMS[case]
    for stream in streams:
        rewriter = Rewriter(graph)
        scale_stream(rewriter, stream, np.exp(np.random.default_rng(2).uniform(-2, 2, stream.channels)))
        scaled = rewriter.finish()
        after = run_float(scaled, {"x": x})
        # float32: 1e-5 is 2**7 roundings of the largest value
        np.testing.assert_allclose(after[graph.outputs[0]], before, atol=1e-5 * np.abs(before).max())


def test_residual_additions_are_one_stream() -> None:
    (stream,) = find_streams(GRAPHS["residual"])
    assert [node.op.name for node in stream.producers] == ["Conv", "Conv"]
    assert [node.op.name for node in stream.consumers] == ["Conv", "Dense"]
    assert stream.channels == C
    assert len(stream.axes) == 5


def test_a_clamp_above_zero_fixes_its_stream() -> None:
    assert not find_streams(residual(Activation.RELU6))


def test_nonlinear_and_unknown_operators_fix_their_streams() -> None:
    for op in (ops.Sigmoid(), ops.Tanh(), ops.HardSwish(), ops.Clip(0.0, 3.0)):
        model = Model()
        x = model.node(op, conv(model, model.input("x", (1, 1, 8, 5)), activation=Activation.NONE))
        streams = find_streams(head(model, x))
        assert not streams, op


def test_an_addition_along_another_axis_fixes_its_stream() -> None:
    model = Model()
    x = conv(model, model.input("x", (1, 1, 8, C)))
    row = model.node(ops.Reshape((1, 1, 1, C)), model.node(ops.Mean((2, 3), False), x))
    assert not find_streams(head(model, model.node(ops.Add(), x, row)))


def test_shared_weights_take_no_gain() -> None:
    model = Model()
    x = conv(model, model.input("x", (1, 1, 8, 5)))
    weight, bias = model.constant(model.rng.normal(size=(C, 1, 3, 3))), model.bias(C)
    op = ops.Conv((1, 1), ((1, 1), (1, 1)), (1, 1), C)
    for _ in range(2):
        x = model.node(op, x, weight, bias)
    assert not find_streams(head(model, x))


@pytest.mark.parametrize(
    ("at", "shape", "result", "expected"),
    [
        (ChannelAxis(1), (1, 6, 1, 1), (1, 6), ChannelAxis(1)),
        (ChannelAxis(1), (2, 6, 4), (2, 24), ChannelAxis(1, 4)),
        (ChannelAxis(1, 4), (2, 24), (2, 6, 4), ChannelAxis(1)),
        (ChannelAxis(2), (1, 4, 6), (4, 6), ChannelAxis(1)),
        (ChannelAxis(1), (1, 6, 4), (1, 3, 8), None),
        (ChannelAxis(2), (1, 4, 6), (1, 24), None),
    ],
)
def test_reshapes(
    at: ChannelAxis, shape: tuple[int, ...], result: tuple[int, ...], expected: ChannelAxis | None
) -> None:
    assert reshaped(at, shape, result) == expected
