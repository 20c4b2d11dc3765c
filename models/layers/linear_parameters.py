"""Biases, gains and batch norms in few bits: stage 2 of everything that is no weight, input or activation.

  (1) s = 2^ceil(log2(max|v| / (2^(b-1) - 1))),  v' = s clip(round(v / s), -(2^(b-1) - 1), 2^(b-1) - 1)
  (2) batch norm    y = g' (x + b'),  g = gamma / sqrt(variance + epsilon),  b = beta / g' - mean

per tensor, with straight-through gradients; the statistics stay fixed once (2) is on. A batch norm is thus merged into
a gain and a bias, never into the weight, which would leave its grid. The bias stands before the gain, where the integer
layer adds it: where the scales of inputs and weights are powers of two too, b' is a whole number of the accumulator's
steps, or becomes one at the end (`accumulator_biases`). No gain is coded 0, which would lose its channel.

Source: our reconstruction of the second stage of Zeng et al. 2022, which names bias, gain and batch norm.
"""

from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras

from kwsq.models.quantizers.powers_of_two import power_at_least
from kwsq.models.quantizers.straight_through import straight_through
from kwsq.models.records import BatchNormRecord, LayerRecord


def on_linear_grid(values: Any, bits: int, *, has_zero: bool = True) -> Any:
    """Return values on one power-of-two grid, equation (1), with straight-through gradient.

    Args:
        values: any shape, float32, in real units.
        bits: width b of the symmetric codes, at least 2.
        has_zero: whether 0 is a code; else what would round to it becomes 1 or, below zero, -1.

    Returns:
        Shape, type and unit of the values.
    """
    top = float(2 ** (bits - 1) - 1)
    scale = power_at_least(tf.reduce_max(tf.abs(values)) / top)
    ratio = tf.clip_by_value(values / scale, -top, top)
    codes = tf.round(ratio)
    if not has_zero:
        codes = tf.where(codes == 0.0, tf.where(ratio < 0.0, -1.0, 1.0), codes)
    return straight_through(codes, ratio) * scale


class QuantizedBatchNorm(tf_keras.layers.BatchNormalization):
    """A batch norm that `quantize` turns into a few-bit bias and gain, equation (2).

    Args:
        bits: width of both, at least 2.
    """

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
        if self.synchronized and training:
            plain = self._plain_with_statistics_kept(inputs)
            return tf.cond(self.quantized > 0.0, lambda: self._merged(inputs), lambda: plain)
        return tf.cond(self.quantized > 0.0, lambda: self._merged(inputs), lambda: self._plain(inputs, training))

    def _plain_with_statistics_kept(self, inputs: Any) -> Any:
        """Return the plain batch norm of a training step; once quantized, put the statistics back as they were.

        Replicas cannot join theirs inside a branch, so that this is computed on either side of `quantize`.
        """
        statistics = (self.moving_mean, self.moving_variance)
        before = [tf.identity(variable) for variable in statistics]
        plain = self._plain(inputs, training=True)
        for variable, kept in zip(statistics, before, strict=True):
            variable.assign(tf.where(self.quantized > 0.0, kept, variable))
        return plain

    def _plain(self, inputs: Any, training: bool | None) -> Any:
        return super().call(inputs, training=training)

    def _merged(self, inputs: Any) -> Any:
        gain, bias = self.gain_and_bias()
        return gain * (inputs + bias)

    def gain_and_bias(self) -> tuple[Any, Any]:
        """Return g' and b', (C,) float32 each; b' in units of the inputs."""
        gain = on_linear_grid(self.gamma / tf.sqrt(self.moving_variance + self.epsilon), self.bits, has_zero=False)
        return gain, on_linear_grid(self.beta / gain - self.moving_mean, self.bits)

    def used_bias(self) -> Any:
        """Return b', (C,)."""
        return self.gain_and_bias()[1]

    def set_bias(self, bias: Any) -> None:
        """Replace b', (C,), exactly: as a mean with a minus sign, as it is stored."""
        self.moving_mean.assign(-bias)
        self.beta.assign(tf.zeros_like(self.beta))

    def records(self) -> list[LayerRecord]:
        """Return the batch norm as it is stored: once quantized, mean -b', offset 0 and variance 1."""
        if self.quantized.numpy() == 0.0:
            gamma, beta, mean, variance, _ = (np.asarray(array) for array in self.get_weights())
            return [BatchNormRecord(str(self.name), gamma, beta, mean, variance, float(self.epsilon))]
        gain, bias = (array.numpy() for array in self.gain_and_bias())
        return [BatchNormRecord(str(self.name), gain, np.zeros_like(gain), -bias, np.ones_like(gain), 0.0)]
