"""AIMET side files of every version put the same quantizers on the same tensors."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import onnx
import pytest
from onnx_models import build, canonical, load, node, normalized, run_normalized, run_source

from kwsq.ir.errors import InvalidModelError, KwsqError, UnsupportedModelError, UsageError
from kwsq.ir.quant import Affine, IntRange, PerAxis, fake_quantize
from kwsq.passes.dialects import normalize
from kwsq.passes.dialects.aimet import apply_encodings
from kwsq.passes.dialects.canonical import FAKE_QUANT

F32 = np.float32
RNG = np.random.default_rng(0)
W = RNG.normal(0, 0.5, (5, 6)).astype(F32)
X = RNG.normal(0, 1, (4, 6)).astype(F32)
SCALES = [0.01, 0.011, 0.012, 0.013, 0.014]


def model() -> onnx.ModelProto:
    nodes = [node("Gemm", ["x", "w"], ["h"], transB=1), node("Relu", ["h"], ["y"])]
    return build(nodes, inputs={"x": [4, 6]}, constants={"w": W})


def legacy(version: str = "0.6.1") -> dict[str, Any]:
    def entry(scale: float, offset: int, bits: int, symmetric: str) -> dict[str, Any]:
        return {"bitwidth": bits, "dtype": "int", "is_symmetric": symmetric, "offset": offset, "scale": scale}

    return {
        "version": version,
        "activation_encodings": {"x": [entry(0.02, -120, 8, "False")], "y": [entry(0.01, 0, 8, "False")]},
        "param_encodings": {"w": [entry(scale, -8, 4, "True") for scale in SCALES]},
    }


def listed() -> dict[str, Any]:
    def entry(name: str, scale: list[float], offset: list[int], bits: int, symmetric: bool) -> dict[str, Any]:
        kind = "PER_CHANNEL" if len(scale) > 1 else "PER_TENSOR"
        return {
            "name": name,
            "bw": bits,
            "dtype": "INT",
            "enc_type": kind,
            "is_sym": symmetric,
            "offset": offset,
            "scale": scale,
        }

    return {
        "version": "1.0.0",
        "activation_encodings": [entry("x", [0.02], [-120], 8, False), entry("y", [0.01], [0], 8, False)],
        "param_encodings": [entry("w", SCALES, [-8] * 5, 4, True)],
    }


def latest() -> dict[str, Any]:
    return {
        "version": "2.0.0",
        "encodings": [
            {"name": "x", "output_dtype": "uint8", "y_scale": 0.02, "y_zero_point": 120},
            {"name": "y", "output_dtype": "uint8", "y_scale": 0.01, "y_zero_point": None},
            {"name": "w", "output_dtype": "int4", "y_scale": SCALES, "y_zero_point": [0] * 5, "axis": 0},
        ],
    }


def applied(encodings: object) -> Any:
    data = encodings if isinstance(encodings, bytes) else json.dumps(encodings).encode()
    return apply_encodings(load(model()), data)


def expected() -> np.ndarray:
    x = fake_quantize(X, Affine.per_tensor(0.02, 120, IntRange(0, 255)))
    weight_spec = Affine(np.array(SCALES, F32), np.zeros(5, np.int32), IntRange(-8, 7), PerAxis(0))
    hidden = np.maximum(x @ fake_quantize(W, weight_spec).T, 0)
    return fake_quantize(hidden.astype(F32), Affine.per_tensor(0.01, 0, IntRange(0, 255)))


@pytest.mark.parametrize("encodings", [legacy("0.4.0"), legacy(), listed(), latest()])
def test_every_version_means_the_same(encodings: dict[str, Any]) -> None:
    result = run_source(applied(encodings), {"x": X})
    # The sums of six products may differ in their last bits, which moves an output by at most one step.
    assert np.max(np.abs(result - expected())) <= 0.01 * (1 + 2.0**-20)
    assert np.mean(result == expected()) > 0.99


def test_the_quantizers_and_their_names() -> None:
    source = applied(listed())
    result = normalize(source)
    assert result.dialects == ("aimet",)
    specs = {item.inputs[0].name: item.attrs["spec"] for item in canonical(result, FAKE_QUANT)}
    assert specs["x"].range == IntRange(0, 255)
    assert specs["x"].zero_point.tolist() == [120]
    assert specs["w"].range == IntRange(-8, 7)
    assert specs["w"].granularity == PerAxis(0)
    assert [tensor.name for tensor in result.graph.outputs] == ["y"]


def test_a_strictly_symmetric_encoding_has_the_narrow_range() -> None:
    encodings = listed()
    encodings["param_encodings"][0]["offset"] = [-7] * 5
    specs = [item.attrs["spec"] for item in canonical(normalize(applied(encodings)), FAKE_QUANT)]
    assert IntRange(-7, 7) in [spec.range for spec in specs]


def test_weights_of_a_product_have_their_channels_last() -> None:
    square = RNG.normal(0, 0.5, (6, 6)).astype(F32)
    product = build([node("MatMul", ["x", "w"], ["y"])], inputs={"x": [4, 6]}, constants={"w": square})
    encodings = {
        "version": "1.0.0",
        "param_encodings": [listed()["param_encodings"][0] | {"scale": [0.1] * 6, "offset": [-8] * 6}],
    }
    source = apply_encodings(load(product), json.dumps(encodings).encode())
    assert canonical(normalize(source), FAKE_QUANT)[0].attrs["spec"].granularity == PerAxis(1)


def test_tensors_without_an_encoding_stay_float() -> None:
    encodings = {"version": "2.0.0", "encodings": [latest()["encodings"][0]]}
    assert len(canonical(normalize(applied(encodings)), FAKE_QUANT)) == 1


def test_float_encodings_quantize_nothing() -> None:
    encodings = {"version": "1.0.0", "activation_encodings": [{"name": "x", "dtype": "FLOAT", "bw": 16}]}
    assert np.array_equal(run_source(applied(encodings), {"x": X}), run_normalized(model(), {"x": X}))


def changed(**fields: Any) -> dict[str, Any]:
    encodings = listed()
    encodings["activation_encodings"][0] |= fields
    return encodings


USAGE = {
    "not JSON": (b"\x00\x01", "JSON"),
    "not a dictionary": (b"[]", "at the top"),
    "deeply nested": (b"[" * 100_000, "JSON"),
    "unknown version": ({"version": "3.0.0"}, "3.0.0"),
    "no version": ({}, "version"),
    "a tensor the model does not have": (changed(name="nowhere"), "nowhere"),
    "no scale": ({"version": "1.0.0", "activation_encodings": [{"name": "x", "bw": 8}]}, "malformed"),
    "block-wise": (changed(enc_type="PER_BLOCK"), "PER_BLOCK"),
    "a fractional zero point": (changed(zero_point_shift=[0.5]), "fractional"),
    "more scales than offsets": (changed(scale=[0.1, 0.2]), "2 scales"),
    "bit width 99": (changed(bw=99), "99"),
    "block-wise 2.0.0": (
        {"version": "2.0.0", "encodings": [latest()["encodings"][2] | {"block_size": 2}]},
        "block-wise",
    ),
    "unknown type 2.0.0": (
        {"version": "2.0.0", "encodings": [latest()["encodings"][0] | {"output_dtype": "int99"}]},
        "int99",
    ),
}


@pytest.mark.parametrize("name", USAGE)
def test_files_that_do_not_fit(name: str) -> None:
    encodings, match = USAGE[name]
    with pytest.raises(UsageError, match=match):
        applied(encodings)


@pytest.mark.parametrize("scale", [0.0, -1.0, 1e300, 1e-300])
def test_impossible_scales(scale: float) -> None:
    with pytest.raises(InvalidModelError, match="scale"):
        applied(changed(scale=[scale]))


def test_wide_activations_are_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="16-bit"):
        applied(changed(bw=16))


def test_activations_per_channel_are_refused() -> None:
    with pytest.raises((UnsupportedModelError, UsageError)):
        applied(changed(scale=[0.1] * 6, offset=[0] * 6, enc_type="PER_CHANNEL"))


def test_tensors_named_twice_are_refused_each_by_name() -> None:
    once = listed()
    twice = once | {
        "activation_encodings": [*once["activation_encodings"], changed(scale=[0.03])["activation_encodings"][0]]
    }
    with pytest.raises(UsageError, match="encoding of 'x': found 2 entries"):
        applied(twice)
    both = twice | {"param_encodings": once["param_encodings"] * 3}
    with pytest.raises(UsageError, match=r"(?s)encoding of 'x'.*encoding of 'w': found 3 entries"):
        applied(both)


@pytest.mark.parametrize("where", ["activation_encodings", "param_encodings"])
def test_a_key_named_twice_in_a_legacy_file_is_refused(where: str) -> None:
    text = json.dumps(legacy())
    name = next(iter(legacy()[where]))
    entry = json.dumps({name: legacy()[where][name]})[1:-1]
    with pytest.raises(UsageError, match=f"'{name}' more than once"):
        applied(text.replace(entry, f"{entry}, {entry}").encode())


def test_a_tensor_in_both_parts_is_refused() -> None:
    encodings = legacy()
    encodings["param_encodings"]["x"] = encodings["activation_encodings"]["x"]
    with pytest.raises(UsageError, match="encoding of 'x': found 2 entries"):
        applied(encodings)


BIAS = np.array([0.5, -0.3, 0.2, -1.0, 0.0], F32)


def biased(offsets: list[int], scales: list[float], bits: int = 32) -> Any:
    nodes = [node("Gemm", ["x", "w", "b"], ["h"], transB=1), node("Relu", ["h"], ["y"])]
    floats = build(nodes, inputs={"x": [4, 6]}, constants={"w": W, "b": BIAS})
    encoding = {"name": "b", "bw": bits, "offset": offsets, "scale": scales, "is_sym": False}
    return apply_encodings(load(floats), json.dumps({"version": "1.0.0", "param_encodings": [encoding]}).encode())


@pytest.mark.parametrize(
    ("offsets", "scales", "bits"),
    [
        ([-(2**31)], [2.0**-31], 32),
        ([-3 * 10**9], [2.0**-31], 32),
        ([-3 * 10**9, -(2**31), 0, -(2**32) + 1, -17], [2.0**-31, 2.0**-30, 2.0**-33, 2.0**-31, 1.0], 32),
        ([-(2**30)], [2.0**-30], 31),
    ],
)
def test_wide_unsigned_biases_keep_their_values(offsets: list[int], scales: list[float], bits: int) -> None:
    result = run_source(biased(offsets, scales, bits), {"x": np.zeros((4, 6), F32)})
    assert np.allclose(result[0], np.maximum(BIAS, 0), atol=1e-6)


def test_codes_of_a_bias_beyond_int32_are_refused() -> None:
    with pytest.raises(UnsupportedModelError, match=r"'b'.*-4294967295 to 4294967295 .*int32"):
        biased([0, *[-(2**32) + 1] * 4], [2.0**-34] * 5)


@pytest.mark.parametrize(("offset", "bits"), [(1, 32), (-(2**32), 32), (-(2**31) - 1, 8), (2**40, 8)])
def test_zero_points_beyond_int32_are_refused(offset: int, bits: int) -> None:
    with pytest.raises(InvalidModelError, match=f"'b'.*zero point {-offset - (2**31 if bits == 32 else 0)}"):
        biased([offset], [0.01], bits)


def test_offsets_beyond_64_bits_are_malformed() -> None:
    with pytest.raises(UsageError, match="malformed"):
        biased([-(10**400)], [0.01])


@pytest.mark.parametrize("seed", range(30))
def test_damaged_files_never_crash(seed: int) -> None:
    rng = np.random.default_rng(seed)
    data = bytearray(json.dumps(listed()).encode())
    for position in rng.integers(0, len(data), 3):
        data[position] = rng.integers(32, 127)
    try:
        applied(bytes(data))
    except KwsqError as error:
        assert str(error)  # noqa: PT017 - success is as right as an error
    assert normalized(model()).dialects == ()
