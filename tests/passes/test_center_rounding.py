"""Quantisers that floor or ceil are replaced by ones that round half a step away."""

import numpy as np
import pytest
from builders import Model, grid, kinds, lowered, lsb_distances, texts

from kwsq.ir import ops
from kwsq.ir.errors import UnsupportedModelError
from kwsq.ir.execute import run_float
from kwsq.ir.graph import Graph
from kwsq.ir.quant import Affine, Rounding
from kwsq.passes.center_rounding import MARGIN, CenterRounding
from kwsq.passes.fold_gain import FoldGain

UNSIGNED = grid(0.02, 0, 0, 255)


def graph(mode: Rounding, spec: Affine) -> Graph:
    model = Model()
    return model.graph(model.quantize(model.dense(model.input("x", (1, 8), grid(0.05)), 16), spec, mode))


@pytest.mark.parametrize(
    ("mode", "spec"),
    [
        (Rounding.FLOOR, grid(0.02)),
        (Rounding.CEIL, grid(0.02)),
        (Rounding.UP, UNSIGNED),
        (Rounding.DOWN, UNSIGNED),
    ],
)
def test_moves_values_next_to_a_whole_number_only(mode: Rounding, spec: Affine) -> None:
    before = graph(mode, spec)
    result = CenterRounding().run(before)
    after = FoldGain().run(result.graph).graph
    assert kinds(after) == ["FakeQuant", "Dense", "FakeQuant"]  # the half step is in the bias
    assert "half a step" in texts(result)
    distances = lsb_distances(before, lowered(after), samples=500)[before.outputs[0]]
    assert distances.max() <= 1.001
    # The margin, and a bias rounded to a multiple of s_x * s_w / s_y = 0.05 / (127 * 8 ** 0.5) / 0.02 = 0.007.
    assert (distances > 0.5).mean() <= 2 * (MARGIN + 0.007)
    # Without the pass every second code is off by one.
    plain = lsb_distances(before, samples=500)[before.outputs[0]]
    assert (plain > 0.5).mean() > 0.2


def test_whole_numbers_stay() -> None:
    model = Model()
    y = model.node(ops.Relu(), model.input("x", (1, 8)))
    before = model.graph(model.quantize(y, grid(0.5), Rounding.FLOOR))
    after = CenterRounding().run(before).graph
    x = {"x": np.arange(8, dtype=np.float32)[None] / 2}
    np.testing.assert_array_equal(run_float(after, x)[before.outputs[0]], run_float(before, x)[before.outputs[0]])


@pytest.mark.parametrize("mode", [Rounding.UP, Rounding.DOWN])
def test_signed_rounding_away_from_zero_is_refused(mode: Rounding) -> None:
    with pytest.raises(UnsupportedModelError, match=rf"fakequant_1 .*rounded {mode.value}.* ROUND"):
        CenterRounding().run(graph(mode, grid(0.02)))


@pytest.mark.parametrize("mode", [Rounding.HALF_EVEN, Rounding.HALF_EVEN_OFFSET_FIRST, Rounding.HALF_UP])
def test_rounding_to_nearest_stays(mode: Rounding) -> None:
    assert not CenterRounding().run(graph(mode, grid(0.02))).changed


def test_graph_input_stays_and_the_pass_is_idempotent() -> None:
    model = Model()
    x = model.quantize(model.input("x", (1, 8)), grid(0.05), Rounding.FLOOR)
    result = CenterRounding().run(model.graph(model.dense(x, 4)))
    assert not result.changed
    assert "the caller makes the codes" in texts(result)
    once = CenterRounding().run(graph(Rounding.FLOOR, grid(0.02))).graph
    assert not CenterRounding().run(once).changed
