"""One small integer graph per lowered operator and way to use it, by name."""

from collections.abc import Callable, Mapping

import numpy as np
from lowered_models import LoweredModel

from kwsq.ir import lowered as ir
from kwsq.ir.graph import StatePair
from kwsq.ir.lowered import DType, LoweredGraph
from kwsq.ir.ops import Activation

Build = Callable[[LoweredModel], str | tuple[str, ...]]
IMAGE = (1, 7, 9, 4)
PROBABILITY = (1 / 256, -128)


def image(model: LoweredModel, name: str = "x", shape: tuple[int, ...] = IMAGE) -> str:
    return model.input(name, shape)


CASES: Mapping[str, Build] = {
    "dense": lambda m: m.dense(m.input("x", (1, 40)), 12),
    "dense per tensor": lambda m: m.dense(m.input("x", (1, 40)), 12, per_channel=False),
    "dense relu": lambda m: m.dense(m.input("x", (1, 40)), 12, activation=Activation.RELU),
    "dense relu6": lambda m: m.dense(m.input("x", (1, 40)), 12, activation=Activation.RELU6),
    "dense relu_n1_to_1": lambda m: m.dense(m.input("x", (1, 40)), 12, activation=Activation.RELU_N1_TO_1),
    "dense rank 3": lambda m: m.dense(m.input("x", (1, 5, 8)), 6),
    "dense rank 4": lambda m: m.dense(image(m), 6),
    "dense rows": lambda m: m.dense(m.input("x", (5, 8)), 6),
    "dense codebook": lambda m: m.dense(m.input("x", (1, 40)), 6, levels=(-90, -20, 3, 55), bits=2),
    "dense w1": lambda m: m.dense(m.input("x", (1, 40)), 6, levels=(-1, 1), bits=1),
    "dense 4 bits": lambda m: m.dense(m.input("x", (1, 40)), 6, bits=4),
    "dense 4 bits per tensor": lambda m: m.dense(m.input("x", (1, 40)), 6, bits=4, per_channel=False),
    "depthwise 4 bits": lambda m: m.depthwise(image(m), (3, 3), bits=4),
    "conv": lambda m: m.conv(image(m), 8, (3, 3)),
    "conv same": lambda m: m.conv(image(m), 8, (3, 3), pads=((1, 1), (1, 1))),
    "conv same stride": lambda m: m.conv(image(m), 8, (3, 3), stride=(2, 2), pads=((1, 1), (1, 1))),
    "conv explicit pads": lambda m: m.conv(image(m), 8, (3, 3), stride=(2, 2), pads=((2, 0), (0, 1))),
    "conv unused pad": lambda m: m.conv(image(m), 8, (2, 2), stride=(3, 3), pads=((0, 1), (0, 1))),
    "conv dilated": lambda m: m.conv(image(m), 8, (2, 3), dilation=(2, 3)),
    "conv dilated same": lambda m: m.conv(image(m), 8, (3, 3), dilation=(2, 2), pads=((2, 2), (2, 2))),
    "conv grouped": lambda m: m.conv(image(m), 8, (3, 3), groups=2),
    "conv 1-D": lambda m: m.conv(m.input("x", (1, 1, 20, 6)), 5, (1, 3), pads=((0, 0), (2, 0))),
    "conv relu per tensor": lambda m: m.conv(image(m), 8, (3, 3), activation=Activation.RELU, per_channel=False),
    "conv 4 bits": lambda m: m.conv(image(m), 8, (3, 3), bits=4),
    "depthwise": lambda m: m.depthwise(image(m), (3, 3), pads=((1, 1), (1, 1))),
    "depthwise multiplier": lambda m: m.depthwise(image(m), (3, 2), multiplier=3),
    "depthwise stride pads": lambda m: m.depthwise(image(m), (3, 3), stride=(2, 1), pads=((0, 2), (2, 1))),
    "depthwise dilated": lambda m: m.depthwise(image(m), (2, 2), dilation=(3, 2)),
    "depthwise per tensor": lambda m: m.depthwise(image(m), (3, 3), per_channel=False),
    "depthwise one channel": lambda m: m.depthwise(image(m, shape=(1, 9, 7, 1)), (3, 3), multiplier=4),
    "batch matmul": lambda m: m.node(
        ir.BatchMatMul(), [image(m, "a", (1, 2, 5, 6)), image(m, "b", (1, 2, 6, 3))], (1, 2, 5, 3), (0.09, 5)
    ),
    "add": lambda m: m.binary(ir.Add(), image(m, "a"), m.input("b", IMAGE, (0.03, 7)), (0.07, 1)),
    "add relu": lambda m: m.binary(ir.Add(Activation.RELU), image(m, "a"), image(m, "b"), (0.04, -128)),
    "add broadcast": lambda m: m.binary(ir.Add(), image(m, "a"), image(m, "b", (1, 1, 1, 4)), (0.07, 1)),
    "add constant": lambda m: m.binary(
        ir.Add(), image(m), m.constant("c", np.arange(-2, 2, dtype=np.int8), (0.2, 1)), (0.07, 1)
    ),
    "add itself": lambda m: (lambda x: m.binary(ir.Add(), x, x, (0.11, -3)))(image(m)),
    "sub": lambda m: m.binary(ir.Sub(), image(m, "a"), m.input("b", IMAGE, (0.03, 7)), (0.07, 1)),
    "sub broadcast": lambda m: m.binary(ir.Sub(), image(m, "a"), image(m, "b", (1, 7, 9, 1)), (0.07, 1)),
    "mul": lambda m: m.binary(ir.Mul(), image(m, "a"), m.input("b", IMAGE, (0.03, 7)), (0.11, 1)),
    "mul squeeze-excite": lambda m: m.binary(
        ir.Mul(), image(m, "a"), m.input("gate", (1, 1, 1, 4), PROBABILITY), (0.05, -3)
    ),
    "mul upscale": lambda m: m.binary(ir.Mul(), m.input("a", IMAGE, (2.0, 0)), m.input("b", IMAGE, (3.0, 1)), (1.5, 0)),
    "mul relu6": lambda m: m.binary(ir.Mul(Activation.RELU6), image(m, "a"), image(m, "b"), (0.03, -120)),
    "squared difference": lambda m: m.binary(
        ir.SquaredDifference(), image(m, "a"), image(m, "b", (1, 7, 9, 1)), (0.5, -128)
    ),
    "maximum": lambda m: m.binary(ir.Maximum(), image(m, "a"), image(m, "b"), (0.05, -3)),
    "minimum": lambda m: m.binary(ir.Minimum(), image(m, "a"), image(m, "b", (1, 1, 1, 4)), (0.05, -3)),
    "abs": lambda m: m.unary(ir.Abs(), image(m), (0.06, -128)),
    "average pool": lambda m: m.pool(ir.AveragePool2D, image(m), (2, 3), stride=(2, 2)),
    "average pool same": lambda m: m.pool(ir.AveragePool2D, image(m), (3, 3), pads=((1, 1), (1, 1))),
    "average pool whole": lambda m: m.pool(ir.AveragePool2D, image(m), (7, 9)),
    "max pool": lambda m: m.pool(ir.MaxPool2D, image(m), (2, 2), stride=(2, 2)),
    "max pool same": lambda m: m.pool(ir.MaxPool2D, image(m), (3, 3), stride=(2, 2), pads=((1, 1), (1, 1))),
    "max pool pads": lambda m: m.pool(ir.MaxPool2D, image(m), (3, 3), stride=(2, 2), pads=((2, 1), (0, 2))),
    "mean": lambda m: m.reduce(ir.Mean((1, 2), False), image(m), (0.02, -10)),
    "mean apart": lambda m: m.reduce(ir.Mean((1, 3), False), image(m), (0.02, -10)),
    "mean keep": lambda m: m.reduce(ir.Mean((1, 2), True), image(m), (0.02, -10)),
    "mean time": lambda m: m.reduce(ir.Mean((1,), False), m.input("x", (1, 25, 6)), (0.02, -10)),
    "mean channels": lambda m: m.reduce(ir.Mean((3,), True), image(m), (0.05, -3)),
    "rsqrt": lambda m: m.unary(ir.Rsqrt(), m.input("x", IMAGE, (0.05, -128)), (0.03, -128)),
    "sum": lambda m: m.reduce(ir.Sum((1, 2), False), m.input("x", IMAGE), (0.9, -10)),
    "sum keep": lambda m: m.reduce(ir.Sum((1,), True), m.input("x", (1, 25, 6)), (0.4, 2)),
    "sum last": lambda m: m.reduce(ir.Sum((2,), False), m.input("x", (1, 25, 6)), (0.2, 2)),
    "reduce max": lambda m: m.reduce(ir.ReduceMax((1, 2), False), image(m), (0.05, -3)),
    "reduce max keep": lambda m: m.reduce(ir.ReduceMax((2,), True), image(m), (0.05, -3)),
    "relu": lambda m: m.unary(ir.Rectify(Activation.RELU), image(m), (0.025, -128)),
    "relu6": lambda m: m.unary(ir.Rectify(Activation.RELU6), image(m), (0.03, -128)),
    "relu_n1_to_1": lambda m: m.unary(ir.Rectify(Activation.RELU_N1_TO_1), image(m), (0.01, 0)),
    "leaky relu": lambda m: m.unary(ir.LeakyRelu(0.1), image(m), (0.04, -100)),
    "prelu": lambda m: m.node(
        ir.PRelu(),
        [image(m), m.constant("slope", np.array([[[10, -20, 30, 127]]], np.int8), (0.01, 2))],
        IMAGE,
        (0.05, 0),
    ),
    "logistic": lambda m: m.unary(ir.Logistic(), image(m), PROBABILITY),
    "tanh": lambda m: m.unary(ir.Tanh(), image(m), (1 / 128, 0)),
    "hard swish": lambda m: m.unary(ir.HardSwish(), image(m), (0.03, -100)),
    "softmax": lambda m: m.unary(ir.Softmax(), m.input("x", (1, 12)), PROBABILITY),
    "softmax rows": lambda m: m.unary(ir.Softmax(), m.input("x", (1, 5, 12)), PROBABILITY),
    "pad": lambda m: m.node(ir.Pad(((0, 0), (1, 0), (2, 3), (0, 0))), [image(m)], (1, 8, 14, 4), (0.05, -3)),
    "pad value": lambda m: m.node(ir.Pad(((0, 0), (1, 2)), 9), [m.input("x", (1, 6))], (1, 9), (0.05, -3)),
    "pad rank 3": lambda m: m.node(ir.Pad(((0, 0), (4, 0), (0, 0))), [m.input("x", (1, 6, 5))], (1, 10, 5), (0.05, -3)),
    "reshape": lambda m: m.reshape(image(m), (1, 7 * 9 * 4)),
    "transpose": lambda m: m.node(ir.Transpose((0, 3, 1, 2)), [image(m)], (1, 4, 7, 9), (0.05, -3)),
    "transpose batch": lambda m: m.node(ir.Transpose((2, 0, 1)), [m.input("x", (1, 5, 6))], (6, 1, 5), (0.05, -3)),
    "concat": lambda m: m.node(ir.Concat(3), [image(m, "a"), image(m, "b", (1, 7, 9, 2))], (1, 7, 9, 6), (0.05, -3)),
    "concat time": lambda m: m.node(
        ir.Concat(1), [image(m, "a", (1, 3, 6)), image(m, "b", (1, 4, 6))], (1, 7, 6), (0.05, -3)
    ),
    "slice": lambda m: m.node(
        ir.StridedSlice((0, 1, 2, 0), (1, 6, 9, 4), (1, 2, 3, 1)), [image(m)], (1, 3, 3, 4), (0.05, -3)
    ),
    "split": lambda m: split(m, (2, 2)),
    "split uneven": lambda m: split(m, (1, 3)),
    "split, one part read": lambda m: split(m, (2, 2))[1],
    "quantize": lambda m: m.unary(ir.Quantize(), image(m), (0.021, 11)),
    "quantize float": lambda m: m.unary(ir.Quantize(), m.input("x", IMAGE, None, DType.FLOAT32), (0.021, 11)),
    "quantize uint8": lambda m: m.unary(ir.Quantize(), m.input("x", IMAGE, (0.05, 125), DType.UINT8), (0.05, -3)),
    "quantize to uint8": lambda m: m.node(ir.Quantize(), [image(m)], IMAGE, (0.05, 125), dtype=DType.UINT8),
    "dequantize": lambda m: m.node(ir.Dequantize(), [image(m)], IMAGE, None, dtype=DType.FLOAT32),
}


