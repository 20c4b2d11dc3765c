"""No grid clips what another grid of the same tensor needs."""

import numpy as np
import pytest
from builders import Model, assert_one_rounding, attached, grid, lsb_distance, texts

from kwsq.ir import ops
from kwsq.ir.graph import Graph
from kwsq.ir.quant import UINT8, Affine, IntRange
from kwsq.passes.fuse_activation import grid_bounds
from kwsq.passes.place_quantizers import PlaceQuantizers
from kwsq.passes.separate_grids import SeparateGrids

X = grid(0.05)
RECTIFIED = Affine.per_tensor(0.02, 0, UINT8)  # 0 to 5.1
SIGNED = grid(0.03)  # -3.84 to 3.81


def scale_of(graph: Graph, name: str) -> np.float32:
    quant = graph[name].quant
    assert isinstance(quant, Affine), name
    return np.float32(quant.scale[0])


def skip_network(rectified: Affine = RECTIFIED, signed: Affine = SIGNED) -> tuple[Graph, str]:
    """Before an activation and around it: the pre-activation residual block. Returns the tensor read twice, too."""
    model = Model(3)
    y = model.conv(model.input("x", (1, 4, 6, 6), X), 4, (3, 3))
    inner = model.conv(model.quantize(y, rectified), 4, (1, 1))
    total = model.node(ops.Add(), model.quantize(inner, grid(0.05)), model.quantize(y, signed))
    return model.graph(model.quantize(total, grid(0.06))), y


@pytest.mark.parametrize("swapped", [False, True])
def test_a_computed_tensor_is_computed_for_each_grid(swapped: bool) -> None:
    graph, y = skip_network(SIGNED, RECTIFIED) if swapped else skip_network()
    result = attached(graph)
    scales = {
        float(result.graph[node.outputs[0]].quant.scale[0]) for node in result.graph.nodes if node.op.name == "Conv"
    }
    assert {np.float32(0.02), np.float32(0.03)} <= {np.float32(scale) for scale in scales}
    assert not any(node.op.name == "FakeQuant" for node in result.graph.nodes)
    assert scale_of(result.graph, y) == np.float32(0.02)
    assert lsb_distance(graph) <= 2


def test_one_grid_that_reaches_as_far_as_the_others_is_enough() -> None:
    graph, _ = skip_network(rectified=Affine.per_tensor(0.0149, 0, UINT8))  # to 3.80
    assert sum(node.op.name == "Conv" for node in attached(graph).graph.nodes) == 2


def test_a_third_grid_inside_the_finest_needs_no_copy() -> None:
    model = Model(5)
    y = model.dense(model.input("x", (1, 8), X), 16)
    parts = [model.quantize(y, spec) for spec in (RECTIFIED, SIGNED, Affine.per_tensor(0.3, 0, IntRange(0, 15)))]
    before = model.graph(*(model.node(ops.Reshape((16,)), part) for part in parts))
    assert sum(node.op.name == "Dense" for node in attached(before).graph.nodes) == 2
    assert_one_rounding(before, share=0.06)


def test_an_input_is_taken_on_a_grid_that_clips_nothing() -> None:
    model = Model(4)
    x = model.input("x", (1, 16))
    a, b = model.quantize(x, RECTIFIED), model.quantize(x, SIGNED)
    graph = model.graph(model.quantize(model.dense(a, 4), grid(0.1)), model.quantize(model.dense(b, 4), grid(0.1)))
    result = attached(graph)
    taken = result.graph["x"].quant
    assert isinstance(taken, Affine)
    low, high = grid_bounds(taken)
    assert low <= -3.84 + 0.02
    assert high >= 5.1 - 0.02
    separated = SeparateGrids().run(PlaceQuantizers().run(graph).graph)
    assert "warning: x: its quantisers, of scales 0.02 and 0.03, clip what the others do not" in texts(separated)
    assert lsb_distance(graph) <= 2
