"""Arithmetic, activations and Softmax as integers, against the float graph."""

import numpy as np
import pytest
from builders import Model, assert_one_rounding, attached, grid, kinds, lowered, lsb_distance, op_node, texts

from kwsq.ir import ops
from kwsq.ir.graph import Op
from kwsq.ir.ops import Activation
from kwsq.ir.quant import UINT8, Affine
from kwsq.passes.lower import lower

X, B = grid(0.05), grid(0.031, 9)
Y = grid(0.0973, -4)
IMAGE = (1, 4, 6, 5)
BINARY: dict[str, Op] = {
    "add": ops.Add(),
    "add relu": ops.Add(Activation.RELU),
    "sub": ops.Sub(),
    "sub relu6": ops.Sub(Activation.RELU6),
    "mul": ops.Mul(),
    "mul relu": ops.Mul(Activation.RELU),
    "squared difference": ops.SquaredDifference(),
}


@pytest.mark.parametrize("name", BINARY)
def test_binary(name: str) -> None:
    model = Model()
    y = model.node(BINARY[name], model.input("a", IMAGE, X), model.input("b", IMAGE, B))
    graph = model.graph(model.quantize(y, Y))
    # MUL rounds at 2**-5 of a code first (its multiplier is 0.0159): another 2**-5 lie next to a tie.
    assert_one_rounding(graph, share=0.04 if "mul" in name else 0.01)


BROADCASTS = [(1, 4, 1, 1), (4, 1, 1), (1, 1, 6, 1), (5,), (6, 5), (1, 1), (1,)]


@pytest.mark.parametrize("name", ["add", "sub", "mul"])
@pytest.mark.parametrize("shape", BROADCASTS)
@pytest.mark.parametrize("swapped", [False, True])
def test_broadcast_of_two_activations_stored_channels_last(name: str, shape: tuple[int, ...], swapped: bool) -> None:
    model = Model()
    a = model.quantize(model.conv(model.input("a", IMAGE, X), 4, (1, 1)), X)
    b = model.input("b", shape, B)
    y = model.node(BINARY[name], *((b, a) if swapped else (a, b)))
    graph = model.graph(model.quantize(y, Y))
    # A code of a (0.05) next to a tie, times at most 4 for the product, over 0.0973; and one rounding.
    assert lsb_distance(graph) <= (0.05 * 4 / 0.0973 if name == "mul" else 0.52) + 1


def test_squeeze_excite_gate_needs_no_transpose() -> None:
    model = Model()
    x = model.quantize(model.conv(model.input("x", IMAGE, X), 4, (1, 1)), X)
    gate = model.quantize(model.node(ops.Mean((2, 3), True), x), grid(0.01))
    gate = model.quantize(
        model.node(ops.Sigmoid(), model.quantize(model.conv(gate, 4, (1, 1)), B)), grid(1 / 256, -128)
    )
    graph = model.graph(model.quantize(model.node(ops.Mul(), x, gate), grid(0.04)))
    result = lowered(graph)
    assert "inside the model" not in texts(result)
    assert kinds(result.graph).count("Transpose") == 2
    # x and the gate may each be a code off, the gate's inputs a few: |x| <= 6.4 at 3 codes of 1/256, 0.05 for x.
    assert lsb_distance(graph, result) <= (6.4 * 3 / 256 + 0.05) / 0.04 + 1


@pytest.mark.parametrize("name", ["add", "sub", "mul"])
@pytest.mark.parametrize("shape", [(6, 5), (4, 6, 5), (1, 4, 1, 5), (4, 1, 5)])
@pytest.mark.parametrize("swapped", [False, True])
def test_constant_operand(name: str, shape: tuple[int, ...], swapped: bool) -> None:
    model = Model()
    x = model.quantize(model.conv(model.input("x", IMAGE, X), 4, (1, 1)), X)
    c = model.constant(model.rng.uniform(-1.5, 1, shape))
    y = model.node(BINARY[name], *((c, x) if swapped else (x, c)))
    graph = model.graph(model.quantize(y, Y))
    # Half a step of the constant's own grid (2.5 / 255), times |x| <= 6.4 in a product, and a code of x.
    error = (6.4 * 0.0049 + 1.5 * 0.05) if name == "mul" else 0.0049 + 0.05
    assert lsb_distance(graph) <= error / 0.0973 + 1


GRIDS = {"int8": grid(0.021, -3), "uint8": Affine.per_tensor(0.021, 117, UINT8), "int4": grid(0.3, 0, -8, 7)}


@pytest.mark.parametrize("kind", GRIDS)
@pytest.mark.parametrize("name", ["add", "sub", "mul"])
def test_an_annotated_constant_keeps_its_values(name: str, kind: str) -> None:
    """A quantised positional embedding: every real value is the one trained, on a grid int8 holds."""
    model, spec = Model(), GRIDS[kind]
    codes = model.rng.integers(spec.range.low, spec.range.high + 1, (6, 8))
    c = model.constant(codes.astype(np.uint8 if kind == "uint8" else np.int8), spec, "c")
    graph = model.graph(model.quantize(model.node(BINARY[name], model.input("x", (1, 6, 8), X), c), Y))
    result = lowered(graph)
    (stored,) = (t for t in result.graph.tensors.values() if t.data is not None)
    assert stored.scale is not None
    real = (np.asarray(stored.data, np.int32) - stored.zero_point) * stored.scale[0]
    np.testing.assert_array_equal(real.reshape(6, 8), (codes - spec.zero_point[0]) * spec.scale[0])
    if name != "mul":
        assert stored.scale[0] == spec.scale[0]
    assert_one_rounding(graph, share=0.04 if name == "mul" else 0.01)


