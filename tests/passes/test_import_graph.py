"""From the normalised source to the float graph: operators against ONNX Runtime, names, states and refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from builders import kinds
from onnx_models import MICROSOFT, build, load, node, normalized, run_normalized, run_onnxruntime

from kwsq.ir.errors import UnsupportedModelError, UsageError
from kwsq.ir.graph import Graph
from kwsq.ir.ops import Clip, Conv, Mean, Relu
from kwsq.passes.import_graph import import_graph

RNG = np.random.default_rng(0)
X = RNG.uniform(-3, 3, (1, 4, 6, 5)).astype(np.float32)
F32 = np.float32


def imported(model: onnx.ModelProto, **options: Any) -> Graph:
    return import_graph(normalized(model).graph, model.opset_import[0].version, **options)


def one(op: str, *, opset: int = 17, constants: dict[str, Any] | None = None, **attrs: Any) -> onnx.ModelProto:
    names = ["x", *(constants or {})]
    return build([node(op, names, ["y"], **attrs)], inputs={"x": X.shape}, constants=constants, opset=opset)


MODELS: dict[str, onnx.ModelProto] = {
    "conv same lower": one(
        "Conv", constants={"w": RNG.normal(size=(2, 4, 2, 2)).astype(F32)}, auto_pad="SAME_LOWER", strides=[2, 1]
    ),
    "conv same upper": one(
        "Conv", constants={"w": RNG.normal(size=(2, 4, 2, 4)).astype(F32)}, auto_pad="SAME_UPPER", strides=[1, 3]
    ),
    "conv pads groups": one(
        "Conv",
        constants={"w": RNG.normal(size=(8, 1, 3, 2)).astype(F32), "b": RNG.normal(size=8).astype(F32)},
        group=4,
        pads=[2, 0, 1, 1],
        dilations=[2, 1],
    ),
    "batch norm": one(
        "BatchNormalization",
        constants={n: RNG.uniform(0.5, 2, 4).astype(F32) for n in ("g", "b", "m", "v")},
        epsilon=1e-3,
    ),
    "average pool over all": one("AveragePool", kernel_shape=[6, 5]),
    "average pool border left out": one("AveragePool", kernel_shape=[5, 4], strides=[2, 2]),
    "average pool counts padding": one("AveragePool", kernel_shape=[3, 2], pads=[1, 0, 1, 1], count_include_pad=1),
    "average pool leaves padding": one("AveragePool", kernel_shape=[3, 2], pads=[1, 0, 1, 1]),
    "max pool": one("MaxPool", kernel_shape=[3, 2], strides=[2, 1], pads=[1, 0, 1, 1]),
    "clip as inputs": one("Clip", constants={"lo": F32(-1), "hi": F32(0.5)}),
    "clip as attributes": one("Clip", opset=7, min=-1.0, max=0.5),
    "hard sigmoid": one("HardSigmoid", alpha=0.25, beta=0.4),
    "softmax of a block": one("Softmax", opset=11, axis=2),
    "div by a constant": one("Div", constants={"c": F32([[2], [4], [0.5], [3], [1], [7]])}),
    "square": one("Pow", constants={"two": F32(2)}),
    "reshape with 0 and -1": one("Reshape", constants={"shape": np.array([0, -1, 6])}),
    "flatten from 2": one("Flatten", axis=2),
    "flatten from -1": one("Flatten", axis=-1),
    "unsqueeze": one("Unsqueeze", constants={"axes": np.array([0, -1])}),
    "transpose by default": one("Transpose"),
    "slice backwards bounds": one(
        "Slice",
        constants={n: np.array(v) for n, v in {"s": [-4, 1], "e": [100, -1], "a": [2, -1], "t": [2, 1]}.items()},
    ),
    "pad": one("Pad", constants={"p": np.array([0, 0, 1, 2, 0, 0, 0, 3]), "v": F32(0.5)}),
    "pad of axes": one("Pad", opset=18, constants={"p": np.array([1, 2]), "v": F32(0), "a": np.array([-2])}),
    "mean of all": one("ReduceMean", keepdims=0),
    "mean as attribute": one("ReduceMean", axes=[-1, 2], keepdims=1),
}


@pytest.mark.parametrize("name", MODELS)
def test_means_what_onnx_says(name: str) -> None:
    got, expected = run_normalized(MODELS[name], {"x": X}), run_onnxruntime(MODELS[name], {"x": X})
    assert got.shape == expected.shape
    # Sums of up to 120 terms of at most 9, in another order: 120 roundings of 2**-24 each.
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=120 * 120 * 9 * 2.0**-24 / 10)


SECOND_OUTPUTS = {
    "MaxPool": ({"kernel_shape": [2, 2]}, {}, "the indices output"),
    "Dropout": ({}, {}, "a mask output"),
    "LayerNormalization": ({}, {n: RNG.uniform(0.5, 2, 5).astype(F32) for n in ("g", "b")}, "the mean and deviation"),
}


@pytest.mark.parametrize("op", SECOND_OUTPUTS)
def test_a_second_output_is_refused_only_where_something_reads_it(op: str) -> None:
    attrs, constants, found = SECOND_OUTPUTS[op]
    first = node(op, ["x", *constants], ["h", "second"], **attrs)
    readers = [node("Relu", ["h"], ["y"]), node("Identity", ["second"], ["dead"])]
    model = build([first, *readers], inputs={"x": X.shape}, constants=constants)
    # Ten roundings of values up to 4, times a gain of 2.
    np.testing.assert_allclose(run_normalized(model, {"x": X}), run_onnxruntime(model, {"x": X}), atol=1e-5)
    for outputs in (("y", "second"), ("y", "dead")):
        with pytest.raises(UnsupportedModelError, match=found):
            imported(build([first, *readers], inputs={"x": X.shape}, constants=constants, outputs=outputs))


GEMMS = [({}, (5, 3)), ({"transB": 1}, (3, 5)), ({"alpha": 0.5, "beta": 2.0}, (5, 3)), ({"beta": 0.0}, (5, 3))]


@pytest.mark.parametrize(("attrs", "shape"), GEMMS)
@pytest.mark.parametrize("bias", [(3,), (1, 3), (1,), ()])
def test_gemm(attrs: dict[str, float], shape: tuple[int, ...], bias: tuple[int, ...]) -> None:
    constants = {"w": RNG.normal(size=shape).astype(F32), "b": RNG.normal(size=bias).astype(F32)}
    model = build([node("Gemm", ["x", "w", "b"], ["y"], **attrs)], inputs={"x": [2, 5]}, constants=constants)
    x = RNG.normal(size=(2, 5)).astype(F32)
    # Five products and a bias.
    np.testing.assert_allclose(run_normalized(model, {"x": x}), run_onnxruntime(model, {"x": x}), atol=1e-5)


def test_relu_is_recognised_in_a_clip_and_a_mean_in_a_pool() -> None:
    assert isinstance(imported(one("Clip", constants={"lo": F32(0)})).nodes[0].op, Relu)
    assert imported(one("Clip", constants={"lo": F32(0), "hi": F32(6)})).nodes[0].op == Clip(0.0, 6.0)
    assert imported(MODELS["average pool over all"]).nodes[0].op == Mean((2, 3), True)
    conv = imported(MODELS["conv pads groups"]).nodes[0].op
    assert conv == Conv((1, 1), ((2, 1), (0, 1)), (2, 1), 4)


def test_aliases_keep_public_names() -> None:
    nodes = [
        node("Identity", ["x"], ["same"]),
        node("Relu", ["same"], ["r"]),
        node("Dropout", ["r"], ["y"]),
        node("Identity", ["r"], ["z"]),
    ]
    graph = imported(build(nodes, inputs={"x": [1, 4]}, outputs=("y", "z", "r")))
    assert graph.inputs == ("x",)
    assert graph.outputs == ("y", "z", "r")
    assert sorted(kinds(graph)) == ["Relu", "Reshape", "Reshape"]


def states(*shapes: tuple[int, ...]) -> onnx.ModelProto:
    names = [f"i{k}" for k in range(len(shapes))]
    nodes = [node("Relu", [name], [f"o{k}"]) for k, name in enumerate(names)]
    return build(nodes, inputs=dict(zip(names, shapes, strict=True)), outputs=[n.output[0] for n in nodes])


def test_states_are_paired_by_order_and_shape_or_as_stated() -> None:
    def pairs(graph: Graph) -> list[tuple[str, str]]:
        return [(pair.input, pair.output) for pair in graph.states]

    model = states((1, 4), (1, 2), (1, 3))
    assert pairs(imported(model)) == [("i1", "o1"), ("i2", "o2")]
    assert pairs(imported(model, states={"i2": "o2"})) == [("i2", "o2")]
    assert pairs(imported(model, states={})) == []
    assert pairs(imported(states((1, 4)))) == []
    crossed = build(
        [node("Relu", ["a"], ["p"]), node("Relu", ["b"], ["q"])], inputs={"a": [1, 2], "b": [1, 3]}, outputs=("q", "p")
    )
    assert pairs(imported(crossed)) == []


@pytest.mark.parametrize(("pair", "found"), [({"i1": "o9"}, "unknown name"), ({"i1": "o2"}, r"\[1, 2\] and \[1, 3\]")])
def test_stated_states_that_do_not_fit_are_a_usage_error(pair: dict[str, str], found: str) -> None:
    with pytest.raises(UsageError, match=found):
        imported(states((1, 4), (1, 2), (1, 3)), states=pair)


def test_every_unsupported_node_is_named_and_its_readers_are_not_blamed() -> None:
    nodes = [
        node("Pow", ["x", "three"], ["a"]),
        node("Conv", ["a", "w"], ["b"]),
        node("MaxPool", ["x"], ["c"], kernel_shape=[2, 2], dilations=[2, 2]),
        node("Add", ["b", "c"], ["y"]),
    ]
    model = build(nodes, inputs={"x": X.shape}, constants={"w": np.ones((2, 4, 1, 1), F32), "three": F32(3)})
    with pytest.raises(UnsupportedModelError) as error:
        imported(model)
    assert {p.where for p in error.value.problems} == {"Pow_a", "MaxPool_c"}
    assert all(p.opset == 17 and p.remedy for p in error.value.problems)


def quantized(x: str, scale: str, y: str) -> list[onnx.NodeProto]:
    return [node("QuantizeLinear", [x, scale, "z"], [f"{y}q"]), node("DequantizeLinear", [f"{y}q", scale, "z"], [y])]


def codes(*shape: int) -> Any:
    return np.random.default_rng(4).integers(-127, 128, shape).astype(np.int8)


@pytest.mark.parametrize("swapped", [False, True])
def test_a_tensor_may_have_the_name_that_a_moved_weight_would_get(swapped: bool) -> None:
    layers = [node("Gemm", ["x0", "w"], ["g"], transB=1), node("MatMul", ["h", "w/transposed"], ["k"])]
    if swapped:
        layers = [node("MatMul", ["x0", "w"], ["g"]), node("Gemm", ["h", "w/transposed"], ["k"], transB=1)]
    nodes = [
        *quantized("x", "s", "x0"), node("DequantizeLinear", ["c1", "s"], ["w/transposed"]),
        node("DequantizeLinear", ["c2", "s"], ["w"]), layers[0], *quantized("g", "s3", "h"), layers[1],
        *quantized("k", "s4", "y"),
    ]  # fmt: skip
    constants = {
        "s": F32(0.02),
        "s3": F32(0.1),
        "s4": F32(0.3),
        "z": np.int8(0),
        "c1": codes(4, 4),
        "c2": codes(4, 4).T.copy(),
    }
    model = build(nodes, inputs={"x": [1, 4]}, constants=constants)
    feeds = {"x": RNG.uniform(-2, 2, (1, 4)).astype(F32)}
    np.testing.assert_allclose(run_normalized(model, feeds), run_onnxruntime(model, feeds), atol=1e-5)


def test_a_tensor_may_have_the_name_that_a_made_constant_would_get() -> None:
    hard = node("HardSigmoid", ["x"], ["h"])
    model = build(
        [hard, node("Mul", ["h", f"{hard.name}/alpha"], ["y"])],
        inputs={"x": [1, 4]},
        constants={f"{hard.name}/alpha": F32([0.5, 2, 1, 3])},
    )
    feeds = {"x": RNG.uniform(-2, 2, (1, 4)).astype(F32)}
    np.testing.assert_allclose(run_normalized(model, feeds), run_onnxruntime(model, feeds), atol=1e-6)


def test_an_integer_input_read_on_two_grids_is_refused() -> None:
    nodes = [
        node("DequantizeLinear", ["x", "s1"], ["a"]), node("DequantizeLinear", ["x", "s2"], ["b"]),
        node("Sub", ["a", "b"], ["y"]),
    ]  # fmt: skip
    constants = {"s1": F32(0.02), "s2": F32(0.1)}
    model = build(nodes, inputs={"x": [1, 4]}, constants=constants, types={"x": onnx.TensorProto.INT8})
    with pytest.raises(UnsupportedModelError, match=r"integer graph input 'x' read on two grids"):
        imported(model)
    constants["s2"] = constants["s1"]
    same = build(nodes, inputs={"x": [1, 4]}, constants=constants, types={"x": onnx.TensorProto.INT8})
    assert imported(same).inputs == ("x",)


def test_the_shape_of_an_integer_input_reads_no_codes() -> None:
    nodes = [
        node("Shape", ["x"], ["n"]), node("Gather", ["n", "first"], ["batch"], axis=0),
        node("Concat", ["batch", "rest"], ["to"], axis=0),
        node("DequantizeLinear", ["x", "s"], ["a"]), node("Reshape", ["a", "to"], ["y"]),
    ]  # fmt: skip
    constants = {"s": F32(0.5), "first": np.array([0]), "rest": np.array([-1])}
    model = build(nodes, inputs={"x": [1, 2, 3]}, constants=constants, types={"x": onnx.TensorProto.INT8})
    graph = imported(model)
    assert graph[graph.outputs[0]].shape == (1, 6)


def test_a_clip_without_bounds_between_two_outputs_is_a_copy() -> None:
    model = build([node("Relu", ["x"], ["a"]), node("Clip", ["a"], ["y"])], inputs={"x": X.shape}, outputs=["a", "y"])
    graph = imported(model)
    assert graph.outputs == ("a", "y")
    assert "Clip" not in kinds(graph)


def test_parts_without_a_name_are_refused() -> None:
    nodes = [node("Split", ["x"], ["a", "", "b"], axis=1), node("Add", ["a", "b"], ["y"])]
    with pytest.raises(UnsupportedModelError, match="a part without a name"):
        imported(build(nodes, inputs={"x": [1, 6]}))


def test_a_source_knows_the_domains_it_uses_not_those_it_imports() -> None:
    model = one("Relu")
    model.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    model.opset_import.append(onnx.helper.make_opsetid("ai.onnx.ml", 3))
    assert load(model).domains == {""}
    nodes = [node("QuantizeLinear", ["x", "s", "z"], ["y"], domain=MICROSOFT)]
    other = build(
        nodes, inputs={"x": [1, 4]}, constants={"s": F32(1), "z": np.int8(0)}, types={"y": onnx.TensorProto.INT8}
    )
    assert load(other).domains == {MICROSOFT}
