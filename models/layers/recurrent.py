"""A recurrent layer whose two weights pass through quantizers: what a transducer's cells will be built of.

  h_t = tanh(x_t W + h_(t-1) U + b)

Each weight has its own quantizer, hence its own grid, and any scheme of `kwsq.models.schemes` but fixed point
serves. Weights are quantized once per call, not once per frame. States have no grid yet, and the exporter has no record
for this layer.

Source: Elman 1990; one grid per matrix as Zhen et al. 2022 have one codebook per gate matrix (our reading).
"""

from typing import Any

import tensorflow as tf
import tf_keras

from kwsq.models.quantizers.by_scheme import trained_weight, weight_quantizer
from kwsq.models.records import WeightTensor
from kwsq.models.schemes import WeightScheme


class QuantizedKernel(tf_keras.layers.Layer):
    """One weight matrix of any layer: free parameter, quantizer, and the form it is exported in.

    Args:
        shape: of the weight.
        scheme: its representation.
    """

    def __init__(self, shape: tuple[int, ...], *, scheme: WeightScheme, **options: Any) -> None:
        super().__init__(**options)
        self.quantizer = weight_quantizer(scheme)
        self.parameter = self.add_weight(name="parameter", shape=shape, initializer="glorot_uniform")
        self.quantizer.build(shape)

    def adopt(self, weight: Any) -> None:
        """Start from a float weight."""
        self.parameter.assign(self.quantizer.adopt(weight))

    def weight(self, training: bool | None = None) -> Any:
        """Return the weight; a layer without inputs is not called."""
        return trained_weight(self.quantizer, self.parameter, training)

    def weight_tensor(self) -> WeightTensor:
        """Return the weight as it is stored."""
        return self.quantizer.weight_tensor(self.parameter)


class QuantizedRecurrent(tf_keras.layers.Layer):
    """A simple recurrent layer over (N, T, C): the last state, (N, units).

    Args:
        units: width of the state.
        scheme: representation of both weights.
    """

    def __init__(self, units: int, *, scheme: WeightScheme, **options: Any) -> None:
        super().__init__(**options)
        self.units, self.scheme = units, scheme

    def build(self, input_shape: Any) -> None:
        """Create both kernels and the bias."""
        self.input_kernel = QuantizedKernel((int(input_shape[-1]), self.units), scheme=self.scheme, name="input")
        self.state_kernel = QuantizedKernel((self.units, self.units), scheme=self.scheme, name="state")
        self.bias = self.add_weight(name="bias", shape=(self.units,), initializer="zeros")
        super().build(input_shape)

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Return the state after the last frame."""
        driven = tf.matmul(inputs, self.input_kernel.weight(training)) + self.bias
        kernel = self.state_kernel.weight(training)
        state = tf.zeros_like(driven[:, 0])
        for frame in range(driven.shape[1]):
            state = tf.tanh(driven[:, frame] + tf.matmul(state, kernel))
        return state
