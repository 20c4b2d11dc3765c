"""Grids of weights: codes fit their width, every scheme is at least as good as plain rounding on its own grid."""

from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray

from kwsq.ir.quant import Affine, Codebook, PerAxis, PerTensor, dequantize
from kwsq.passes.ptq.rounding import Factors, output_error, round_to_nearest
from kwsq.passes.ptq.weights import GridScheme, QuantizedRows, quantize_rows

Float64 = NDArray[np.float64]
SCHEMES: tuple[GridScheme, ...] = ("per_channel", "per_tensor", "codebook")


def layer(groups: int = 1, rows: int = 8, columns: int = 18, seed: int = 0) -> tuple[Float64, Float64]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(groups, columns, columns)) @ rng.normal(size=(groups, columns, 200))
    return rng.laplace(0, 0.3, (groups, rows, columns)), x @ x.swapaxes(1, 2) / 200


def fed(weight: Float64, hessian: Float64, scheme: GridScheme, bits: int) -> QuantizedRows:
    return quantize_rows(weight, hessian, scheme, bits, factors=Factors.of(hessian))


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("groups", [1, 4])
def test_codes_fit_their_width(scheme: GridScheme, bits: int, groups: int) -> None:
    weight, hessian = layer(groups, rows=8 // groups)
    rows = fed(weight, hessian, scheme, bits)
    spec, codes = rows.spec(), rows.grid.codes(rows.values).reshape(8, 18)
    if isinstance(spec, Affine):
        assert spec.bits == bits
        assert spec.range.narrow
        assert spec.range.contains(codes)
        assert not spec.zero_point.any()
    else:
        assert np.isin(codes, spec.levels).all()
        assert spec.levels.size <= 2**bits
    assert isinstance(spec.granularity, PerTensor if scheme == "per_tensor" and bits > 1 else PerAxis)
    # The artefact holds float32 scales and the graph float32 products of them: one rounding of 2**-24.
    np.testing.assert_allclose(dequantize(codes, spec), rows.values.reshape(8, 18), rtol=2.0**-23)


@pytest.mark.parametrize("magnitude", [1e-45, 1e-42, 1e-36, 1e-32])
@pytest.mark.parametrize("bits", [1, 2, 8])
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("row", [slice(None), 3])
def test_rows_whose_scale_would_underflow_count_as_zero(
    scheme: GridScheme, bits: int, magnitude: float, row: slice | int
) -> None:
    weight, hessian = layer()
    weight[0, row] = 0
    zero = fed(weight, hessian, scheme, bits)
    weight[0, row] = magnitude
    with np.errstate(all="raise", under="ignore"):
        rows = fed(weight, hessian, scheme, bits)
        codes = rows.grid.codes(rows.values)
    assert np.array_equal(rows.values, zero.values)
    assert np.array_equal(codes, zero.grid.codes(zero.values))
    assert (rows.grid.scale >= np.finfo(np.float32).tiny).all()


def test_one_bit_is_minus_one_and_plus_one_per_channel() -> None:
    weight, hessian = layer()
    for scheme in SCHEMES:
        rows = fed(weight, hessian, scheme, 1)
        spec = rows.spec()
        assert isinstance(spec, Codebook)
        assert spec.levels.tolist() == [-1, 1]
        assert spec.scale.size == 8
        assert rows.label == "binary"


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_feedback_is_never_worse_than_nearest(scheme: GridScheme, bits: int) -> None:
    weight, hessian = layer()
    best = fed(weight, hessian, scheme, bits)
    nearest = quantize_rows(weight, hessian, scheme, bits, factors=None)
    np.testing.assert_allclose(output_error(weight, best.values, hessian), best.error)
    same_grid = round_to_nearest(weight, best.grid)
    assert np.all(best.error <= output_error(weight, same_grid, hessian) * (1 + 1e-9))
    assert best.error.sum() < nearest.error.sum()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_more_bits_are_better(scheme: GridScheme) -> None:
    weight, hessian = layer()
    errors = [fed(weight, hessian, scheme, bits).error.sum() for bits in range(2, 7)]
    assert all(wide < narrow for narrow, wide in pairwise(errors))


def test_few_bits_clip() -> None:
    weight, hessian = layer()
    grid = fed(weight, hessian, "per_channel", 2).grid
    assert grid.scale.mean() < 0.7 * np.abs(weight[0]).max(axis=1).mean()


def test_a_channel_of_zeros_stays_zero() -> None:
    weight, hessian = layer()
    weight[0, 3] = 0
    for scheme in SCHEMES:
        rows: QuantizedRows = fed(weight, hessian, scheme, 4)
        assert np.all(np.isfinite(rows.grid.scale) & (rows.grid.scale > 0))
        # A codebook need not hold 0; what such a channel gets instead is 2**-16 of the largest weight, or less.
        assert np.abs(rows.values[0, 3]).max() <= 2.0**-16 * np.abs(weight).max()


@pytest.mark.parametrize("bits", [1, 2, 8])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_layer_of_zeros_stays_zero(scheme: GridScheme, bits: int) -> None:
    _, hessian = layer()
    rows = fed(np.zeros((1, 8, 18)), hessian, scheme, bits)
    assert np.abs(rows.values).max() <= 2.0**-15


def test_the_same_input_gives_the_same_bytes() -> None:
    weight, hessian = layer(seed=5)
    for scheme in SCHEMES:
        first, second = (fed(weight.copy(), hessian.copy(), scheme, 4) for _ in range(2))
        assert first.values.tobytes() == second.values.tobytes()
        assert first.grid.scale.tobytes() == second.grid.scale.tobytes()
