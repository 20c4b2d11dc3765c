"""Int8 activations in training.

  (1) y = scale * (clip(round(x / scale) + zero_point, -128, 127) - zero_point),  round() to nearest even
      dy/dx = 1 inside the range, else 0
  (2) scale = (high - low) / 255 of a range that follows the batches, or the next power of two above that; a range that
      leaves calibration values out stays, because batches would bring the outliers back
  (3) scale = growth * (high - low) / 255 of the calibrated range, where growth trains:
      dy/dscale = code - zero_point - x / scale inside the range, else code - zero_point

Training growth rather than the scale gives every tensor the same relative rate; the gradient scaling of the LSQ paper
is left out, because Adam undoes it.

Source: (1) Jacob et al. 2018; (3) Esser et al. 2020 with a fixed zero point.
"""

from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras

from kwsq.ir.quant import INT8, Affine
from kwsq.models.quantizers.powers_of_two import power_at_least
from kwsq.models.quantizers.straight_through import Floats, rounded_within
from kwsq.models.schemes import ActivationRanges

SMALLEST_SPAN = 1e-6
SMALLEST_GROWTH = 0.01
OFF, FOLLOWING, FIXED = 0.0, 1.0, 2.0
"""Values of the switch: a variable, so that a restored state and a step traced before calibration have it right."""


class ActivationQuantizer(tf_keras.layers.Layer):
    """Int8 activations, equation (1), once enabled; before that the identity.

    The range is set by `calibrate`; calibrated with all values, and unless its step is learned, it then follows the
    batches' minima and maxima where `momentum` < 1. Zero is always a grid value.

    Args:
        momentum: share of the range that a training step keeps, 0 to 1.
    """

    def __init__(self, momentum: float = 0.99, **options: Any) -> None:
        super().__init__(**options)
        self.momentum = momentum
        self.ranges = ActivationRanges.MOVING

    def build(self, input_shape: Any) -> None:
        """Create the range and the switch."""
        shared: dict[str, Any] = {"shape": (), "trainable": False, "aggregation": tf.VariableAggregation.MEAN}
        self.low = self.add_weight(name="low", initializer="zeros", **shared)
        self.high = self.add_weight(name="high", initializer="ones", **shared)
        self.enabled = self.add_weight(name="enabled", shape=(), trainable=False, initializer="zeros")
        super().build(input_shape)

    def use(self, ranges: ActivationRanges) -> None:
        """Choose how the scale comes about; call once, on a built layer, before anything is trained."""
        self.ranges = ranges
        if ranges is ActivationRanges.LEARNED:
            self.growth = self.add_weight(name="growth", shape=(), initializer="ones")

    def calibrate(self, values: Floats, percentile: float) -> None:
        """Set the range from values of any shape and switch on.

        Args:
            values: activations in real units.
            percentile: share in percent kept at each end; 100 takes minimum and maximum, a smaller one fixes the range.
        """
        low, high = np.percentile(values, [100.0 - percentile, percentile])
        self.low.assign(min(low, 0.0))
        self.high.assign(max(high, 0.0))
        if self.ranges is ActivationRanges.LEARNED:
            self.growth.assign(1.0)
        self.enabled.assign(FIXED if percentile < 100.0 else FOLLOWING)

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Return inputs, float32 of any shape in real units, on the int8 grid, or unchanged before calibration."""
        if training:
            self.follow(inputs)
        return tf.cond(self.enabled > OFF, lambda: self._on_grid(inputs), lambda: tf.identity(inputs))

    def _on_grid(self, inputs: Any) -> Any:
        scale, zero_point = self._grid()
        return rounded_within(inputs / scale, INT8.low - zero_point, INT8.high - zero_point) * scale

    def follow(self, inputs: Any) -> None:
        """Move the range towards that of a training step's values, unless it is off, fixed or its step is learned."""
        if self.ranges is ActivationRanges.LEARNED:
            return
        keep = tf.where(tf.equal(self.enabled, FOLLOWING), self.momentum, 1.0)
        self.low.assign(keep * self.low + (1.0 - keep) * tf.minimum(tf.reduce_min(inputs), 0.0))
        self.high.assign(keep * self.high + (1.0 - keep) * tf.maximum(tf.reduce_max(inputs), 0.0))

    def _grid(self) -> tuple[Any, Any]:
        """Scale and zero point; only a learned scale has a gradient."""
        span = tf.stop_gradient(tf.maximum(self.high - self.low, SMALLEST_SPAN)) / float(INT8.high - INT8.low)
        scale = power_at_least(span) if self.ranges is ActivationRanges.POWER_OF_TWO else span
        zero_point = tf.round(INT8.low - tf.stop_gradient(self.low) / scale)
        if self.ranges is ActivationRanges.LEARNED:
            scale = span * tf.maximum(self.growth, SMALLEST_GROWTH)
        return scale, tf.clip_by_value(zero_point, INT8.low, INT8.high)

    def spec(self) -> Affine | None:
        """Return the grid, one scale and zero point per tensor, or None before calibration."""
        if self.enabled.numpy() == OFF:
            return None
        scale, zero_point = self._grid()
        return Affine.per_tensor(float(scale.numpy()), int(zero_point.numpy()), INT8)


def use_ranges(model: Any, ranges: ActivationRanges) -> None:
    """Choose how every activation scale of a built model comes about; call before anything is trained.

    Args:
        model: any Keras model.
        ranges: for all its activation quantizers.
    """
    for layer in model.submodules:
        if isinstance(layer, ActivationQuantizer):
            layer.use(ranges)
