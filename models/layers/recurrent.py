"""A recurrent layer whose weights, sums and state pass through quantizers: what a transducer's cells will be built of.

  d_t = x_t W + b,   r_t = h_(t-1) U,   s_t = d_t + r_t,   h_t = tanh s_t

Each weight has its own quantizer, hence its own grid, and any scheme of `kwsq.models.schemes` but fixed point
serves, as long as its biases are float; weights are quantized once per call, not once per frame. From stage 2 on d, r,
s and h have int8 grids, those of the sums from calibration, that of h the one integer runtimes give tanh: 1/128 around
0. The exported model takes one frame and h_(t-1), and gives h_t beside its outputs.

Source: Elman 1990; one grid per matrix as Zhen et al. 2022 have one codebook per gate matrix (our reading); the grid of
tanh is that of LiteRT's quantization specification.
"""

from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras

from kwsq.ir.errors import Problem, UsageError
from kwsq.models.quantizers.activation import ActivationQuantizer
from kwsq.models.quantizers.by_scheme import trained_weight, weight_quantizer
from kwsq.models.records import LayerRecord, RecurrentRecord, WeightTensor
from kwsq.models.schemes import ActivationRanges, WeightScheme, parameter_bits

TANH_RANGE = np.array([-1.0, 127.0 / 128.0], np.float32)


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
        """Start from a float weight, float32 of the layer's shape."""
        self.parameter.assign(self.quantizer.adopt(weight))

    def weight(self, training: bool | None = None) -> Any:
        """Return the weight, float32 of the layer's shape; a layer without inputs is not called."""
        return trained_weight(self.quantizer, self.parameter, training)

    def weight_tensor(self) -> WeightTensor:
        """Return the weight as it is stored."""
        return self.quantizer.weight_tensor(self.parameter)


class TanhQuantizer(ActivationQuantizer):
    """The grid that integer runtimes give tanh: scale 1/128, zero point 0, however other ranges come about."""

    def use(self, ranges: ActivationRanges) -> None:
        """Keep the grid."""

    def follow(self, inputs: Any) -> None:
        """Keep the grid."""
        del inputs  # AutoGraph cannot read a body that is a docstring alone


class QuantizedRecurrent(tf_keras.layers.Layer):
    """A simple recurrent layer over (N, T, C): the last state, (N, units), or that of every frame, (N, T, units).

    Args:
        units: width of the state.
        scheme: representation of both weights.
        every_frame: give the states of all frames, as another recurrent layer reads them.

    Raises:
        UsageError: a scheme that quantizes biases, which this layer does not, or an input without a number of frames.
    """

    def __init__(self, units: int, *, scheme: WeightScheme, every_frame: bool = False, **options: Any) -> None:
        super().__init__(**options)
        if parameter_bits(scheme):
            remedy = "leave parameter_bits out, or use layers without a state"
            raise UsageError(Problem(f"recurrent layer {self.name!r}", "parameter_bits", "a float bias", remedy))
        self.units, self.scheme, self.every_frame = units, scheme, every_frame

    def build(self, input_shape: Any) -> None:
        """Create both kernels, the bias and the quantizers of sums and state."""
        if len(input_shape) != 3 or input_shape[1] is None:
            remedy = "state the frames; a recurrent layer before this one needs every_frame"
            found = f"input {tuple(input_shape)}"
            raise UsageError(Problem(f"recurrent layer {self.name!r}", found, "(clips, frames, channels)", remedy))
        self.input_kernel = QuantizedKernel((int(input_shape[-1]), self.units), scheme=self.scheme, name="input")
        self.state_kernel = QuantizedKernel((self.units, self.units), scheme=self.scheme, name="state")
        self.bias = self.add_weight(name="bias", shape=(self.units,), initializer="zeros")
        self.driven, self.recalled, self.total = (
            ActivationQuantizer(name=f"{name}_quantizer") for name in ("driven", "recalled", "total")
        )
        self.held = TanhQuantizer(name="held_quantizer")
        for quantizer in self._sums():
            quantizer.build(())
        self.held.build(())
        super().build(input_shape)

    def _sums(self) -> tuple[ActivationQuantizer, ActivationQuantizer, ActivationQuantizer]:
        return self.driven, self.recalled, self.total

    def adopt(self, source: "QuantizedRecurrent") -> None:
        """Start from a trained layer with float weights."""
        self.input_kernel.adopt(source.input_kernel.parameter.numpy())
        self.state_kernel.adopt(source.state_kernel.parameter.numpy())
        self.bias.assign(source.bias)

    def calibrate(self, inputs: Any, percentile: float) -> None:
        """Set the grids of sums and state from what inputs cause there, and switch them on.

        Args:
            inputs: (N, T, C) float32.
            percentile: share in percent kept at each end of the sums.
        """
        driven, recalled, total, _ = self._unrolled(inputs, training=False)
        for quantizer, values in zip(self._sums(), (driven, tf.stack(recalled), tf.stack(total)), strict=True):
            quantizer.calibrate(values.numpy(), percentile)
        self.held.calibrate(TANH_RANGE, 100.0)

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Map (N, T, C) to the state after the last frame, (N, units), or after each, (N, T, units)."""
        *_, states = self._unrolled(inputs, training)
        return tf.stack(states, axis=1) if self.every_frame else states[-1]

    def _unrolled(self, inputs: Any, training: bool | None) -> tuple[Any, list[Any], list[Any], list[Any]]:
        """Return d, per frame r and s, all before their quantizers, and per frame h."""
        driven = tf.matmul(inputs, self.input_kernel.weight(training)) + self.bias
        on_grid = self.driven(driven, training=False)
        kernel = self.state_kernel.weight(training)
        state, recalled, total, states = tf.zeros_like(driven[:, 0]), [], [], []
        for frame in range(driven.shape[1]):
            recalled.append(tf.matmul(state, kernel))
            total.append(on_grid[:, frame] + self.recalled(recalled[-1], training=False))
            state = self.held(tf.tanh(self.total(total[-1], training=False)), training=False)
            states.append(state)
        if training:  # ranges follow steps, not frames
            for quantizer, values in zip(self._sums(), (driven, tf.stack(recalled), tf.stack(total)), strict=True):
                quantizer.follow(values)
        return driven, recalled, total, states

    def records(self) -> list[LayerRecord]:
        """Return the layer as it is exported."""
        weights = (self.input_kernel.weight_tensor(), self.state_kernel.weight_tensor())
        bias = tf.convert_to_tensor(self.bias).numpy()
        grids = [quantizer.spec() for quantizer in (*self._sums(), self.held)]
        return [RecurrentRecord(str(self.name), *weights, bias, *grids)]