def split(model: LoweredModel, sizes: tuple[int, ...]) -> tuple[str, ...]:
    x = image(model)
    shapes = [(*IMAGE[:3], size) for size in sizes]
    first = model.node(ir.Split(3, sizes), [x], shapes[0], (0.05, -3))
    rest = [model.tensor("part", shape, (0.05, -3)) for shape in shapes[1:]]
    node = model.nodes.pop()
    model.nodes.append(ir.LoweredNode(node.name, node.op, node.inputs, (first, *rest), node.origins))
    return (first, *rest)


def build(name: str) -> LoweredGraph:
    model = LoweredModel(seed=3)
    outputs = CASES[name](model)
    return model.graph(*((outputs,) if isinstance(outputs, str) else outputs))


def four_bit_stream() -> LoweredGraph:
    """A window of three frames, two of which are a state."""
    model = LoweredModel(seed=13)
    frame, state = model.input("x", (1, 1, 6)), model.input("s", (1, 2, 6))
    window = model.node(ir.Concat(1), [state, frame], (1, 3, 6), (0.05, -3))
    following = model.node(ir.StridedSlice((0, 1, 0), (1, 3, 6), (1, 1, 1)), [window], (1, 2, 6), (0.05, -3))
    y = model.dense(model.reshape(window, (1, 18)), 4, bits=4)
    return model.graph(y, following, states=(StatePair("s", following),))


def drawn_convolution(seed: int) -> LoweredGraph:
    """A drawn convolution: rows, columns and windows that blocks divide or not, in pieces, in one, or gathered."""
    rng, model = np.random.default_rng(seed), LoweredModel(seed)
    groups, depth, bits = (int(rng.choice(values)) for values in ((1, 1, 2, 3), (1, 2, 3, 4, 8, 20), (2, 4, 8)))
    height, width = (int(size) for size in rng.integers(8, 12, 2))
    rows = groups * int(rng.integers(1, 19))
    kernel, stride, dilation, before, after = (
        (int(pair[0]), int(pair[1])) for pair in rng.integers((1, 1, 1, 0, 0), (5, 3, 3, 2, 2), (2, 5)).T
    )
    pads = ((before[0], after[0]), (before[1], after[1])) if seed % 2 else ((0, 0), (0, 0))
    x = model.input("x", (1, height, width, groups * depth))
    return model.graph(
        model.conv(x, rows, kernel, stride=stride, dilation=dilation, pads=pads, groups=groups, bits=bits)
    )
