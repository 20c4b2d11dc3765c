"""The boundary of the integer graph: names, order, element types, states."""

from types import MappingProxyType

import numpy as np
import pytest
from builders import Model, codes_of, grid, kinds, lowered, lsb_distance, op_node, real_inputs, texts

from kwsq.ir import ops
from kwsq.ir.errors import UnsupportedModelError
from kwsq.ir.execute import run_float, run_integer
from kwsq.ir.graph import Graph, Node, Op
from kwsq.ir.lowered import DType, verify
from kwsq.ir.quant import Affine, IntRange, PerAxis
from kwsq.passes.lower import check_lowerable
from kwsq.passes.lowering import table
from kwsq.passes.lowering.context import LoweringContext

X, Y = grid(0.05), grid(0.0317, -9)


def network(shape: tuple[int, ...] = (1, 3, 6, 5)) -> Graph:
    model = Model()
    return model.graph(
        model.quantize(model.conv(model.input("x", shape, X), 4, (3,) * (len(shape) - 2)), Y, output="y")
    )


@pytest.mark.parametrize("shape", [(1, 3, 6, 5), (1, 3, 9)])
def test_names_order_and_rank_of_inputs_and_outputs_are_the_sources(shape: tuple[int, ...]) -> None:
    graph = network(shape)
    result = lowered(graph)
    verify(result.graph)
    assert (result.graph.inputs, result.graph.outputs) == (("x",), ("y",))
    assert result.graph["x"].shape == shape
    assert result.graph["y"].shape == graph["y"].shape
    notes = [line for line in texts(result).splitlines() if "transpose" in line]
    assert len(notes) == 2
    assert all("at the boundary" in line for line in notes)


def test_input_that_no_convolution_reads_is_not_transposed() -> None:
    model = Model()
    x = model.node(ops.Reshape((1, 90)), model.input("x", (1, 3, 6, 5), X))
    assert kinds(lowered(model.graph(model.quantize(model.dense(x, 4), Y))).graph) == ["Reshape", "FullyConnected"]


def test_float_boundary() -> None:
    graph = network()
    plain, floating = lowered(graph).graph, lowered(graph, float_io=True).graph
    assert [floating[n].dtype for n in ("x", "y")] == [DType.FLOAT32, DType.FLOAT32]
    assert [n for n in kinds(floating) if n in ("Quantize", "Dequantize")] == ["Quantize", "Dequantize"]
    inputs = real_inputs(graph)
    codes = run_integer(plain, {"x": codes_of(plain, "x", inputs["x"])})["y"]
    real = run_integer(floating, {"x": inputs["x"]})["y"]
    np.testing.assert_array_equal(real, (codes.astype(np.float32) + 9) * np.float32(0.0317))


def test_unsigned_boundary_keeps_the_callers_codes() -> None:
    model = Model()
    y = model.dense(model.input("x", (1, 8), grid(0.05, 100, 0, 255)), 4)
    y = model.quantize(y, grid(0.03, 120, 0, 255), output="y")
    model.builder.integer_io = MappingProxyType({"x": "uint8", "y": "uint8"})
    graph = model.graph(y)
    result = lowered(graph).graph
    assert [result[n].dtype for n in ("x", "y")] == [DType.UINT8, DType.UINT8]
    assert [result[n].zero_point for n in ("x", "y")] == [100, 120]
    codes = np.arange(0, 256, dtype=np.uint8).reshape(32, 8)
    real = (codes.astype(np.float32) - 100) * np.float32(0.05)
    expected = np.rint(run_float(graph, {"x": real})["y"] / np.float32(0.03)) + 120
    assert np.abs(run_integer(result, {"x": codes})["y"].astype(int) - expected).max() <= 1


def stream(steps: int) -> Graph:
    """A causal convolution over a buffer of past frames, which are the state."""
    model = Model()
    x, s = model.input("x", (1, 4, 1), X), model.input("s", (1, 4, steps), X)
    window = model.node(ops.Concat(2), s, x)
    y = model.quantize(model.conv(window, 6, (steps + 1,)), Y, output="y")
    new = model.node(ops.Slice((0, 0, 1), (1, 4, steps + 1), (1, 1, 1)), window, output="new")
    return model.graph(y, new, states=(("s", new),))


@pytest.mark.parametrize("float_io", [False, True])
def test_streaming_states_stay_integer_and_carry_over(float_io: bool) -> None:
    graph = stream(2)
    result = lowered(graph, float_io=float_io).graph
    assert result.states == graph.states
    assert [result[n].dtype for n in ("s", "new")] == [DType.INT8, DType.INT8]
    assert result["s"].scale == result["new"].scale
    assert result["s"].zero_point == result["new"].zero_point
    frames = real_inputs(graph, 9)["x"]
    state, codes = np.zeros((1, 4, 2), np.float32), np.full((1, 4, 2), result["s"].zero_point, np.int8)
    for frame in frames:
        real = run_float(graph, {"x": frame[None], "s": state})
        got = run_integer(result, {"x": codes_of(result, "x", frame[None]), "s": codes})
        y = got["y"] if float_io else (got["y"].astype(np.float32) + 9) * np.float32(0.0317)
        assert np.abs(y - real["y"]).max() <= 1.001 * 0.0317
        state, codes = real["new"], got["new"]
        np.testing.assert_array_equal(codes, codes_of(result, "new", state))  # frames only move: exact


