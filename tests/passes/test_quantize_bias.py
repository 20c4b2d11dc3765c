"""Bias codes: nearest on scale_x * scale_w, the source's own where it has them, rescued where they overflow."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kwsq.ir.graph import Tensor
from kwsq.ir.quant import INT32, Affine, PerAxis
from kwsq.passes.quantize_bias import BIAS_LIMIT, NEAR_CODE, integer_bias, scale_from_bias

S_X = np.float32(0.05)
S_W = np.array([0.01, 0.02], np.float32)
CODES = np.array([[1, -2], [3, 4]], np.int8)


def real(values: npt.ArrayLike) -> Tensor:
    data = np.asarray(values, np.float32)
    return Tensor("b", data.shape, data)


def coded(values: npt.ArrayLike, scale: npt.ArrayLike, zero_point: int = 0) -> Tensor:
    data = np.asarray(values, np.int32)
    vector = np.atleast_1d(np.asarray(scale, np.float32))
    return Tensor("b", data.shape, data, Affine(vector, np.full(vector.size, zero_point), INT32, PerAxis(0)))


@given(st.lists(st.floats(-1000, 1000, width=32), min_size=2, max_size=2))
def test_nearest_code(values: list[float]) -> None:
    layer = integer_bias(CODES, S_W, S_X, real(values), 2)
    steps = np.array(values, np.float32) / (S_X.astype(np.float64) * S_W)
    assert np.abs(layer.bias - steps).max() <= 0.5
    np.testing.assert_array_equal(layer.bias_scale, (S_X * S_W).astype(np.float32))
    on_codes = np.rint(steps).any() and (np.abs(steps - np.rint(steps)) <= NEAR_CODE).all()
    assert (layer.real_bias is None) == on_codes
    assert not layer.zeroed


@pytest.mark.parametrize(("off", "is_given"), [(0.0, True), (0.01, True), (0.1, False)])
def test_values_that_training_put_on_codes_are_codes_of_the_source(off: float, is_given: bool) -> None:
    steps = np.array([7.0, -300.0 + off])
    layer = integer_bias(CODES, S_W, S_X, real(steps * (S_X.astype(np.float64) * S_W)), 2)
    np.testing.assert_array_equal(layer.bias, [7, -300])
    assert (layer.real_bias is None) == is_given


def test_zeros_are_no_sign_of_training() -> None:
    assert integer_bias(CODES, S_W, S_X, real([0.0, 0.0]), 2).real_bias is not None


def test_no_bias_is_zero() -> None:
    layer = integer_bias(CODES, S_W, S_X, None, 2)
    np.testing.assert_array_equal(layer.bias, [0, 0])
    assert layer.real_bias is not None


def test_codes_of_the_source_are_kept() -> None:
    codes = [2**25 + 1, -(2**30) - 7]  # neither survives float32
    layer = integer_bias(CODES, S_W, S_X, coded(codes, S_X * S_W), 2)
    np.testing.assert_array_equal(layer.bias, codes)
    assert layer.real_bias is None


def test_codes_on_one_scale_are_kept() -> None:
    one = np.array([0.01], np.float32)
    layer = integer_bias(CODES, one, S_X, coded([5, -6], S_X * one), 2)
    np.testing.assert_array_equal(layer.bias, [5, -6])
    assert layer.real_bias is None


def test_codes_on_another_grid_are_rounded_anew() -> None:
    for tensor in (coded([100, -200], [0.0009, 0.001]), coded([110, -190], [0.0009, 0.001], zero_point=10)):
        layer = integer_bias(CODES, S_W, S_X, tensor, 2)
        np.testing.assert_array_equal(layer.bias, [180, -200])
    layer = integer_bias(CODES, S_W, S_X, coded([100, -200], [0.0009, 0.0007]), 2)
    np.testing.assert_array_equal(layer.bias, [180, -140])
    assert integer_bias(CODES, S_W, S_X, coded([101, -200], [0.0009, 0.001]), 2).real_bias is not None


def test_codes_around_a_zero_point_are_centred() -> None:
    layer = integer_bias(CODES, S_W, S_X, coded([110, -190], S_X * S_W, zero_point=10), 2)
    np.testing.assert_array_equal(layer.bias, [100, -200])


def test_overflow_zeroes_the_channel_and_takes_the_scale_from_the_bias() -> None:
    tiny = np.array([1e-12, 0.02], np.float32)
    layer = integer_bias(CODES, tiny, S_X, real([0.3, 0.3]), 2)
    assert layer.zeroed == (0,)
    np.testing.assert_array_equal(layer.codes, [[0, 0], [3, 4]])
    assert layer.scale[1] == tiny[1]
    assert abs(int(layer.bias[0])) <= BIAS_LIMIT
    # The first on 2**29 codes with two roundings to float32, the second on 300 codes.
    error = np.abs(layer.bias * layer.bias_scale.astype(np.float64) / 0.3 - 1)
    assert error[0] <= 2.0**-22
    assert error[1] <= 0.5 / 300 + 2.0**-22


def test_scale_product_below_float32_is_rescued_also_without_a_bias() -> None:
    tiny = np.array([1e-37, 0.02], np.float32)
    layer = integer_bias(CODES, tiny, np.float32(1e-9), real([0.0, 0.0]), 2)
    assert layer.zeroed == (0,)
    assert (layer.bias_scale > 0).all()
    np.testing.assert_array_equal(layer.bias, [0, 0])


@given(st.floats(2.0**-60, 2.0**60), st.floats(2.0**-10, 2.0**10))
def test_scale_from_bias_keeps_the_bias(bias: float, input_scale: float) -> None:
    scale = scale_from_bias(np.array([bias]))[0]
    codes = bias / (input_scale * float(scale))
    assert 2**9 <= codes <= BIAS_LIMIT * (1 + 2.0**-20)
    assert scale_from_bias(np.array([0.0]))[0] == 1
