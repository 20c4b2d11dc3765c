"""Q/DQ and QCDQ in every spelling, against ONNX Runtime with optimisations off."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto
from onnx_models import MICROSOFT, build, canonical, load, low_bit, node, normalized, run_normalized, run_onnxruntime

from kwsq.ir.errors import InvalidModelError, UnsupportedModelError
from kwsq.ir.quant import IntRange, PerAxis, PerTensor, Rounding
from kwsq.passes.dialects.canonical import CODES, FAKE_QUANT, INTEGER_INPUT, INTEGER_OUTPUT

F32 = np.float32
X = np.random.default_rng(0).uniform(-3, 3, (4, 6)).astype(F32)
EYE = np.eye(6, dtype=F32)


def activation(
    scale: float = 0.05,
    zero: object = np.int8(0),
    *,
    clip: tuple[int, int] | None = None,
    opset: int = 17,
    domain: str = "",
    **attrs: int,
) -> onnx.ModelProto:
    kind = np.asarray(zero).dtype
    nodes = [node("QuantizeLinear", ["x", "s", "z"], ["q"], domain, **attrs)]
    constants = {"s": F32(scale), "z": np.asarray(zero)}
    if clip is not None:
        constants |= {"lo": kind.type(clip[0]), "hi": kind.type(clip[1])}
        nodes.append(node("Clip", ["q", "lo", "hi"], ["c"]))
    nodes.append(node("DequantizeLinear", [nodes[-1].output[0], "s", "z"], ["y"], domain, **attrs))
    return build(nodes, inputs={"x": [4, 6]}, constants=constants, opset=opset)


def weight(
    codes: NDArray[np.integer] | onnx.TensorProto,
    scale: object,
    zero: object = None,
    *,
    clip: tuple[int, int] | None = None,
    axis: int | None = None,
    opset: int = 17,
) -> onnx.ModelProto:
    """y = x @ DQ(codes): with the identity as x, y is the weight."""
    constants = {"w": codes, "s": np.asarray(scale, F32)}
    nodes, names = [], ["w", "s"]
    if clip is not None:
        constants |= {"lo": np.int8(clip[0]), "hi": np.int8(clip[1])}
        nodes.append(node("Clip", ["w", "lo", "hi"], ["c"]))
        names[0] = "c"
    if zero is not None:
        constants["z"] = zero if isinstance(zero, onnx.TensorProto) else np.asarray(zero)
        names.append("z")
    attrs = {} if axis is None else {"axis": axis}
    nodes += [node("DequantizeLinear", names, ["r"], **attrs), node("MatMul", ["x", "r"], ["y"])]
    return build(nodes, inputs={"x": [6, 6]}, constants=constants, opset=opset)


def agree(model: onnx.ModelProto, x: NDArray[np.floating] = X) -> None:
    """Both readings give the same bits: one division, one rounding, one product each."""
    assert np.array_equal(run_normalized(model, {"x": x}), run_onnxruntime(model, {"x": x}))


@pytest.mark.parametrize("opset", [10, 13, 19, 21, 23])
@pytest.mark.parametrize("zero", [np.int8(0), np.int8(-7), np.uint8(0), np.uint8(131)])
def test_activations_of_every_opset_and_zero_point(opset: int, zero: np.generic) -> None:
    model = activation(0.0173, zero, opset=opset)
    agree(model)
    (quantizer,) = canonical(normalized(model), FAKE_QUANT)
    spec = quantizer.attrs["spec"]
    low = -128 if zero.dtype == np.int8 else 0
    assert spec.range == IntRange(low, low + 255)
    assert spec.scale.tobytes() == np.array([0.0173], F32).tobytes()
    assert int(spec.zero_point[0]) == int(zero)
    assert quantizer.attrs["rounding"] is Rounding.HALF_EVEN
    assert quantizer.attrs["dialect"] == "qdq"


def test_ties_round_to_even_and_saturation_is_kept() -> None:
    x = np.array([[-200, -0.5, 0.5, 1.5, 2.5, 200]] * 4, F32)
    agree(activation(1.0, np.int8(3)), x)


@pytest.mark.parametrize("clip", [(-7, 7), (-16, 15), (0, 100), (-128, 127)])
def test_a_clip_between_q_and_dq_is_the_range(clip: tuple[int, int]) -> None:
    model = activation(0.1, clip=clip)
    agree(model)
    (quantizer,) = canonical(normalized(model), FAKE_QUANT)
    assert quantizer.attrs["spec"].range == IntRange(*clip)


def test_a_clip_may_be_written_as_max_and_min_and_may_be_one_sided() -> None:
    constants = {"s": F32(0.1), "z": np.int8(0), "lo": np.int8(-5), "hi": np.int8(6)}
    nodes = [
        node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        node("Max", ["q", "lo"], ["m"]),
        node("Min", ["hi", "m"], ["n"]),
        node("Clip", ["n", "", "hi"], ["c"]),
        node("DequantizeLinear", ["c", "s", "z"], ["y"]),
    ]
    model = build(nodes, inputs={"x": [4, 6]}, constants=constants)
    agree(model)
    assert canonical(normalized(model), FAKE_QUANT)[0].attrs["spec"].range == IntRange(-5, 6)


def test_disjoint_clips_leave_the_later_one() -> None:
    names = {"a": -5, "b": 3, "c": 7, "d": 9}
    constants = {"s": F32(0.1), "z": np.int8(0)} | {name: np.int8(value) for name, value in names.items()}
    nodes = [
        node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        node("Clip", ["q", "a", "b"], ["q1"]),
        node("Clip", ["q1", "c", "d"], ["q2"]),
        node("DequantizeLinear", ["q2", "s", "z"], ["y"]),
    ]
    agree(build(nodes, inputs={"x": [4, 6]}, constants=constants))


def test_the_zero_point_may_be_absent() -> None:
    nodes = [node("QuantizeLinear", ["x", "s"], ["q"]), node("DequantizeLinear", ["q", "s"], ["y"])]
    model = build(nodes, inputs={"x": [4, 6]}, constants={"s": F32(0.1)})
    agree(model)
    assert canonical(normalized(model), FAKE_QUANT)[0].attrs["spec"].range == IntRange(0, 255)


@pytest.mark.parametrize("axis", [0, 1, 3, -1])
def test_an_axis_on_a_scalar_scale_means_nothing(axis: int) -> None:
    (quantizer,) = canonical(normalized(activation(axis=axis)), FAKE_QUANT)
    assert quantizer.attrs["spec"].granularity == PerTensor()


def test_a_scale_of_shape_1_is_per_tensor() -> None:
    nodes = [node("QuantizeLinear", ["x", "s", "z"], ["q"]), node("DequantizeLinear", ["q", "s", "z"], ["y"])]
    constants = {"s": np.array([0.1], F32), "z": np.array([3], np.int8)}
    model = build(nodes, inputs={"x": [4, 6]}, constants=constants)
    assert canonical(normalized(model), FAKE_QUANT)[0].attrs["spec"].granularity == PerTensor()


def test_microsoft_operators_are_the_same() -> None:
    model = activation(0.1, np.uint8(9), domain=MICROSOFT)
    standard = activation(0.1, np.uint8(9))
    assert np.array_equal(run_normalized(model, {"x": X}), run_normalized(standard, {"x": X}))


CODES8 = np.random.default_rng(1).integers(-128, 128, (6, 6)).astype(np.int8)
SCALES = np.random.default_rng(2).uniform(0.01, 1, 6).astype(F32)


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_weights_per_channel(axis: int) -> None:
    model = weight(CODES8, SCALES, np.zeros(6, np.int8), axis=axis)
    agree(model, EYE)
    (found,) = canonical(normalized(model), CODES)
    assert found.attrs["spec"].granularity == PerAxis(axis % 2)
    assert found.attrs["spec"].scale.tobytes() == SCALES.tobytes()
    assert found.attrs["codes"].tobytes() == CODES8.tobytes()
    assert found.attrs["origin"] == "w"


def test_weights_without_a_clip_have_the_width_of_their_type() -> None:
    (found,) = canonical(normalized(weight(CODES8, 0.1)), CODES)
    assert found.attrs["spec"].bits == 8
    assert found.attrs["spec"].declared


def test_a_clip_declares_the_width_of_a_weight_and_still_clamps() -> None:
    model = weight(CODES8, 0.1, np.int8(0), clip=(-15, 15))
    agree(model, EYE)
    (found,) = canonical(normalized(model), CODES)
    assert found.attrs["spec"].range == IntRange(-15, 15)
    assert found.attrs["spec"].bits == 5
    assert found.attrs["dialect"] == "qcdq"


@pytest.mark.parametrize(
    ("elem_type", "span", "opset"),
    [
        (TensorProto.INT4, (-8, 7), 21),
        (TensorProto.UINT4, (0, 15), 21),
        (TensorProto.INT2, (-2, 1), 25),
        (TensorProto.UINT2, (0, 3), 25),
    ],
)
def test_sub_byte_types(elem_type: int, span: tuple[int, int], opset: int) -> None:
    codes = np.random.default_rng(3).integers(span[0], span[1] + 1, (6, 6))
    zero = low_bit(np.array(1), elem_type, "z")
    model = weight(low_bit(codes, elem_type, "w"), 0.3, zero, opset=opset)
    agree(model, EYE)
    (found,) = canonical(normalized(model), CODES)
    assert found.attrs["spec"].range == IntRange(*span)
    assert np.array_equal(found.attrs["codes"], codes)
    assert found.attrs["codes"].dtype in (np.int8, np.uint8)


def test_an_odd_number_of_sub_byte_codes() -> None:
    codes = np.array([[-8], [7], [-1]])
    constants = {"w": low_bit(codes, TensorProto.INT4, "w"), "s": F32(0.5)}
    nodes = [node("DequantizeLinear", ["w", "s"], ["r"]), node("MatMul", ["x", "r"], ["y"])]
    model = build(nodes, inputs={"x": [3, 3]}, constants=constants, opset=21)
    assert np.array_equal(run_normalized(model, {"x": np.eye(3, dtype=F32)}), codes * 0.5)


@pytest.mark.parametrize(("axis", "other"), [(1, 1), (1, -1), (-2, 0)])
def test_a_float_weight_with_its_q_node_stays_latent(axis: int, other: int) -> None:
    """Whichever end either node counts its axis from."""
    latent = np.random.default_rng(4).normal(0, 1, (6, 6)).astype(F32)
    constants = {"w": latent, "s": SCALES, "z": np.zeros(6, np.int8), "lo": np.int8(-7), "hi": np.int8(7)}
    nodes = [
        node("QuantizeLinear", ["w", "s", "z"], ["q"], axis=axis),
        node("Clip", ["q", "lo", "hi"], ["c"]),
        node("DequantizeLinear", ["c", "s", "z"], ["r"], axis=other),
        node("MatMul", ["x", "r"], ["y"]),
    ]
    model = build(nodes, inputs={"x": [6, 6]}, constants=constants)
    agree(model, EYE)
    (quantizer,) = canonical(normalized(model), FAKE_QUANT)
    assert quantizer.attrs["spec"].granularity == PerAxis(axis % 2)


def test_a_weight_quantized_along_one_axis_and_dequantized_along_another_is_refused() -> None:
    constants = {"w": EYE, "s": SCALES, "z": np.zeros(6, np.int8)}
    nodes = [
        node("QuantizeLinear", ["w", "s", "z"], ["q"], axis=1),
        node("DequantizeLinear", ["q", "s", "z"], ["r"], axis=0),
        node("MatMul", ["x", "r"], ["y"]),
    ]
    with pytest.raises(UnsupportedModelError, match="other parameters"):
        normalized(build(nodes, inputs={"x": [6, 6]}, constants=constants))


def test_a_scale_computed_in_the_graph() -> None:
    latent = np.random.default_rng(5).normal(0, 1, (6, 6)).astype(F32)
    constants = {"w": latent, "z": np.zeros(6, np.int8), "n": F32(127), "tiny": F32(1e-8)}
    nodes = [
        node("Abs", ["w"], ["a"]),
        node("Flatten", ["a"], ["f"], axis=1),
        node("ReduceMax", ["f"], ["m"], axes=[1], keepdims=0),
        node("Div", ["m", "n"], ["d"]),
        node("Clip", ["d", "tiny", ""], ["s"]),
        node("QuantizeLinear", ["w", "s", "z"], ["q"], axis=0),
        node("DequantizeLinear", ["q", "s", "z"], ["r"], axis=0),
        node("MatMul", ["x", "r"], ["y"]),
    ]
    agree(build(nodes, inputs={"x": [6, 6]}, constants=constants, opset=13), EYE)


def test_an_int32_bias_keeps_its_codes_and_scales() -> None:
    constants = {"b": np.array([5, -(2**30), 7], np.int32), "s": np.array([0.1, 1e-6, 0.3], F32)}
    nodes = [node("DequantizeLinear", ["b", "s"], ["r"], axis=0), node("Add", ["x", "r"], ["y"])]
    model = build(nodes, inputs={"x": [1, 3]}, constants=constants)
    agree(model, np.zeros((1, 3), F32))
    (found,) = canonical(normalized(model), CODES)
    assert found.attrs["codes"].dtype == np.int32


MOVES = {
    "Reshape": (node("Reshape", ["q", "shape"], ["m"]), {"shape": np.array([6, 4], np.int64)}),
    "Transpose": (node("Transpose", ["q"], ["m"], perm=[1, 0]), {}),
    "Flatten": (node("Flatten", ["q"], ["m"], axis=0), {}),
    "Unsqueeze": (node("Unsqueeze", ["q", "axes"], ["m"]), {"axes": np.array([0], np.int64)}),
    "Slice": (
        node("Slice", ["q", "b", "e", "a"], ["m"]),
        {"b": np.array([1], np.int64), "e": np.array([3], np.int64), "a": np.array([1], np.int64)},
    ),
    "Identity": (node("Identity", ["q"], ["m"]), {}),
    "Concat": (node("Concat", ["q", "q"], ["m"], axis=0), {}),
}


@pytest.mark.parametrize("name", MOVES)
def test_operators_that_move_codes_between_q_and_dq(name: str) -> None:
    move, extra = MOVES[name]
    constants = {"s": F32(0.02), "z": np.int8(5), "lo": np.int8(-100), "hi": np.int8(90)} | extra
    nodes = [
        node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        move,
        node("Clip", ["m", "lo", "hi"], ["c"]),
        node("DequantizeLinear", ["c", "s", "z"], ["y"]),
    ]
    model = build(nodes, inputs={"x": [4, 6]}, constants=constants)
    agree(model)
    assert canonical(normalized(model), FAKE_QUANT)[0].attrs["spec"].range == IntRange(-100, 90)


def test_a_max_pool_of_codes() -> None:
    nodes = [
        node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        node("MaxPool", ["q"], ["m"], kernel_shape=[2, 2], strides=[2, 2]),
        node("DequantizeLinear", ["m", "s", "z"], ["y"]),
    ]
    model = build(nodes, inputs={"x": [1, 2, 4, 6]}, constants={"s": F32(0.02), "z": np.int8(5)})
    agree(model, np.random.default_rng(6).normal(0, 1, (1, 2, 4, 6)).astype(F32))


def test_one_q_read_by_two_dqs() -> None:
    nodes = [
        node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        node("DequantizeLinear", ["q", "s", "z"], ["a"]),
        node("DequantizeLinear", ["q", "s", "z"], ["b"]),
        node("Add", ["a", "b"], ["y"]),
    ]
    agree(build(nodes, inputs={"x": [4, 6]}, constants={"s": F32(0.02), "z": np.int8(5)}))


def test_a_relu_before_the_quantizer_and_a_clamp_hidden_in_it_stay() -> None:
    nodes = [
        node("Relu", ["x"], ["h"]),
        node("QuantizeLinear", ["h", "s", "z"], ["q"]),
        node("DequantizeLinear", ["q", "s", "z"], ["y"]),
    ]
    model = build(nodes, inputs={"x": [4, 6]}, constants={"s": F32(0.01), "z": np.uint8(0)})
    agree(model)
    hidden = activation(0.01, np.uint8(0))
    assert run_normalized(hidden, {"x": X}).min() == 0
    assert run_normalized(hidden, {"x": X}).max() == F32(0.01) * F32(255)


@pytest.mark.parametrize(("kind", "dtype"), [(TensorProto.UINT8, np.uint8), (TensorProto.INT8, np.int8)])
def test_integer_inputs_and_outputs(kind: int, dtype: type) -> None:
    constants = {"s": F32(0.1), "z": dtype(3), "t": F32(0.2), "u": dtype(1), "shape": np.array([6, 4], np.int64)}
    nodes = [
        node("DequantizeLinear", ["x", "s", "z"], ["h"]),
        node("Relu", ["h"], ["r"]),
        node("QuantizeLinear", ["r", "t", "u"], ["q"]),
        node("Reshape", ["q", "shape"], ["y"]),
    ]
    model = build(nodes, inputs={"x": [4, 6]}, constants=constants, types={"x": kind, "y": kind})
    result = normalized(model)
    (first,), (last,) = canonical(result, INTEGER_INPUT), canonical(result, INTEGER_OUTPUT)
    assert first.attrs["dtype"] == last.attrs["dtype"] == np.dtype(dtype).name
    assert first.inputs[0].name == "x"
    assert last.outputs[0].name == "y"
    assert [item.op for item in result.graph.nodes] == [INTEGER_INPUT, "Relu", "Reshape", INTEGER_OUTPUT]
    assert float(last.attrs["spec"].scale[0]) == F32(0.2)


def test_an_integer_input_that_is_cast_has_scale_1() -> None:
    nodes = [node("Cast", ["x"], ["h"], to=TensorProto.FLOAT), node("Relu", ["h"], ["y"])]
    model = build(nodes, inputs={"x": [4, 6]}, types={"x": TensorProto.UINT8})
    (found,) = canonical(normalized(model), INTEGER_INPUT)
    assert float(found.attrs["spec"].scale[0]) == 1
    assert found.attrs["spec"].range == IntRange(0, 255)


def two_scales() -> onnx.ModelProto:
    nodes = [node("QuantizeLinear", ["x", "s", "z"], ["q"]), node("DequantizeLinear", ["q", "t", "z"], ["y"])]
    return build(nodes, inputs={"x": [4, 6]}, constants={"s": F32(1), "t": F32(2), "z": np.int8(0)})


def computed_scale() -> onnx.ModelProto:
    nodes = [
        node("ReduceMax", ["x"], ["s"], keepdims=0),
        node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        node("DequantizeLinear", ["q", "s", "z"], ["y"]),
    ]
    return build(nodes, inputs={"x": [4, 6]}, constants={"z": np.int8(0)})


def computed_codes() -> onnx.ModelProto:
    nodes = [
        node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        node("Add", ["q", "q"], ["d"]),
        node("DequantizeLinear", ["d", "s", "z"], ["y"]),
    ]
    return build(nodes, inputs={"x": [4, 6]}, constants={"s": F32(1), "z": np.int8(0)})


def lone_q() -> onnx.ModelProto:
    nodes = [node("QuantizeLinear", ["x", "s", "z"], ["q"]), node("Cast", ["q"], ["y"], to=TensorProto.FLOAT)]
    return build(nodes, inputs={"x": [4, 6]}, constants={"s": F32(1), "z": np.int8(0)})


def per_channel_activation() -> onnx.ModelProto:
    model = activation()
    model.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(np.full(6, 0.1, F32), "s"))
    model.graph.initializer[1].CopyFrom(onnx.numpy_helper.from_array(np.zeros(6, np.int8), "z"))
    return model


def block_wise() -> onnx.ModelProto:
    nodes = [
        node("DequantizeLinear", ["w", "s"], ["r"], axis=0, block_size=3),
        node("MatMul", ["x", "r"], ["y"]),
    ]
    constants = {"w": CODES8, "s": np.full((2, 6), 0.1, F32)}
    return build(nodes, inputs={"x": [6, 6]}, constants=constants, opset=21)


def float8_codes() -> onnx.ModelProto:
    nodes = [
        node("QuantizeLinear", ["x", "s"], ["q"], output_dtype=TensorProto.FLOAT8E4M3FN),
        node("DequantizeLinear", ["q", "s"], ["y"]),
    ]
    return build(nodes, inputs={"x": [4, 6]}, constants={"s": F32(1)}, opset=21)


REFUSED = {
    "other parameters": two_scales,
    "computed from activations": computed_scale,
    "codes computed by Add": computed_codes,
    "does not recognise": lone_q,
    "one scale per channel": per_channel_activation,
    "block-wise": block_wise,
    "16-bit activations": lambda: activation(0.1, np.uint16(7), opset=21),
    "output_dtype": float8_codes,
}


@pytest.mark.parametrize("found", REFUSED)
def test_refused_by_name(found: str) -> None:
    with pytest.raises(UnsupportedModelError, match=found) as caught:
        normalized(REFUSED[found]())
    # The other node of the pair stays in the graph because of the one that is to blame.
    (problem,) = caught.value.problems
    assert problem.op.endswith("Linear")
    assert "_" in problem.where


def test_the_output_type_may_be_stated_instead_of_a_zero_point() -> None:
    nodes = [
        node("QuantizeLinear", ["x", "s"], ["q"], output_dtype=TensorProto.INT4),
        node("DequantizeLinear", ["q", "s"], ["y"]),
    ]
    model = build(nodes, inputs={"x": [4, 6]}, constants={"s": F32(0.5)}, opset=21)
    agree(model)
    assert canonical(normalized(model), FAKE_QUANT)[0].attrs["spec"].range == IntRange(-8, 7)


def test_an_output_type_that_contradicts_the_zero_point_is_broken() -> None:
    nodes = [
        node("QuantizeLinear", ["x", "s", "z"], ["q"], output_dtype=TensorProto.UINT8),
        node("DequantizeLinear", ["q", "s"], ["y"]),
    ]
    constants = {"s": F32(0.5), "z": np.int8(0)}
    with pytest.raises(InvalidModelError, match="int8 zero point for uint8 codes"):
        normalized(build(nodes, inputs={"x": [4, 6]}, constants=constants, opset=21))


def test_an_empty_clip_is_broken() -> None:
    with pytest.raises(InvalidModelError, match="clamp"):
        normalized(activation(clip=(5, -5)))


def test_an_integer_input_used_as_it_is_is_refused() -> None:
    model = build([node("Relu", ["x"], ["y"])], inputs={"x": [4]}, types={"x": TensorProto.INT8})
    with pytest.raises(UnsupportedModelError, match="used as it is"):
        normalized(model)


def test_every_refusal_is_listed_at_once() -> None:
    nodes = [
        node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        node("DequantizeLinear", ["q", "t", "z"], ["a"]),
        node("QuantizeLinear", ["a", "s", "z"], ["r"]),
        node("DequantizeLinear", ["r", "t", "z"], ["y"]),
    ]
    model = build(nodes, inputs={"x": [4, 6]}, constants={"s": F32(1), "t": F32(2), "z": np.int8(0)})
    with pytest.raises(UnsupportedModelError) as caught:
        normalized(model)
    assert [p.where for p in caught.value.problems] == ["node 'DequantizeLinear_a'", "node 'DequantizeLinear_y'"]


def test_a_refused_q_is_named_once_however_many_read_it_and_one_nobody_refused_is_named_too() -> None:
    nodes = [
        node("QuantizeLinear", ["x", "bad", "z"], ["q"]),
        *(node("DequantizeLinear", ["q", "s", "z"], [name]) for name in ("a", "b")),
        node("Add", ["a", "b"], ["c"]),
        node("QuantizeLinear", ["c", "s", "z"], ["r"]),
        node("Cast", ["r"], ["y"], to=TensorProto.FLOAT),
    ]
    constants = {"s": F32(1), "bad": np.full((2, 6), 0.1, F32), "z": np.int8(0)}
    with pytest.raises(UnsupportedModelError) as caught:
        normalized(build(nodes, inputs={"x": [4, 6]}, constants=constants))
    assert [p.where for p in caught.value.problems] == ["node 'QuantizeLinear_q'", "node 'QuantizeLinear_r'"]


def test_nested_diamonds_of_concatenated_codes_stay_linear() -> None:
    nodes = [node("QuantizeLinear", ["x", "s", "z"], ["q0"])]
    # Each level reads the one below twice; a reader without memory would visit 2**16 paths.
    for i in range(16):
        nodes += [
            node("Slice", [f"q{i}", "b", "e", "a"], [f"h{i}"]),
            node("Concat", [f"h{i}", f"h{i}"], [f"q{i + 1}"], axis=0),
        ]
    nodes += [node("DequantizeLinear", ["q16", "s", "z"], ["y"])]
    constants = {
        "s": F32(1),
        "z": np.int8(0),
        "b": np.array([0], np.int64),
        "e": np.array([2], np.int64),
        "a": np.array([0], np.int64),
    }
    model = build(nodes, inputs={"x": [4, 6]}, constants=constants)
    assert len(normalized(model).graph.nodes) < 40
    agree(model)


def test_initializers_listed_as_inputs_are_not_inputs() -> None:
    model = activation()
    model.graph.input.append(onnx.helper.make_tensor_value_info("s", TensorProto.FLOAT, []))
    assert [tensor.name for tensor in load(model).graph.inputs] == ["x"]
    agree(model)
