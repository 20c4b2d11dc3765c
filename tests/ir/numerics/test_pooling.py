from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from numerics_cases import assert_identical, cases, grid_spec, random_activation, random_codes, random_grid
from one_op import one_op_model, run_model

from kwsq.ir.numerics import Window, average_pool2d, max_pool2d, same_padding, valid_size


def _pool_case(rng: np.random.Generator, options: Any) -> tuple[tuple[int, ...], tuple[int, int], Window]:
    size = tuple(int(v) for v in rng.integers(4, 20, 2))
    kernel = size if rng.random() < 0.2 else tuple(int(v) for v in rng.integers(1, 5, 2))
    stride = tuple(int(v) for v in rng.integers(1, 4, 2))
    same = bool(rng.random() < 0.5)
    options.padding = schema.Padding.SAME if same else schema.Padding.VALID
    (options.strideH, options.strideW), (options.filterHeight, options.filterWidth) = stride, kernel
    (oh, top), (ow, left) = (
        same_padding(s, k, stride=t) if same else (valid_size(s, k, stride=t), 0)
        for s, k, t in zip(size, kernel, stride, strict=True)
    )
    return (2, *size, int(rng.integers(1, 9))), kernel, Window((oh, ow), stride, padding=(top, left))


@pytest.mark.parametrize(("operator", "pool"), [("AVERAGE_POOL_2D", average_pool2d), ("MAX_POOL_2D", max_pool2d)])
def test_pooling_is_bit_exact(operator: str, pool: Any) -> None:
    for rng in cases(70, 150):
        options = schema.Pool2DOptionsT()
        shape, kernel, window = _pool_case(rng, options)
        grid, x = random_grid(rng), random_codes(rng, shape)
        activation, low, high = random_activation(rng, scale=grid.scale, zero_point=grid.zero_point)
        options.fusedActivationFunction = activation
        output = grid_spec((shape[0], *window.output_size, shape[3]), grid)
        (runtime,) = run_model(one_op_model(operator, [grid_spec(shape, grid)], [output], options=options), [x])
        ours = pool(x, kernel=kernel, window=window, low=low, high=high)
        assert_identical(ours, runtime, (grid, shape, kernel, window, activation))


def test_average_rounds_half_away_from_zero_in_codes() -> None:
    x = np.array([1, 2, -1, -2], dtype=np.int8).reshape(1, 1, 4, 1)
    pooled = average_pool2d(x, kernel=(1, 2), window=Window((1, 2), stride=(1, 2)))
    assert pooled.ravel().tolist() == [2, -2]


def test_a_window_outside_the_image_is_refused() -> None:
    with pytest.raises(ValueError, match="reduce the padding"):
        average_pool2d(np.zeros((1, 1, 1, 1), np.int8), kernel=(1, 1), window=Window((2, 1), padding=(1, 0)))
