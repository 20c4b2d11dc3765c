"""Every activation ends with one grid; where two meet, the value is requantised."""

from dataclasses import replace

import numpy as np
import pytest
from builders import (
    Model,
    assert_one_rounding,
    attached,
    grid,
    kinds,
    lowered,
    lsb_distance,
    lsb_distances,
    op_node,
    real_inputs,
    texts,
)

from kwsq.ir import ops
from kwsq.ir.execute import run_float
from kwsq.ir.graph import Graph, Op
from kwsq.ir.quant import Affine
from kwsq.passes.attach_scales import PROBABILITY, SIGNED_UNIT, AttachScales
from kwsq.passes.observe import Observer
from kwsq.passes.place_quantizers import PlaceQuantizers
from kwsq.passes.separate_grids import SeparateGrids

X = grid(0.05)
A, B = grid(0.0211, 4), grid(0.0473, -7)
WIDE = grid(0.061, 5)


def spec(graph: Graph, name: str) -> Affine:
    quant = graph[name].quant
    assert isinstance(quant, Affine), name
    return quant


def scale(graph: Graph, name: str) -> float:
    return float(spec(graph, name).scale[0])


def test_quantisers_become_grids_with_scales_bit_for_bit() -> None:
    model = Model()
    y = model.quantize(model.dense(model.input("x", (1, 8), X), 4), A)
    result = attached(model.graph(y))
    assert kinds(result.graph) == ["Dense"]
    assert spec(result.graph, "x").same_as(X)
    assert spec(result.graph, y).same_as(A)
    assert result.graph.outputs == (y,)
    assert not result.notes


def test_every_activation_has_a_grid() -> None:
    model = Model()
    x = model.conv(model.input("x", (1, 4, 6, 5)), 4, (3, 3))
    parts = model.nodes(ops.Split(1, (1, 3)), model.node(ops.LeakyRelu(0.1), x))
    y = model.node(ops.Concat(1), parts[1], model.node(ops.Sigmoid(), parts[0]))
    graph = attached(model.graph(model.node(ops.Mean((2, 3), False), y))).graph
    assert all(isinstance(t.quant, Affine) for t in graph.tensors.values() if not t.is_constant)


def test_mean_gets_a_grid_of_its_own_never_its_inputs() -> None:
    """Means are a tenth as wide as what they average; on its grid they would have a tenth of the codes."""
    model = Model()
    x = model.quantize(model.conv(model.input("x", (1, 3, 12, 12), X), 4, (3, 3)), A)
    y = model.node(ops.Mean((2, 3), keepdims=True), x)
    before = model.graph(y)
    result = attached(before)
    values = run_float(before, real_inputs(before, 256, 0))[y]
    width = max(float(values.max()), 0) - min(float(values.min()), 0)
    assert scale(result.graph, y) == pytest.approx(width / 255, rel=0.2)
    assert scale(result.graph, y) < scale(result.graph, op_node(result.graph, "Mean").inputs[0]) / 2
    assert "warning" in texts(result)
    assert "from seeded inputs" in texts(result)


def test_logits_get_a_grid_from_observed_values_with_a_warning() -> None:
    model = Model()
    y = model.dense(model.input("x", (1, 8), X), 4)
    before = model.graph(y)
    result = attached(before)
    assert f"warning: {y}: no quantiser in the source" in texts(result)
    # Half a code of the observed grid, and half for the values between codes of the unquantised float graph.
    assert lsb_distance(before) <= 1.001


MOVES: dict[str, Op] = {
    "reshape": ops.Reshape((1, 64)),
    "transpose": ops.Transpose((0, 3, 1, 2)),
    "slice": ops.Slice((0, 1, 0, 0), (1, 4, 4, 4), (1, 2, 1, 1)),
    "max pool": ops.MaxPool((2, 2), (2, 2), ((0, 0), (0, 0))),
    "reduce max": ops.ReduceMax((2, 3), False),
    "pad": ops.Pad(((0, 0), (0, 0), (1, 0), (0, 2))),
    "relu": ops.Relu(),
    "clip": ops.Clip(-0.5, 0.25),
}


@pytest.mark.parametrize("move", MOVES)
@pytest.mark.parametrize("side", ["before", "after", "both"])
def test_grids_travel_through_moves_and_meet_in_a_requantisation(move: str, side: str) -> None:
    model = Model()
    x = model.conv(model.input("x", (1, 3, 4, 4), X), 4, (1, 1))
    x = x if side == "after" else model.quantize(x, A)
    y = model.node(MOVES[move], x)
    y = y if side == "before" else model.quantize(y, B)
    before = model.graph(y)
    graph = attached(before).graph
    assert spec(graph, y).same_as(A if side == "before" else B)
    assert ("FakeQuant" in kinds(graph)) == (side == "both" and move != "relu")  # a rectifier changes grids itself
    assert_one_rounding(before, share=0.02)


