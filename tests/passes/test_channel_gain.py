"""Gains go into scales; codes change only by sign, or to zero where the gain vanishes."""

from typing import Any

import numpy as np
import pytest
from builders import Model
from hypothesis import given
from hypothesis import strategies as st

from kwsq.ir.graph import Tensor
from kwsq.ir.quant import Affine, Codebook, IntRange, PerAxis
from kwsq.passes.channel_gain import GainRefusedError, apply_gain


def affine(codes: Any, *, zero_point: Any = 0, low: int = -8, high: int = 7) -> Tensor:
    data = np.asarray(codes, np.int8)
    scale = np.linspace(0.1, 0.2, len(data), dtype=np.float32)
    zero = np.broadcast_to(np.asarray(zero_point), len(data))
    return Tensor("w", data.shape, data, Affine(scale, zero, IntRange(low, high), PerAxis(0)))


def codebook(codes: Any, levels: tuple[int, ...], bits: int = 2) -> Tensor:
    data = np.asarray(codes, np.int8)
    return Tensor("w", data.shape, data, Codebook(np.array(levels), np.array([0.25]), bits))


@given(st.lists(st.floats(-4, 4).filter(lambda g: abs(g) > 1e-3), min_size=3, max_size=3))
def test_real_weights_are_multiplied(gains: list[float]) -> None:
    weight = affine([[1, -7, 3], [0, 7, -2], [5, 5, -5]])
    result = apply_gain(weight, np.array(gains)).tensor
    expected = weight.real().astype(np.float64) * np.array(gains)[:, None]
    # Two roundings of 2**-24: the new scale, and the product of code and scale.
    np.testing.assert_allclose(result.real(), expected, rtol=2.0**-22)
    assert result.data is not None
    assert weight.data is not None
    np.testing.assert_array_equal(np.abs(result.data), np.abs(weight.data))


def test_float_weights_are_multiplied() -> None:
    weight = Tensor("w", (2, 2), np.array([[1, 2], [3, 4]], np.float32))
    np.testing.assert_array_equal(apply_gain(weight, np.array([2.0, -1.0])).tensor.real(), [[2, 4], [-3, -4]])


def test_one_scale_becomes_one_per_channel() -> None:
    model = Model()
    weight = model.builder.tensors[model.weight((4, 3), per_channel=False)]
    quant = apply_gain(weight, np.array([1.0, 2.0, 3.0, 4.0])).tensor.quant
    assert isinstance(quant, Affine)
    assert isinstance(weight.quant, Affine)
    np.testing.assert_array_equal(quant.scale, weight.quant.scale * np.array([1, 2, 3, 4], np.float32))
    assert quant.granularity == PerAxis(0)


def test_lowest_code_refuses_a_negative_gain_only_in_its_own_channel() -> None:
    weight = affine([[-8, 7], [3, -7]])
    with pytest.raises(GainRefusedError, match="code -8, whose negative is outside the range"):
        apply_gain(weight, np.array([-1.0, 1.0]))
    result = apply_gain(weight, np.array([1.0, -1.0]))
    assert result.negated == (1,)
    np.testing.assert_array_equal(result.tensor.data, [[-8, 7], [-3, 7]])


def test_lowest_int8_code_does_not_wrap() -> None:
    with pytest.raises(GainRefusedError, match="code -128"):
        apply_gain(affine([[-128, 1]], low=-128, high=127), np.array([-1.0]))


def test_asymmetric_codes_refuse_a_negative_gain() -> None:
    with pytest.raises(GainRefusedError, match="zero point not 0"):
        apply_gain(affine([[1, 2]], zero_point=1), np.array([-1.0]))


def test_bipolar_codebook_takes_a_negative_gain_and_a_lopsided_one_refuses() -> None:
    result = apply_gain(codebook([[-1, 1, 1]], (-1, 1), bits=1), np.array([-2.0]))
    np.testing.assert_array_equal(result.tensor.data, [[1, -1, -1]])
    np.testing.assert_array_equal(result.tensor.real(), [[0.5, -0.5, -0.5]])
    with pytest.raises(GainRefusedError, match="not symmetric"):
        apply_gain(codebook([[-1, 2]], (-1, 2)), np.array([-2.0]))


def test_scales_of_inputs_refuse() -> None:
    weight = Tensor("w", (2, 2), np.ones((2, 2), np.int8), Affine(np.ones(2), np.zeros(2), IntRange(-8, 7), PerAxis(1)))
    with pytest.raises(GainRefusedError, match="along axis 1"):
        apply_gain(weight, np.ones(2))


def test_vanishing_gain_leaves_the_code_of_real_zero_in_each_channel() -> None:
    result = apply_gain(affine([[5, 2], [6, 3], [1, 1]], zero_point=[2, 3, 4]), np.array([0.0, 1e-44, 1.0]))
    assert result.zeroed == (0, 1)
    np.testing.assert_array_equal(result.tensor.data, [[2, 2], [3, 3], [1, 1]])
    np.testing.assert_array_equal(result.tensor.real()[:2], 0)
    with pytest.raises(GainRefusedError, match="without a zero level"):
        apply_gain(codebook([[-1, 1]], (-1, 1), bits=1), np.array([0.0]))
    np.testing.assert_array_equal(apply_gain(codebook([[-1, 1]], (-1, 0, 1)), np.array([0.0])).tensor.data, 0)
