"""The literal order of the passes: every requirement is met by a pass before, and together they change nothing."""

import numpy as np
import pytest
from builders import Model, assert_one_rounding, grid, kinds, lowered, max_difference, sum_tolerance

from kwsq.ir import ops
from kwsq.ir.errors import InternalError
from kwsq.ir.graph import Graph
from kwsq.ir.quant import Rounding
from kwsq.passes.base import Note
from kwsq.passes.fuse_activation import FuseActivation
from kwsq.passes.pipeline import FOLDING, _needs_post_training, _run

X = grid(0.05)


def folded(graph: Graph) -> Graph:
    notes: list[Note] = []
    for step in FOLDING:
        graph = _run(step, graph, notes)
    return graph


def network() -> Graph:
    model = Model()
    y = model.input("x", (1, 3, 8, 6), X)
    y = model.node(ops.Relu(), model.batchnorm(model.conv(y, 8, (3, 3))))
    y = model.quantize(y, grid(0.02, 0, 0, 255))
    z = model.node(ops.Mul(), model.conv(y, 8, (3, 3), groups=8, pads=((1, 1), (1, 1))), model.constant([[[0.7]]]))
    z = model.quantize(model.node(ops.Clip(0.0, 6.0), model.batchnorm(z)), grid(6 / 255, 0, 0, 255))
    y = model.quantize(model.node(ops.Add(), y, z), grid(0.0373, 0, 0, 255))
    y = model.quantize(model.node(ops.Mean((2, 3), True), y), grid(0.0151, 0, 0, 255))
    return model.graph(model.quantize(model.dense(model.node(ops.Reshape((1, 8)), y), 3), grid(0.0211)))


def test_order_meets_the_requirements() -> None:
    facts = {"imported"}
    for step in FOLDING:
        assert step.requires <= facts, step.name
        facts |= step.establishes


def test_a_pass_out_of_order_is_an_internal_error() -> None:
    with pytest.raises(InternalError, match=r"pass fuse_activation: found facts \['gains_folded'\] missing"):
        _run(FuseActivation(), network(), [])


def test_folding_keeps_the_function_and_is_idempotent() -> None:
    before = network()
    after = folded(before)
    assert [k for k in kinds(after) if k != "FakeQuant"] == ["Conv", "Conv", "Add", "Mean", "Reshape", "Dense"]
    # Folded constants move sums of 72 products by float32 roundings; a code flips where one of them lies on a tie.
    assert max_difference(before, after) <= 2 * 0.0211 + sum_tolerance(72, 3)
    assert kinds(folded(after)) == kinds(after)
    for once, twice in zip(after.constants(), folded(after).constants(), strict=True):
        np.testing.assert_array_equal(once.real(), twice.real())


@pytest.mark.parametrize(
    ("layers", "float_layers", "quantizer", "reason"),
    [
        (0, 0, False, "no quantisation annotations: a float model"),
        (1, 1, False, "no quantisation annotations: a float model"),
        (2, 1, False, "no quantisation annotations: a float model"),
        (1, 0, False, "quantised weights but no activation quantisers"),
        (2, 1, True, "float weights in dense"),
        (2, 0, True, ""),
        (0, 0, True, ""),
    ],
)
def test_why_a_model_is_quantized_after_training(layers: int, float_layers: int, quantizer: bool, reason: str) -> None:
    model = Model()
    x = model.input("x", (1, 8), X if quantizer else None)
    for number in range(layers):
        x = model.dense(x, 8, weight=model.constant(np.eye(8), name="w") if number < float_layers else "")
    assert _needs_post_training(model.graph(model.node(ops.Relu(), x))) == reason


def test_half_a_step_of_a_flooring_quantiser_ends_in_the_bias() -> None:
    model = Model()
    y = model.batchnorm(model.dense(model.input("x", (1, 8), X), 4))
    graph = folded(model.graph(model.quantize(y, grid(0.02), Rounding.FLOOR)))
    assert kinds(graph) == ["FakeQuant", "Dense", "FakeQuant"]
    assert graph.nodes[-1].op == ops.FakeQuant(graph.nodes[-1].op.spec)  # type: ignore[attr-defined]  # rounding to even


def test_a_whole_network_stays_close_to_its_source() -> None:
    after = folded(network())
    # Five roundings one after another, each a code off next to a tie only; the mean and the dense layer average them.
    assert_one_rounding(after, lowered(after), share=0.25, codes=2)
