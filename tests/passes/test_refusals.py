"""One unknown operator does not hide what else keeps a model from being converted."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from onnx_models import build, node

from kwsq.ir.errors import InvalidModelError, UnsupportedModelError
from kwsq.passes.refusals import load_or_list

F32 = np.float32
CONSTANTS = {"s": F32(1), "t": F32(2), "z": np.int8(0), "three": F32(3), "c": F32([1, 2]), "c0": np.zeros(2, np.int8)}


def refused(nodes: Sequence[onnx.NodeProto], outputs: tuple[str, ...] = ("y",)) -> list[str]:
    model = build(nodes, inputs={"x": [1, 2, 8]}, outputs=outputs, constants=CONSTANTS)
    with pytest.raises(UnsupportedModelError) as caught:
        load_or_list(model.SerializeToString(), "m.onnx")
    assert all(problem.expected and problem.remedy for problem in caught.value.problems)
    return [problem.where.removeprefix("node ").strip("'") for problem in caught.value.problems]


def dilated(x: str, y: str) -> onnx.NodeProto:
    return node("MaxPool", [x], [y], kernel_shape=[2], dilations=[2])


def test_a_use_that_an_importer_refuses_is_named_beside_an_unknown_operator() -> None:
    assert refused([dilated("x", "a"), node("Erf", ["a"], ["y"])]) == ["Erf_y", "MaxPool_a"]


def test_so_is_a_quantizer_and_an_operator_without_an_integer_form() -> None:
    pair = [node("QuantizeLinear", ["x", "s", "z"], ["q"]), node("DequantizeLinear", ["q", "t", "z"], ["d"])]
    assert refused([*pair, node("Erf", ["d"], ["y"])]) == ["Erf_y", "DequantizeLinear_d"]
    assert refused([node("Sqrt", ["x"], ["a"]), node("Erf", ["a"], ["y"])]) == ["Erf_y", "Sqrt_a"]


def test_other_branches_are_judged_in_whatever_order_the_file_has_them() -> None:
    branch = [node("Erf", ["x"], ["a"]), node("Pow", ["x", "three"], ["b"]), node("Add", ["a", "b"], ["y"])]
    for nodes in (branch, branch[::-1]):
        assert refused(nodes) == ["Erf_a", "Pow_b"]


def test_what_is_computed_from_an_unknown_operator_is_not_judged() -> None:
    assert refused([node("Erf", ["x"], ["a"]), dilated("a", "y")]) == ["Erf_a"]
    codes = [node("QuantizeLinear", ["x", "s", "z"], ["q"]), node("MatMulInteger", ["q", "q"], ["i"])]
    channels = [node("QuantizeLinear", ["x", "c", "c0"], ["q"], axis=1), codes[1]]
    assert refused(channels, ("i",)) == ["MatMulInteger_i"]
    real = [node("Cast", ["i"], ["f"], to=TensorProto.FLOAT), node("Mul", ["f", "s"], ["y"])]
    assert refused([*codes, *real]) == ["MatMulInteger_i"]


def test_where_the_model_is_cut_nothing_is_called_an_output() -> None:
    nodes = [node("Relu", ["x"], ["r"]), node("Shape", ["x"], ["n"]), node("Resize", ["r", "", "", "n"], ["y"])]
    assert refused(nodes) == ["Resize_y"]


def test_a_model_that_loads_is_loaded_and_a_broken_one_is_broken() -> None:
    model = build([node("Relu", ["x"], ["y"])], inputs={"x": [1, 4]})
    assert [n.op for n in load_or_list(model.SerializeToString(), "m.onnx").graph.nodes] == ["Relu"]
    with pytest.raises(InvalidModelError):
        load_or_list(b"", "m.onnx")