def test_output_read_by_others_inside() -> None:
    model = Model()
    x = model.quantize(model.conv(model.input("x", (1, 3, 6, 5), X), 4, (3, 3)), Y)
    graph = model.graph(x, model.quantize(model.conv(x, 2, (3, 3)), Y))
    # A code of x next to a tie, through a layer of gain 1 at most.
    assert lsb_distance(graph) <= 2.001


def test_copies_of_one_value_run_before_what_else_reads_it_and_in_order() -> None:
    """LiteRT may write over the value once a Reshape shares it."""
    model = Model()
    x, other = (model.input(name, (3, 5), X) for name in ("x", "other"))
    h = model.quantize(model.node(ops.Mul(), x, other), Y)
    y = model.quantize(model.node(ops.Add(), h, other), Y)
    outputs = [model.node(ops.Transpose((0, 1)), h, output=name) for name in ("a", "b")]
    result = lowered(model.graph(*outputs, y)).graph
    assert kinds(result) == ["Mul", "Reshape", "Reshape", "Add"]
    assert [node.outputs[0] for node in result.nodes[1:3]] == outputs


def test_input_that_is_read_twice_in_different_orders() -> None:
    model = Model()
    x = model.input("x", (1, 3, 6, 5), X)
    flat = model.node(ops.Reshape((1, 90)), x)
    graph = model.graph(model.quantize(model.conv(x, 4, (3, 3)), Y), model.quantize(model.dense(flat, 4), Y))
    assert lsb_distance(graph) <= 1.001


def test_dead_tensors_are_left_out() -> None:
    result = lowered(network()).graph
    used = {n for node in result.nodes for n in (*node.inputs, *node.outputs)}
    assert set(result.tensors) == used | {*result.inputs, *result.outputs}
    assert op_node(result, "Conv2D").origins == ("conv",)


def scales_along_inputs(model: Model, units: int) -> str:
    spec = Affine(np.full(units, 0.01), np.zeros(units), IntRange(-8, 7), PerAxis(1))
    return model.constant(np.ones((units, units), np.int8), spec, "weight")


def test_every_refused_layer_is_named_whatever_feeds_it() -> None:
    model = Model()
    x = model.input("x", (1, 8), X)
    for _ in range(3):
        x = model.quantize(model.dense(x, 8, weight=scales_along_inputs(model, 8)), Y)
    with pytest.raises(UnsupportedModelError) as error:
        lowered(model.graph(x))
    assert [p.where for p in error.value.problems] == ["dense", "dense_1", "dense_2"]


def test_operators_and_weights_without_an_integer_form_are_named_together() -> None:
    model = Model()
    x = model.dense(model.input("x", (1, 8), X), 8, weight=scales_along_inputs(model, 8))
    x = model.dense(model.node(ops.Sqrt(), x), 8, weight=model.constant(np.eye(8)))
    x = model.dense(model.node(ops.Reciprocal(), x), 8, weight=scales_along_inputs(model, 8))
    with pytest.raises(UnsupportedModelError) as error:
        check_lowerable(model.graph(x))
    # A float weight is still to be quantised.
    assert [p.where for p in error.value.problems] == ["dense", "sqrt", "reciprocal", "dense_2"]


@pytest.mark.parametrize(
    ("op", "found", "expected"),
    [
        (ops.Sqrt(), "a root that nothing divides by", "y / Sqrt(x)"),
        (ops.Reciprocal(), "a reciprocal of what is no root", "Reciprocal(Sqrt(x))"),
        (ops.Div(), "a division by an activation", "a division by a constant"),
    ],
)
def test_an_operator_outside_its_pattern_is_told_the_pattern(op: Op, found: str, expected: str) -> None:
    model = Model()
    x = model.input("x", (1, 8), X)
    with pytest.raises(UnsupportedModelError) as error:
        check_lowerable(model.graph(model.node(op, *[x] * (1 + isinstance(op, ops.Div)))))
    (problem,) = error.value.problems
    assert found in problem.found
    assert expected in problem.expected


def averaged(spec: Affine, target: Affine) -> Graph:
    """Returns a mean over time between two grids."""
    model = Model()
    mean = model.node(ops.Mean((2,), False), model.input("x", (1, 2, 4), spec))
    return model.graph(model.quantize(mean, target))


def test_a_ratio_of_scales_beyond_the_multipliers_is_refused() -> None:
    # 1e5 / 1e-6 is more than the 2**31 a multiplier holds.
    with pytest.raises(UnsupportedModelError, match="expected scales int8 kernels can hold") as error:
        lowered(averaged(grid(1e5), grid(1e-6)))
    assert "expected a value below 2**31" in str(error.value)


def test_a_defect_of_a_lowering_is_no_statement_about_scales(monkeypatch: pytest.MonkeyPatch) -> None:
    def defect(ctx: LoweringContext, node: Node) -> None:
        raise ValueError("too many values to unpack")

    monkeypatch.setitem(table.LOWERINGS, ops.Mean, defect)
    with pytest.raises(ValueError, match="too many values"):
        lowered(averaged(X, Y))


def test_a_scalar_input_has_no_integer_form() -> None:
    model = Model()
    x = model.input("x", (), grid(0.1))
    with pytest.raises(
        UnsupportedModelError, match=r"graph input 'x': found a scalar; expected at least one dimension"
    ):
        check_lowerable(model.graph(model.node(ops.Relu(), x)))
