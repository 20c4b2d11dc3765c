"""Grids in int8, the clamps they hide, and conversions between stored forms."""

import numpy as np
import pytest
from builders import Model, assert_one_rounding, attached, grid, kinds, lowered, lsb_distance
from hypothesis import given
from hypothesis import strategies as st

from kwsq.ir import ops
from kwsq.ir.errors import UnsupportedModelError
from kwsq.ir.ops import Activation
from kwsq.ir.quant import Affine
from kwsq.passes.lower import lower
from kwsq.passes.lowering.context import LoweringContext, int8_grid

X = grid(0.05)
NARROW: dict[str, Affine] = {
    "uint4": grid(0.1, 0, 0, 15),
    "uint4 shifted": grid(0.1, 5, 0, 15),
    "uint2": grid(0.5, 0, 0, 3),
    "int4": grid(0.17, 0, -8, 7),
    "int4 narrow": grid(0.17, 0, -7, 7),
    "narrow int8": grid(0.011, 0, -127, 127),
    "narrow uint8": grid(0.011, 3, 0, 254),
    "without zero": grid(0.1, -3, 0, 15),
}


@given(st.integers(-300, 300), st.integers(0, 255), st.data(), st.floats(2.0**-20, 2.0**20, width=32))
def test_int8_form_keeps_the_real_values(low: int, width: int, data: st.DataObject, scale: float) -> None:
    zero = data.draw(st.integers(low, low + width))
    form = int8_grid(grid(scale, zero, low, low + width))
    assert form.scale == np.float32(scale)
    assert form.high == 127
    assert form.low == 127 - width
    assert form.low - form.zero_point == low - zero


@pytest.mark.parametrize("name", NARROW)
@pytest.mark.parametrize("activation", list(Activation))
def test_clamp_of_a_narrow_grid(name: str, activation: Activation) -> None:
    spec = NARROW[name]
    model = Model()
    x = model.input("x", (1, 8), X)
    y = model.node(ops.Dense(activation), x, model.weight((16, 8)), model.bias(16))
    graph = model.graph(model.quantize(y, spec))
    integer = lowered(graph).graph
    at_zero = spec.range.low == int(spec.zero_point[0])
    clamps_zero = activation in (Activation.RELU, Activation.RELU6)
    explicit = not (at_zero if activation is Activation.NONE else clamps_zero and name != "without zero")
    assert kinds(integer) == ["FullyConnected", *(["Maximum"] if explicit else [])]
    assert_one_rounding(graph, share=0.02)


@pytest.mark.parametrize("name", NARROW)
def test_clamp_of_a_narrow_grid_after_an_operator_without_activation(name: str) -> None:
    model = Model()
    a, b = model.input("a", (1, 8), X), model.input("b", (1, 8), X)
    graph = model.graph(model.quantize(model.node(ops.SquaredDifference(), a, b), NARROW[name]))
    assert kinds(lowered(graph).graph) == ["SquaredDifference", "Maximum"]
    # Squares of multiples of 0.05 are multiples of 0.0025: one in forty is a tie on a grid of 0.1 or 0.5.
    assert lsb_distance(graph) <= 1.001


@pytest.mark.parametrize("name", NARROW)
def test_moves_add_no_clamp(name: str) -> None:
    model = Model()
    x = model.quantize(model.conv(model.input("x", (1, 3, 4, 4), X), 4, (1, 1)), NARROW[name])
    y = model.node(ops.MaxPool((2, 2), (1, 1), ((0, 1), (0, 0))), x)
    y = model.node(ops.Slice((0, 0, 0, 0), (1, 4, 2, 2), (1, 1, 1, 1)), model.node(ops.Concat(1), y, y))
    graph = model.graph(y)
    assert kinds(lowered(graph).graph).count("Maximum") <= 1
    assert_one_rounding(graph, share=0.02)


@pytest.mark.parametrize("name", NARROW)
def test_input_on_a_narrow_grid_is_clamped(name: str) -> None:
    model = Model()
    y = model.dense(model.input("x", (1, 8), NARROW[name]), 4)
    graph = model.graph(model.quantize(y, X))
    assert "Maximum" in kinds(lowered(graph).graph)
    assert_one_rounding(graph, share=0.05)


def test_16_bit_activations_are_refused_by_name() -> None:
    model = Model()
    y = model.quantize(model.dense(model.input("x", (1, 8), X), 4), grid(0.001, 0, -(2**15), 2**15 - 1))
    with pytest.raises(UnsupportedModelError, match=r"'dense.out'|'fakequant_1.out'.*65536 codes \(16 bits\)"):
        lowered(model.graph(y))


def test_zero_point_outside_int8_is_refused_by_name() -> None:
    model = Model()
    y = model.quantize(model.dense(model.input("x", (1, 8), X), 4), grid(0.01, -5, 0, 255))
    with pytest.raises(UnsupportedModelError, match=r"zero point -5 with codes \[0, 255\]"):
        lowered(model.graph(y))


def two_views() -> tuple[Model, str, str]:
    """A tensor and its transpose, which are one stored value, both read by a 1-D convolution."""
    model = Model()
    y = model.quantize(model.dense(model.input("x", (1, 10, 8), X), 10), grid(0.04))
    return model, y, model.node(ops.Transpose((0, 2, 1)), y)


def test_views_of_one_value_are_converted_each_on_its_own() -> None:
    model, y, transposed = two_views()
    a = model.quantize(model.conv(y, 4, (3,)), grid(0.03))
    b = model.quantize(model.conv(transposed, 4, (3,)), grid(0.03))
    # A code of y through a layer of gain 0.04 * 30 / 30 ** 0.5 / 0.03 codes at worst; typically a quarter.
    assert lsb_distance(model.graph(a, b)) <= 4


def test_a_conversion_is_made_once() -> None:
    model, y, _ = two_views()
    graph = model.graph(*(model.quantize(model.conv(y, 4, (3,)), grid(0.03)) for _ in range(2)))
    assert kinds(lowered(graph).graph).count("Transpose") == 1 + 2  # one in, one per output


def test_get_is_checked_for_names_in_feature_order() -> None:
    model = Model()
    x = model.input("x", (1, 8), X)
    ctx = LoweringContext(attached(model.graph(model.quantize(model.dense(x, 4), X))).graph)
    ctx.feature_order["x"] = np.arange(8)
    ctx.names["x"], ctx.forms["x"] = "x", (0, 1)
    with pytest.raises(AssertionError, match="permuted feature order"):
        ctx.get("x", (0, 1))


def test_refusals_are_collected() -> None:
    model = Model()
    x = model.input("x", (1, 8), X)
    graph = model.graph(model.node(ops.Neg(), x), model.node(ops.HardSigmoid(), x), model.node(ops.Relu(), x))
    with pytest.raises(UnsupportedModelError) as error:
        lower(attached(graph).graph)
    assert [p.where for p in error.value.problems] == ["neg", "hardsigmoid"]
    assert all("no int8 kernel" in p.found for p in error.value.problems)
