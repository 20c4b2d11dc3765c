"""What a pack cannot express is refused with the layer and the remedy; packs are as small as they must be."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from accel_packs import packed
from keyword_networks import bundled, lowered_of, qonnx_binary
from lowered_models import LoweredModel, random_inputs

from kwsq.ir import lowered as ir
from kwsq.ir.errors import UnsupportedModelError
from kwsq.ir.execute import run_integer
from kwsq.ir.execute.call import Call
from kwsq.ir.lowered import DType, LoweredGraph
from kwsq.ir.ops import Activation
from kwsq.targets import rules
from kwsq.targets.accel.execute import run_pack
from kwsq.targets.accel.format import Section
from kwsq.targets.accel.reader import read
from kwsq.targets.accel.target import AccelTarget
from kwsq.targets.base import TargetOptions, load_target
from kwsq.targets.operators import Description


def refusal(graph: LoweredGraph) -> str:
    with pytest.raises(UnsupportedModelError) as caught:
        AccelTarget().legalize(graph, TargetOptions(container="stream"))
    assert all(problem.where and problem.op and problem.remedy for problem in caught.value.problems)
    return str(caught.value)


def dense(**changes: Any) -> LoweredGraph:
    """A dense layer of four bits with its weight changed."""
    model = LoweredModel(seed=1)
    y = model.dense(model.input("x", (1, 6)), 3, bits=4)
    weight = model.nodes[0].inputs[1]
    model.tensors[weight] = replace(model.tensors[weight], **changes)
    return model.graph(y)


def test_the_target_is_found_by_its_name() -> None:
    assert load_target("accel").name == "accel"


def test_asymmetric_weights_are_refused_with_the_layer() -> None:
    text = refusal(dense(zero_point=3))
    assert "fullyconnected_node (FullyConnected" in text
    assert "zero point 3 of weight" in text
    assert "symmetric grid" in text


def test_codes_wider_than_declared_are_refused() -> None:
    """As a negative gain would make them: -8 of four bits becomes 8."""
    text = refusal(dense(data=np.full((3, 6), 8, np.int8), bits=3))
    assert "codes from 8 to 8 of weight, declared 3 bits wide" in text
    assert "declare the width" in text


def test_codes_that_are_no_levels_are_refused() -> None:
    assert "declared 1 bits" in refusal(dense(bits=1, levels=np.array([-1, 1], np.int8)))


def test_computed_weights_are_refused() -> None:
    model = LoweredModel()
    x, weight = model.input("x", (1, 6)), model.input("w", (3, 6), (0.1, 0))
    graph = model.graph(model.node(ir.FullyConnected(), [x, weight], (1, 3), (0.1, 0)))
    assert "w is computed" in refusal(graph)


def test_other_types_and_grids_are_refused() -> None:
    model = LoweredModel()
    wide = model.graph(model.unary(ir.Abs(), model.input("x", (1, 6), dtype=DType.INT16), (0.1, 0)))
    assert "x is int16" in refusal(wide)
    model = LoweredModel()
    moved = model.graph(model.node(ir.ReduceMax((1,), False), [model.input("x", (1, 6))], (1,), (0.1, 0)))
    assert "same scale" in refusal(moved)
    model = LoweredModel()
    back = ir.StridedSlice((0, 5), (1, 0), (1, -1))
    assert "forward" in refusal(model.graph(model.node(back, [model.input("x", (1, 6))], (1, 5), (0.05, -3))))
    model = LoweredModel()
    assert "1/256" in refusal(model.graph(model.unary(ir.Softmax(), model.input("x", (1, 6)), (0.1, 0))))
    model = LoweredModel()
    many = model.graph(model.unary(ir.Softmax(), model.input("x", (1, 512)), (1 / 256, -128)))
    assert "fewer than 512" in refusal(many)
    model = LoweredModel()
    total = ir.Sum((0, 2), False)
    apart = model.graph(model.node(total, [model.input("x", (2, 3, 4))], (3,), (0.4, 0)))
    assert "adjacent" in refusal(apart)


def test_scales_beyond_the_multipliers_are_refused() -> None:
    model = LoweredModel()
    x = model.input("x", (1, 6), (1e5, 0))
    assert "found" in refusal(model.graph(model.unary(ir.Rectify(Activation.RELU), x, (1e-6, 0))))


def test_a_defect_of_a_description_is_no_statement_about_scales(monkeypatch: pytest.MonkeyPatch) -> None:
    def defect(call: Call) -> Description:
        raise ValueError("too many values to unpack")

    monkeypatch.setattr(rules, "describe", defect)
    with pytest.raises(ValueError, match="too many values"):
        AccelTarget().legalize(dense(), TargetOptions(container="stream"))


# ---- sizes ----


def assert_size_rule(graph: LoweredGraph, data: bytes) -> None:
    """Weights within 3 % of their bits; the file within that, 10 bytes per output channel and 2 KB."""
    pack = read(data)
    weights = [
        graph[n.inputs[1]] for n in graph.nodes if isinstance(n.op, ir.Conv2D | ir.DepthwiseConv2D | ir.FullyConnected)
    ]
    ideal = sum(weight.size * weight.bits for weight in weights) / 8
    stored, channels = len(pack.sections[Section.WEIGHTS]), sum(layer.layout.rows for layer in pack.graph.layers)
    assert ideal <= stored <= 1.03 * ideal
    assert len(data) <= stored + 10 * channels + 2048


@pytest.mark.parametrize("container", ["stream", "planes"])
@pytest.mark.parametrize("name", ["kws_ff_w4", "kws_ff_w5_codebook"])
def test_bundled_models_keep_the_size_rule(name: str, container: str) -> None:
    graph, data = packed(bundled(name), container)
    assert_size_rule(graph, data)
    inputs = random_inputs(graph, 4)
    expected, found = run_integer(graph, inputs), run_pack(read(data), inputs)
    assert all(np.array_equal(found[output], expected[output]) for output in graph.outputs)


def test_a_one_bit_network_keeps_the_size_rule() -> None:
    """250,000 weights in six layers, as in the bundled models."""
    graph, data = packed(lowered_of(qonnx_binary()))
    pack = read(data)
    assert [layer.layout.bits for layer in pack.graph.layers] == [1] * 6
    assert {entry["bit1_means"] for entry in pack.manifest["tensors"]} == {1}
    assert_size_rule(graph, data)
    inputs = random_inputs(graph, 20)
    expected, found = run_integer(graph, inputs), run_pack(pack, inputs)
    assert all(np.array_equal(found[output], expected[output]) for output in graph.outputs)
    assert len(np.unique(next(iter(expected.values())))) > 5
