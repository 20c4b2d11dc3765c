import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from hypothesis import given
from hypothesis import strategies as st
from numerics_cases import (
    assert_identical,
    cases,
    random_activation,
    random_scale,
    random_zero_point,
)
from one_op import TensorSpec, constant, one_op_model, run_model

from kwsq.ir.numerics import (
    Grid,
    RealParams,
    activation_range,
    dequantize,
    derive_requantize,
    effective_scale_conv,
    float32_scale,
    fully_connected,
    quantize,
    requantize,
    requantize_table,
)

ALL_CODES = np.arange(-128, 128).astype(np.int8)


def _edges(scale: float, zero_point: int) -> np.ndarray:
    """Every rounding boundary of the grid, its two float32 neighbours, and numbers far outside."""
    ties = ((np.arange(-130, 131) + 0.5) * np.float32(scale)).astype(np.float32)
    around = [np.nextafter(ties, np.float32(-np.inf)), ties, np.nextafter(ties, np.float32(np.inf))]
    # beyond 2**31 steps the runtime casts out of range, which C leaves undefined
    far = np.array([0.0, -0.0, 1e-30, -1e-30, 2e9 * scale, -2e9 * scale], dtype=np.float32)
    return np.concatenate([*around, far, np.float32(scale) * np.arange(-300, 300, dtype=np.float32)])


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_quantize_is_bit_exact(dtype: str) -> None:
    for rng in cases(20, 80):
        scale = random_scale(rng, -5, 2)
        zero_point = random_zero_point(rng) + (128 if dtype == "uint8" else 0)
        x = _edges(scale, zero_point)
        output = TensorSpec(x.shape, dtype, scale, zero_point)
        model = one_op_model("QUANTIZE", [TensorSpec(x.shape, "float32")], [output], options=schema.QuantizeOptionsT())
        (runtime,) = run_model(model, [x])
        low, high = (0, 255) if dtype == "uint8" else (-128, 127)
        ours = quantize(x, scale=scale, zero_point=zero_point, low=low, high=high)
        assert_identical(ours, runtime, (scale, zero_point))


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_dequantize_is_bit_exact(dtype: str) -> None:
    for rng in cases(21, 40):
        scale, zero_point = (
            random_scale(rng, -5, 2),
            random_zero_point(rng) + (128 if dtype == "uint8" else 0),
        )
        codes = ALL_CODES if dtype == "int8" else np.arange(256).astype(np.uint8)
        model = one_op_model(
            "DEQUANTIZE",
            [TensorSpec((256,), dtype, scale, zero_point)],
            [TensorSpec((256,), "float32")],
            options=schema.DequantizeOptionsT(),
            version=2,
        )
        (runtime,) = run_model(model, [codes])
        np.testing.assert_array_equal(dequantize(codes, scale=scale, zero_point=zero_point), runtime)


@pytest.mark.parametrize(("source", "target"), [("int8", "int8"), ("uint8", "int8"), ("int8", "uint8")])
def test_requantize_is_bit_exact(source: str, target: str) -> None:
    for rng in cases(22, 120):
        sx, sy = random_scale(rng), random_scale(rng)
        if rng.random() < 0.3:
            sy = sx  # uint8 <-> int8 with equal scales has a kernel path of its own
        zx = random_zero_point(rng) + (128 if source == "uint8" else 0)
        zy = random_zero_point(rng) + (128 if target == "uint8" else 0)
        codes = ALL_CODES if source == "int8" else np.arange(256).astype(np.uint8)
        inputs, outputs = [TensorSpec((256,), source, sx, zx)], [TensorSpec((256,), target, sy, zy)]
        (runtime,) = run_model(one_op_model("QUANTIZE", inputs, outputs, options=schema.QuantizeOptionsT()), [codes])
        params = derive_requantize(Grid(sx, zx), Grid(sy, zy), target_is_unsigned=target == "uint8")
        assert_identical(requantize(codes, params), runtime, (sx, zx, sy, zy))
        if source == target == "int8":
            assert_identical(requantize_table(params), runtime, (sx, zx, sy, zy))


def test_activation_range_is_the_runtimes() -> None:
    """An accumulator sweep through a dense layer shows the clamp itself."""
    for rng in cases(23, 60):
        scale, zero_point = random_scale(rng, -3, 1), random_zero_point(rng)
        activation, low, high = random_activation(rng, scale=scale, zero_point=zero_point)
        options = schema.FullyConnectedOptionsT()
        options.fusedActivationFunction = activation
        bias = np.arange(-300, 300, dtype=np.int32)
        weights = np.zeros((600, 1), dtype=np.int8)
        inputs = [TensorSpec((1, 1), scale=1.0), constant(weights, scale), constant(bias, scale)]
        output = TensorSpec((1, 600), scale=scale, zero_point=zero_point)
        x = np.zeros((1, 1), dtype=np.int8)
        (runtime,) = run_model(one_op_model("FULLY_CONNECTED", inputs, [output], options=options), [x])
        params = RealParams(0, zero_point, effective_scale_conv(1.0, scale, scale), low, high)
        assert_identical(fully_connected(x, weights, bias, params), runtime, (scale, zero_point, activation))
        assert (runtime.min(), runtime.max()) == (low, high)


def test_activation_range_divides_in_float32() -> None:
    scale = float(np.float32(6.0 / 122.5))  # 6 / scale is a tie or not, depending on the precision of the division
    expected = int(np.floor(np.float32(6.0) / np.float32(scale) + 0.5))
    assert activation_range(0.0, 6.0, scale=scale, zero_point=-10) == (-10, expected - 10)


def test_activation_range_refuses_steps_beyond_int32() -> None:
    with pytest.raises(ValueError, match="check the output scale"):
        activation_range(0.0, 6.0, scale=2.0**-40, zero_point=0)


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf"), 1e-60, 0.1])
def test_scales_that_are_no_positive_float32_are_refused(scale: float) -> None:
    with pytest.raises(ValueError, match=r"found .*, expected"):
        float32_scale(scale)


def test_a_zero_point_beyond_8_bits_is_refused() -> None:
    with pytest.raises(ValueError, match="found 256, expected an 8-bit code"):
        Grid(1.0, 256)


def test_nan_is_refused() -> None:
    with pytest.raises(ValueError, match="found NaN"):
        quantize(np.array([np.nan], dtype=np.float32), scale=1.0, zero_point=0)


@given(st.integers(-128, 127), st.floats(2.0**-20, 2.0**20, width=32), st.integers(-128, 127))
def test_quantize_inverts_dequantize(code: int, scale: float, zero_point: int) -> None:
    real = dequantize(np.array([code], dtype=np.int8), scale=scale, zero_point=zero_point)
    assert quantize(real, scale=scale, zero_point=zero_point).item() == code
