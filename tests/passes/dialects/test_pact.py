"""PACT's clamp as the paper writes it, against ONNX Runtime running it."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx_models import build, canonical, node, normalized, run_normalized, run_onnxruntime

from kwsq.ir.errors import UnsupportedModelError
from kwsq.ir.quant import IntRange
from kwsq.passes.dialects.canonical import FAKE_QUANT

F32 = np.float32
ALPHA, LEVELS = F32(4.25), F32(15)
X = np.random.default_rng(0).uniform(-3, 8, (6, 6)).astype(F32)


def model_of(*, half: tuple[str, str] = ("Mul", "half"), bound: str = "alpha", opset: int = 17) -> onnx.ModelProto:
    nodes = [
        node("Abs", ["x"], ["p"]),
        node("Sub", ["x", "alpha"], ["d"]),
        node("Abs", ["d"], ["q"]),
        node("Sub", ["p", "q"], ["e"]),
        node("Add", ["e", bound], ["f"]),
        node(half[0], ["f", half[1]], ["c"]),
        node("Div", ["c", "s"], ["u"]),
        node("Round", ["u"], ["r"]),
        node("Mul", ["r", "s"], ["y"]),
    ]
    constants = {"alpha": ALPHA, "other": F32(3), "half": F32(0.5), "two": F32(2), "s": ALPHA / LEVELS}
    return build(nodes, inputs={"x": [6, 6]}, constants=constants, opset=opset)


@pytest.mark.parametrize("half", [("Mul", "half"), ("Div", "two")])
@pytest.mark.parametrize("opset", [11, 17])
def test_the_clamp_bounds_the_codes(half: tuple[str, str], opset: int) -> None:
    model = model_of(half=half, opset=opset)
    ours, theirs = run_normalized(model, {"x": X}), run_onnxruntime(model, {"x": X})
    # The codes are equal; the map back rounds each of them once more.
    assert np.max(np.abs(ours - theirs)) <= 2 * 2.0**-24 * float(ALPHA)
    (found,) = canonical(normalized(model), FAKE_QUANT)
    assert found.attrs["spec"].range == IntRange(0, 15)


def test_another_bound_is_no_clamp() -> None:
    with pytest.raises(UnsupportedModelError, match="does not recognise"):
        normalized(model_of(bound="other"))


@pytest.mark.parametrize(("low", "high"), [(-131, 124), (-1, 254), (-300, -45), (-128, 127), (0, 255)])
def test_256_levels_about_any_zero_are_8_bits(low: int, high: int) -> None:
    """A clamp before the division holds the zero point, which the rounded value does not."""
    scale = F32(0.03)
    nodes = [
        node("Clip", ["x", "low", "high"], ["c"]), node("Div", ["c", "s"], ["u"]), node("Round", ["u"], ["r"]),
        node("Mul", ["r", "s"], ["y"]),
    ]  # fmt: skip
    constants = {"low": F32(low * scale), "high": F32(high * scale), "s": scale}
    model = build(nodes, inputs={"x": [6, 6]}, constants=constants)
    (quantizer,) = canonical(normalized(model), FAKE_QUANT)
    spec = quantizer.attrs["spec"]
    assert spec.range.high - spec.range.low == 255
    assert spec.range.low in (-128, 0)
    assert spec.range.low - spec.zero_point[0] == low
    x = np.random.default_rng(1).uniform(low * scale - 1, high * scale + 1, (6, 6)).astype(F32)
    np.testing.assert_allclose(run_normalized(model, {"x": x}), run_onnxruntime(model, {"x": x}), atol=1e-5)
