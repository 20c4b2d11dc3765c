"""Layers in one fixed-point format: every tensor an 8-bit fraction, sums in the accumulator that will run them.

Codes of activations stand for q / 128. With B = 2^(b-1), s the layer's output shift, r the accumulator's narrowing
shift and (46) to (46c) of docs/quantization.md:

  (1) weights   q_w = clip(round(B tanh P), -(B - 1), B - 1); plain ones without the tanh
  (2) bias      q_b 2^s, q_b = clip(round(128 bias), -128, 127)
  (3) sums      z by (46): groups of products in weight order, narrowed, added with saturation
  (4) output    q_y = clip(round(z 2^-(s - r))), >= 0 behind ReLU (46b)
  (5) input     q_x = clip(round(128 k x)), k a constant power of two
  (6) mean      (46c)
  (7) penalty   a / B sum |sin(pi r)|, r = clip(B tanh P, -(B - 1), B - 1), where the scheme asks for one

round() takes ties to even, as source runtimes do: with scales that are powers of two, ties are frequent.

Forward values are exactly these integers; gradients pass every rounding unchanged and stop where a clip cuts, in a sum
(`kwsq.models.layers.ordered_sums`) or at the output. There is no batch norm: it is folded, with one factor per channel
and ReLU's homogeneity, when a float model is adopted.

(7) is ACosR (`kwsq.models.quantizers.regularizers`) on the grid of (1): the distance of codes is 1 / B of a weight in
(-1, 1), whatever the layer's shift, and a grows over the first training steps.

Source: our reconstruction in the manner of Macha et al. 2023, whose equations we have not seen.
"""

from math import prod
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras

from kwsq.ir.quant import INT8, Affine, IntRange
from kwsq.ir.uniform_grid import UniformGrid
from kwsq.models.layers.ordered_sums import Window, counted_sums, plain_sums, trained_sums
from kwsq.models.layers.over_maps import same_pads
from kwsq.models.quantizers.regularizers import absolute_cosine, ramp
from kwsq.models.quantizers.straight_through import rounded_within, straight_through
from kwsq.models.records import (
    BiasTensor,
    Conv2DRecord,
    DenseRecord,
    FakeQuantizeRecord,
    LayerRecord,
    MeanOverMapRecord,
    MeanOverTimeRecord,
    ReluRecord,
    SplicedDenseRecord,
    WeightTensor,
)
from kwsq.models.schemes import FixedPoint

UNIT = 128.0
FEATURE_GAIN = 4.0
"""1 / k: features beyond +-4 standard deviations are cut."""
_SQUASH_LIMIT = 0.995


class FixedPointInput(tf_keras.layers.Layer):
    """Equation (5); outputs stay in the unit of the features."""

    def call(self, inputs: Any) -> Any:
        """Return features on the grid FEATURE_GAIN / 128."""
        codes = rounded_within(inputs * (UNIT / FEATURE_GAIN), float(INT8.low), float(INT8.high))
        return codes * (FEATURE_GAIN / UNIT)

    def records(self) -> list[LayerRecord]:
        """Return the quantizer of the features."""
        return [FakeQuantizeRecord(str(self.name), Affine.per_tensor(FEATURE_GAIN / UNIT, 0, INT8))]


