"""Biases, gains and batch norms in few bits: stage 2 of everything that is no weight, input or activation.

  (1) s = 2^ceil(log2(max|v| / (2^(b-1) - 1))),  v' = s clip(round(v / s), -(2^(b-1) - 1), 2^(b-1) - 1)
  (2) batch norm    y = g' x + o',  g = gamma / sqrt(variance + epsilon),  o = beta - g mean

per tensor, with straight-through gradients; the statistics stay fixed once (2) is on. A batch norm is thus merged into
a gain and a bias, never into the weight, which would leave its grid.

Source: our reconstruction of the second stage of Zeng et al. 2022, which names bias, gain and batch norm.
"""

from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras

from kwsq.models.layer_records import BatchNormRecord, LayerRecord
from kwsq.models.straight_through import straight_through

SMALLEST = 2.0**-30


def on_linear_grid(values: Any, bits: int) -> Any:
    """Return (1): values of any shape on one power-of-two grid of `bits` symmetric bits."""
    top = float(2 ** (bits - 1) - 1)
    reach = tf.maximum(tf.reduce_max(tf.abs(tf.stop_gradient(values))) / top, SMALLEST)
    exponent = tf.math.ceil(tf.math.log(tf.cast(reach, tf.float64)) / np.log(2.0) - 1e-12)
    scale = tf.cast(tf.pow(tf.constant(2.0, tf.float64), exponent), values.dtype)
    ratio = tf.clip_by_value(values / scale, -top, top)
    return straight_through(tf.round(ratio), ratio) * scale


class QuantizedBatchNorm(tf_keras.layers.BatchNormalization):
    """A batch norm that `quantize` turns into a few-bit gain and offset, equation (2)."""

    def __init__(self, bits: int, **options: Any) -> None:
        super().__init__(**options)
        self.bits = bits

    def build(self, input_shape: Any) -> None:
        """Create the switch behind the four arrays of a batch norm."""
        super().build(input_shape)
        self.quantized = self.add_weight(name="quantized", shape=(), trainable=False, initializer="zeros")

    def quantize(self) -> None:
        """From now on use the statistics as they are, merged and quantized."""
        self.quantized.assign(1.0)

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Return the plain batch norm before `quantize`, equation (2) after it."""
        return tf.cond(self.quantized > 0.0, lambda: self._merged(inputs), lambda: self._plain(inputs, training))

    def _plain(self, inputs: Any, training: bool | None) -> Any:
        return super().call(inputs, training=training)

    def _merged(self, inputs: Any) -> Any:
        gain, offset = self.gain_and_offset()
        return gain * inputs + offset

    def gain_and_offset(self) -> tuple[Any, Any]:
        """Return g' and o', (C,)."""
        gain = self.gamma / tf.sqrt(self.moving_variance + self.epsilon)
        offset = self.beta - gain * self.moving_mean
        return on_linear_grid(gain, self.bits), on_linear_grid(offset, self.bits)

    def records(self) -> list[LayerRecord]:
        """Return the batch norm as it is stored: once quantized, a gain and an offset with statistics 0 and 1."""
        if self.quantized.numpy() == 0.0:
            gamma, beta, mean, variance, _ = (np.asarray(array) for array in self.get_weights())
            return [BatchNormRecord(str(self.name), gamma, beta, mean, variance, float(self.epsilon))]
        gain, offset = (array.numpy() for array in self.gain_and_offset())
        return [BatchNormRecord(str(self.name), gain, offset, np.zeros_like(gain), np.ones_like(gain), 0.0)]
