"""Grid recovery: exact codes and scales on gridded weights, silence on ordinary ones."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import numpy_helper
from onnx_models import build, load, node

from kwsq.ir.quant import Affine, Codebook, IntRange, PerAxis, PerTensor, Unquantized, dequantize
from kwsq.passes.dialects import normalize
from kwsq.passes.import_graph import import_graph
from kwsq.passes.recover_grid import RecoverGrid, recover_grid

F32 = np.float32


def codes_with_extremes(rng: np.random.Generator, shape: tuple[int, ...], low: int, high: int) -> NDArray[np.int8]:
    codes = rng.integers(low, high + 1, shape).astype(np.int8)
    flat = codes.reshape(shape[0], -1)
    flat[:, 0], flat[:, 1] = low, high
    return codes


@given(
    bits=st.integers(2, 8),
    narrow=st.booleans(),
    exponent=st.integers(-12, 4),
    mantissa=st.floats(1, 2, width=32),
    seed=st.integers(0, 2**16),
)
def test_per_tensor_grids_come_back_bit_for_bit(
    bits: int, narrow: bool, exponent: int, mantissa: float, seed: int
) -> None:
    span = IntRange.of(bits, narrow=narrow)
    codes = codes_with_extremes(np.random.default_rng(seed), (12, 16), span.low, span.high)
    scale = F32(mantissa * 2.0**exponent)
    found = recover_grid(codes * scale)
    assert found is not None
    assert isinstance(found.spec, Affine)
    assert found.spec.granularity == PerTensor()
    assert found.spec.range == span
    assert not found.spec.declared
    assert np.array_equal(found.codes, codes)
    assert np.array_equal(dequantize(found.codes, found.spec), codes * scale)


@given(bits=st.integers(2, 8), channels=st.integers(2, 20), seed=st.integers(0, 2**16))
def test_per_channel_grids(bits: int, channels: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    span = IntRange.of(bits, narrow=True)
    codes = codes_with_extremes(rng, (channels, 3, 8), span.low, span.high)
    scale = rng.uniform(0.01, 1, channels).astype(F32)
    weight = codes * scale.reshape(-1, 1, 1)
    found = recover_grid(weight)
    assert found is not None
    assert found.spec.granularity == PerAxis(0)
    assert found.spec.bits == bits
    assert np.array_equal(found.codes, codes)
    assert np.array_equal(dequantize(found.codes, found.spec), weight)


def test_the_axis_may_be_another_one() -> None:
    rng = np.random.default_rng(0)
    codes = codes_with_extremes(rng, (6, 40), -7, 7).T
    weight = codes * rng.uniform(0.01, 1, 6).astype(F32)
    assert recover_grid(weight, axes=(0,)) is None
    found = recover_grid(weight, axes=(0, 1))
    assert found is not None
    assert found.spec.granularity == PerAxis(1)
    assert np.array_equal(found.codes, codes)


@given(seed=st.integers(0, 2**16), gain=st.floats(0.25, 4, width=32))
def test_folded_batch_norms_leave_a_grid_per_channel_only(seed: int, gain: float) -> None:
    """w = code * scale * gamma / sqrt(variance + epsilon), each step rounded to float32."""
    rng = np.random.default_rng(seed)
    codes = codes_with_extremes(rng, (16, 1, 3, 3), -127, 127)
    gamma = rng.uniform(0.5, 2, (16, 1, 1, 1)).astype(F32) * F32(gain)
    variance = rng.uniform(0.5, 2, (16, 1, 1, 1)).astype(F32)
    weight = (codes * F32(0.0173)).astype(F32) * (gamma / np.sqrt(variance + F32(1e-3)))
    found = recover_grid(weight.astype(F32))
    assert found is not None
    assert found.spec.granularity == PerAxis(0)
    assert np.array_equal(found.codes, codes)
    # Codes up to 127 at a scale that is off by the roundings of four float32 operations.
    assert np.max(np.abs(dequantize(found.codes, found.spec) - weight) / np.abs(weight).max()) <= 5 * 2.0**-24


@given(
    shape=st.sampled_from([(3,), (4, 4), (64, 1, 3, 3), (12, 64), (128, 3), (256, 1), (2, 2), (1, 16)]),
    seed=st.integers(0, 2**20),
    heavy=st.booleans(),
)
def test_ordinary_weights_are_left_alone(shape: tuple[int, ...], seed: int, heavy: bool) -> None:
    rng = np.random.default_rng(seed)
    weight = rng.standard_t(2, shape) if heavy else rng.normal(0, 0.1, shape)
    assert recover_grid(weight.astype(F32), axes=tuple(range(len(shape)))) is None


@given(seed=st.integers(0, 2**16), k=st.integers(2, 127))
def test_one_weight_off_the_grid_is_enough_to_refuse(seed: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    codes = codes_with_extremes(rng, (1, 256), -k, k)
    weight = codes * F32(0.01)
    weight[0, rng.integers(2, 256)] += F32(0.01 * (np.sqrt(2) - 1))
    assert recover_grid(weight) is None


def test_float16_weights_are_no_grid() -> None:
    weight = np.random.default_rng(0).normal(0, 0.1, (64, 64)).astype(np.float16).astype(F32)
    assert recover_grid(weight) is None


def test_a_channel_of_zeros_takes_the_finest_scale() -> None:
    rng = np.random.default_rng(1)
    codes = codes_with_extremes(rng, (5, 20), -7, 7)
    codes[2] = 0
    scale = np.sqrt(np.array([2, 3, 5, 7, 11], F32))
    found = recover_grid(codes * scale.reshape(-1, 1))
    assert found is not None
    assert found.spec.scale.tolist() == scale[[0, 1, 0, 3, 4]].tolist()
    assert not found.codes[2].any()


def test_two_values_are_a_one_bit_codebook() -> None:
    signs = np.where(np.random.default_rng(2).normal(size=(8, 8)) > 0, 1, -1)
    for scale in (F32(0.3), np.sqrt(np.array([2, 3, 5, 7, 11, 13, 17, 19], F32)).reshape(-1, 1)):
        found = recover_grid((signs * scale).astype(F32))
        assert found is not None
        assert isinstance(found.spec, Codebook)
        assert found.spec.bits == 1
        assert np.array_equal(found.codes, signs)


def test_few_levels_of_a_wide_grid_are_a_codebook() -> None:
    levels = np.array([-127, -60, -31, -11, 0, 9, 40, 101], np.int8)
    codes = np.random.default_rng(3).choice(levels, (32, 32))
    found = recover_grid(codes * F32(0.01))
    assert found is not None
    assert isinstance(found.spec, Codebook)
    assert found.spec.bits == 3
    assert np.array_equal(found.spec.levels, levels)
    assert np.array_equal(found.codes, codes)


@pytest.mark.parametrize("weight", [np.zeros((4, 4)), np.ones(1), np.full((2, 2), 1e-38), np.zeros(0)])
def test_degenerate_weights(weight: NDArray[np.floating]) -> None:
    assert recover_grid(weight.astype(F32)) is None


def test_plus_128_is_not_an_int8_code() -> None:
    codes = np.arange(-20, 129, dtype=np.int16).reshape(1, -1)
    assert recover_grid((codes * F32(0.01)).astype(F32)) is None


def test_it_is_fast_on_a_third_of_a_million_weights() -> None:
    rng = np.random.default_rng(4)
    gridded = [codes_with_extremes(rng, (256, 1310), -7, 7) * F32(0.01)]
    ordinary = [rng.normal(0, 0.1, (256, 1310)).astype(F32)]
    for weights, bound in ((gridded, 0.25), (ordinary, 0.05)):
        start = time.process_time()
        for weight in weights:
            recover_grid(weight)
        assert time.process_time() - start < bound


def test_the_pass_gives_weights_their_codes_and_says_so() -> None:
    rng = np.random.default_rng(5)
    codes = codes_with_extremes(rng, (6, 5), -7, 7)
    constants = {"w": codes * F32(0.01), "v": rng.normal(0, 1, (5, 4)).astype(F32)}
    nodes = [node("MatMul", ["x", "w"], ["h"]), node("MatMul", ["h", "v"], ["y"])]
    source = load(build(nodes, inputs={"x": [1, 6]}, constants=constants))
    graph = import_graph(normalize(source).graph, 17)
    result = RecoverGrid().run(graph)
    assert result.changed
    assert "grids_recovered" in result.graph.facts
    specs = [tensor.quant for tensor in result.graph.constants()]
    assert [type(spec) for spec in specs] == [Affine, Unquantized]
    (note,) = result.notes
    assert "4-bit" in note.text
    recovered = next(iter(result.graph.constants()))
    assert np.array_equal(recovered.real(), constants["w"].T)
    assert recovered.source_scale is not None


@pytest.mark.shared
def test_the_frozen_tensorflow_fixture(shared_dir: Path) -> None:
    model = onnx.load(shared_dir / "fixtures/dialects/tf_fakequant_mlp_w4_op17.onnx")
    found = {}
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.ndim == 2 and values.dtype == F32:
            found[values.shape] = recover_grid(values, axes=(1,))
    assert found.pop((256, 12)) is None
    assert len(found) == 3
    for grid in found.values():
        assert grid is not None
        assert grid.spec.bits == 4
        assert grid.spec.granularity == PerTensor()


@pytest.mark.shared
@pytest.mark.parametrize("name", ["arm_ml_kws_for_mcu/DS_CNN_L", "mlcommons_tiny/kws_ref_model_truefloat"])
def test_float_networks_have_no_grid(shared_dir: Path, name: str) -> None:
    for tensor in onnx.load(shared_dir / f"models/{name}.onnx").graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype == F32:
            assert recover_grid(values, axes=tuple(range(values.ndim))) is None
