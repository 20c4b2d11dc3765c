"""ONNX Runtime's QOperator format: each operator against ONNX Runtime running it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from onnx_models import MICROSOFT, build, canonical, node, normalized, run_normalized, run_onnxruntime

from kwsq.ir.errors import InvalidModelError, UnsupportedModelError
from kwsq.ir.quant import PerAxis
from kwsq.passes.dialects.canonical import CODES, FAKE_QUANT

F32 = np.float32
RNG = np.random.default_rng(0)
X = RNG.uniform(-3, 3, (1, 4, 6, 6)).astype(F32)
GRID = {"xs": F32(0.03), "xz": np.uint8(120), "ys": F32(0.05), "yz": np.uint8(100)}


def between(
    operator: onnx.NodeProto | Sequence[onnx.NodeProto],
    constants: dict[str, object],
    shape: Sequence[int] = X.shape,
) -> onnx.ModelProto:
    """x -> QuantizeLinear -> operator on codes `q` giving `r` -> DequantizeLinear."""
    middle = [operator] if isinstance(operator, onnx.NodeProto) else list(operator)
    nodes = [
        node("QuantizeLinear", ["x", "xs", "xz"], ["q"]),
        *middle,
        node("DequantizeLinear", ["r", "ys", "yz"], ["y"]),
    ]
    values = {name: np.asarray(value) for name, value in (GRID | constants).items()}
    return build(nodes, inputs={"x": shape}, constants=values)


def agree(model: onnx.ModelProto, x: np.ndarray = X, steps: float = 1.0) -> None:
    """Within one output step where the runtime rounds a product of scales first, and almost everywhere equal."""
    ours, theirs = run_normalized(model, {"x": x}), run_onnxruntime(model, {"x": x})
    difference = np.abs(ours - theirs)
    assert difference.max() <= steps * 0.05 * (1 + 2.0**-20)
    assert np.mean(difference > 1e-6) <= 0.02


def conv(*, channels: bool, bias: bool, zero: object = None) -> onnx.ModelProto:
    weight = RNG.integers(-128, 128, (5, 4, 3, 3)).astype(np.int8)
    scale = RNG.uniform(0.001, 0.004, 5).astype(F32) if channels else F32(0.002)
    constants = {"w": weight, "ws": scale, "wz": np.zeros_like(scale, np.int8) if zero is None else zero}
    names = ["q", "xs", "xz", "w", "ws", "wz", "ys", "yz"]
    if bias:
        constants["b"] = RNG.integers(-3000, 3000, 5).astype(np.int32)
        names.append("b")
    return between(node("QLinearConv", names, ["r"], pads=[1, 1, 1, 1], strides=[1, 2]), constants)


@pytest.mark.parametrize("channels", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_qlinearconv(channels: bool, bias: bool) -> None:
    model = conv(channels=channels, bias=bias)
    agree(model)
    weight = canonical(normalized(model), CODES)[0]
    assert (weight.attrs["spec"].granularity == PerAxis(0)) is channels
    assert len(canonical(normalized(model), FAKE_QUANT)) == 2
    assert normalized(model).dialects == ("qoperator",)


def test_a_scalar_zero_point_with_scales_per_channel() -> None:
    model = conv(channels=True, bias=True, zero=np.int8(0))
    assert canonical(normalized(model), CODES)[0].attrs["spec"].zero_point.size == 5


def test_the_bias_scale_is_the_product_of_both() -> None:
    codes = canonical(normalized(conv(channels=True, bias=True)), CODES)
    weight = next(item for item in codes if item.attrs["codes"].ndim == 4)
    bias = next(item for item in codes if item.attrs["codes"].ndim == 1)
    assert np.array_equal(bias.attrs["spec"].scale, weight.attrs["spec"].scale * F32(0.03))


@pytest.mark.parametrize("channels", [False, True])
def test_qlinearmatmul(channels: bool) -> None:
    scale = RNG.uniform(0.001, 0.004, 5).astype(F32) if channels else F32(0.002)
    constants = {
        "w": RNG.integers(-128, 128, (6, 5)).astype(np.int8),
        "ws": scale,
        "wz": np.zeros_like(scale, np.int8),
    }
    names = ["q", "xs", "xz", "w", "ws", "wz", "ys", "yz"]
    model = between(node("QLinearMatMul", names, ["r"]), constants, [4, 6])
    agree(model, X[0, :, :, 0])
    if channels:
        assert canonical(normalized(model), CODES)[0].attrs["spec"].granularity == PerAxis(1)


@pytest.mark.parametrize("transposed", [0, 1])
def test_qgemm(transposed: int) -> None:
    constants = {
        "w": RNG.integers(-128, 128, (5, 6) if transposed else (6, 5)).astype(np.int8),
        "ws": RNG.uniform(0.001, 0.004, 5).astype(F32),
        "wz": np.zeros(5, np.int8),
        "b": RNG.integers(-3000, 3000, 5).astype(np.int32),
    }
    names = ["q", "xs", "xz", "w", "ws", "wz", "b", "ys", "yz"]
    model = between(node("QGemm", names, ["r"], MICROSOFT, transB=transposed), constants, [4, 6])
    agree(model, X[0, :, :, 0])


def test_qgemm_with_a_float_output() -> None:
    constants = {
        "xs": F32(0.03),
        "xz": np.uint8(120),
        "w": RNG.integers(-128, 128, (6, 5)).astype(np.int8),
        "ws": F32(0.002),
        "wz": np.int8(0),
    }
    nodes = [
        node("QuantizeLinear", ["x", "xs", "xz"], ["q"]),
        node("QGemm", ["q", "xs", "xz", "w", "ws", "wz"], ["y"], MICROSOFT),
    ]
    model = build(nodes, inputs={"x": [4, 6]}, constants={k: np.asarray(v) for k, v in constants.items()})
    x = X[0, :, :, 0]
    # Six products of at most 3.6 * 0.26, summed in another order.
    assert np.allclose(run_normalized(model, {"x": x}), run_onnxruntime(model, {"x": x}), rtol=0, atol=6 * 2.0**-22)


UNARY = {
    "QLinearSigmoid": {},
    "QLinearLeakyRelu": {"alpha": 0.1},
    "QLinearGlobalAveragePool": {},
    "QLinearAveragePool": {"kernel_shape": [2, 2], "strides": [2, 2]},
}


@pytest.mark.parametrize("op", UNARY)
def test_unary_operators(op: str) -> None:
    agree(between(node(op, ["q", "xs", "xz", "ys", "yz"], ["r"], MICROSOFT, **UNARY[op]), {}))


def test_qlinearsoftmax() -> None:
    constants = {"ys": F32(1 / 256), "yz": np.uint8(0)}
    model = between(
        node("QLinearSoftmax", ["q", "xs", "xz", "ys", "yz"], ["r"], MICROSOFT, axis=-1, opset=13), constants, [4, 6]
    )
    # The runtime looks exponentials up in a table: one step of 1/256.
    agree(model, X[0, :, :, 0], steps=1 / 256 / 0.05)


@pytest.mark.parametrize("op", ["QLinearAdd", "QLinearMul"])
def test_binary_operators(op: str) -> None:
    model = between(node(op, ["q", "xs", "xz", "q", "xs", "xz", "ys", "yz"], ["r"], MICROSOFT), {})
    agree(model)


def test_qlinearconcat() -> None:
    names = ["ys", "yz", "q", "xs", "xz", "q", "xs", "xz"]
    agree(between(node("QLinearConcat", names, ["r"], MICROSOFT, axis=1), {}))


def test_a_chain_of_operators_on_codes() -> None:
    names = ["q", "xs", "xz", "q", "xs", "xz", "ys", "yz"]
    shape = np.array([1, 24, 6], np.int64)
    middle = [
        node("QLinearAdd", names, ["a"], MICROSOFT),
        node("MaxPool", ["a"], ["p"], kernel_shape=[2, 2], strides=[1, 1], pads=[0, 0, 1, 1]),
        node("Reshape", ["p", "shape"], ["r"]),
    ]
    agree(between(middle, {"shape": shape}))


REFUSED = {
    "alpha": lambda: between(
        node("QGemm", ["q", "xs", "xz", "w", "xs", "wz", "", "ys", "yz"], ["r"], MICROSOFT, alpha=2.0),
        {"w": np.ones((6, 5), np.int8), "wz": np.int8(0)},
        [4, 6],
    ),
    "channels_last": lambda: between(
        node("QLinearGlobalAveragePool", ["q", "xs", "xz", "ys", "yz"], ["r"], MICROSOFT, channels_last=1), {}
    ),
    "opset 11": lambda: between(
        node("QLinearSoftmax", ["q", "xs", "xz", "ys", "yz"], ["r"], MICROSOFT, axis=1, opset=11), {}
    ),
    "QLinearWhere": lambda: between(node("QLinearWhere", ["q"], ["r"], MICROSOFT), {}),
    "without an output scale": lambda: between(
        node("ConvInteger", ["q", "w"], ["r"]), {"w": np.ones((1, 4, 1, 1), np.uint8)}
    ),
}


@pytest.mark.parametrize("match", REFUSED)
def test_refused_by_name(match: str) -> None:
    with pytest.raises(UnsupportedModelError, match=match) as caught:
        normalized(REFUSED[match]())
    assert len(caught.value.problems) == 1


def test_a_missing_input_is_broken() -> None:
    with pytest.raises(InvalidModelError, match="3 inputs"):
        normalized(between(node("QLinearConv", ["q", "xs", "xz"], ["r"]), {}))
