"""A float model that starts from published layers, into which batch norms were folded when they were published.

A published file holds per layer a weight w and a bias b. Training needs batch norms again, and a grid with one step per
tensor needs filters of one size. With r the root mean square of the layer's weights, r_c that of filter c, and m_c and
v_c mean and variance of the outputs of w'_c over the training clips,

  (1) w'_c = w_c / k_c,  k_c = r_c / r
  (2) gamma_c = k_c sqrt(v_c + epsilon),  beta_c = b_c + k_c m_c,  mean_c = m_c,  variance_c = v_c

gives the published outputs, w'_c x gamma_c / sqrt(v_c + epsilon) + ... = w_c x + b_c, for any m_c and v_c; those of the
clips make a training step, which uses statistics of its batch, begin at nearly the same function. The factors k_c end
in the channels' multipliers, where integers have one per channel anyway.

Source: (1) the scaling freedom of a layer before a batch norm; (2) ours.
"""

from typing import Any, NamedTuple

import numpy as np
import tf_keras
from numpy.typing import NDArray

from kwsq.ir.errors import Problem, UsageError
from kwsq.models.layers.over_maps import QuantizedConv2D
from kwsq.models.layers.over_time import QuantizedDense
from kwsq.models.layers.walk import layer_inputs
from kwsq.models.training.published_weights import Floats, PublishedLayer

BATCH = 256


class NormStart(NamedTuple):
    """What equation (2) takes of a layer: its published bias and the factors of its filters, (C_out,)."""

    bias: Floats
    factor: NDArray[np.float64]


def adopt_published(model: Any, layers: tuple[PublishedLayer, ...], features: Floats) -> None:
    """Start a float model from published layers, equations (1) and (2).

    Args:
        model: float Sequential model, a batch norm behind every convolution.
        layers: as many as the model has layers with weights, in order.
        features: (n, frames, coefficients) of the training clips.

    Raises:
        UsageError: another number of layers, or another shape.
    """
    own = [layer for layer in model.layers if isinstance(layer, QuantizedConv2D | QuantizedDense)]
    shapes, expected = [layer.weight.shape for layer in layers], [tuple(layer.parameter.shape) for layer in own]
    if shapes != expected:
        remedy = "start from a model of this architecture"
        raise UsageError(Problem("--weights", f"weights {shapes}", f"weights {expected}", remedy))
    remaining = iter(layers)
    pending: NormStart | None = None
    for layer, values in layer_inputs(model, features, BATCH):
        # A batch norm behind every convolution and nowhere else: it takes the factors back.
        assert isinstance(layer, tf_keras.layers.BatchNormalization) == (pending is not None), layer.name
        if pending is not None:
            _adopt_norm(layer, pending, values.numpy().astype(np.float64))
        pending = _adopt_weight(layer, next(remaining)) if layer in own else None


def _adopt_weight(layer: Any, published: PublishedLayer) -> NormStart | None:
    """Give a layer its weight by equation (1) and return what its batch norm starts from; None where it has a bias."""
    if isinstance(layer, QuantizedDense):
        layer.adopt(published.weight)
        layer.bias.assign(published.bias)
        return None
    factor = channel_factors(published.weight, is_depthwise=layer.is_depthwise)
    shape = (-1, 1) if layer.is_depthwise else (-1,)
    layer.adopt(published.weight / factor.reshape(shape).astype(np.float32))
    return NormStart(published.bias, factor)


def _adopt_norm(norm: Any, start: NormStart, sums: NDArray[np.float64]) -> None:
    """Equation (2)."""
    bias, factor = start
    mean, variance = sums.mean(axis=(0, 1, 2)), sums.var(axis=(0, 1, 2))
    norm.set_weights([factor * np.sqrt(variance + norm.epsilon), bias + factor * mean, mean, variance])


def channel_factors(weight: Floats, *, is_depthwise: bool) -> NDArray[np.float64]:
    """Return k_c of equation (1), 1 for a filter of zeros.

    Args:
        weight: (K_t, K_f, C_in, C_out), or (K_t, K_f, C, 1).
        is_depthwise: whether channels are along the third axis.
    """
    axes = (0, 1, 3) if is_depthwise else (0, 1, 2)
    squares = np.square(weight.astype(np.float64))
    ratio = np.sqrt(squares.mean(axis=axes) / max(float(squares.mean()), np.finfo(np.float64).tiny))
    return np.where(ratio > 0.0, ratio, 1.0)
