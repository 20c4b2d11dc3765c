from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from numerics_cases import (
    assert_identical,
    cases,
    float32,
    grid_spec,
    random_codes,
    random_grid,
    random_zero_point,
)
from one_op import one_op_model, run_model

from kwsq.ir.numerics import (
    Grid,
    abs_table,
    derive_prelu,
    hard_swish_table,
    leaky_relu_table,
    negate,
    prelu,
    relu_table,
)

CODES = np.arange(-128, 128).astype(np.int8)


def runtime_table(operator: str, source: Grid, target: Grid, options: Any = None) -> np.ndarray:
    model = one_op_model(operator, [grid_spec((256,), source)], [grid_spec((256,), target)], options=options)
    (runtime,) = run_model(model, [CODES])
    return runtime


@pytest.mark.parametrize(
    ("operator", "low", "high"),
    [("RELU", 0.0, None), ("RELU6", 0.0, 6.0), ("RELU_N1_TO_1", -1.0, 1.0), ("RELU_0_TO_1", 0.0, 1.0)],
)
def test_relu_is_bit_exact(operator: str, low: float, high: float | None) -> None:
    for rng in cases(40, 80):
        source, target = random_grid(rng), random_grid(rng)
        ours = relu_table(source, target, low=low, high=high)
        assert_identical(ours, runtime_table(operator, source, target), (source, target))


def test_leaky_relu_is_bit_exact() -> None:
    for rng in cases(41, 150):
        source, target = random_grid(rng), random_grid(rng)
        options = schema.LeakyReluOptionsT()
        options.alpha = float32(rng.choice([0.0, 0.01, 0.1, 0.2, 1.5, -0.3, rng.uniform(0.0, 1.0)]))
        ours = leaky_relu_table(source, target, alpha=options.alpha)
        assert_identical(ours, runtime_table("LEAKY_RELU", source, target, options), (source, target, options.alpha))


def test_prelu_is_bit_exact() -> None:
    for index, rng in enumerate(cases(42, 80)):
        source, slopes, target = random_grid(rng), random_grid(rng), random_grid(rng)
        x, alpha = (
            random_codes(rng, (3, 4, 5, 6)),
            random_codes(rng, [(6,), (1, 1, 6), (3, 4, 5, 6)][index % 3]),
        )
        model = one_op_model(
            "PRELU",
            [grid_spec(x.shape, source), grid_spec(alpha.shape, slopes)],
            [grid_spec(x.shape, target)],
        )
        (runtime,) = run_model(model, [x, alpha])
        ours = prelu(x, alpha, derive_prelu(source, slopes, target))
        assert_identical(ours, runtime, (source, slopes, target))


def test_abs_is_bit_exact() -> None:
    for rng in cases(43, 80):
        source, target = random_grid(rng), random_grid(rng)
        if rng.random() < 0.3:
            target = Grid(source.scale, target.zero_point)  # equal scales take a path of their own
        assert_identical(abs_table(source, target), runtime_table("ABS", source, target, schema.AbsOptionsT()), source)


def test_neg_negates_bare_codes() -> None:
    grid = Grid(0.5, 7)
    runtime = runtime_table("NEG", grid, grid, schema.NegOptionsT())
    assert_identical(negate(CODES), runtime, grid)
    assert negate(CODES)[0] == -128


def test_hard_swish_is_bit_exact() -> None:
    compared = 0
    for rng in cases(44, 300):
        source, target = random_grid(rng, -4, 1), random_grid(rng, -4, 1)
        if not 2.0**-9 <= source.scale / target.scale < 127.9:
            continue
        compared += 1
        runtime = runtime_table("HARD_SWISH", source, target, schema.HardSwishOptionsT())
        assert_identical(hard_swish_table(source, target), runtime, (source, target))
    assert compared > 150


@pytest.mark.parametrize(("source", "target"), [(1.0, 2.0**-8), (2.0**-10, 1.0), (2.0**-24, 2.0**-24)])
def test_hard_swish_refuses_scales_beyond_its_16_bits(source: float, target: float) -> None:
    zero_point = random_zero_point(np.random.default_rng(45))
    with pytest.raises(ValueError, match="requantize before or after"):
        hard_swish_table(Grid(source, zero_point), Grid(target, 0))
