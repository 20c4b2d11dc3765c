"""Straight-through gradients, and the base of weight quantizers.

Source: the straight-through estimator is that of Bengio et al. 2013; that it ends where values are clipped, of Hubara
et al. 2016.
"""

from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras
from numpy.typing import NDArray

from kwsq.models.records import WeightTensor

Floats = NDArray[np.float32]


def straight_through(exact: Any, surrogate: Any) -> Any:
    """Return `exact` with the gradient of `surrogate`; what is added is exactly zero, so no bit changes.

    Args:
        exact: any shape, floating point.
        surrogate: of the same shape and type, finite.
    """
    return tf.stop_gradient(exact) + (surrogate - tf.stop_gradient(surrogate))


@tf.custom_gradient
def rounded_within(ratio: Any, low: Any, high: Any) -> Any:
    """Return the nearest whole number in [low, high], ties to even; the gradient is 1 inside that range, else 0.

    Args:
        ratio: any shape, floating point, in units of codes.
        low: whole number, scalar.
        high: whole number, scalar.

    Returns:
        Shape and type of the ratio.
    """
    low, high = tf.cast(low, ratio.dtype), tf.cast(high, ratio.dtype)

    def backward(upstream: Any) -> Any:
        return upstream * tf.cast((ratio >= low) & (ratio <= high), upstream.dtype), None, None

    return tf.clip_by_value(tf.round(ratio), low, high), backward


class WeightQuantizer(tf_keras.layers.Layer):
    """What stands between a layer's free parameter and its weight.

    A quantizer may count training steps and change the parameter before one (`advance`); the count is a variable, so
    that whatever saves a model's variables also saves the schedule of its penalties and compressions.
    """

    def build(self, input_shape: Any) -> None:
        """Create the count of training steps."""
        self.steps = self.add_weight(name="steps", shape=(), dtype="int64", trainable=False, initializer="zeros")
        super().build(input_shape)

    def adopt(self, weight: Floats) -> Floats:
        """Set the grid for a float weight.

        Args:
            weight: float32 of the built shape, in real units.

        Returns:
            The free parameter that stands for it, of the same shape and type.

        Raises:
            ValueError: a grid of centroids, and weights that are all equal or not finite.
        """
        return weight

    def advance(self, parameter: Any) -> None:
        """Count one training step; called by the layer before the weight is used.

        Args:
            parameter: the layer's variable, which may be changed.
        """
        self.steps.assign_add(1)

    def call(self, parameter: Any, training: bool | None = None) -> Any:
        """Return the weight of a free parameter.

        Args:
            parameter: float32 variable or tensor of the built shape.
            training: penalties are added then, and the weight may lie beside the grid where the scheme says so.

        Returns:
            The weight in real units, shape and type of the parameter.
        """
        raise NotImplementedError

    def weight_tensor(self, parameter: Any) -> WeightTensor:
        """Return the weight as it is stored in an exported model.

        Args:
            parameter: as in `call`.

        Returns:
            Codes (or float values) of the parameter's shape with their grid: what `call` gives outside training.
        """
        raise NotImplementedError