BETWEEN_CODES: dict[str, tuple[Op, tuple[int, ...]]] = {
    "clip": (ops.Clip(0.1, 1.0), ()),
    "clip below": (ops.Clip(0.1, np.inf), ()),
    "clip above": (ops.Clip(-np.inf, 0.1), ()),
    "maximum": (ops.Maximum(), (1,)),
    "minimum": (ops.Minimum(), (1,)),
    "concat": (ops.Concat(1), (1, 64)),
    "pad": (ops.Pad(((0, 0), (32, 32)), 0.1), ()),
}


@pytest.mark.parametrize("name", BETWEEN_CODES)
def test_a_value_between_codes_is_rounded_on_the_outputs_grid_alone(name: str) -> None:
    """0.1 is a code of the output's grid and 1.59 of the input's; 2 of those, 0.126, were 3 codes off."""
    op, shape = BETWEEN_CODES[name]
    model = Model()
    x = model.input("x", (1, 64), grid(8 / 127))
    y = model.node(op, x, *([model.constant(np.full(shape, 0.1))] if shape else []))
    assert_one_rounding(model.graph(model.quantize(y, grid(0.01))), share=0.02)


def test_concat_of_different_grids_goes_to_its_own() -> None:
    model = Model()
    x = model.input("x", (1, 3, 4, 4), X)
    a, b = model.quantize(model.conv(x, 4, (1, 1)), A), model.quantize(model.conv(x, 2, (1, 1)), B)
    before = model.graph(model.quantize(model.node(ops.Concat(1), a, b), grid(0.031)))
    result = attached(before)
    assert kinds(result.graph).count("FakeQuant") == 2
    assert "requantised to the grid of concat" in texts(result)
    # A code of the part may be off by one next to a tie, A's step being 0.7 and B's 1.5 of the output's.
    assert lsb_distance(before) <= 2.03


def test_concat_with_an_unquantised_part_does_not_clip_it() -> None:
    model = Model()
    x = model.input("x", (1, 3, 4, 4), X)
    a, b = model.quantize(model.conv(x, 4, (1, 1)), grid(0.002)), model.conv(x, 2, (1, 1))
    before = model.graph(model.node(ops.Concat(1), a, b))
    # b keeps its range; a is off by a code of its own (0.002) next to a tie, and both are rounded to one observed grid.
    assert lsb_distance(before) <= 1.1


def test_concat_without_a_grid_takes_the_widest() -> None:
    model = Model()
    x = model.input("x", (1, 3, 4, 4), X)
    a, b = model.quantize(model.conv(x, 4, (1, 1)), grid(0.02)), model.quantize(model.conv(x, 2, (1, 1)), grid(0.04))
    y = model.node(ops.Concat(1), a, b)
    assert scale(attached(model.graph(y)).graph, y) == np.float32(0.04)


@pytest.mark.parametrize(
    ("op", "fixed"), [(ops.Softmax(1), PROBABILITY), (ops.Sigmoid(), PROBABILITY), (ops.Tanh(), SIGNED_UNIT)]
)
def test_fixed_kernel_grids_are_requantised_to_the_annotated_one(op: Op, fixed: Affine) -> None:
    model = Model()
    y = model.node(op, model.input("x", (1, 8), X))
    before = model.graph(model.quantize(y, grid(0.0091, -30)))
    graph = attached(before).graph
    assert spec(graph, op_node(graph, op.name).outputs[0]).same_as(fixed)
    assert kinds(graph) == [op.name, "FakeQuant"]
    # One code of the kernel's grid (1/128 = 0.86 of a step at most), one rounding.
    assert lsb_distance(before) <= 2
    plain = Model()
    y = plain.node(op, plain.input("x", (1, 8), X))
    assert kinds(attached(plain.graph(plain.quantize(y, fixed))).graph) == [op.name]
    bare = Model()
    y = bare.node(op, bare.input("x", (1, 8), X))
    assert spec(attached(bare.graph(y)).graph, y).same_as(fixed)


def test_two_different_quantisers_on_one_tensor() -> None:
    """The finer one stores the value, whichever comes first: from 4 bits the 8-bit one could not be recovered."""
    fine, coarse = grid(0.0211), grid(0.35, 0, -8, 7)
    for first, second in ((fine, coarse), (coarse, fine)):
        model = Model()
        y = model.dense(model.input("x", (1, 8), X), 16)
        a, b = model.quantize(y, first), model.quantize(y, second)
        before = model.graph(model.node(ops.Reshape((16,)), a), model.node(ops.Reshape((16,)), b))
        graph = attached(before).graph
        assert spec(graph, y).same_as(fine)
        # The coarse value is rounded twice, 0.5 * 0.0211 / 0.35 codes apart at most: one code, next to ties.
        assert_one_rounding(before, share=0.06)


