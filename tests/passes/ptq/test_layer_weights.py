"""Moving weights to where they make good the errors that arrive: what holds on other clips, and no more."""

import numpy as np
import pytest
from builders import Model
from numpy.typing import NDArray

from kwsq.ir import ops
from kwsq.ir.graph import Graph
from kwsq.passes.ptq.layer_weights import correction, regularized
from kwsq.passes.ptq.layers import find_layers, input_moments
from kwsq.passes.ptq.rounding import Factors

WIDTH, CLASSES, OTHERS = 24, 6, 4000
POWER = np.geomspace(0.1, 4, WIDTH)
"""Unequal, as of layers: of white inputs equation (57) takes every covariance for chance, and nothing moves far."""
Array = NDArray[np.float64]


def dense() -> Graph:
    model = Model(0)
    x = model.input("x", (1, WIDTH))
    weight = model.constant(model.rng.normal(size=(CLASSES, WIDTH)), name="w")
    return model.graph(model.node(ops.Dense(), x, weight, model.bias(CLASSES)))


def moved(x: Array, x0: Array) -> tuple[Array, Array]:
    """W and W* of the layer, from its input with and without errors."""
    graph = dense()
    (layer,) = find_layers(graph)
    weight = layer.as_rows(graph["w"].real())
    moments = input_moments(layer, (), [x.astype(np.float32)], [x0.astype(np.float32)])
    return weight[0], (weight + correction(weight, moments, Factors.of(regularized(moments))))[0]


def error(weight: Array, used: Array, x: Array, x0: Array) -> float:
    """Power of the output error about its mean, which is the bias's to make good."""
    return float((x0 @ weight.T - x @ used.T).var(axis=0).sum())


@pytest.mark.parametrize("clips", [20, 60, 200])
@pytest.mark.parametrize("seed", range(4))
def test_chance_on_the_calibration_clips_is_not_made_good(clips: int, seed: int) -> None:
    """Of errors that have nothing to do with the input, whatever these few clips say."""
    rng = np.random.default_rng(seed)
    x0, others = (rng.normal(size=(count, WIDTH)) * POWER for count in (clips, OTHERS))
    x, other_x = (a + rng.normal(0, 0.1, a.shape) for a in (x0, others))
    weight, used = moved(x, x0)
    assert error(weight, used, other_x, others) < 1.1 * error(weight, weight, other_x, others)


@pytest.mark.parametrize("seed", range(4))
def test_errors_that_go_with_the_input_are_made_good(seed: int) -> None:
    rng = np.random.default_rng(seed)
    mixing = np.eye(WIDTH) + rng.normal(0, 0.05, (WIDTH, WIDTH))
    x0, others = (rng.normal(size=(count, WIDTH)) * POWER for count in (200, OTHERS))
    weight, used = moved(x0 @ mixing, x0)
    assert error(weight, used, others @ mixing, others) < 0.05 * error(weight, weight, others @ mixing, others)


@pytest.mark.parametrize("clips", [1, 2, 3])
def test_hardly_any_clips(clips: int) -> None:
    rng = np.random.default_rng(0)
    x0 = rng.normal(size=(clips, WIDTH))
    weight, used = moved(x0 + rng.normal(0, 0.1, x0.shape), x0)
    assert np.isfinite(used).all()
    assert clips > 1 or (used == weight).all()


def test_without_errors_nothing_moves() -> None:
    x0 = np.random.default_rng(0).normal(size=(50, WIDTH))
    weight, used = moved(x0, x0)
    np.testing.assert_array_equal(used, weight)
