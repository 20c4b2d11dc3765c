from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from numerics_cases import (
    assert_identical,
    cases,
    float32,
    random_activation,
    random_codes,
    random_scale,
    random_zero_point,
)
from one_op import TensorSpec, constant, one_op_model, run_model

from kwsq.ir.numerics import (
    Window,
    conv2d,
    depthwise_conv2d,
    derive_fixed_point,
    effective_scale_conv,
    same_padding,
    valid_size,
)


def _window(rng: np.random.Generator, size: tuple[int, int], kernel: tuple[int, int], options: Any) -> Window:
    """Draw stride, dilation and padding that fit, and write them into the TFLite options."""
    same = bool(rng.random() < 0.6)
    stride = (int(rng.integers(1, 4)), int(rng.integers(1, 4)))
    dilation = (1, 1) if rng.random() < 0.6 else (int(rng.integers(1, 3)), int(rng.integers(1, 3)))
    if not same:
        dilation = tuple(1 if (k - 1) * d >= s else d for k, d, s in zip(kernel, dilation, size, strict=True))
    options.padding = schema.Padding.SAME if same else schema.Padding.VALID
    options.strideH, options.strideW = stride
    options.dilationHFactor, options.dilationWFactor = dilation
    placed = [
        same_padding(s, k, stride=t, dilation=d) if same else (valid_size(s, k, stride=t, dilation=d), 0)
        for s, k, t, d in zip(size, kernel, stride, dilation, strict=True)
    ]
    (oh, top), (ow, left) = placed
    return Window((oh, ow), stride, dilation, (top, left))


def _case(rng: np.random.Generator, *, depthwise: bool, per_channel: bool) -> tuple[np.ndarray, np.ndarray, object]:
    size, kernel = (
        (int(rng.integers(3, 16)), int(rng.integers(3, 14))),
        tuple(int(v) for v in rng.integers(1, 4, 2)),
    )
    groups = int(rng.choice([1, 1, 2, 3]))
    c_group, per_group, depth = (int(v) for v in rng.integers(1, 9, 3))
    c_in, c_out = (c_group, c_group * depth) if depthwise else (c_group * groups, per_group * groups)
    sx, zx, zy = random_scale(rng), random_zero_point(rng), random_zero_point(rng)
    sw = [random_scale(rng, -4, -1) for _ in range(c_out if per_channel else 1)]
    sy = float32(sx * float(np.exp(np.mean(np.log(sw)))) * 10.0 ** rng.uniform(0, 4.5))
    weights = random_codes(rng, (1, *kernel, c_out) if depthwise else (c_out, *kernel, c_group), -127)
    x = random_codes(rng, (2, *size, c_in))
    bias = None if rng.random() < 0.2 else rng.integers(-(2**15), 2**15, c_out).astype(np.int32)
    activation, low, high = random_activation(rng, scale=sy, zero_point=zy)
    options = schema.DepthwiseConv2DOptionsT() if depthwise else schema.Conv2DOptionsT()
    if depthwise:
        options.depthMultiplier = depth
    options.fusedActivationFunction = activation
    window = _window(rng, size, kernel, options)
    zero_bias = np.zeros(c_out, dtype=np.int32) if bias is None else bias
    inputs = [
        TensorSpec(x.shape, scale=sx, zero_point=zx),
        constant(weights, sw, axis=3 if depthwise else 0),
        constant(zero_bias, [float32(sx * s) for s in sw]),
    ]
    output = TensorSpec((2, *window.output_size, c_out), scale=sy, zero_point=zy)
    operator = "DEPTHWISE_CONV_2D" if depthwise else "CONV_2D"
    (runtime,) = run_model(one_op_model(operator, inputs, [output], options=options, version=5), [x])
    params = derive_fixed_point(
        effective_scale_conv(sx, sw, sy), input_zero_point=zx, output_zero_point=zy, low=low, high=high
    )
    layer = depthwise_conv2d if depthwise else conv2d
    return (
        layer(x, weights, bias, params, window=window),
        runtime,
        (window, kernel, c_in, c_out, groups, sx, sw[:1], sy),
    )


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("depthwise", [False, True])
def test_convolution_is_bit_exact(depthwise: bool, per_channel: bool) -> None:
    for rng in cases(10, 150):
        ours, runtime, context = _case(rng, depthwise=depthwise, per_channel=per_channel)
        assert_identical(ours, runtime, context)


def test_result_does_not_depend_on_the_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(11)
    x, weights = random_codes(rng, (7, 9, 5, 4)), random_codes(rng, (6, 3, 3, 4), -127)
    params = derive_fixed_point(effective_scale_conv(1.0, 0.5, 512.0), input_zero_point=-3, output_zero_point=5)
    window = Window((9, 5), padding=(1, 1))
    whole = conv2d(x, weights, None, params, window=window)
    monkeypatch.setattr("kwsq.ir.numerics.convolution._CHUNK_ELEMENTS", 1)
    assert_identical(conv2d(x, weights, None, params, window=window), whole, "one image per step")


def test_wide_accumulators_use_float64_and_stay_exact() -> None:
    # 128 * 127 * 3 * 3 * 200 = 29_260_800 > 2**24: float32 sums would lose the lowest bit
    x = np.full((1, 3, 3, 200), -128, dtype=np.int8)
    weights = np.full((1, 3, 3, 200), 127, dtype=np.int8)
    bias = np.array([128 * 127 * 1800 + 1], dtype=np.int32)  # leaves an accumulator of exactly 1
    params = derive_fixed_point(effective_scale_conv(1.0, 1.0, 1.0), input_zero_point=0, output_zero_point=0)
    assert conv2d(x, weights, bias, params, window=Window((1, 1))).item() == 1


@pytest.mark.parametrize(("layer", "shape"), [(conv2d, (4, 1, 1, 3)), (depthwise_conv2d, (1, 1, 1, 6))])
def test_channels_that_do_not_divide_are_refused(layer: Any, shape: tuple[int, ...]) -> None:
    params = derive_fixed_point(1.0, input_zero_point=0, output_zero_point=0)
    with pytest.raises(ValueError, match="check the weight layout"):
        layer(np.zeros((1, 1, 1, 4), np.int8), np.zeros(shape, np.int8), None, params, window=Window((1, 1)))
