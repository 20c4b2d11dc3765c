"""Operands that do not fit are refused by name before anything is evaluated."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx_models import build, load, node

from kwsq.ir.errors import InvalidModelError, UnsupportedModelError
from kwsq.passes.dialects import normalize
from kwsq.passes.import_graph import import_graph

F32 = np.float32


def ones(*shape: int) -> np.ndarray:
    return np.ones(shape, F32)


def convolution(*, weight: np.ndarray, bias: int = 4, **attrs: object) -> onnx.ModelProto:
    constants = {"w": weight, "b": ones(bias)}
    return build([node("Conv", ["x", "w", "b"], ["y"], **attrs)], inputs={"x": [1, 2, 6, 6]}, constants=constants)


def normalization(*lengths: int) -> onnx.ModelProto:
    names = ["g", "b", "m", "v"]
    constants = {name: ones(size) for name, size in zip(names, lengths, strict=True)}
    return build([node("BatchNormalization", ["x", *names], ["y"])], inputs={"x": [1, 2, 6, 6]}, constants=constants)


def product(*shape: int) -> onnx.ModelProto:
    return build([node("MatMul", ["x", "w"], ["y"])], inputs={"x": [1, 4]}, constants={"w": ones(*shape)})


def import_model(model: onnx.ModelProto) -> None:
    source = load(model)
    import_graph(normalize(source).graph, source.opsets[""])


SOUND: dict[str, Callable[[], onnx.ModelProto]] = {
    "convolution": lambda: convolution(weight=ones(4, 2, 3, 3)),
    "grouped convolution": lambda: convolution(weight=ones(4, 1, 3, 3), group=2),
    "batch norm": lambda: normalization(2, 2, 2, 2),
    "product": lambda: product(4, 3),
}

BROKEN: dict[str, Callable[[], onnx.ModelProto]] = {
    "channels": lambda: convolution(weight=ones(4, 3, 3, 3)),
    "channels of groups": lambda: convolution(weight=ones(4, 2, 3, 3), group=2),
    "outputs that groups do not divide": lambda: convolution(weight=ones(5, 1, 3, 3), bias=5, group=2),
    "bias length": lambda: convolution(weight=ones(4, 2, 3, 3), bias=3),
    "window larger than its input": lambda: convolution(weight=ones(4, 2, 7, 3)),
    "batch norm length": lambda: normalization(2, 2, 3, 2),
    "inner dimension": lambda: product(5, 3),
    "pooling window larger than its input": lambda: build(
        [node("MaxPool", ["x"], ["y"], kernel_shape=[9, 1])], inputs={"x": [1, 2, 6, 6]}
    ),
}


@pytest.mark.parametrize("name", SOUND)
def test_sound_operands(name: str) -> None:
    import_model(SOUND[name]())


@pytest.mark.parametrize("name", BROKEN)
def test_operands_that_do_not_fit(name: str) -> None:
    with pytest.raises((InvalidModelError, UnsupportedModelError)) as caught:
        import_model(BROKEN[name]())
    assert caught.value.problems[0].remedy


AXES: dict[str, onnx.ModelProto] = {
    "Concat": build([node("Concat", ["x", "x"], ["y"], axis=2)], inputs={"x": [1, 4]}),
    "Concat of scalars": build([node("Concat", ["x", "x"], ["y"], axis=0)], inputs={"x": []}),
    "Softmax": build([node("Softmax", ["x"], ["y"], axis=-3)], inputs={"x": [1, 4]}),
    "Split": build([node("Split", ["x"], ["y", "z"], axis=2)], inputs={"x": [1, 4]}),
    "Squeeze": build([node("Squeeze", ["x"], ["y"], axes=[2])], inputs={"x": [1, 4]}, opset=11),
    "ReduceMean": build([node("ReduceMean", ["x"], ["y"], axes=[2])], inputs={"x": [1, 4]}, opset=13),
}


@pytest.mark.parametrize("name", AXES)
def test_an_axis_the_tensor_does_not_have_is_refused_and_not_wrapped(name: str) -> None:
    with pytest.raises(UnsupportedModelError, match="axis"):
        import_model(AXES[name])


def test_a_gemm_of_vectors_is_refused_by_name() -> None:
    model = build([node("Gemm", ["x", "w"], ["y"])], inputs={"x": [4]}, constants={"w": ones(4, 3)})
    with pytest.raises(UnsupportedModelError, match="Gemm_y"):
        import_model(model)
