"""One-bit weights written out, against ONNX Runtime running the chain itself."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto
from onnx_models import build, canonical, node, normalized, run_normalized, run_onnxruntime

from kwsq.ir.errors import UnsupportedModelError
from kwsq.ir.quant import Affine, Codebook, PerAxis, PerTensor
from kwsq.passes.base import Level
from kwsq.passes.dialects.canonical import CODES

F32 = np.float32
W = np.random.default_rng(0).normal(0, 1, (6, 6)).astype(F32)
EYE = np.eye(6, dtype=F32)
MEAN = [node("Abs", ["w"], ["a"]), node("ReduceMean", ["a"], ["m"], axes=[1], keepdims=1)]


def model_of(nodes: Sequence[onnx.NodeProto], weight: NDArray[np.floating] = W, **constants: object) -> onnx.ModelProto:
    values = {"w": weight} | {name: np.asarray(value) for name, value in constants.items()}
    return build([*nodes, node("MatMul", ["x", "v"], ["y"])], inputs={"x": [6, 6]}, constants=values)


def agree(model: onnx.ModelProto) -> None:
    ours, theirs = run_normalized(model, {"x": EYE}), run_onnxruntime(model, {"x": EYE})
    # A mean of six numbers, summed in another order: 6 roundings.
    assert np.allclose(ours, theirs, rtol=6 * 2.0**-24, atol=0)


SPELLINGS = {
    "sign": [node("Sign", ["w"], ["q"]), node("Mul", ["q", "m"], ["v"])],
    "where": [
        node("GreaterOrEqual", ["w", "zero"], ["g"]),
        node("Where", ["g", "one", "minus"], ["q"]),
        node("Mul", ["m", "q"], ["v"]),
    ],
    "cast": [
        node("Greater", ["w", "zero"], ["g"]),
        node("Cast", ["g"], ["c"], to=TensorProto.FLOAT),
        node("Mul", ["c", "two"], ["d"]),
        node("Sub", ["d", "one"], ["q"]),
        node("Mul", ["q", "m"], ["v"]),
    ],
}
CONSTANTS = {"zero": F32(0), "one": F32(1), "minus": F32(-1), "two": F32(2)}


@pytest.mark.parametrize("name", SPELLINGS)
def test_spellings(name: str) -> None:
    model = model_of([*MEAN, *SPELLINGS[name]], **CONSTANTS)
    agree(model)
    (found,) = canonical(normalized(model), CODES)
    spec = found.attrs["spec"]
    assert isinstance(spec, Codebook)
    assert spec.levels.tolist() == [-1, 1]
    assert spec.bits == 1
    assert spec.granularity == PerAxis(0)
    assert np.array_equal(found.attrs["codes"], np.where(W > 0, 1, -1))
    assert found.attrs["dialect"] == "sign"


def test_one_scale_for_the_tensor() -> None:
    model = model_of([node("Sign", ["w"], ["q"]), node("Mul", ["q", "s"], ["v"])], s=F32(0.3))
    agree(model)
    assert canonical(normalized(model), CODES)[0].attrs["spec"].granularity == PerTensor()


def test_a_weight_that_is_exactly_zero_makes_a_sign_ternary() -> None:
    weight = W.copy()
    weight[2, 3] = 0
    model = model_of([node("Sign", ["w"], ["q"]), node("Mul", ["q", "s"], ["v"])], weight, s=F32(0.3))
    agree(model)
    result = normalized(model)
    spec = canonical(result, CODES)[0].attrs["spec"]
    assert isinstance(spec, Affine)
    assert spec.bits == 2
    assert [note.level for note in result.notes] == [Level.WARNING]


def test_where_takes_zero_as_positive() -> None:
    weight = W.copy()
    weight[2, 3] = 0
    model = model_of([*MEAN, *SPELLINGS["where"]], weight, **CONSTANTS)
    agree(model)
    assert canonical(normalized(model), CODES)[0].attrs["spec"].bits == 1


def test_signs_times_a_second_gain() -> None:
    nodes = [*MEAN, node("Sign", ["w"], ["q"]), node("Mul", ["q", "m"], ["u"]), node("Mul", ["u", "s"], ["v"])]
    agree(model_of(nodes, s=F32(0.3)))


def test_a_scale_that_changes_within_a_channel_is_refused() -> None:
    nodes = [node("Sign", ["w"], ["q"]), node("Mul", ["q", "s"], ["v"])]
    with pytest.raises(UnsupportedModelError, match="element-wise"):
        normalized(model_of(nodes, s=np.random.default_rng(1).uniform(1, 2, (6, 6)).astype(F32)))


def test_a_mask_after_the_signs_makes_the_weight_ternary() -> None:
    """The sign chain is not the end: alpha * sign(w) * (|w| > t) is left to its values."""
    nodes = [
        *MEAN,
        node("Greater", ["a", "threshold"], ["g"]),
        node("Cast", ["g"], ["mask"], to=TensorProto.FLOAT),
        node("Sign", ["w"], ["q"]),
        node("Mul", ["m", "q"], ["s"]),
        node("Mul", ["s", "mask"], ["v"]),
    ]
    model = model_of(nodes, threshold=F32(0.5))
    agree(model)
    assert not canonical(normalized(model), CODES)
