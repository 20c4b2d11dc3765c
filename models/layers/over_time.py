"""Keras layers over time whose weights pass through a quantizer: spliced and plain dense layers, their mean.

Everything is float32 in real units; N clips, T frames, C channels.

Source: a spliced dense layer is the time-delay layer of Waibel et al. 1989; the rest is common practice.
"""

from typing import Any

import tensorflow as tf
import tf_keras

from kwsq.models.layers.linear_parameters import QuantizedBatchNorm, on_linear_grid
from kwsq.models.quantizers.by_scheme import trained_weight, weight_quantizer
from kwsq.models.schemes import WeightScheme, parameter_bits


class SplicedDense(tf_keras.layers.Layer):
    """A dense layer over `taps` neighbouring frames: a 1-D convolution without padding or bias.

    Args:
        units: output channels.
        taps: frames spliced.
        stride: frames between outputs.
        scheme: representation of the (taps, C_in, units) weight.
    """

    channel_axis = -1

    def __init__(self, units: int, *, taps: int, stride: int, scheme: WeightScheme, **options: Any) -> None:
        super().__init__(**options)
        self.units, self.taps, self.stride = units, taps, stride
        self.quantizer = weight_quantizer(scheme, channel_axis=self.channel_axis)

    def build(self, input_shape: Any) -> None:
        """Create the free parameter behind the weight."""
        shape = (self.taps, int(input_shape[-1]), self.units)
        self.parameter = self.add_weight(name="parameter", shape=shape, initializer="glorot_uniform")
        self.quantizer.build(shape)
        super().build(input_shape)

    def adopt(self, weight: Any) -> None:
        """Start from a float weight (taps, C_in, units)."""
        self.parameter.assign(self.quantizer.adopt(weight))

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Map (N, T, C_in) to (N, (T - taps) // stride + 1, units)."""
        weight = trained_weight(self.quantizer, self.parameter, training)
        return tf.nn.conv1d(inputs, weight, stride=self.stride, padding="VALID")


class QuantizedDense(tf_keras.layers.Layer):
    """A dense layer with bias whose weight passes through a quantizer.

    Args:
        units: output channels.
        scheme: representation of the (C_in, units) weight.
    """

    channel_axis = -1

    def __init__(self, units: int, *, scheme: WeightScheme, **options: Any) -> None:
        super().__init__(**options)
        self.units, self.bias_bits = units, parameter_bits(scheme)
        self.quantizer = weight_quantizer(scheme, channel_axis=self.channel_axis)

    def build(self, input_shape: Any) -> None:
        """Create the free parameter behind the weight, and the bias."""
        shape = (int(input_shape[-1]), self.units)
        self.parameter = self.add_weight(name="parameter", shape=shape, initializer="glorot_uniform")
        self.bias = self.add_weight(name="bias", shape=(self.units,), initializer="zeros")
        if self.bias_bits:
            self.quantized = self.add_weight(name="quantized", shape=(), trainable=False, initializer="zeros")
        self.quantizer.build(shape)
        super().build(input_shape)

    def adopt(self, weight: Any) -> None:
        """Start from a float weight (C_in, units)."""
        self.parameter.assign(self.quantizer.adopt(weight))

    def quantize(self) -> None:
        """From now on round the bias to the scheme's width; nothing where that is float."""
        if self.bias_bits:
            self.quantized.assign(1.0)

    def used_bias(self) -> Any:
        """Return the bias as the layer adds it, (units,) in the unit of its outputs."""
        if not self.bias_bits:
            return self.bias
        return tf.where(self.quantized > 0.0, on_linear_grid(self.bias, self.bias_bits), self.bias)

    def set_bias(self, bias: Any) -> None:
        """Replace the bias, (units,)."""
        self.bias.assign(bias)

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Map (N, C_in) to (N, units)."""
        return tf.matmul(inputs, trained_weight(self.quantizer, self.parameter, training)) + self.used_bias()


def batch_norm(scheme: WeightScheme, name: str) -> Any:
    """Return a batch norm that stage 2 can quantize where the scheme says so.

    Args:
        scheme: says how many bits gain and bias have.
        name: of the layer.

    Returns:
        A Keras layer over the last axis of its inputs.
    """
    bits = parameter_bits(scheme)
    return QuantizedBatchNorm(bits, name=name) if bits else tf_keras.layers.BatchNormalization(name=name)


class MeanOverTime(tf_keras.layers.Layer):
    """Mean over the frames: (N, T, C) to (N, C)."""

    def call(self, inputs: Any) -> Any:
        """Return the mean."""
        return tf.reduce_mean(inputs, axis=1)