class FixedPointLayer(tf_keras.layers.Layer):
    """A dense layer, one over spliced frames or a convolution over a map, with bias, optional ReLU, output quantizer.

    Equations (1)-(4). Frames are not padded; maps are, as TensorFlow's SAME does.

    Args:
        units: output channels.
        scheme: widths and shifts.
        kernel: taps along the axes of the input: (), (time,) or (time, frequency).
        stride: positions between outputs along the same axes.
        relu: whether negative outputs are cut.
        input_gain: real value of an input code 128.
    """

    def __init__(
        self,
        units: int,
        *,
        scheme: FixedPoint,
        kernel: tuple[int, ...] = (),
        stride: tuple[int, ...] = (),
        relu: bool = True,
        input_gain: float = 1.0,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.units, self.scheme, self.relu, self.input_gain = units, scheme, relu, input_gain
        self.window = Window(kernel, stride)
        self.accumulator = scheme.accumulator
        self.grid = UniformGrid(scheme.bits, mid_rise=False)
        self.top = float(self.grid.top)

    def build(self, input_shape: Any) -> None:
        """Create P, the bias, the output shift (as 2^s), the gain of the outputs and the count of saturations.

        Training steps are counted where a penalty grows with them: models without one keep the variables they had.
        """
        shape = (*self.window.taps, int(input_shape[-1]), self.units)
        self.window = _padded(self.window, input_shape)
        self.parameter = self.add_weight(name="parameter", shape=shape, initializer="glorot_uniform")
        self.bias = self.add_weight(name="bias", shape=(self.units,), initializer="zeros")
        steps = tf_keras.initializers.Constant(2.0**self.scheme.bits)  # what dense layers keep
        self.output_steps = self.add_weight(name="output_steps", shape=(), trainable=False, initializer=steps)
        self.output_gain = self.add_weight(name="output_gain", shape=(), trainable=False, initializer="ones")
        self.saturated = self.add_weight(
            name="saturated", shape=(), dtype="int64", trainable=False, initializer="zeros"
        )
        if self.scheme.cosine > 0.0:
            self.trained_steps = self.add_weight(
                name="trained_steps", shape=(), dtype="int64", trainable=False, initializer="zeros"
            )
        super().build(input_shape)

    def adopt(self, codes: Any, bias: Any) -> None:
        """Start from real-valued weight codes of the parameter's shape and a bias in units of the output's 128."""
        unit = np.clip(codes / (self.top + 1.0), -_SQUASH_LIMIT, _SQUASH_LIMIT)
        self.parameter.assign(np.arctanh(unit) if self.scheme.squash else unit)
        self.bias.assign(np.clip(bias, -1.0, 127.0 / UNIT))

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Map (N, positions along each axis, C_in) to (N, outputs along each, units)."""
        if training and self.scheme.cosine > 0.0:
            self.trained_steps.assign_add(1)
            self.add_loss(self._penalty())
        codes = inputs * (UNIT / self.input_gain)
        sums = self._sums(codes) if training else self._counted_sums(codes)
        low = 0.0 if self.relu else float(INT8.low)
        return rounded_within(sums / self._steps(), low, float(INT8.high)) * (self.output_gain / UNIT)

    def weight_codes(self) -> Any:
        """Equation (1), (*kernel, C_in, units)."""
        return rounded_within(self._real_codes(), -self.top, self.top)

    def _real_codes(self) -> Any:
        """Return weights in units of codes, before they are rounded."""
        weight = tf.tanh(self.parameter) if self.scheme.squash else tf.convert_to_tensor(self.parameter)
        return weight * (self.top + 1.0)

    def _penalty(self) -> Any:
        """Equation (7)."""
        waves = absolute_cosine(self._real_codes(), self.grid) / (self.top + 1.0)
        factor = self.scheme.cosine * ramp(self.trained_steps, self.scheme.ramp_steps)
        return tf.cast(factor, waves.dtype) * tf.reduce_sum(waves)

    def bias_codes(self) -> Any:
        """Equation (2), before its shift."""
        return rounded_within(self.bias * UNIT, float(INT8.low), float(INT8.high))

    def _sums(self, codes: Any) -> Any:
        """Equation (3) for a training step; 32 bits hold every sum, which is then the plain one."""
        weights, contract = self.weight_codes(), self.accumulator
        if contract.bits == 32 and not contract.shift:
            return plain_sums(codes, weights, self.window) + self._start()
        return trained_sums(codes, weights, self._start(), self.window, contract)

    def _counted_sums(self, codes: Any) -> Any:
        """Equation (3) with saturations added to the count."""
        sums, cut = counted_sums(codes, self.weight_codes(), self._start(), self.window, self.accumulator)
        self.saturated.assign_add(cut)
        return sums

    def _start(self) -> Any:
        return self.bias_codes() * self._steps()

    def _steps(self) -> Any:
        """Return 2^(s - r): what an output code is worth in sums."""
        return self.output_steps * 2.0**-self.accumulator.shift

    def records(self) -> list[LayerRecord]:
        """Return the layer with its codes, ReLU and output quantizer."""
        name, gain = str(self.name), float(self.output_gain.numpy())
        steps = int(self.output_steps.numpy())
        weight_scale = gain / self.input_gain / steps
        top = int(self.top)
        grid = Affine.per_tensor(weight_scale, 0, IntRange(-top, top))
        weight = WeightTensor(self.weight_codes().numpy().astype(np.int8), grid)
        codes = self.bias_codes().numpy().astype(np.int32) * steps
        bias = BiasTensor(codes.astype(np.int32), np.float32(weight_scale * self.input_gain / UNIT))
        quantizer = FakeQuantizeRecord(f"{name}_quantizer", Affine.per_tensor(gain / UNIT, 0, INT8))
        layer = self._record(name, weight, bias)
        return [layer, *([ReluRecord(f"{name}_relu")] if self.relu else []), quantizer]

    def _record(self, name: str, weight: WeightTensor, bias: BiasTensor) -> LayerRecord:
        match self.window:
            case Window(stride=()):
                return DenseRecord(name, weight, bias, self.accumulator)
            case Window(stride=(stride,)):
                return SplicedDenseRecord(name, weight, stride, bias, self.accumulator)
            case Window(stride=(down, along), pads=((top, bottom), (left, right))):
                pads = (top, left, bottom, right)
                return Conv2DRecord(name, weight, (down, along), pads, False, bias, self.accumulator)
        raise AssertionError("a window has at most two axes")


def _padded(window: Window, input_shape: Any) -> Window:
    """Return a map's window with its zeros."""
    match window:
        case Window(taps=(rows, columns), stride=(down, along)):
            size = (int(input_shape[1]), int(input_shape[2]))
            top, left, bottom, right = same_pads(size, (rows, columns), (down, along))
            return window._replace(pads=((top, bottom), (left, right)))
    return window


class FixedPointMean(tf_keras.layers.Layer):
    """Mean over the frames, or over the map, equation (6), of codes on the grid 1 / 128."""

    def build(self, input_shape: Any) -> None:
        """Note which of the two it is."""
        self.is_map = len(input_shape) == 4
        super().build(input_shape)

    def call(self, inputs: Any) -> Any:
        """Map (N, T, C) or (N, T, F, C) to (N, C)."""
        axes = list(range(1, inputs.shape.rank - 1))
        # A whole number below 2^24, divided once: exact at a tie.
        total = tf.reduce_sum(tf.stop_gradient(inputs) * UNIT, axis=axes)
        codes = tf.round(total / float(prod(int(inputs.shape[axis]) for axis in axes)))
        return straight_through(codes / UNIT, tf.reduce_mean(inputs, axis=axes))

    def records(self) -> list[LayerRecord]:
        """Return the mean and its quantizer."""
        name = str(self.name)
        record = MeanOverMapRecord if self.is_map else MeanOverTimeRecord
        return [record(name), FakeQuantizeRecord(f"{name}_quantizer", Affine.per_tensor(1 / UNIT, 0, INT8))]


def adopt_fixed_point(target: Any, source: Any) -> None:
    """Start a fixed-point model from a float model of the same layer names, all but dense ones with a `<name>_norm`.

    Batch norms are folded. A channel's outputs are scaled by the factor r that lets its weights fill their range up to
    three standard deviations, or less where four standard deviations of its normalised output would leave [-1, 1). A
    convolution's output shift is the one with which the median channel comes closest to filling both.

    Args:
        target: model of `FixedPointLayer`s.
        source: trained float model.
    """
    input_scale: Any = np.float64(1.0 / FEATURE_GAIN)
    for layer in target.layers:
        if not isinstance(layer, FixedPointLayer):
            continue
        weight, bias, largest = _folded(source, layer)
        columns = np.reshape(input_scale, (-1, 1))
        spread = np.std(weight / columns, axis=tuple(range(weight.ndim - 1))) * 3.0
        fills_weights = layer.top / np.maximum(spread, 1e-9)
        if layer.window.taps:
            fitting = np.rint(np.log2(np.median(fills_weights * largest)))
            layer.output_steps.assign(2.0 ** max(fitting, layer.accumulator.shift))  # codes are whole steps of sums
        steps = float(layer.output_steps.numpy())
        factor = np.minimum(fills_weights / steps, 1.0 / largest)
        if not layer.relu:
            # Logits keep their order: one factor for all, and a power of two.
            factor = np.full_like(factor, 2.0 ** np.floor(np.log2(factor.min())))
            layer.output_gain.assign(1.0 / factor[0])
        layer.adopt(weight / columns * factor * steps, bias * factor)
        input_scale = factor


def _folded(source: Any, layer: FixedPointLayer) -> tuple[Any, Any, Any]:
    """Return weight (*kernel, C_in, units) and bias with the batch norm folded, and the largest output to expect."""
    old = source.get_layer(layer.name)
    weight = old.parameter.numpy().astype(np.float64)
    if not layer.window.taps:
        bias = old.bias.numpy().astype(np.float64)
        # Sums of one standard deviation per input are not known here: three standard deviations of the weights' norm.
        return weight, bias, np.abs(bias) + 3.0 * np.linalg.norm(weight, axis=0)
    norm = source.get_layer(f"{layer.name}_norm")
    gamma, beta, mean, variance = (array.astype(np.float64) for array in norm.get_weights())
    gain = gamma / np.sqrt(variance + norm.epsilon)
    return weight * gain, beta - gain * mean, np.maximum(beta, 0.0) + 4.0 * np.abs(gamma) + 1e-6
