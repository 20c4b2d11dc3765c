"""XNNPACK's single rounding, compared with LiteRT's default kernels on random layers."""

from collections.abc import Callable

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from numerics_cases import cases, float32, grid_spec
from numpy.typing import NDArray
from one_op import KernelSet, constant, one_op_model, run_model

from kwsq.ir import numerics
from kwsq.ir.numerics import Grid, Window, derive_fixed_point, derive_single, effective_scale_conv
from kwsq.ir.numerics.convolution import LayerParams

CASES = 20
Layer = Callable[[Grid, NDArray[np.float32], Grid], LayerParams]


def single(source: Grid, scales: NDArray[np.float32], target: Grid) -> LayerParams:
    return derive_single(source, scales, target)


def double(source: Grid, scales: NDArray[np.float32], target: Grid) -> LayerParams:
    scale = effective_scale_conv(source.scale, scales, target.scale)
    return derive_fixed_point(scale, input_zero_point=source.zero_point, output_zero_point=target.zero_point)


def differing(depthwise: bool, params: Layer) -> float:
    """Return the share of codes that differ from the default kernel's, 4-bit weights."""
    count, total = 0, 0
    for rng in cases(11, CASES):
        source, target = Grid(float32(0.03), int(rng.integers(-128, 0))), Grid(float32(0.02), -20)
        channels = 16
        scales = np.array([float32(v) for v in rng.uniform(0.02, 0.05, channels)], np.float32)
        x = rng.integers(-128, 128, (1, 10, 8, channels)).astype(np.int8)
        shape = (1, 3, 3, channels) if depthwise else (channels, 1, 1, channels)
        weights, bias = rng.integers(-7, 8, shape).astype(np.int8), rng.integers(-50, 50, channels).astype(np.int32)
        options = schema.DepthwiseConv2DOptionsT() if depthwise else schema.Conv2DOptionsT()
        options.strideH = options.strideW = options.dilationHFactor = options.dilationWFactor = 1
        if depthwise:
            options.depthMultiplier = 1
        specs = [
            grid_spec(x.shape, source),
            constant(weights, [float(v) for v in scales], 3 if depthwise else 0),
            constant(bias, [float32(source.scale * v) for v in scales]),
        ]
        name = "DEPTHWISE_CONV_2D" if depthwise else "CONV_2D"
        model = one_op_model(name, specs, [grid_spec(x.shape, target)], options=options, version=5)
        (found,) = run_model(model, [x], kernels=KernelSet.XNNPACK)
        pad = 1 if depthwise else 0
        window = Window((10, 8), (1, 1), (1, 1), (pad, pad))
        layer = numerics.depthwise_conv2d if depthwise else numerics.conv2d
        expected = layer(x, weights, bias, params(source, scales, target), window=window)
        count, total = count + int(np.count_nonzero(found != expected)), total + found.size
    return count / total


@pytest.mark.parametrize("depthwise", [False, True])
def test_one_rounding_is_that_of_the_default_kernels(depthwise: bool) -> None:
    assert differing(depthwise, single) == 0.0


@pytest.mark.parametrize("depthwise", [False, True])
def test_two_roundings_are_not(depthwise: bool) -> None:
    assert differing(depthwise, double) > 0.001


def test_a_change_of_grid_is_that_of_the_default_kernels() -> None:
    codes = np.arange(-128, 128).astype(np.int8)
    for rng in cases(12, CASES):
        source = Grid(float32(10.0 ** rng.uniform(-2.5, -1)), int(rng.integers(-128, 128)))
        target = Grid(float32(source.scale * 2.0 ** rng.uniform(-1, 2)), int(rng.integers(-128, 128)))
        specs = [grid_spec((256,), source)], [grid_spec((256,), target)]
        model = one_op_model("QUANTIZE", *specs, options=schema.QuantizeOptionsT())
        (found,) = run_model(model, [codes], kernels=KernelSet.XNNPACK)
        np.testing.assert_array_equal(found, numerics.requantize_coarse_table(source, target))


def test_a_mean_is_that_of_the_default_kernels_but_near_ties() -> None:
    count, total = 0, 0
    for rng in cases(13, CASES):
        source = Grid(float32(0.02), int(rng.integers(-128, 128)))
        target = Grid(float32(source.scale * rng.uniform(0.2, 0.9)), int(rng.integers(-60, 60)))
        x = np.clip(rng.integers(-40, 40, (2, 24, 4, 16)) + source.zero_point, -128, 127).astype(np.int8)
        options = schema.ReducerOptionsT()
        options.keepDims = False
        axes = constant(np.array([1, 2], dtype=np.int32))
        inputs, outputs = [grid_spec(x.shape, source), axes], [grid_spec((2, 16), target)]
        model = one_op_model("MEAN", inputs, outputs, options=options, version=2)
        (found,) = run_model(model, [x], kernels=KernelSet.XNNPACK)
        expected = numerics.mean_single(x, source, target, axis=(1, 2), keepdims=False)
        count, total = count + int(np.count_nonzero(found != expected)), total + found.size
    # Totals are integers: one in a few hundred lands within float32 error of a tie.
    assert count <= 0.01 * total
