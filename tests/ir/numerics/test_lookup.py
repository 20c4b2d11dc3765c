from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from numerics_cases import assert_identical, cases, grid_spec, random_codes, random_grid, random_zero_point
from one_op import one_op_model, run_model

from kwsq.ir.numerics import (
    LOGISTIC_OUTPUT,
    TANH_OUTPUT,
    Grid,
    exp_table,
    gelu_table,
    log_table,
    logistic_table,
    look_up,
    tanh_table,
)

CODES = np.arange(-128, 128).astype(np.int8)
Table = Callable[..., np.ndarray]


def _runtime(operator: str, source: Grid, target: Grid, options: Any = None) -> np.ndarray:
    model = one_op_model(operator, [grid_spec((256,), source)], [grid_spec((256,), target)], options=options)
    (runtime,) = run_model(model, [CODES])
    return runtime


@pytest.mark.parametrize(
    ("operator", "table", "target"),
    [("LOGISTIC", logistic_table, LOGISTIC_OUTPUT), ("TANH", tanh_table, TANH_OUTPUT)],
)
def test_tables_on_their_usual_grid(operator: str, table: Table, target: Grid) -> None:
    # 400 x 256 entries agree; a C library with another last bit could move one by 1 LSB, hence fixed seeds
    for rng in cases(50, 400):
        source = random_grid(rng)
        assert_identical(table(source, target), _runtime(operator, source, target), source)


@pytest.mark.parametrize(("operator", "table"), [("TANH", tanh_table), ("LOG", log_table)])
def test_tables_on_any_grid(operator: str, table: Table) -> None:
    for rng in cases(51, 150):
        source, target = random_grid(rng), random_grid(rng)
        assert_identical(table(source, target), _runtime(operator, source, target), (source, target))


def test_logistic_takes_any_output_zero_point() -> None:
    for rng in cases(52, 20):
        source, target = random_grid(rng), Grid(1.0 / 256.0, random_zero_point(rng))
        assert_identical(logistic_table(source, target), _runtime("LOGISTIC", source, target), (source, target))


def test_exp_table() -> None:
    for rng in cases(53, 150):
        source, target = (
            random_grid(rng, -3, -1.3),
            random_grid(rng, -2, 3),
        )  # |x| <= 13: inside the kernel's int32
        runtime = _runtime("EXP", source, target, schema.ExpOptionsT())
        assert_identical(exp_table(source, target), runtime, (source, target))


@pytest.mark.parametrize("approximate", [False, True])
def test_gelu_table(approximate: bool) -> None:
    options = schema.GeluOptionsT()
    options.approximate = approximate
    for rng in cases(54, 150):
        source, target = random_grid(rng), random_grid(rng)
        ours = gelu_table(source, target, approximate=approximate)
        assert_identical(ours, _runtime("GELU", source, target, options), (source, target))


def test_logistic_refuses_another_output_scale() -> None:
    with pytest.raises(ValueError, match="expected 1/256; requantize after it"):
        logistic_table(Grid(0.5, 0), Grid(0.5, 0))


def test_a_table_beyond_the_kernels_cast_is_refused() -> None:
    with pytest.raises(ValueError, match="enlarge the output scale"):
        exp_table(Grid(1.0, -128), Grid(1.0, 0))


def test_look_up_is_indexing_by_code_plus_128() -> None:
    rng = np.random.default_rng(55)
    table, codes = rng.integers(-(2**20), 2**20, 256), random_codes(rng, (3, 4, 5))
    np.testing.assert_array_equal(look_up(codes, table), table[codes.astype(int) + 128])
    strided = codes[:, ::2, ::3]
    np.testing.assert_array_equal(look_up(strided, table), table[strided.astype(int) + 128])
