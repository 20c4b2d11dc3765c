"""What a loaded model looks like, and how symbolic dimensions are resolved."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from onnx import TensorProto, helper
from onnx_models import build, load, node, run_normalized, run_onnxruntime

from kwsq.ir.errors import UnsupportedModelError, UsageError
from kwsq.passes.load import load_bytes, load_file

F32 = np.float32


def relu(**inputs: list[int | str | None]) -> onnx.ModelProto:
    names = list(inputs)
    return build([node("Relu", [names[0]], ["y"])], inputs=inputs)


def shapes(model: onnx.ModelProto, **options: object) -> dict[str, tuple[int, ...]]:
    return {tensor.name: tensor.shape for tensor in load(model, **options).graph.inputs}


def test_what_a_source_carries(tmp_path: Path) -> None:
    model = build([node("Relu", ["x"], ["y"])], inputs={"x": [1, 4]}, metadata={"a": "b"})
    model.producer_name, model.producer_version = "maker", "3"
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    source = load_file(path)
    assert source.opsets == {"": 17}
    assert source.metadata == {"a": "b"}
    assert source.producer == "maker 3"
    assert source.path == str(path)
    assert source.data == path.read_bytes()
    assert source.sha256 == hashlib.sha256(source.data).hexdigest()
    assert source.graph.inputs[0].dtype == F32
    assert isinstance(source.graph, gs.Graph)


def test_a_fixed_batch_is_kept_and_a_symbolic_one_is_1() -> None:
    assert shapes(relu(x=[4, 9])) == {"x": (4, 9)}
    assert shapes(relu(x=[4, 9]), batch=7) == {"x": (4, 9)}
    assert shapes(relu(x=["N", 9])) == {"x": (1, 9)}
    assert shapes(relu(x=["N", 9]), batch=7) == {"x": (7, 9)}
    assert shapes(relu(x=[None, 9])) == {"x": (1, 9)}


def test_the_batch_symbol_is_the_batch_wherever_it_occurs() -> None:
    assert shapes(relu(x=["N", 9], s=[3, "N"]), batch=2) == {"x": (2, 9), "s": (3, 2)}


def test_other_symbols_need_a_shape_and_the_message_says_how() -> None:
    model = relu(x=["N", "time", 10], s=["N", None])
    with pytest.raises(UsageError) as caught:
        load(model)
    assert [problem.where for problem in caught.value.problems] == ["graph input 'x'", "graph input 's'"]
    assert "--shape x=" in str(caught.value)
    assert "time" in str(caught.value)
    assert shapes(model, shapes={"x": (1, 49, 10), "s": (1, 3)}) == {"x": (1, 49, 10), "s": (1, 3)}


def test_an_input_without_any_shape_needs_one() -> None:
    model = relu(x=[1])
    model.graph.input[0].type.tensor_type.ClearField("shape")
    with pytest.raises(UsageError, match="no shape"):
        load(model)
    assert shapes(model, shapes={"x": (2, 3)}) == {"x": (2, 3)}


def test_a_scalar_input_has_the_empty_shape() -> None:
    assert shapes(relu(x=[])) == {"x": ()}


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"y": (1, 4)}, "no graph input"),
        ({"x": (1, 5)}, "fits"),
        ({"x": (4,)}, "fits"),
        ({"x": (2**17, 4)}, "dimensions"),
        ({"x": (0, 4)}, "dimensions"),
    ],
)
def test_shapes_that_do_not_fit(given: dict[str, tuple[int, ...]], match: str) -> None:
    with pytest.raises(UsageError, match=match):
        load(relu(x=["N", 4]), shapes=given)


def test_a_batch_that_is_too_large() -> None:
    with pytest.raises(UsageError, match="--batch"):
        load(relu(x=["N", 4]), batch=2**20)


def test_nodes_in_any_order_are_sorted_and_a_sorted_file_keeps_its_order() -> None:
    nodes = [node("Relu", ["b"], ["y"]), node("Neg", ["a"], ["b"]), node("Abs", ["x"], ["a"])]
    model = build(nodes, inputs={"x": [1, 4]})
    assert [item.op for item in load(model).graph.nodes] == ["Abs", "Neg", "Relu"]
    x = np.array([[1, -2, 3, -4]], F32)
    assert np.array_equal(run_normalized(model, {"x": x}), np.zeros((1, 4)))
    branches = [node("Abs", ["x"], ["a"]), node("Neg", ["a"], ["b"]), node("Exp", ["x"], ["c"])]
    model = build([*branches, node("Sum", ["b", "c"], ["y"])], inputs={"x": [1, 4]})
    assert [item.op for item in load(model).graph.nodes] == ["Abs", "Neg", "Exp", "Sum"]


def test_node_names_become_unique_and_never_empty() -> None:
    nodes = [
        helper.make_node("Relu", ["x" if i == 0 else f"t{i}"], [f"t{i + 1}"], name) for i, name in enumerate("aab")
    ]
    nodes.append(helper.make_node("Relu", ["t3"], ["y"]))
    names = [item.name for item in load(build(nodes, inputs={"x": [1]})).graph.nodes]
    assert len(set(names)) == 4
    assert all(names)
    assert names[0] == "a"
    assert names[3] == "y"


def test_constants_of_every_form() -> None:
    array = np.array([[1, 2]], F32)
    nodes = [
        node("Constant", [], ["a"], value=onnx.numpy_helper.from_array(array)),
        node("Constant", [], ["b"], value_float=0.5),
        node("Constant", [], ["c"], value_floats=[0.5, 0.25]),
        node("Constant", [], ["i"], value_ints=[2, 1]),
        node("Constant", [], ["j"], value_int=-1),
        node("Add", ["x", "a"], ["p"]),
        node("Add", ["p", "b"], ["q"]),
        node("Add", ["q", "c"], ["r"]),
        node("Reshape", ["r", "i"], ["s"]),
        node("Unsqueeze", ["s", "k"], ["y"]),
        node("Reshape", ["j", "one"], ["k"]),
        node("Constant", [], ["one"], value_ints=[1]),
    ]
    model = build(nodes[-3:] + nodes[:-3], inputs={"x": [1, 2]})
    source = load(model)
    assert "Constant" not in [item.op for item in source.graph.nodes]
    x = np.array([[3, 4]], F32)
    assert np.array_equal(run_normalized(model, {"x": x}).reshape(-1), np.array([5, 6.75], F32))


def test_a_constant_of_text_is_refused() -> None:
    nodes = [node("Constant", [], ["a"], value_string="text"), node("Relu", ["x"], ["y"])]
    with pytest.raises(UnsupportedModelError, match="Constant"):
        load(build(nodes, inputs={"x": [1]}))


def test_attributes_are_python_values() -> None:
    nodes = [
        node("AveragePool", ["x"], ["h"], kernel_shape=[2], auto_pad="VALID"),
        node("LeakyRelu", ["h"], ["y"], alpha=0.25),
    ]
    pool, leaky = load(build(nodes, inputs={"x": [1, 1, 4]})).graph.nodes
    assert pool.attrs == {"kernel_shape": [2], "auto_pad": "VALID"}
    assert leaky.attrs == {"alpha": 0.25}


def test_the_two_spellings_of_the_default_domain() -> None:
    model = relu(x=[1])
    model.graph.node[0].domain = "ai.onnx"
    assert load(model).graph.nodes[0].domain == ""


def test_declared_intermediate_shapes_are_not_believed() -> None:
    nodes = [
        node("Flatten", ["x"], ["f"]),
        node("Shape", ["f"], ["n"]),
        node("Reshape", ["f", "n"], ["y"]),
    ]
    model = build(nodes, inputs={"x": [2, 3, 4]})
    model.graph.value_info.append(helper.make_tensor_value_info("f", TensorProto.FLOAT, [4, 6]))
    x = np.random.default_rng(0).normal(0, 1, (2, 3, 4)).astype(F32)
    result = run_normalized(model, {"x": x})
    assert result.shape == (2, 12)


def test_shape_arithmetic_of_an_exported_view() -> None:
    """x.view(x.size(0), -1), as TorchScript writes it, behind a quantizer of a custom domain."""
    nodes = [
        node("Quant", ["x", "s", "z", "b"], ["q"], "qonnx.custom_op.general", signed=1, narrow=0),
        node("Conv", ["q", "w"], ["h"]),
        node("Shape", ["h"], ["n"]),
        node("Gather", ["n", "zero"], ["d"], axis=0),
        node("Unsqueeze", ["d", "axis"], ["u"]),
        node("Concat", ["u", "minus"], ["t"], axis=0),
        node("Reshape", ["h", "t"], ["y"]),
    ]
    constants = {
        "s": F32(0.1),
        "z": F32(0),
        "b": F32(8),
        "w": np.ones((3, 2, 3), F32),
        "zero": np.int64(0),
        "axis": np.array([0], np.int64),
        "minus": np.array([-1], np.int64),
    }
    model = build(nodes, inputs={"x": ["N", 2, 9]}, constants=constants)
    x = np.random.default_rng(0).normal(0, 1, (4, 2, 9)).astype(F32)
    assert run_normalized(model, {"x": x}, batch=4).shape == (4, 21)


def test_size_and_sliced_shapes() -> None:
    nodes = [
        node("Relu", ["x"], ["h"]),
        node("Size", ["h"], ["n"]),
        node("Shape", ["h"], ["s"], start=1),
        node("Reshape", ["n", "one"], ["m"]),
        node("Concat", ["m", "s"], ["all"], axis=0),
        node("Slice", ["all", "b", "e"], ["t"]),
        node("Reshape", ["h", "t"], ["y"]),
    ]
    constants = {
        "one": np.array([1], np.int64),
        "b": np.array([0], np.int64),
        "e": np.array([1], np.int64),
    }
    model = build(nodes, inputs={"x": [2, 3]}, constants=constants)
    x = np.ones((2, 3), F32)
    assert np.array_equal(run_normalized(model, {"x": x}), run_onnxruntime(model, {"x": x}))


def test_the_bytes_are_all_that_is_needed() -> None:
    assert load_bytes(relu(x=[1]).SerializeToString(), "anything").path == "anything"