def test_two_quantisers_where_the_finer_one_clips() -> None:
    model = Model()
    y = model.dense(model.input("x", (1, 8), X), 16)
    a, b = model.quantize(y, grid(0.002)), model.quantize(y, grid(0.021))
    before = model.graph(model.node(ops.Reshape((16,)), a), model.node(ops.Reshape((16,)), b))
    result = attached(before)
    assert scale(result.graph, y) == np.float32(0.021)
    assert "warning" in texts(result)
    assert "two grids" in texts(result)


def test_residual_reader_bypassing_the_quantiser_reads_the_quantised_value() -> None:
    model = Model()
    y = model.dense(model.input("x", (1, 8), X), 8)
    z = model.quantize(model.dense(model.quantize(y, WIDE), 8), WIDE)
    before = model.graph(model.quantize(model.node(ops.Add(), z, y), grid(0.0973)))
    result = attached(before)
    assert f"warning: {y}: also read without its quantiser by add" in texts(result)
    # Half a code for y itself, one of y through a layer of gain 1, one for z: 2.5 * 0.061 / 0.0973, and a rounding.
    assert lsb_distance(before) <= 1.57 + 1


def test_residual_reader_is_not_clipped_by_a_quantiser_it_bypasses() -> None:
    model = Model()
    y = model.dense(model.input("x", (1, 8), X), 8)
    narrow = model.node(ops.Tanh(), model.quantize(y, grid(0.001)))
    before = model.graph(narrow, model.quantize(model.node(ops.Add(), y, y), B))
    graph = attached(before).graph
    assert scale(graph, y) > 0.005
    assert lsb_distance(before) < 40  # 1/128 codes after a quantiser of 0.13 width: tanh moves by a step of y at most


@pytest.mark.parametrize("op", [ops.Relu(), ops.Clip(0.0, 0.5), ops.MaxPool((2, 2), (1, 1), ((0, 0), (0, 0)))])
def test_grid_after_a_clamp_does_not_clip_other_readers(op: Op) -> None:
    """The residual path reads what the clamp does not let through."""
    model = Model()
    y = model.conv(model.input("x", (1, 3, 4, 4), X), 4, (1, 1))
    clamped = model.quantize(model.node(op, y), grid(0.5 / 255, -128))
    before = model.graph(model.node(ops.Tanh(), clamped), model.quantize(model.node(ops.Mul(), y, y), grid(0.3)))
    distances = lsb_distances(before)
    # y is off by half a code of its observed grid (about 10 / 255), its square by |y| <= 6 times that, over 0.3.
    assert distances[before.outputs[1]].max() <= 6 * 10 / 255 / 0.3 + 1
    # Half a code of y is ten of the clamped one's, 0.02: five of tanh's at most; and its own rounding.
    assert distances[before.outputs[0]].max() <= 6


def test_parts_with_equal_grids_share_it_with_the_whole() -> None:
    model = Model()
    y = model.dense(model.input("x", (1, 8), X), 8)
    parts = [model.quantize(part, grid(0.011)) for part in model.nodes(ops.Split(1, (3, 5)), y)]
    before = model.graph(*parts)
    assert kinds(attached(before).graph) == ["Dense", "Split"]
    assert_one_rounding(before, share=0.02)


def test_quantiser_of_an_output_keeps_the_outputs_name() -> None:
    model = Model()
    y = model.quantize(model.dense(model.input("x", (1, 8), X), 4), A, output="probabilities")
    graph = attached(model.graph(y)).graph
    assert graph.outputs == ("probabilities",)
    assert spec(graph, "probabilities").same_as(A)


def test_value_that_is_output_with_and_without_its_quantiser() -> None:
    model = Model()
    y = model.dense(model.input("x", (1, 8), X), 4)
    before = model.graph(y, model.quantize(y, A))
    graph = attached(before).graph
    assert graph.outputs == before.outputs
    assert spec(graph, before.outputs[1]).same_as(A)
    assert lsb_distance(before) <= 2.001


def streaming(input_spec: Affine | None, output_spec: Affine | None) -> Graph:
    model = Model()
    x = model.input("x", (1, 8), X)
    s = model.input("s", (1, 8), input_spec)
    new = model.dense(model.node(ops.Concat(1), x, s), 8)
    new = new if output_spec is None else model.quantize(new, output_spec)
    return model.graph(model.quantize(model.dense(new, 4), A), new, states=(("s", new),))


