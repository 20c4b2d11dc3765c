"""The codebook dialect of docs/codebook-dialect.md, against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto
from onnx_models import build, canonical, node, normalized, run_normalized, run_onnxruntime

from kwsq.ir.errors import InvalidModelError, UnsupportedModelError
from kwsq.ir.quant import Codebook, PerAxis, PerTensor
from kwsq.passes.dialects.canonical import CODES

F32 = np.float32
EYE = np.eye(6, dtype=F32)
LEVELS = np.array([-100, -31, -7, 0, 3, 19, 64, 127], np.int8)
INDICES = np.random.default_rng(0).integers(0, 8, (6, 6)).astype(np.uint8)


def codebook(
    levels: NDArray[np.generic] = LEVELS,
    indices: NDArray[np.integer] = INDICES,
    scale: object = 0.013,
    *,
    zero: object = None,
    axis: int | None = None,
    bits: str | None = None,
    gather_axis: int = 0,
    cast: int = TensorProto.INT32,
) -> onnx.ModelProto:
    constants = {"i": indices, "l": levels, "s": np.asarray(scale, F32)}
    names = ["codes", "s"]
    if zero is not None:
        constants["z"] = np.asarray(zero, levels.dtype)
        names.append("z")
    attrs = {} if axis is None else {"axis": axis}
    nodes = [
        node("Cast", ["i"], ["wide"], to=cast),
        node("Gather", ["l", "wide"], ["codes"], axis=gather_axis),
        node("DequantizeLinear", names, ["w"], **attrs),
        node("MatMul", ["x", "w"], ["y"]),
    ]
    metadata = {} if bits is None else {"kwsq.bits.i": bits}
    return build(nodes, inputs={"x": [6, 6]}, constants=constants, metadata=metadata)


def floats(levels: object, scale: object | None) -> onnx.ModelProto:
    constants = {"i": INDICES.astype(np.int64), "l": np.asarray(levels, F32)}
    nodes = [node("Gather", ["l", "i"], ["g"])]
    if scale is not None:
        constants["s"] = np.asarray(scale, F32)
        nodes.append(node("Mul", ["g", "s"], ["w"]))
    nodes.append(node("MatMul", ["x", nodes[-1].output[0]], ["y"]))
    return build(nodes, inputs={"x": [6, 6]}, constants=constants)


def found(model: onnx.ModelProto) -> tuple[NDArray[np.integer], Codebook]:
    (only,) = canonical(normalized(model), CODES)
    spec = only.attrs["spec"]
    assert isinstance(spec, Codebook)
    assert only.attrs["dialect"] == "codebook"
    return only.attrs["codes"], spec


@pytest.mark.parametrize("cast", [TensorProto.INT32, TensorProto.INT64])
@pytest.mark.parametrize("zero", [None, 0])
def test_the_dialect(cast: int, zero: object) -> None:
    model = codebook(cast=cast, zero=zero)
    assert np.array_equal(run_normalized(model, {"x": EYE}), run_onnxruntime(model, {"x": EYE}))
    codes, spec = found(model)
    assert np.array_equal(codes, LEVELS[INDICES])
    assert codes.dtype == np.int8
    assert np.array_equal(spec.levels, LEVELS)
    assert spec.bits == 3
    assert spec.granularity == PerTensor()
    assert spec.declared


def test_a_scale_per_channel() -> None:
    scale = np.random.default_rng(1).uniform(0.01, 0.1, 6).astype(F32)
    model = codebook(scale=scale, axis=0)
    assert np.array_equal(run_normalized(model, {"x": EYE}), run_onnxruntime(model, {"x": EYE}))
    _, spec = found(model)
    assert spec.granularity == PerAxis(0)
    assert spec.scale.tobytes() == scale.tobytes()


@pytest.mark.parametrize(("count", "bits"), [(2, 1), (3, 2), (5, 3), (8, 3)])
def test_the_width_is_that_of_the_indices(count: int, bits: int) -> None:
    _, spec = found(codebook(LEVELS[:count], INDICES % count))
    assert spec.bits == bits


@pytest.mark.parametrize("bits", ["3", "4", "8"])
def test_a_stated_width(bits: str) -> None:
    assert found(codebook(bits=bits))[1].bits == int(bits)


@pytest.mark.parametrize("bits", ["2", "9", "", "-3", "3.0", "three", "٣"])
def test_a_wrong_stated_width_is_broken(bits: str) -> None:
    with pytest.raises(InvalidModelError, match=r"kwsq\.bits\.i"):
        normalized(codebook(bits=bits))


def test_an_unused_level_is_kept() -> None:
    _, spec = found(codebook(indices=np.minimum(INDICES, 5)))
    assert spec.levels.size == 8


BROKEN = {
    "repeated level": lambda: codebook(np.array([-1, 0, 0, 3, 4, 5, 6, 7], np.int8)),
    "decreasing levels": lambda: codebook(LEVELS[::-1].copy()),
    "index beyond the levels": lambda: codebook(indices=np.where(INDICES == 7, 8, INDICES).astype(np.uint8)),
    "one level": lambda: codebook(LEVELS[:1], INDICES * 0),
    "scale 0": lambda: codebook(scale=0.0),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken(name: str) -> None:
    with pytest.raises(InvalidModelError) as caught:
        normalized(BROKEN[name]())
    assert "Gather_codes" in str(caught.value) or "DequantizeLinear_w" in str(caught.value)


REFUSED = {
    "zero point": lambda: codebook(zero=3),
    "levels of type uint8": lambda: codebook(np.arange(8, dtype=np.uint8)),
    "no int8 grid": lambda: floats(np.array([-1.0, -0.71, -0.3, 0.0, 0.1, 0.33, 0.5, 0.997]), None),
}


@pytest.mark.parametrize("match", REFUSED)
def test_refused_by_name(match: str) -> None:
    with pytest.raises(UnsupportedModelError, match=match):
        normalized(REFUSED[match]())


@pytest.mark.parametrize("scale", [None, 0.5, np.full((6, 1), 0.5)])
def test_float_levels_on_an_int8_grid(scale: object) -> None:
    model = floats(LEVELS.astype(F32) * F32(0.031), scale)
    ours, theirs = run_normalized(model, {"x": EYE}), run_onnxruntime(model, {"x": EYE})
    # level * 0.031 rounded, against 0.031 rounded from 127 * 0.031 / 127: two roundings each.
    assert np.allclose(ours, theirs, rtol=4 * 2.0**-24, atol=0)
    codes, spec = found(model)
    assert np.array_equal(codes, LEVELS[INDICES])
    assert spec.bits == 3


def test_float_levels_that_are_integers() -> None:
    model = floats(LEVELS.astype(F32), 0.25)
    assert np.array_equal(run_normalized(model, {"x": EYE}), LEVELS[INDICES] * F32(0.25))
    assert np.array_equal(found(model)[1].levels, LEVELS)


SCALES = np.random.default_rng(2).uniform(0.01, 0.1, (6, 1)).astype(F32)
SPELLINGS: dict[str, list[onnx.NodeProto]] = {
    "a cast": [node("Gather", ["l", "i"], ["g"]), node("Cast", ["g"], ["f"], to=1), node("Mul", ["f", "s"], ["w"])],
    "the scale first": [
        node("Gather", ["l", "i"], ["g"]),
        node("Cast", ["g"], ["f"], to=1),
        node("Mul", ["s", "f"], ["w"]),
    ],
    "two products": [
        node("Gather", ["l", "i"], ["g"]),
        node("Cast", ["g"], ["f"], to=1),
        node("Mul", ["f", "s"], ["p"]),
        node("Mul", ["p", "half"], ["w"]),
    ],
    "moved before the cast": [
        node("Gather", ["l", "flat"], ["g"]),
        node("Reshape", ["g", "shape"], ["r"]),
        node("Cast", ["r"], ["f"], to=1),
        node("Mul", ["f", "s"], ["w"]),
    ],
    "moved after the cast": [
        node("Gather", ["l", "flat"], ["g"]),
        node("Cast", ["g"], ["f"], to=1),
        node("Reshape", ["f", "shape"], ["r"]),
        node("Mul", ["r", "s"], ["w"]),
    ],
    "moved and dequantized": [
        node("Gather", ["l", "flat"], ["g"]),
        node("Reshape", ["g", "shape"], ["r"]),
        node("DequantizeLinear", ["r", "vector"], ["w"], axis=0),
    ],
    "transposed": [
        node("Gather", ["l", "turned"], ["g"]),
        node("Transpose", ["g"], ["r"], perm=[1, 0]),
        node("DequantizeLinear", ["r", "vector"], ["w"], axis=0),
    ],
}


def spelled(
    nodes: list[onnx.NodeProto], levels: NDArray[np.generic] = LEVELS, scale: object = SCALES
) -> onnx.ModelProto:
    indices = INDICES.astype(np.int64)
    constants = {"l": levels, "i": indices, "flat": indices.ravel(), "turned": indices.T, "shape": np.array([6, 6])}
    constants |= {"s": np.asarray(scale, F32), "vector": SCALES.ravel(), "half": np.array(0.5, F32)}
    read = {name for item in nodes for name in item.input}
    used = {name: value for name, value in constants.items() if name in read}
    return build([*nodes, node("MatMul", ["x", "w"], ["y"])], inputs={"x": [6, 6]}, constants=used)


@pytest.mark.parametrize("name", SPELLINGS)
def test_integer_levels_in_other_spellings(name: str) -> None:
    model = spelled(SPELLINGS[name])
    assert np.array_equal(run_normalized(model, {"x": EYE}), run_onnxruntime(model, {"x": EYE}))
    codes, spec = found(model)
    assert np.array_equal(codes, LEVELS[INDICES])
    assert np.array_equal(spec.levels, LEVELS)
    assert spec.bits == 3
    assert spec.granularity == PerAxis(0)


def test_float_levels_scaled_twice() -> None:
    nodes = [node("Gather", ["l", "i"], ["g"]), *SPELLINGS["two products"][2:]]
    nodes[1].input[0] = "g"
    model = spelled(nodes, LEVELS.astype(F32))
    assert np.array_equal(run_normalized(model, {"x": EYE}), run_onnxruntime(model, {"x": EYE}))
    assert found(model)[1].bits == 3


def test_levels_that_are_cast_need_no_order() -> None:
    model = spelled(SPELLINGS["a cast"], LEVELS[::-1].copy())
    assert np.array_equal(run_normalized(model, {"x": EYE}), run_onnxruntime(model, {"x": EYE}))
    assert np.array_equal(found(model)[1].levels, LEVELS)


@pytest.mark.parametrize("scale", [-SCALES, np.random.default_rng(3).uniform(0.01, 0.1, (6, 6))])
def test_what_is_no_scale_stays_arithmetic(scale: object) -> None:
    model = spelled(SPELLINGS["a cast"], scale=scale)
    assert np.array_equal(run_normalized(model, {"x": EYE}), run_onnxruntime(model, {"x": EYE}))


def test_integers_beyond_int8_stay_arithmetic() -> None:
    model = spelled(SPELLINGS["a cast"], np.arange(8, dtype=np.int32) * 1000)
    assert np.array_equal(run_normalized(model, {"x": EYE}), run_onnxruntime(model, {"x": EYE}))
    assert canonical(normalized(model), CODES) == []


def test_a_gather_of_shapes_is_no_codebook() -> None:
    nodes = [
        node("Shape", ["x"], ["n"]),
        node("Gather", ["n", "first"], ["d"], axis=0),
        node("Concat", ["d", "rest"], ["t"], axis=0),
        node("Reshape", ["x", "t"], ["y"]),
    ]
    constants = {"first": np.array([0], np.int64), "rest": np.array([-1, 2], np.int64)}
    model = build(nodes, inputs={"x": [6, 4]}, constants=constants)
    result = normalized(model)
    assert [item.op for item in result.graph.nodes] == ["Reshape"]
    assert result.graph.nodes[0].inputs[1].values.tolist() == [6, -1, 2]
