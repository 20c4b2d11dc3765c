"""Random chains of operators: the emitted file passes every parity check, stacked or not, in both containers."""

from collections.abc import Callable

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from lowered_models import LoweredModel, emit, random_inputs

from kwsq.converter import parity
from kwsq.ir import lowered as ir
from kwsq.ir.execute import run_integer
from kwsq.ir.ops import Activation

Step = Callable[[LoweredModel, str, st.DrawFn], str]

GRIDS = st.tuples(st.sampled_from([0.02, 0.05, 0.0625, 0.113]), st.integers(-128, 127))
ACTIVATIONS = st.sampled_from([Activation.NONE, Activation.RELU, Activation.RELU6])


def pads_for(draw: st.DrawFn, kernel: ir.Pair) -> ir.Pads:
    top, bottom, left, right = (draw(st.integers(0, k - 1)) for k in (kernel[0], kernel[0], kernel[1], kernel[1]))
    return (top, bottom), (left, right)


def kernel_for(draw: st.DrawFn, model: LoweredModel, x: str) -> ir.Pair:
    _, height, width, _ = model.tensors[x].shape
    return draw(st.integers(1, min(3, height))), draw(st.integers(1, min(3, width)))


def conv(model: LoweredModel, x: str, draw: st.DrawFn) -> str:
    kernel = kernel_for(draw, model, x)
    stride = draw(st.sampled_from([(1, 1), (2, 2), (1, 2)]))
    options = {"pads": pads_for(draw, kernel), "activation": draw(ACTIVATIONS), "grid": draw(GRIDS)}
    bits, per_channel = draw(st.sampled_from([4, 8])), draw(st.booleans())
    return model.conv(x, draw(st.integers(1, 5)), kernel, stride=stride, bits=bits, per_channel=per_channel, **options)  # type: ignore[arg-type]


def depthwise(model: LoweredModel, x: str, draw: st.DrawFn) -> str:
    kernel = kernel_for(draw, model, x)
    return model.depthwise(
        x,
        kernel,
        pads=pads_for(draw, kernel),
        activation=draw(ACTIVATIONS),
        grid=draw(GRIDS),
        bits=draw(st.sampled_from([3, 8])),
    )


def pool(model: LoweredModel, x: str, draw: st.DrawFn) -> str:
    kernel = kernel_for(draw, model, x)
    if draw(st.booleans()):
        return model.pool(ir.MaxPool2D, x, kernel, stride=(2, 2), pads=pads_for(draw, kernel))
    return model.pool(ir.AveragePool2D, x, kernel, stride=(1, 1))


def residual(model: LoweredModel, x: str, draw: st.DrawFn) -> str:
    branch = model.conv(x, model.tensors[x].shape[3], (1, 1), grid=draw(GRIDS))
    return model.binary(ir.Add(draw(ACTIVATIONS)), x, branch, (0.15, 2))


def squeeze_excite(model: LoweredModel, x: str, draw: st.DrawFn) -> str:
    pooled = model.reduce(ir.Mean((1, 2), True), x, draw(GRIDS))
    gate = model.unary(
        ir.Logistic(), model.conv(pooled, model.tensors[x].shape[3], (1, 1), grid=(0.05, 3)), (1 / 256, -128)
    )
    return model.binary(ir.Mul(), x, gate, draw(GRIDS))


def unary(model: LoweredModel, x: str, draw: st.DrawFn) -> str:
    op = draw(
        st.sampled_from(
            [
                ir.Rectify(Activation.RELU),
                ir.LeakyRelu(0.1),
                ir.HardSwish(),
                ir.Quantize(),
                ir.Rectify(Activation.RELU6),
            ]
        )
    )
    return model.unary(op, x, draw(GRIDS))


def concat(model: LoweredModel, x: str, draw: st.DrawFn) -> str:
    n, height, width, depth = model.tensors[x].shape
    axis = draw(st.integers(1, 3))
    shape = [n, height, width, depth]
    shape[axis] *= 2
    return model.node(ir.Concat(axis), [x, x], tuple(shape), model.grid(x))


def crop(model: LoweredModel, x: str, draw: st.DrawFn) -> str:
    n, height, width, depth = model.tensors[x].shape
    top = draw(st.integers(0, height - 1))
    op = ir.StridedSlice((0, top, 0, 0), (n, height, width, depth), (1, 1, 1, 1))
    return model.node(op, [x], (n, height - top, width, depth), model.grid(x))


STEPS: list[Step] = [conv, depthwise, pool, residual, squeeze_excite, unary, concat, crop]


@settings(max_examples=40)
@given(st.data())
def test_every_check_passes(data: st.DataObject) -> None:
    draw = data.draw
    model = LoweredModel(draw(st.integers(0, 1000)))
    x = model.input("x", (1, draw(st.integers(3, 8)), draw(st.integers(3, 8)), draw(st.integers(1, 4))))
    for step in draw(st.lists(st.sampled_from(STEPS), min_size=1, max_size=6)):
        x = step(model, x, draw)  # type: ignore[arg-type]
    x = model.dense(model.reshape(x, (1, int(np.prod(model.tensors[x].shape)))), 5, bits=4)
    x = model.unary(ir.Softmax(), x, (1 / 256, -128)) if draw(st.booleans()) else x
    source = model.graph(x)
    container = draw(st.sampled_from(["int8", "int4"]))
    graph, file = emit(source, container=container, runtime=draw(st.sampled_from(["litert", "tflm"])))
    inputs = random_inputs(source, 4)
    report = parity.check(graph, file, None, inputs, all_tensors=True)
    assert report.passed, report.error()
    alone = [run_integer(graph, {"x": vector[None]})[x] for vector in inputs["x"]]
    np.testing.assert_array_equal(np.concatenate(alone), run_integer(graph, inputs)[x])
