"""Quantizers written out in arithmetic, in every listed spelling, against ONNX Runtime running the chain itself."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto
from onnx_models import build, canonical, node, normalized, run_normalized, run_onnxruntime

from kwsq.ir.errors import UnsupportedModelError
from kwsq.ir.quant import Codebook, IntRange, PerAxis, Rounding
from kwsq.passes.dialects.canonical import CODES, FAKE_QUANT

F32 = np.float32
RNG = np.random.default_rng(0)
X = RNG.uniform(-3, 3, (6, 6)).astype(F32)
W = RNG.normal(0, 0.4, (6, 6)).astype(F32)
EYE = np.eye(6, dtype=F32)
S = F32(0.0713)

Chain = Sequence[tuple[str, str] | tuple[str, str, str] | tuple[str]]
"""Operators in a row: (op), (op, constant) or (op, constant, constant); the first reads the data."""


def chain(links: Chain, constants: dict[str, object], *, weight: NDArray[np.floating] | None = None) -> onnx.ModelProto:
    nodes, data = [], "x" if weight is None else "w"
    for i, (op, *operands) in enumerate(links):
        last = i == len(links) - 1 and weight is None
        attrs = {"to": TensorProto.FLOAT} if op == "Cast" else {}
        nodes.append(node(op, [data, *operands], ["y" if last else f"t{i}"], **attrs))
        data = f"t{i}"
    values = {name: np.asarray(value, F32) for name, value in constants.items()}
    if weight is not None:
        nodes.append(node("MatMul", ["x", data], ["y"]))
        values["w"] = weight
    return build(nodes, inputs={"x": [6, 6]}, constants=values)


def agree(model: onnx.ModelProto, x: NDArray[np.floating] = X, steps: float = 0.0) -> None:
    """Equal codes; the real values may differ by float32 roundings of the map back, at most 3 of 2**-24 each."""
    ours, theirs = run_normalized(model, {"x": x}), run_onnxruntime(model, {"x": x})
    assert np.max(np.abs(ours - theirs)) <= 3 * 2.0**-24 * np.max(np.abs(theirs)) + steps


BASE = {"s": S, "r": 1 / S, "lo": -8, "hi": 7, "z": 3, "ulo": 0, "uhi": 15, "zlo": -5, "zhi": 10}
XLO, XHI = {"xlo": -8 * S, "xhi": 7 * S}, {"alpha": 15 * S}

SIGNED: dict[str, Chain] = {
    "clip then round": [("Div", "s"), ("Clip", "lo", "hi"), ("Round",), ("Mul", "s")],
    "round then clip": [("Div", "s"), ("Round",), ("Clip", "lo", "hi"), ("Mul", "s")],
    "reciprocal before": [("Mul", "r"), ("Clip", "lo", "hi"), ("Round",), ("Mul", "s")],
    "reciprocal after": [("Div", "s"), ("Clip", "lo", "hi"), ("Round",), ("Div", "r")],
    "max and min": [("Div", "s"), ("Max", "lo"), ("Min", "hi"), ("Round",), ("Mul", "s")],
    "clip on x": [("Clip", "xlo", "xhi"), ("Div", "s"), ("Round",), ("Mul", "s")],
    "clip after the map back": [("Div", "s"), ("Round",), ("Mul", "s"), ("Clip", "xlo", "xhi")],
    "cast and identity": [("Div", "s"), ("Cast",), ("Clip", "lo", "hi"), ("Identity",), ("Round",), ("Mul", "s")],
    "clipped twice": [("Div", "s"), ("Clip", "lo", "hi"), ("Round",), ("Clip", "lo", "hi"), ("Mul", "s")],
}


@pytest.mark.parametrize("name", SIGNED)
def test_signed_spellings(name: str) -> None:
    model = chain(SIGNED[name], BASE | XLO)
    agree(model)
    (found,) = canonical(normalized(model), FAKE_QUANT)
    assert found.attrs["spec"].range == IntRange(-8, 7)
    assert found.attrs["spec"].bits == 4
    # The scale of the map back, bit for bit, except where only its reciprocal is written.
    if name != "reciprocal after":
        assert found.attrs["spec"].scale.tobytes() == np.array([S]).tobytes()
    assert found.attrs["dialect"] == "arithmetic"


@pytest.mark.parametrize("name", SIGNED)
def test_the_same_spellings_on_weights(name: str) -> None:
    model = chain(SIGNED[name], BASE | XLO, weight=W)
    agree(model, EYE)
    (found,) = canonical(normalized(model), CODES)
    assert found.attrs["spec"].range == IntRange(-8, 7)
    assert found.attrs["spec"].declared
    assert np.array_equal(found.attrs["codes"], np.rint(np.clip(W / S, -8, 7)))


@pytest.mark.parametrize("tail", [("Round", "Clip"), ("Clip", "Round"), ("Round",)])
def test_weights_whose_division_the_exporter_folded(tail: tuple[str, ...]) -> None:
    """Exporters store w / s where both are constant, and leave the rest of the chain."""
    links: Chain = [("Clip", "lo", "hi") if op == "Clip" else (op,) for op in tail]
    stored = (W / S).astype(F32)
    model = chain([*links, ("Mul", "s")], BASE, weight=stored if "Clip" in tail else np.clip(stored, -8, 7))
    agree(model, EYE)
    (found,) = canonical(normalized(model), CODES)
    assert np.array_equal(found.attrs["codes"], np.rint(np.clip(W / S, -8, 7)))
    assert found.attrs["spec"].scale.tobytes() == np.array([S]).tobytes()
    assert found.attrs["spec"].declared == ("Clip" in tail)


UNSIGNED: dict[str, Chain] = {
    "relu stays": [("Relu",), ("Div", "s"), ("Clip", "ulo", "uhi"), ("Round",), ("Mul", "s")],
    "pact": [("Clip", "ulo", "alpha"), ("Div", "s"), ("Round",), ("Mul", "s")],
    "floor of u + 1/2": [("Div", "s"), ("Clip", "ulo", "uhi"), ("Add", "half"), ("Floor",), ("Mul", "s")],
}


@pytest.mark.parametrize("name", UNSIGNED)
def test_unsigned_spellings(name: str) -> None:
    model = chain(UNSIGNED[name], BASE | XHI | {"half": 0.5})
    agree(model)
    assert canonical(normalized(model), FAKE_QUANT)[0].attrs["spec"].range == IntRange(0, 15)


def test_a_relu_in_front_is_left_to_the_graph() -> None:
    model = chain(UNSIGNED["relu stays"], BASE)
    assert [item.op for item in normalized(model).graph.nodes] == ["Relu", FAKE_QUANT]


def test_floor_of_u_plus_half_on_signed_codes_rounds_ties_up() -> None:
    links: Chain = [("Div", "s"), ("Clip", "lo", "hi"), ("Add", "half"), ("Floor",), ("Mul", "s")]
    x = np.array([[-2.5, -1.5, -0.5, 0.5, 1.5, 2.5]] * 6, F32)
    model = chain(links, BASE | {"half": 0.5, "s": 1.0})
    assert np.array_equal(run_normalized(model, {"x": x}), np.floor(x + 0.5))
    assert canonical(normalized(model), FAKE_QUANT)[0].attrs["rounding"] is Rounding.HALF_UP


ZERO_POINTS: dict[str, Chain] = {
    "added before rounding": [
        ("Div", "s"), ("Add", "z"), ("Clip", "ulo", "uhi"), ("Round",), ("Sub", "z"), ("Mul", "s"),
    ],
    "added after rounding": [
        ("Div", "s"), ("Round",), ("Add", "z"), ("Clip", "ulo", "uhi"), ("Sub", "z"), ("Mul", "s"),
    ],
    "added as a real number": [
        ("Add", "zs"), ("Div", "s"), ("Clip", "ulo", "uhi"), ("Round",), ("Mul", "s"), ("Sub", "zs"),
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", ZERO_POINTS)
def test_zero_points(name: str) -> None:
    model = chain(ZERO_POINTS[name], BASE | {"zs": F32(3) * S})
    agree(model, steps=4 * 2.0**-24)
    spec = canonical(normalized(model), FAKE_QUANT)[0].attrs["spec"]
    assert spec.range == IntRange(0, 15)
    assert spec.zero_point.tolist() == [3]


@pytest.mark.parametrize(
    ("name", "rounding"),
    [
        ("added before rounding", Rounding.HALF_EVEN_OFFSET_FIRST),
        ("added after rounding", Rounding.HALF_EVEN),
    ],
)
def test_ties_of_odd_zero_points(name: str, rounding: Rounding) -> None:
    x = np.array([[-2.5, -1.5, -0.5, 0.5, 1.5, 2.5]] * 6, F32)
    model = chain(ZERO_POINTS[name], BASE | {"s": 1.0})
    assert np.array_equal(run_normalized(model, {"x": x}), run_onnxruntime(model, {"x": x}))
    assert canonical(normalized(model), FAKE_QUANT)[0].attrs["rounding"] is rounding


def test_scales_computed_in_the_graph() -> None:
    """|s|, exp(log s) and mean(|w|) times a gradient scale that cancels, as LSQ writes them."""
    constants = {"w": W, "n": F32(-0.07), "l": F32(np.log(0.07)), "lo": np.int64(-8), "hi": np.int64(7)}
    nodes = [
        node("Abs", ["n"], ["s"]),
        node("Cast", ["lo"], ["low"], to=TensorProto.FLOAT),
        node("Cast", ["hi"], ["high"], to=TensorProto.FLOAT),
        node("Div", ["w", "s"], ["d"]),
        node("Clip", ["d", "low", "high"], ["c"]),
        node("Round", ["c"], ["q"]),
        node("Mul", ["q", "s"], ["v"]),
        node("Exp", ["l"], ["e"]),
        node("Div", ["x", "e"], ["xd"]),
        node("Clip", ["xd", "low", "high"], ["xc"]),
        node("Round", ["xc"], ["xq"]),
        node("Mul", ["xq", "e"], ["xr"]),
        node("MatMul", ["xr", "v"], ["y"]),
    ]
    model = build(nodes, inputs={"x": [6, 6]}, constants=constants)
    ours, theirs = run_normalized(model, {"x": X}), run_onnxruntime(model, {"x": X})
    # Six products of float32 numbers below 1 summed in another order: 6 roundings of 2**-24 relative to their sum.
    assert np.max(np.abs(ours - theirs)) <= 6 * 2.0**-24 * 6
    assert len(canonical(normalized(model), CODES)) == 1


def test_power_of_two_scales_round_in_the_scale_chain() -> None:
    """The Round that makes a scale a power of two belongs to the scale, not to a weight."""
    constants = {"w": W, "l": np.full((6, 1), -3.3, F32), "two": F32(2), "lo": F32(-8), "hi": F32(7)}
    nodes = [
        node("Round", ["l"], ["e"]),
        node("Pow", ["two", "e"], ["s"]),
        node("Div", ["w", "s"], ["d"]),
        node("Clip", ["d", "lo", "hi"], ["c"]),
        node("Round", ["c"], ["q"]),
        node("Mul", ["q", "s"], ["v"]),
        node("MatMul", ["x", "v"], ["y"]),
    ]
    model = build(nodes, inputs={"x": [6, 6]}, constants=constants)
    assert np.array_equal(run_normalized(model, {"x": EYE}), run_onnxruntime(model, {"x": EYE}))
    (found,) = canonical(normalized(model), CODES)
    assert set(found.attrs["spec"].scale.tolist()) == {0.125}


@pytest.mark.parametrize("shape", [(6, 1), (1, 6), (6,)])
def test_weights_per_channel(shape: tuple[int, ...]) -> None:
    scale = RNG.uniform(0.05, 0.1, shape).astype(F32)
    model = chain(SIGNED["clip then round"], BASE | {"s": scale}, weight=W)
    agree(model, EYE)
    assert canonical(normalized(model), CODES)[0].attrs["spec"].granularity == PerAxis(0 if shape == (6, 1) else 1)


def straight_through(swap: bool) -> onnx.ModelProto:
    """y = u + (q - u), as (q - u).detach() + u is exported."""
    order = ["u", "d"] if swap else ["d", "u"]
    nodes = [
        node("Div", ["x", "s"], ["v"]),
        node("Clip", ["v", "lo", "hi"], ["u"]),
        node("Round", ["u"], ["q"]),
        node("Sub", ["q", "u"], ["d"]),
        node("Add", order, ["e"]),
        node("Mul", ["e", "s"], ["y"]),
    ]
    return build(nodes, inputs={"x": [6, 6]}, constants={"s": S, "lo": F32(-8), "hi": F32(7)})


@pytest.mark.parametrize("swap", [False, True])
def test_straight_through_estimators(swap: bool) -> None:
    model = straight_through(swap)
    # u + (q - u) rounds twice at the size of u, at most 8: 2 * 8 * 2**-24 steps of S.
    agree(model, steps=16 * 2.0**-24 * float(S))
    (found,) = canonical(normalized(model), FAKE_QUANT)
    assert found.attrs["spec"].range == IntRange(-8, 7)


def test_a_sum_that_is_no_straight_through_estimator_stays() -> None:
    nodes = [node("Sub", ["x", "c"], ["d"]), node("Add", ["d", "c"], ["y"])]
    model = build(nodes, inputs={"x": [6, 6]}, constants={"c": F32(1)})
    assert [item.op for item in normalized(model).graph.nodes] == ["Sub", "Add"]
    other = build(
        [node("Sub", ["x", "c"], ["d"]), node("Add", ["d", "x"], ["y"])], inputs={"x": [6, 6]}, constants={"c": F32(1)}
    )
    assert [item.op for item in normalized(other).graph.nodes] == ["Sub", "Add"]


def test_a_quantizer_of_scale_1() -> None:
    model = chain([("Clip", "lo", "hi"), ("Round",)], BASE)
    agree(model)
    assert float(canonical(normalized(model), FAKE_QUANT)[0].attrs["spec"].scale[0]) == 1.0


def test_a_bias_before_and_a_gain_after_are_not_part_of_the_quantizer() -> None:
    links: Chain = [("Add", "z"), ("Div", "s"), ("Clip", "lo", "hi"), ("Round",), ("Mul", "s"), ("Mul", "g")]
    model = chain(links, BASE | {"g": 1.7})
    agree(model)
    assert [item.op for item in normalized(model).graph.nodes] == ["Add", FAKE_QUANT, "Mul"]


def test_dorefa_weights_become_odd_levels() -> None:
    """round(15 (w / 2 + 1/2)) / 15 * 2 - 1: sixteen levels around a half-integer zero."""
    weight = np.clip(W * 3, -1, 1)
    links: Chain = [
        ("Mul", "half"), ("Add", "half"), ("Mul", "n"), ("Round",), ("Div", "n"), ("Mul", "two"), ("Sub", "one"),
    ]  # fmt: skip
    model = chain(links, {"half": 0.5, "n": 15, "two": 2, "one": 1}, weight=weight)
    # Both readings end in numbers up to 1 after three roundings.
    agree(model, EYE, steps=3 * 2.0**-24)
    (found,) = canonical(normalized(model), CODES)
    assert isinstance(found.attrs["spec"], Codebook)
    assert set(found.attrs["codes"].reshape(-1).tolist()) <= set(range(-15, 16, 2))
    assert found.attrs["spec"].bits == 4
    assert not found.attrs["spec"].declared


def test_rounded_weights_without_a_clamp_show_a_lower_bound_of_the_width() -> None:
    weight = np.clip(W, -0.2, 0.2)
    model = chain([("Div", "s"), ("Round",), ("Mul", "s")], BASE, weight=weight)
    agree(model, EYE)
    spec = canonical(normalized(model), CODES)[0].attrs["spec"]
    assert not spec.declared
    assert spec.range == IntRange(-3, 3)


def two_readers() -> onnx.ModelProto:
    nodes = [
        node("Div", ["x", "s"], ["d"]),
        node("Round", ["d"], ["q"]),
        node("Mul", ["q", "s"], ["a"]),
        node("Add", ["a", "q"], ["y"]),
    ]
    return build(nodes, inputs={"x": [6, 6]}, constants={"s": S})


REFUSED = {
    "no clamp": lambda: chain([("Div", "s"), ("Round",), ("Mul", "s")], BASE),
    "codes read twice": two_readers,
    "ceil": lambda: chain([("Div", "s"), ("Clip", "lo", "hi"), ("Ceil",), ("Mul", "s")], BASE),
    "sign of an activation": lambda: chain([("Sign",), ("Mul", "s")], BASE),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_recognised_is_refused_by_name(name: str) -> None:
    with pytest.raises(UnsupportedModelError, match="does not recognise") as caught:
        normalized(REFUSED[name]())
    assert caught.value.problems[0].op in ("Round", "Ceil", "Sign", "Floor")


def test_another_scale_on_the_way_back_is_a_quantizer_of_scale_1_and_a_gain() -> None:
    model = chain([("Div", "s"), ("Clip", "lo", "hi"), ("Round",), ("Mul", "t")], BASE | {"t": 0.5})
    agree(model)
    assert [item.op for item in normalized(model).graph.nodes] == ["Div", FAKE_QUANT, "Mul"]


def test_wide_codes_are_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="16-bit activations"):
        normalized(chain(SIGNED["clip then round"], BASE | {"lo": -(2**15), "hi": 2**15 - 1}))


@given(
    scale=st.floats(2.0**-10, 2.0**10, width=32),
    low=st.integers(-128, 0),
    width=st.integers(1, 255),
    before=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_any_scale_and_range(scale: float, low: int, width: int, before: bool, seed: int) -> None:
    high = min(low + width, 127)
    x = np.random.default_rng(seed).normal(0, 60 * scale, (6, 6)).astype(F32)
    links = SIGNED["clip then round" if before else "round then clip"]
    model = chain(links, {"s": scale, "lo": low, "hi": high})
    assert np.array_equal(run_normalized(model, {"x": x}), run_onnxruntime(model, {"x": x}))
    assert canonical(normalized(model), FAKE_QUANT)[0].attrs["spec"].range == IntRange(low, high)
