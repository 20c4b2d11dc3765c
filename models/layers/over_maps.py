"""Keras layers over time and frequency: convolution, depthwise convolution and their mean.

Feature maps are (N, T, F, C): frames, bands (or coefficients), channels. Convolutions pad as TensorFlow's SAME
does, with zeros, the odd one at the end; they have no bias, because a batch norm follows each. Everything is float32 in
real units.

Source: common practice; weights start with the variance of He et al. 2015.
"""

from typing import Any

import tensorflow as tf
import tf_keras

from kwsq.models.quantizers.by_scheme import trained_weight, weight_quantizer
from kwsq.models.schemes import WeightScheme

Pads = tuple[int, int, int, int]


def same_pads(size: tuple[int, int], kernel: tuple[int, int], stride: tuple[int, int]) -> Pads:
    """Return the zeros that SAME padding puts around a map, as ONNX orders them: both starts, then both ends.

    Args:
        size: (T, F) of the input.
        kernel: taps along both.
        stride: steps along both.

    Returns:
        Zeros before T, before F, behind T, behind F.

    Source: output size ceil(size / stride); the total is split in halves, the end taking the odd one
        (TensorFlow, "Notes on padding").
    """
    total = [
        max((-(-length // step) - 1) * step + taps - length, 0)
        for length, taps, step in zip(size, kernel, stride, strict=True)
    ]
    starts = [zeros // 2 for zeros in total]
    return (starts[0], starts[1], total[0] - starts[0], total[1] - starts[1])


class AddChannel(tf_keras.layers.Layer):
    """Features as a map with one channel: (N, T, F) to (N, T, F, 1)."""

    def call(self, inputs: Any) -> Any:
        """Return the map."""
        return inputs[..., tf.newaxis]


class QuantizedConv2D(tf_keras.layers.Layer):
    """A convolution over time and frequency whose weight passes through a quantizer.

    Args:
        units: output channels; one filter per input channel (depthwise) if None.
        kernel: taps along time and frequency.
        stride: steps along time and frequency; equal ones if depthwise.
        scheme: representation of the (taps, taps, C_in, units) weight, (taps, taps, C_in, 1) if depthwise.
    """

    def __init__(
        self,
        units: int | None,
        *,
        kernel: tuple[int, int],
        stride: tuple[int, int],
        scheme: WeightScheme,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.units, self.kernel, self.stride = units, kernel, stride
        self.quantizer = weight_quantizer(scheme, channel_axis=self.channel_axis)

    @property
    def is_depthwise(self) -> bool:
        """Whether every input channel has its own single filter."""
        return self.units is None

    @property
    def channel_axis(self) -> int:
        """Axis of the weight along which output channels lie: a depthwise one has a filter per input channel."""
        return 2 if self.is_depthwise else 3

    def build(self, input_shape: Any) -> None:
        """Create the free parameter behind the weight."""
        frames, bands, channels = (int(size) for size in input_shape[1:])
        shape = (*self.kernel, channels, self.units or 1)
        self.pads = same_pads((frames, bands), self.kernel, self.stride)
        self.parameter = self.add_weight(
            name="parameter", shape=shape, initializer=_he_uniform(shape, self.is_depthwise)
        )
        self.quantizer.build(shape)
        super().build(input_shape)

    def adopt(self, weight: Any) -> None:
        """Start from a float weight of the parameter's shape."""
        self.parameter.assign(self.quantizer.adopt(weight))

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Map (N, T, F, C_in) to (N, ceil(T / stride), ceil(F / stride), units or C_in)."""
        weight = trained_weight(self.quantizer, self.parameter, training)
        if self.is_depthwise:
            return tf.nn.depthwise_conv2d(inputs, weight, strides=(1, *self.stride, 1), padding="SAME")
        return tf.nn.conv2d(inputs, weight, strides=self.stride, padding="SAME")


def _he_uniform(shape: tuple[int, ...], is_depthwise: bool) -> Any:
    """Variance 2 / fan-in; Keras would count a depthwise filter's channels into its fan-in."""
    fan_in = shape[0] * shape[1] * (1 if is_depthwise else shape[2])
    limit = (6.0 / fan_in) ** 0.5
    return tf_keras.initializers.RandomUniform(-limit, limit)


class MeanOverMap(tf_keras.layers.Layer):
    """Mean over frames and bands: (N, T, F, C) to (N, C)."""

    def call(self, inputs: Any) -> Any:
        """Return the mean."""
        return tf.reduce_mean(inputs, axis=(1, 2))
