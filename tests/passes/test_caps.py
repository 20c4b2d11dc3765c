"""Caps on imported graphs, and the count of multiplications they rest on."""

from __future__ import annotations

import numpy as np
import pytest
from onnx_models import build, load, node

from kwsq.ir.errors import InvalidModelError
from kwsq.ir.graph import Graph
from kwsq.passes.caps import check_caps, node_macs
from kwsq.passes.dialects import normalize
from kwsq.passes.import_graph import import_graph

F32 = np.float32


def imported(*args: object, **kwargs: object) -> Graph:
    source = load(build(*args, **kwargs))  # type: ignore[arg-type]
    return import_graph(normalize(source).graph, 17)


def test_multiplications_of_a_convolution_and_a_product() -> None:
    constants = {
        "w": np.ones((8, 2, 3, 3), F32),
        "shape": np.array([1, -1], np.int64),
        "v": np.ones((8 * 4 * 4, 5), F32),
    }
    nodes = [
        node("Conv", ["x", "w"], ["h"], group=2),
        node("Reshape", ["h", "shape"], ["r"]),
        node("MatMul", ["r", "v"], ["y"]),
    ]
    graph = imported(nodes, inputs={"x": [1, 4, 6, 6]}, constants=constants)
    counts = {item.op.name: node_macs(graph, item) for item in graph.nodes}
    assert counts["Conv"] == 8 * 4 * 4 * 2 * 9
    assert counts["Dense"] == 128 * 5
    assert counts["Reshape"] == 0
    check_caps(graph)


def test_too_many_multiplications() -> None:
    nodes = [node("Transpose", ["x"], ["t"], perm=[1, 0]), node("MatMul", ["t", "x"], ["y"])]
    with pytest.raises(InvalidModelError, match="multiply-accumulates"):
        check_caps(imported(nodes, inputs={"x": [2048, 2048]}))


def test_too_large_a_tensor_and_too_many_elements() -> None:
    pads = np.array([0, 0, 2**13, 2**13], np.int64)
    with pytest.raises(InvalidModelError, match=r"tensor 'y'"):
        check_caps(imported([node("Pad", ["x", "p"], ["y"])], inputs={"x": [1, 1]}, constants={"p": pads}))
    nodes = [node("Relu", [f"t{i}" if i else "x"], [f"t{i + 1}"]) for i in range(9)]
    model = {"inputs": {"x": [2**12, 2**11]}, "outputs": ["t9"]}
    with pytest.raises(InvalidModelError, match="elements in all tensors"):
        check_caps(imported(nodes, **model))
