"""Constant folding against onnx's reference evaluator, on demand and within bounds."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto
from onnx.reference import ReferenceEvaluator
from onnx_models import build, load, node, normalized

from kwsq.ir.errors import InvalidModelError
from kwsq.passes.fold_operators import FOLD_TABLE
from kwsq.passes.fold_source import ConstantEvaluator
from kwsq.passes.known_ops import FOLDED_OPS
from kwsq.passes.source_graph import SourceEditor

F32 = np.float32
RNG = np.random.default_rng(0)
A = RNG.normal(0, 2, (3, 4)).astype(F32)
B = RNG.uniform(0.5, 2, (1, 4)).astype(F32)
I = np.array([[-7, 5, 0, 9]], np.int64)  # noqa: E741 - integers
J = np.array([[2, -3, 4, -4]], np.int64)
TRUE = np.array([[True, False, True, False]])

Case = tuple[list[Any], dict[str, Any], int]


def ints(*values: int) -> NDArray[np.int64]:
    return np.array(values, np.int64)


CASES: dict[str, list[Case]] = {
    "Abs": [([A], {}, 17), ([I], {}, 17)],
    "Add": [([A, B], {}, 17), ([I, J], {}, 17)],
    "And": [([TRUE, TRUE[:, ::-1]], {}, 17)],
    "Cast": [
        ([A], {"to": TensorProto.INT32}, 17),
        ([I], {"to": TensorProto.FLOAT}, 17),
        ([TRUE], {"to": TensorProto.FLOAT}, 17),
        ([A], {"to": TensorProto.BOOL}, 17),
    ],
    "CastLike": [([A, I], {}, 17), ([I, A], {}, 17)],
    "Ceil": [([A], {}, 17)],
    "Clip": [([A, F32(-1), F32(1)], {}, 17), ([A, None, F32(1)], {}, 13), ([A], {"min": -1.0, "max": 0.5}, 10)],
    "Concat": [([A, B], {"axis": 0}, 17), ([A, A], {"axis": -1}, 17)],
    "ConstantOfShape": [
        ([ints(2, 3)], {}, 17),
        ([ints(2)], {"value": onnx.numpy_helper.from_array(ints(7))}, 17),
    ],
    "Div": [([A, B], {}, 17), ([I, J], {}, 17)],
    "Equal": [([I, J], {}, 17)],
    "Exp": [([A], {}, 17)],
    "Expand": [([B, ints(3, 4)], {}, 17), ([B, ints(2, 1, 1)], {}, 17)],
    "Flatten": [([A], {"axis": 0}, 17), ([A.reshape(3, 2, 2)], {"axis": -1}, 17), ([A], {"axis": 2}, 17)],
    "Floor": [([A], {}, 17)],
    "Gather": [([A, ints(2, 0)], {"axis": 0}, 17), ([A, ints(-1)], {"axis": 1}, 17), ([I[0], np.int64(1)], {}, 17)],
    "Greater": [([A, B], {}, 17)],
    "GreaterOrEqual": [([A, A], {}, 17)],
    "Identity": [([A], {}, 17)],
    "Less": [([A, B], {}, 17)],
    "LessOrEqual": [([A, A], {}, 17)],
    "Log": [([B], {}, 17)],
    "Max": [([A, B, -A], {}, 17)],
    "Min": [([A, B], {}, 17)],
    "Mul": [([A, B], {}, 17), ([I, J], {}, 17)],
    "Neg": [([A], {}, 17)],
    "Not": [([TRUE], {}, 17)],
    "Or": [([TRUE, TRUE[:, ::-1]], {}, 17)],
    "Pow": [([B, F32(2.5)], {}, 17), ([I, np.int64(2)], {}, 17)],
    "Range": [([np.int64(0), np.int64(7), np.int64(2)], {}, 17), ([F32(3), F32(-1), F32(-0.5)], {}, 17)],
    "Reciprocal": [([B], {}, 17)],
    "ReduceL1": [([A], {"axes": [1]}, 17), ([A, ints(0)], {"keepdims": 0}, 18)],
    "ReduceMax": [([A], {"axes": [1], "keepdims": 0}, 13), ([A, ints(-1)], {}, 18), ([A], {}, 18)],
    "ReduceMean": [([A], {"axes": [0]}, 13), ([A, ints(0, 1)], {}, 18)],
    "ReduceMin": [([A], {"axes": [1]}, 13)],
    "ReduceProd": [([B], {"axes": [1]}, 13)],
    "ReduceSum": [([A, ints(1)], {"keepdims": 0}, 13), ([A], {"noop_with_empty_axes": 1}, 13)],
    "Relu": [([A], {}, 17)],
    "Reshape": [([A, ints(2, -1)], {}, 17), ([A, ints(0, 2, 2)], {}, 17)],
    "Round": [([np.array([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5], F32)], {}, 17)],
    "Sigmoid": [([A], {}, 17)],
    "Sign": [([A], {}, 17)],
    "Slice": [
        ([A, ints(1), ints(2**62), ints(1), ints(2)], {}, 17),
        ([A, ints(-1), ints(-(2**62)), ints(1), ints(-1)], {}, 17),
        ([A, ints(0, 1), ints(2, 3)], {}, 17),
        ([A], {"starts": [1], "ends": [3], "axes": [1]}, 9),
    ],
    "Sqrt": [([B], {}, 17)],
    "Squeeze": [([B, ints(0)], {}, 17), ([B], {}, 17), ([B], {"axes": [0]}, 11)],
    "Sub": [([A, B], {}, 17)],
    "Tanh": [([A], {}, 17)],
    "Tile": [([A, ints(2, 3)], {}, 17)],
    "Transpose": [([A], {}, 17), ([A.reshape(3, 2, 2)], {"perm": [2, 0, 1]}, 17)],
    "Unsqueeze": [([A, ints(0, -1)], {}, 17), ([A], {"axes": [1]}, 11)],
    "Where": [([TRUE, A, B], {}, 17)],
}


def constant_model(op: str, arrays: list[Any], attrs: dict[str, Any], opset: int) -> onnx.ModelProto:
    names = ["" if array is None else f"c{i}" for i, array in enumerate(arrays)]
    constants = {name: np.asarray(array) for name, array in zip(names, arrays, strict=True) if name}
    nodes = [node(op, names, ["v"], **attrs), node("Relu", ["x"], ["y"])]
    return build(nodes, inputs={"x": [1]}, outputs=["y", "v"], constants=constants, opset=opset)


def folded(model: onnx.ModelProto) -> np.ndarray:
    source = load(model)
    editor = SourceEditor(source.graph)
    value = ConstantEvaluator(editor, source.opsets[""], {}).value(source.graph.outputs[1])
    assert value is not None
    return value


@pytest.mark.parametrize(("op", "index"), [(op, i) for op, cases in CASES.items() for i in range(len(cases))])
def test_the_table_against_the_reference(op: str, index: int) -> None:
    arrays, attrs, opset = CASES[op][index]
    model = constant_model(op, arrays, attrs, opset)
    with np.errstate(all="ignore"):
        expected = ReferenceEvaluator(model).run(["v"], {"x": np.zeros(1, F32)})[0]
    result = folded(model)
    assert result.dtype == expected.dtype
    assert result.shape == np.shape(expected)
    if result.dtype.kind == "f":
        # One rounding per transcendental, and sums of at most 12 terms in another order.
        assert np.allclose(result, expected, rtol=12 * 2.0**-23, atol=0)
    else:
        assert np.array_equal(result, expected)


def test_every_operator_of_the_table_is_tested_and_allowed() -> None:
    assert set(CASES) == set(FOLD_TABLE)
    assert FOLDED_OPS - set(FOLD_TABLE) == {"Constant", "Shape", "Size"}


BROKEN: dict[str, Case] = {
    "axis out of range": ([A, ints(5)], {}, 17),
    "too many dimensions": ([A, ints(0, 1, 2, 3)], {}, 17),
}


@pytest.mark.parametrize("name", BROKEN)
def test_constants_that_do_not_fit_name_their_node(name: str) -> None:
    arrays, attrs, opset = BROKEN[name]
    with pytest.raises(InvalidModelError, match="Unsqueeze_v") as caught:
        folded(constant_model("Unsqueeze", arrays, attrs, opset))
    assert caught.value.problems[0].op == "Unsqueeze"


@pytest.mark.parametrize(
    ("op", "arrays", "attrs"),
    [
        ("Cast", [A], {}),
        ("Cast", [A], {"to": 8}),
        ("Clip", [A, B, None], {}),
        ("Concat", [], {"axis": 0}),
        ("Gather", [A, A], {}),
        ("Reshape", [A, ints(0, 0, 0)], {}),
        ("Reshape", [A, ints(1, 1, 1, 1, 1, 12)], {}),
        ("Slice", [A, ints(0), ints(1, 2)], {}),
        ("Slice", [A, ints(0), ints(1), ints(0), ints(0)], {}),
        ("Squeeze", [A, ints(0)], {}),
        ("Tile", [A, ints(2)], {}),
        ("Tile", [A, ints(-1, 1)], {}),
        ("Transpose", [A], {"perm": [0, 0]}),
        ("Add", [A], {}),
        ("Where", [TRUE, A], {}),
        ("ConstantOfShape", [ints(-1)], {}),
        ("Range", [F32(0), F32(np.inf), F32(1)], {}),
        ("ReduceMax", [A], {"axes": [7]}),
        ("Flatten", [A], {"axis": 3}),
        ("Flatten", [A], {"axis": "a"}),
    ],
)
def test_malformed_applications_are_invalid_models(op: str, arrays: list[Any], attrs: dict[str, Any]) -> None:
    with pytest.raises(InvalidModelError):
        folded(constant_model(op, arrays, attrs, 17))


def test_what_depends_on_activations_has_no_value() -> None:
    source = load(build([node("Add", ["x", "c"], ["y"])], inputs={"x": [1, 4]}, constants={"c": B}))
    editor = SourceEditor(source.graph)
    evaluator = ConstantEvaluator(editor, 17, {})
    assert evaluator.value(source.graph.outputs[0]) is None
    assert evaluator.value(source.graph.inputs[0]) is None
    assert np.array_equal(evaluator.value(source.graph.nodes[0].inputs[1]), B)


def test_a_deep_chain_needs_no_stack() -> None:
    nodes = [node("Neg", ["c" if i == 0 else f"t{i}"], [f"t{i + 1}"]) for i in range(5000)]
    model = build([*nodes, node("Add", ["x", "t5000"], ["y"])], inputs={"x": [1, 4]}, constants={"c": B})
    (only,) = normalized(model).graph.nodes
    assert np.array_equal(only.inputs[1].values, B)


def test_unused_bombs_are_not_computed() -> None:
    constants = {"n": ints(2**40), "c": B}
    nodes = [node("ConstantOfShape", ["n"], ["bomb"]), node("Add", ["x", "c"], ["y"])]
    assert len(normalized(build(nodes, inputs={"x": [1, 4]}, constants=constants)).graph.nodes) == 1


def test_weights_are_folded_through_movement() -> None:
    nodes = [
        node("Reshape", ["w", "shape"], ["a"]),
        node("Transpose", ["a"], ["b"], perm=[1, 0]),
        node("MatMul", ["x", "b"], ["y"]),
    ]
    model = build(nodes, inputs={"x": [1, 4]}, constants={"w": A.reshape(-1), "shape": ints(3, 4)})
    (only,) = normalized(model).graph.nodes
    assert np.array_equal(only.inputs[1].values, A.T)
