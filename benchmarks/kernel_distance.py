"""Measure how far LiteRT's other int8 kernels are from its reference kernels, operator by operator.

Prints the table of docs/quantization.md. Every case is one operator with realistic scales (outputs spread over
the int8 range), run by BUILTIN_REF, by the built-in kernels without delegates, and by XNNPACK.

    python benchmarks/kernel_distance.py [--cases 200]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

# The one-operator builder belongs to the tests; a second copy here would drift from it.
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from numerics_cases import cases, float32, grid_spec
from one_op import KernelSet, TensorSpec, constant, one_op_model, run_model

from kwsq.ir.numerics import LOGISTIC_OUTPUT, TANH_OUTPUT, Grid

Case = tuple[bytes, list[NDArray[np.int8]]]
Maker = Callable[[np.random.Generator], Case]
CODES = np.arange(-128, 128).astype(np.int8)


def _grid(rng: np.random.Generator, low: float = -2.5, high: float = -0.5) -> Grid:
    return Grid(float32(10.0 ** rng.uniform(low, high)), int(rng.integers(-128, 128)))


def _codes(rng: np.random.Generator, *shape: int, low: int = -128) -> NDArray[np.int8]:
    return rng.integers(low, 128, shape).astype(np.int8)


def _spread(scale: float, weight_scale: float, depth: int) -> float:
    """Choose the output scale that puts three deviations of a sum of ``depth`` products at 127 codes."""
    return float32(scale * weight_scale * depth**0.5 * 74.0 * 74.0 * 3.0 / 127.0)


def _linear(operator: str, *, per_channel: bool) -> Maker:
    def make(rng: np.random.Generator) -> Case:
        source, c_out = _grid(rng), 24
        scales = [float32(10.0 ** rng.uniform(-3, -2)) for _ in range(c_out if per_channel else 1)]
        if operator == "FULLY_CONNECTED":
            x, weights, axis, options = _codes(rng, 32, 200), _codes(rng, c_out, 200, low=-127), 0, None
            shape, depth, options = (32, c_out), 200, schema.FullyConnectedOptionsT()
        elif operator == "CONV_2D":
            x, weights, axis = _codes(rng, 1, 10, 8, 16), _codes(rng, c_out, 3, 3, 16, low=-127), 0
            shape, depth, options = (1, 10, 8, c_out), 144, schema.Conv2DOptionsT()
        else:
            x, weights, axis = _codes(rng, 1, 10, 8, c_out), _codes(rng, 1, 3, 3, c_out, low=-127), 3
            shape, depth, options = (1, 10, 8, c_out), 9, schema.DepthwiseConv2DOptionsT()
            options.depthMultiplier = 1
        if operator != "FULLY_CONNECTED":
            options.strideH = options.strideW = options.dilationHFactor = options.dilationWFactor = 1
        bias = rng.integers(-(2**12), 2**12, c_out).astype(np.int32)
        target = Grid(_spread(source.scale, float(np.mean(scales)), depth), int(rng.integers(-128, 128)))
        bias_spec = constant(bias, [float32(source.scale * s) for s in scales])
        inputs = [grid_spec(x.shape, source), constant(weights, scales, axis), bias_spec]
        return one_op_model(operator, inputs, [grid_spec(shape, target)], options=options, version=5), [x]

    return make


def _batch_matmul(rng: np.random.Generator) -> Case:
    a, b = _grid(rng), _grid(rng)
    x, y = _codes(rng, 2, 16, 64), _codes(rng, 2, 64, 16)
    target = Grid(_spread(a.scale, b.scale, 64), 0)
    inputs = [grid_spec(x.shape, a), grid_spec(y.shape, b)]
    options = schema.BatchMatMulOptionsT()
    model = one_op_model("BATCH_MATMUL", inputs, [grid_spec((2, 16, 16), target)], options=options, version=2)
    return model, [x, y]


def _binary(operator: str, options_type: Any, factor: Callable[[Grid, Grid], float]) -> Maker:
    def make(rng: np.random.Generator) -> Case:
        a, b = _grid(rng), _grid(rng)
        target = Grid(float32(factor(a, b)), int(rng.integers(-128, 128)))
        x, y = _codes(rng, 4, 10, 10, 16), _codes(rng, 4, 10, 10, 16)
        inputs = [grid_spec(x.shape, a), grid_spec(y.shape, b)]
        model = one_op_model(operator, inputs, [grid_spec(x.shape, target)], options=options_type(), version=2)
        return model, [x, y]

    return make


def _unary(operator: str, options: Any = None, target: Grid | None = None, source_low: float = -2.5) -> Maker:
    def make(rng: np.random.Generator) -> Case:
        source = _grid(rng, source_low, source_low + 1.5)
        output = target or Grid(source.scale, int(rng.integers(-128, 128)))
        return one_op_model(operator, [grid_spec((256,), source)], [grid_spec((256,), output)], options=options), [
            CODES
        ]

    return make


def _quantize(rng: np.random.Generator) -> Case:
    grid = _grid(rng)
    x = rng.normal(0.0, 60.0 * grid.scale, 2000).astype(np.float32)
    inputs = [TensorSpec(x.shape, "float32")]
    return one_op_model("QUANTIZE", inputs, [grid_spec(x.shape, grid)], options=schema.QuantizeOptionsT()), [x]


def _requantize(rng: np.random.Generator) -> Case:
    source = _grid(rng)
    target = Grid(float32(source.scale * 2.0 ** rng.uniform(-1, 2)), int(rng.integers(-128, 128)))
    inputs, outputs = [grid_spec((256,), source)], [grid_spec((256,), target)]
    return one_op_model("QUANTIZE", inputs, outputs, options=schema.QuantizeOptionsT()), [CODES]


def _softmax(rng: np.random.Generator) -> Case:
    options = schema.SoftmaxOptionsT()
    options.beta = 1.0
    x = _codes(rng, 100, 12)
    inputs, outputs = [grid_spec(x.shape, _grid(rng, -2, 0))], [grid_spec(x.shape, LOGISTIC_OUTPUT)]
    return one_op_model("SOFTMAX", inputs, outputs, options=options, version=2), [x]


def _pool(operator: str) -> Maker:
    def make(rng: np.random.Generator) -> Case:
        grid, x = _grid(rng), _codes(rng, 1, 24, 10, 16)
        options = schema.Pool2DOptionsT()
        options.padding = schema.Padding.SAME
        options.strideH, options.strideW = 2, 2
        options.filterHeight, options.filterWidth = (int(v) for v in rng.integers(2, 5, 2))
        inputs, outputs = [grid_spec(x.shape, grid)], [grid_spec((1, 12, 5, 16), grid)]
        return one_op_model(operator, inputs, outputs, options=options, version=2), [x]

    return make


def _mean(rng: np.random.Generator) -> Case:
    source = _grid(rng)
    target = Grid(float32(source.scale * rng.uniform(0.1, 0.4)), int(rng.integers(-60, 60)))
    x = np.clip(_codes(rng, 4, 25, 5, 32) // 3 + source.zero_point, -128, 127).astype(np.int8)
    options = schema.ReducerOptionsT()
    options.keepDims = bool(rng.random() < 0.5)
    shape = x.mean(axis=(1, 2), keepdims=options.keepDims).shape
    inputs = [grid_spec(x.shape, source), constant(np.array([1, 2], dtype=np.int32))]
    return one_op_model("MEAN", inputs, [grid_spec(shape, target)], options=options, version=2), [x]


def _leaky_options() -> Any:
    options = schema.LeakyReluOptionsT()
    options.alpha = 0.1
    return options


OPERATORS: dict[str, Maker] = {
    "FULLY_CONNECTED, per tensor": _linear("FULLY_CONNECTED", per_channel=False),
    "FULLY_CONNECTED, per channel": _linear("FULLY_CONNECTED", per_channel=True),
    "CONV_2D, per tensor": _linear("CONV_2D", per_channel=False),
    "CONV_2D, per channel": _linear("CONV_2D", per_channel=True),
    "DEPTHWISE_CONV_2D, per tensor": _linear("DEPTHWISE_CONV_2D", per_channel=False),
    "DEPTHWISE_CONV_2D, per channel": _linear("DEPTHWISE_CONV_2D", per_channel=True),
    "BATCH_MATMUL": _batch_matmul,
    "QUANTIZE float32": _quantize,
    "QUANTIZE int8": _requantize,
    "ADD": _binary("ADD", schema.AddOptionsT, lambda a, b: a.scale + b.scale),
    "SUB": _binary("SUB", schema.SubOptionsT, lambda a, b: a.scale + b.scale),
    "MUL": _binary("MUL", schema.MulOptionsT, lambda a, b: a.scale * b.scale * 100.0),
    "SQUARED_DIFFERENCE": _binary(
        "SQUARED_DIFFERENCE",
        schema.SquaredDifferenceOptionsT,
        lambda a, b: max(a.scale, b.scale) ** 2 * 200.0,
    ),
    "AVERAGE_POOL_2D": _pool("AVERAGE_POOL_2D"),
    "MAX_POOL_2D": _pool("MAX_POOL_2D"),
    "MEAN": _mean,
    "RELU": _unary("RELU"),
    "RELU6": _unary("RELU6"),
    "LEAKY_RELU": _unary("LEAKY_RELU", _leaky_options()),
    "HARD_SWISH": _unary("HARD_SWISH", schema.HardSwishOptionsT()),
    "LOGISTIC": _unary("LOGISTIC", None, LOGISTIC_OUTPUT, -2.0),
    "TANH": _unary("TANH", None, TANH_OUTPUT, -2.0),
    "SOFTMAX": _softmax,
}


def distance(make: Maker, count: int, kernels: KernelSet) -> tuple[int, float]:
    """Return the largest distance to BUILTIN_REF in LSB and the share of codes that differ.

    Args:
        make: draws a case.
        count: number of cases.
        kernels: the other kernel set.
    """
    largest, differing, total = 0, 0, 0
    for rng in cases(7, count):
        model, inputs = make(rng)
        (reference,), (other,) = run_model(model, inputs), run_model(model, inputs, kernels=kernels)
        steps = np.abs(reference.astype(np.int32) - other)
        largest, total = max(largest, int(steps.max())), total + steps.size
        differing += int(np.count_nonzero(steps))
    return largest, differing / total


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=200, help="cases per operator")
    count = parser.parse_args().cases
    print("| operator | built-in: max LSB | codes that differ | XNNPACK: max LSB | codes that differ |")
    print("|---|--:|--:|--:|--:|")
    for name, make in OPERATORS.items():
        row = [distance(make, count, kernels) for kernels in (KernelSet.BUILTIN, KernelSet.XNNPACK)]
        print(f"| {name} | " + " | ".join(f"{largest} | {share:.2%}" for largest, share in row) + " |")


if __name__ == "__main__":
    main()
