"""Codes of real values, against the same definition in float64, which holds every sum here exactly."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kwsq.ir.quant import INT8, Affine, IntRange, dequantize, fake_quantize, quantize

RANGES = (
    IntRange(-7, 7),
    IntRange(-128, 127),
    IntRange(0, 255),
    IntRange(-(2**15), 2**15 - 1),
    IntRange(-(2**31), 2**31 - 1),
)


@given(
    st.floats(width=32, allow_nan=False),
    st.floats(2.0**-20, 2.0**10, width=32),
    st.sampled_from(RANGES[:4]),
    st.integers(-(2**15), 2**16 - 1),
)
@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")  # a quotient beyond float32 is infinite
def test_codes_are_those_of_exact_sums(real: float, scale: float, codes: IntRange, zero_point: int) -> None:
    zero_point = min(max(zero_point, codes.low), codes.high)
    quotient = np.float64(np.float32(real) / np.float32(scale))
    expected = np.clip(np.rint(quotient) + zero_point, codes.low, codes.high)
    assert quantize(np.array([real], np.float32), Affine.per_tensor(scale, zero_point, codes)).tolist() == [expected]


@pytest.mark.parametrize("whole", [2.0**24 + 2, -(2.0**30), 2.0**31 - 128])
def test_wide_codes_keep_offsets_that_float32_would_lose(whole: float) -> None:
    spec = Affine.per_tensor(1.0, 1, RANGES[4])
    assert quantize(np.array([whole], np.float32), spec).tolist() == [int(whole) + 1]


def test_fake_quantize_is_the_round_trip() -> None:
    spec = Affine.per_tensor(0.05, 3, INT8)
    real = np.random.default_rng(0).normal(0, 4, 1000).astype(np.float32)
    np.testing.assert_array_equal(fake_quantize(real, spec), dequantize(quantize(real, spec), spec))


@pytest.mark.parametrize("zero_point", [2**31, -(2**31) - 1, 3 * 10**9, 0.5])
def test_zero_points_that_int32_does_not_hold_are_refused(zero_point: float) -> None:
    with pytest.raises(ValueError, match="int32"):
        Affine(np.array([0.1], np.float32), np.array([zero_point]), INT8)
