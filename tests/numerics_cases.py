"""Seeded random cases shared by the numerics tests and the kernel distance benchmark."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from one_op import TensorSpec

from kwsq.ir.numerics import Grid, activation_range

ACTIVATIONS: tuple[tuple[int, float | None, float | None], ...] = (
    (0, None, None),
    (1, 0.0, None),
    (2, -1.0, 1.0),
    (3, 0.0, 6.0),
)
"""(schema ActivationFunctionType, real lower bound, real upper bound)."""


def float32(value: float) -> float:
    """Round to the nearest float32."""
    return float(np.float32(value))


def random_scale(rng: np.random.Generator, low: float = -4.0, high: float = 0.0) -> float:
    """Draw a scale log-uniformly from 10**[low, high], sometimes a power of two (ties become common)."""
    exponent = rng.uniform(low, high)
    return float32(2.0 ** round(exponent / np.log10(2.0)) if rng.random() < 0.25 else 10.0**exponent)


def random_zero_point(rng: np.random.Generator) -> int:
    """Draw an int8 zero point; the extremes and 0 have their own weight."""
    return int(rng.choice([-128, 0, 127, int(rng.integers(-128, 128))], p=[0.15, 0.15, 0.1, 0.6]))


def random_grid(rng: np.random.Generator, low: float = -3.0, high: float = 0.0) -> Grid:
    """Draw an activation grid with its scale in 10**[low, high]."""
    return Grid(random_scale(rng, low, high), random_zero_point(rng))


def grid_spec(shape: tuple[int, ...], grid: Grid) -> TensorSpec:
    """Return an int8 activation tensor on the grid."""
    return TensorSpec(shape, scale=grid.scale, zero_point=grid.zero_point)


def random_codes(rng: np.random.Generator, shape: tuple[int, ...], low: int = -128) -> NDArray[np.int8]:
    """Draw int8 codes, uniformly or from the two extremes."""
    if rng.random() < 0.2:
        return rng.choice(np.array([low, 127], dtype=np.int8), shape)
    return rng.integers(low, 128, shape).astype(np.int8)


def random_activation(rng: np.random.Generator, *, scale: float, zero_point: int) -> tuple[int, int, int]:
    """Draw a fused activation: (schema value, low code, high code)."""
    code, low, high = ACTIVATIONS[int(rng.integers(len(ACTIVATIONS)))]
    return (code, *activation_range(low, high, scale=scale, zero_point=zero_point))


def cases(seed: int, count: int) -> Iterator[np.random.Generator]:
    """Yield ``count`` generators, independent of each other and of the order tests run in."""
    return itertools.islice(map(np.random.default_rng, np.random.SeedSequence(seed).spawn(count)), count)


def assert_identical(ours: NDArray[Any], runtime: NDArray[Any], context: object) -> None:
    """Fail with the largest difference in LSB and the case when two code arrays differ anywhere."""
    assert ours.shape == runtime.shape, f"{context}: shape {ours.shape}, runtime {runtime.shape}"
    assert ours.dtype == runtime.dtype, f"{context}: dtype {ours.dtype}, runtime {runtime.dtype}"
    distance = np.abs(ours.astype(np.int64) - runtime.astype(np.int64))
    assert not distance.any(), f"{context}: {np.count_nonzero(distance)} codes differ, by up to {distance.max()} LSB"