def test_states_share_a_grid() -> None:
    for graph in (streaming(B, B), streaming(B, None), streaming(None, B), streaming(None, None)):
        after = attached(graph).graph
        (pair,) = after.states
        assert spec(after, pair.input).same_as(spec(after, pair.output))
        assert after.producers()[pair.output].op.name == "Dense"  # written on that grid, not requantised to it


def test_state_takes_the_grid_its_partner_was_annotated_with() -> None:
    for graph in (streaming(B, None), streaming(None, B)):
        after = attached(graph).graph
        assert spec(after, after.states[0].input).same_as(B)


def test_state_of_another_grid_is_requantised_for_the_next_step_only() -> None:
    before = streaming(B, A)
    after = attached(before).graph
    (pair,) = after.states
    assert spec(after, pair.input).same_as(B)
    assert spec(after, pair.output).same_as(B)
    dense = after.nodes[-1] if after.nodes[-1].op.name == "Dense" else after.producers()[after.outputs[0]]
    assert spec(after, dense.inputs[0]).same_as(A)
    integer = lowered(before)
    assert {p.input for p in integer.graph.states} <= set(integer.graph.inputs)


def leaky_network(low: float) -> tuple[Graph, str]:
    """A dense layer into a leaky rectifier whose output is quantised; the layer itself is not."""
    model = Model(3)
    hidden = model.node(ops.LeakyRelu(0.1), model.dense(model.input("x", (1, 16), X), 12))
    graph = model.graph(model.quantize(hidden, grid(low)))
    return graph, op_node(graph, "LeakyRelu").inputs[0]


def test_the_input_of_a_leaky_rectifier_takes_its_step() -> None:
    graph, name = leaky_network(0.05)
    after = attached(graph)
    assert scale(after.graph, name) == scale(after.graph, graph.outputs[0])
    assert scale(after.graph, name) == pytest.approx(0.05)
    # Positive values are rounded once: to a code of the output or its neighbour at a float32 tie.
    assert lsb_distance(graph, samples=128) <= 1


def test_the_input_of_a_leaky_rectifier_that_would_be_clipped_keeps_its_own_grid() -> None:
    graph, name = leaky_network(0.002)
    assert scale(attached(graph).graph, name) > 0.002


@pytest.mark.parametrize(("rectified", "growth"), [(False, 1.5), (True, 1.25)])
def test_a_margin_widens_observed_ranges_but_not_an_end_at_zero(rectified: bool, growth: float) -> None:
    model = Model(1)
    y = model.dense(model.input("x", (1, 16), X), 12)
    graph = model.graph(model.node(ops.Mean((1,), keepdims=True), model.node(ops.Relu(), y)) if rectified else y)
    placed = PlaceQuantizers().run(replace(graph, facts=frozenset({"activations_fused"}))).graph
    placed = SeparateGrids().run(placed).graph
    observer = Observer(placed, real_inputs(placed))
    plain, wide = (AttachScales(observer, "inputs", margin=margin).run(placed).graph for margin in (0.0, 0.25))
    (name,) = graph.outputs
    # The zero point is a whole code: each end may move by half a step.
    assert scale(wide, name) / scale(plain, name) == pytest.approx(growth, rel=1 / 100)


def test_the_inverse_root_of_a_variance_of_zero_does_not_widen_its_grid() -> None:
    """Constant rows are common: silence is. Code 1 of the variance is the smallest that its kernel tells from 0."""
    model = Model()
    variance = model.input("x", (1, 16), grid(0.04, -128))
    stable = model.quantize(model.node(ops.Add(), variance, model.constant(np.float32(1e-5))), grid(0.04, -128))
    inverse = model.node(ops.Rsqrt(), model.node(ops.Add(), stable, model.constant(np.float32(1e-5))))
    graph = model.graph(model.quantize(model.node(ops.Mul(), inverse, inverse), grid(0.1)))
    placed = SeparateGrids().run(PlaceQuantizers().run(graph).graph).graph
    rows = np.zeros((8, 16), np.float32)
    rows[1:] = np.linspace(0.04, 9, 16)
    result = AttachScales(Observer(placed, {"x": rows}), "rows").run(placed)
    stored = spec(result.graph, next(n.inputs[0] for n in result.graph.nodes if isinstance(n.op, ops.Rsqrt)))
    assert scale(result.graph, inverse) * 255 == pytest.approx(1 / float(stored.scale[0]) ** 0.5, rel=0.01)
    assert scale(result.graph, inverse) * 255 < 10  # 1 / sqrt(1e-5) is 316