def test_a_product_with_few_codes_is_not_rounded_twice() -> None:
    """The kernel rounds code products to a binary fraction of a step: as 4-bit codes every ninth would be off."""
    model = Model()
    c = model.constant(model.rng.integers(-7, 8, (6, 24)).astype(np.int8), grid(0.3), "c")
    graph = model.graph(
        model.quantize(model.node(ops.Mul(), model.input("x", (1, 6, 24), grid(0.0297)), c), grid(0.0371))
    )
    assert_one_rounding(graph, share=0.02)


@pytest.mark.parametrize("op", [ops.Maximum(), ops.Minimum()])
@pytest.mark.parametrize("constant", [False, True])
def test_maximum_and_minimum_work_on_one_grid(op: Op, constant: bool) -> None:
    model = Model()
    a = model.input("a", IMAGE, X)
    b = model.constant(np.float32(0.35)) if constant else model.input("b", IMAGE, B)
    graph = model.graph(model.quantize(model.node(op, a, b), Y))
    # Each operand is rounded to the grid of the output (0.52 and 0.32 of whose steps its own are) and then compared.
    assert_one_rounding(graph, share=0.01)
    result = lowered(graph).graph
    node = op_node(result, op.name)
    scales = {float(result[name].scale[0]) for name in (*node.inputs, *node.outputs)}  # type: ignore[index]  # grids
    assert len(scales) == 1


UNARY: dict[str, tuple[Op, float]] = {
    "abs": (ops.Abs(), 1),
    "leaky relu": (ops.LeakyRelu(0.1), 1),
    "tanh": (ops.Tanh(), 1),
    "sigmoid": (ops.Sigmoid(), 1),
    "hard swish": (ops.HardSwish(), 1),
}


@pytest.mark.parametrize("name", UNARY)
def test_unary_on_the_grid_the_kernel_wants(name: str) -> None:
    op, codes = UNARY[name]
    fixed = {"tanh": grid(1 / 128), "sigmoid": grid(1 / 256, -128)}
    model = Model()
    graph = model.graph(model.quantize(model.node(op, model.input("x", IMAGE, X)), fixed.get(name, grid(0.0519, -60))))
    assert kinds(lowered(graph).graph) == [lowered(graph).graph.nodes[0].op.name]
    # The kernels of LeakyRelu and HardSwish round in two steps: 0.75 and 1.5 codes instead of 0.5.
    assert lsb_distance(graph) <= codes + (1 if name in ("leaky relu", "hard swish") else 0.001)


@pytest.mark.parametrize("kind", ["vector", "scalar"])
def test_prelu(kind: str) -> None:
    model = Model()
    x = model.quantize(model.conv(model.input("x", IMAGE, X), 4, (1, 1)), X)
    slope = model.constant(model.rng.uniform(0, 1, (4, 1, 1) if kind == "vector" else (1, 1, 1)))
    graph = model.graph(model.quantize(model.node(ops.PRelu(), x, slope), Y))
    # Half a step of the slope (1 / 510) times |x| <= 6.4, a code of x, and a rounding.
    assert lsb_distance(graph) <= (6.4 / 510 + 0.05) / 0.0973 + 1


CLAMPS: dict[str, Op] = {
    "relu": ops.Relu(),
    "relu6": ops.Clip(0.0, 6.0),
    "relu_n1_to_1": ops.Clip(-1.0, 1.0),
    "clip": ops.Clip(-0.5, 0.75),
    "clip below": ops.Clip(-0.5, np.inf),
    "clip above": ops.Clip(-np.inf, 0.75),
}


@pytest.mark.parametrize("name", CLAMPS)
@pytest.mark.parametrize("change", [False, True])
def test_stand_alone_clamp(name: str, change: bool) -> None:
    model = Model()
    y = model.node(CLAMPS[name], model.input("x", IMAGE, X))
    graph = model.graph(model.quantize(y, grid(0.0479, -4) if change else X))
    assert_one_rounding(graph, share=0.01)
    graph = model.graph(y)
    assert lsb_distance(graph) == pytest.approx(0, abs=1e-4)  # the bounds are codes of the grid


def test_clamp_between_codes_goes_to_the_nearest() -> None:
    model = Model()
    graph = model.graph(model.node(ops.Clip(-0.52, 0.77), model.input("x", IMAGE, X)))
    assert lsb_distance(graph) <= 0.5


@pytest.mark.parametrize("axis", [1, 2, 3])
def test_softmax_along_any_axis(axis: int) -> None:
    model = Model()
    weight = model.weight((4, 4, 1, 1), codes=np.eye(4).reshape(4, 4, 1, 1) * 64)
    x = model.quantize(model.conv(model.input("x", IMAGE, X), 4, (1, 1), weight=weight), grid(0.1))
    graph = model.graph(model.node(ops.Softmax(axis), x))
    # A code of x is 0.1: probabilities move by a quarter of that at most, 6.4 codes of 1 / 256; then a rounding.
    assert lsb_distance(graph) <= 6.4 + 1
    exact = Model()
    graph = exact.graph(exact.node(ops.Softmax(axis), exact.input("x", IMAGE, X)))
    assert lsb_distance(graph) <= 1.001


def test_lowered_graphs_are_verified_and_name_their_origins() -> None:
    model = Model()
    graph = model.graph(
        model.quantize(model.node(ops.Add(), model.input("a", IMAGE, X), model.input("b", IMAGE, B)), Y)
    )
    result = lower(attached(graph).graph).graph
    assert op_node(result, "Add").origins == ("add",)
