"""QONNX quantizers against the operators' own formula, written out here a second time in float64."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx_models import build, canonical, node, normalized, run_normalized

from kwsq.ir.errors import InvalidModelError, UnsupportedModelError
from kwsq.ir.quant import Codebook, IntRange, PerAxis, PerTensor, Rounding
from kwsq.passes.dialects.canonical import CODES, FAKE_QUANT
from kwsq.passes.known_ops import QONNX_DOMAINS

F32 = np.float32
X = np.random.default_rng(0).uniform(-3, 3, (6, 6)).astype(F32)
EYE = np.eye(6, dtype=F32)

ROUNDINGS = {
    "ROUND": np.rint,
    "CEIL": np.ceil,
    "FLOOR": np.floor,
    "UP": lambda v: np.sign(v) * np.ceil(np.abs(v)),
    "DOWN": np.trunc,
    "HALF_UP": lambda v: np.sign(v) * np.floor(np.abs(v) + 0.5),
    "HALF_DOWN": lambda v: np.sign(v) * np.ceil(np.abs(v) - 0.5),
}


def expected(
    x: NDArray[np.floating], scale: object, zero: float, bits: int, *, signed: int, narrow: int, mode: str = "ROUND"
) -> NDArray[np.floating]:
    quotient = (x / np.asarray(scale, F32)).astype(F32) + F32(zero)
    if bits == 1 and signed:
        return np.where(quotient >= 0, 1, -1) * np.asarray(scale, F32)
    low = -(2 ** (bits - 1)) + narrow if signed else 0
    high = 2 ** (bits - 1) - 1 if signed else 2**bits - 1 - narrow
    codes = ROUNDINGS[mode](np.clip(quotient, low, high))
    return (codes - zero) * np.asarray(scale, F32)


def activation(
    scale: object = 0.1,
    zero: object = 0.0,
    bits: object = 8.0,
    *,
    domain: str = "qonnx.custom_op.general",
    op: str = "Quant",
    **attrs: object,
) -> onnx.ModelProto:
    attrs = {"signed": 1, "narrow": 0, "rounding_mode": "ROUND"} | attrs
    constants = {"s": np.asarray(scale, F32), "z": np.asarray(zero, F32), "b": np.asarray(bits, F32)}
    return build([node(op, ["x", "s", "z", "b"], ["y"], domain, **attrs)], inputs={"x": [6, 6]}, constants=constants)


def weight(latent: NDArray[np.floating], scale: object, bits: float, **attrs: object) -> onnx.ModelProto:
    attrs = {"signed": 1, "narrow": 1, "rounding_mode": "ROUND"} | attrs
    constants = {"w": latent, "s": np.asarray(scale, F32), "z": F32(0), "b": F32(bits)}
    nodes = [
        node("Quant", ["w", "s", "z", "b"], ["r"], "qonnx.custom_op.general", **attrs),
        node("MatMul", ["x", "r"], ["y"]),
    ]
    return build(nodes, inputs={"x": [6, 6]}, constants=constants)


@pytest.mark.parametrize("domain", sorted(QONNX_DOMAINS))
@pytest.mark.parametrize("op", ["Quant", "IntQuant"])
def test_every_name_of_the_operator(domain: str, op: str) -> None:
    model = activation(domain=domain, op=op)
    assert np.array_equal(run_normalized(model, {"x": X}), expected(X, 0.1, 0, 8, signed=1, narrow=0).astype(F32))


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 8])
@pytest.mark.parametrize("signed", [0, 1])
@pytest.mark.parametrize("narrow", [0, 1])
def test_ranges(bits: int, signed: int, narrow: int) -> None:
    model = activation(0.31, 0.0, bits, signed=signed, narrow=narrow)
    result = run_normalized(model, {"x": X})
    assert np.array_equal(result, expected(X, 0.31, 0, bits, signed=signed, narrow=narrow).astype(F32))
    (found,) = canonical(normalized(model), FAKE_QUANT)
    assert found.attrs["spec"].range == IntRange.of(bits, signed=bool(signed), narrow=bool(narrow))
    assert found.attrs["spec"].range.high == (2 ** (bits - 1) - 1 if signed else 2**bits - 1 - narrow)


@pytest.mark.parametrize("mode", ROUNDINGS)
@pytest.mark.parametrize("case", [str.upper, str.lower])
def test_rounding_modes(mode: str, case: object) -> None:
    x = np.linspace(-4, 4, 36).reshape(6, 6).astype(F32)  # holds ties for scale 0.5 ...
    x[0] = [-1.25, -0.75, -0.25, 0.25, 0.75, 1.25]  # ... and these exactly
    model = activation(0.5, 0.0, 8, rounding_mode=str.upper(mode) if case is str.upper else mode.lower())
    assert np.array_equal(run_normalized(model, {"x": x}), expected(x, 0.5, 0, 8, signed=1, narrow=0, mode=mode))


@pytest.mark.parametrize("zero", [1.0, 2.0, 3.0, -5.0])
def test_the_zero_point_is_added_before_rounding(zero: float) -> None:
    """Ties of odd zero points are where this differs from QuantizeLinear."""
    x = np.array([[-1.25, -0.75, -0.25, 0.25, 0.75, 1.25]] * 6, F32)
    model = activation(0.5, zero, 8)
    assert np.array_equal(run_normalized(model, {"x": x}), expected(x, 0.5, zero, 8, signed=1, narrow=0))
    assert canonical(normalized(model), FAKE_QUANT)[0].attrs["rounding"] is Rounding.HALF_EVEN_OFFSET_FIRST


def test_without_an_offset_it_is_quantizelinears_order() -> None:
    assert canonical(normalized(activation()), FAKE_QUANT)[0].attrs["rounding"] is Rounding.HALF_EVEN


def test_the_rounding_mode_may_be_absent() -> None:
    model = activation()
    del model.graph.node[0].attribute[:]
    model.graph.node[0].attribute.extend(
        [onnx.helper.make_attribute("signed", 1), onnx.helper.make_attribute("narrow", 0)]
    )
    assert canonical(normalized(model), FAKE_QUANT)[0].attrs["rounding"] is Rounding.HALF_EVEN


@pytest.mark.parametrize("shape", [(), (1,), (1, 1), (6, 1), (1, 6), (6,)])
def test_scales_broadcast_as_numpy_does(shape: tuple[int, ...]) -> None:
    latent = np.random.default_rng(1).normal(0, 1, (6, 6)).astype(F32)
    scale = np.random.default_rng(2).uniform(0.1, 0.4, shape).astype(F32)
    model = weight(latent, scale, 4)
    result = run_normalized(model, {"x": EYE})
    assert np.array_equal(result, expected(latent, scale, 0, 4, signed=1, narrow=1).astype(F32))
    spec = canonical(normalized(model), FAKE_QUANT)[0].attrs["spec"]
    axis = {(6, 1): PerAxis(0), (1, 6): PerAxis(1), (6,): PerAxis(1)}
    assert spec.granularity == axis.get(shape, PerTensor())


def test_conv_weights_have_their_scale_on_the_first_axis() -> None:
    latent = np.random.default_rng(3).normal(0, 1, (5, 2, 3, 3)).astype(F32)
    scale = np.random.default_rng(4).uniform(0.1, 0.4, (5, 1, 1, 1)).astype(F32)
    constants = {"w": latent, "s": scale, "z": F32(0), "b": F32(4)}
    nodes = [
        node("Quant", ["w", "s", "z", "b"], ["r"], "onnx.brevitas", signed=1, narrow=1),
        node("Conv", ["x", "r"], ["y"]),
    ]
    model = build(nodes, inputs={"x": [1, 2, 8, 8]}, constants=constants)
    spec = canonical(normalized(model), FAKE_QUANT)[0].attrs["spec"]
    assert spec.granularity == PerAxis(0)
    assert spec.scale.tobytes() == scale.tobytes()


def test_a_signed_1_bit_quant_is_bipolar_with_zero_positive() -> None:
    latent = np.array([[-2, -0.0, 0.0, 1e-9, -1e-9, 3]] * 6, F32)
    model = weight(latent, 0.25, 1)
    result = run_normalized(model, {"x": EYE})
    assert np.array_equal(result, expected(latent, 0.25, 0, 1, signed=1, narrow=1))
    (found,) = canonical(normalized(model), CODES)
    assert isinstance(found.attrs["spec"], Codebook)
    assert found.attrs["spec"].bits == 1
    assert found.attrs["spec"].levels.tolist() == [-1, 1]


def test_an_unsigned_1_bit_quant_is_0_and_1() -> None:
    model = weight(X, 0.25, 1, signed=0, narrow=0)
    assert set(np.unique(run_normalized(model, {"x": EYE}))) == {0.0, 0.25}
    assert canonical(normalized(model), FAKE_QUANT)[0].attrs["spec"].range == IntRange(0, 1)


@pytest.mark.parametrize("scale", [F32(0.1), np.array([0.1], F32), np.full((6, 1), 0.1, F32)])
def test_bipolar_weights(scale: NDArray[np.floating]) -> None:
    latent = np.array([[-2, 0.0, 5, 1e-9, -1e-9, 3]] * 6, F32)
    nodes = [node("BipolarQuant", ["w", "s"], ["r"], "finn.custom_op.general"), node("MatMul", ["x", "r"], ["y"])]
    model = build(nodes, inputs={"x": [6, 6]}, constants={"w": latent, "s": scale})
    assert np.array_equal(run_normalized(model, {"x": EYE}), np.where(latent >= 0, F32(0.1), F32(-0.1)))


@pytest.mark.parametrize("bits", [16, 32])
def test_wide_biases(bits: int) -> None:
    bias = np.array([1.5, -0.25, 1e4, -1e4, 0.1, 2.0**20], F32)
    constants = {"c": bias, "s": F32(2**-10), "z": F32(0), "b": F32(bits)}
    nodes = [
        node("Quant", ["c", "s", "z", "b"], ["r"], "qonnx.custom_op.general", signed=1, narrow=0),
        node("Add", ["x", "r"], ["y"]),
    ]
    model = build(nodes, inputs={"x": [6, 6]}, constants=constants)
    bound = 2 ** (bits - 1)
    codes = np.clip(np.rint(bias.astype(np.float64) * 2**10), -bound, bound - 1)
    assert np.array_equal(run_normalized(model, {"x": X * 0})[0], (codes * 2.0**-10).astype(F32))


TRUNCATED = np.arange(-64, 64, dtype=F32).reshape(8, 16)


def trunc(names: list[str], constants: dict[str, object], **attrs: object) -> onnx.ModelProto:
    values = {name: np.asarray(value, F32) for name, value in constants.items()}
    nodes = [
        node("Relu", ["x"], ["h"]) if attrs.pop("relu", False) else node("Identity", ["x"], ["h"]),
        node("Trunc", ["h", *names], ["y"], "qonnx.custom_op.general", **attrs),
    ]
    return build(nodes, inputs={"x": [8, 16]}, constants=values)


@pytest.mark.parametrize(("mode", "function"), [("FLOOR", np.floor), ("CEIL", np.ceil)])
@pytest.mark.parametrize("shift", [0, 1, 2, 3])
def test_trunc_version_2(mode: str, function: object, shift: int) -> None:
    scale = 0.25
    constants = {"s": scale, "z": 0, "i": 8, "t": scale * 2**shift, "o": 6}
    model = trunc(["s", "z", "i", "t", "o"], constants, rounding_mode=mode, signed=1, narrow=0)
    # On the grid, a little beside it, and never nearer to a tie of the first rounding than 0.1 steps.
    for noise in (0.0, 0.4, -0.4):
        x = (TRUNCATED + F32(noise)) * F32(scale)
        codes = np.clip(TRUNCATED / 2**shift, -32, 31)
        rounded = np.floor(codes) if function is np.floor else np.ceil(codes)
        assert np.array_equal(run_normalized(model, {"x": x}), rounded * scale * 2**shift)


@pytest.mark.parametrize("mode", ["ROUND", "half_even"])
def test_trunc_that_rounds(mode: str) -> None:
    """What Brevitas writes for its average pool; the input is a sum of codes, so it lies on the fine grid."""
    constants = {"s": 0.25, "z": 0, "i": 8, "t": 1.0, "o": 6}
    model = trunc(["s", "z", "i", "t", "o"], constants, rounding_mode=mode, signed=1, narrow=0)
    expected = np.rint(np.clip(TRUNCATED / 4, -32, 31))
    assert np.array_equal(run_normalized(model, {"x": TRUNCATED * F32(0.25)}), expected)


def test_trunc_version_2_with_an_output_zero_point() -> None:
    constants = {"s": 0.5, "z": 0, "i": 8, "t": 1.0, "u": 0, "o": 4}
    model = trunc(["s", "z", "i", "t", "u", "o"], constants, signed=0, narrow=0)
    expected_codes = np.clip(np.floor(TRUNCATED / 2), 0, 15)
    assert np.array_equal(run_normalized(model, {"x": TRUNCATED / 2}), expected_codes)


@pytest.mark.parametrize("relu", [False, True])
def test_trunc_version_1_keeps_the_scale_and_takes_its_sign_from_its_input(relu: bool) -> None:
    constants = {"s": 0.5, "z": 0, "i": 8, "o": 6}
    model = trunc(["s", "z", "i", "o"], constants, rounding_mode="FLOOR", relu=relu)
    codes = np.floor(np.maximum(TRUNCATED, 0 if relu else -64) / 4)
    assert np.array_equal(run_normalized(model, {"x": TRUNCATED / 2}), codes / 2)
    assert canonical(normalized(model), FAKE_QUANT)[0].attrs["spec"].range.signed is not relu


def bipolar_activation() -> onnx.ModelProto:
    nodes = [node("BipolarQuant", ["x", "s"], ["y"], "qonnx.custom_op.general")]
    return build(nodes, inputs={"x": [6, 6]}, constants={"s": F32(1)})


REFUSED = {
    "bipolar .1-bit. activation": bipolar_activation,
    "integer zero point": lambda: activation(zero=0.5),
    "rounding_mode": lambda: activation(rounding_mode="STOCHASTIC"),
    "16-bit activations": lambda: activation(bits=16),
    "9-bit weights": lambda: weight(X, 0.1, 9),
    "bit widths": lambda: activation(bits=[4, 8]),
    "element-wise": lambda: weight(X, np.full((6, 6), 0.1), 4),
    "one scale per channel": lambda: activation(scale=np.full((1, 6), 0.1)),
    "FLOOR, CEIL or ROUND": lambda: trunc(
        ["s", "z", "i", "t", "o"], {"s": 1, "z": 0, "i": 8, "t": 4, "o": 6}, rounding_mode="HALF_UP"
    ),
    "Trunc with a zero point": lambda: trunc(["s", "z", "i", "o"], {"s": 1, "z": 3, "i": 8, "o": 6}),
}


@pytest.mark.parametrize("found", REFUSED)
def test_refused_by_name(found: str) -> None:
    with pytest.raises(UnsupportedModelError, match=found):
        normalized(REFUSED[found]())


@pytest.mark.parametrize("bits", [0, -1, 2.5, 33])
def test_impossible_widths_are_broken(bits: float) -> None:
    with pytest.raises(InvalidModelError, match="bit width"):
        normalized(activation(bits=bits))


@pytest.mark.parametrize("op", ["FloatQuant", "MultiThreshold"])
def test_operators_of_the_dialect_that_are_not_read(op: str) -> None:
    model = build([node(op, ["x"], ["y"], "qonnx.custom_op.general")], inputs={"x": [6]})
    with pytest.raises(UnsupportedModelError, match=op):
        normalized(model)
