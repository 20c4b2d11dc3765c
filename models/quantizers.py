"""Fake quantizers for training: exact grid values forward, straight-through gradients backward.

With round() to nearest even, q_max = 2^(b-1) - 1, and STE meaning "round has derivative 1":

  (1) two-stage     w = scale * round(q_max tanh P),  scale = gain / q_max
                    dw/dP = gain (1 - tanh(P)^2),  dw/dgain = round(q_max tanh P) / q_max
  (2) learned step  w = step * round(clip(v / step, -q_max, q_max))
                    dw/dv = 1 inside the range, else 0;  dw/dstep = round(v / step) - v / step inside, else
                    +-q_max; the step's gradient is scaled by 1 / sqrt(size q_max)
  (3) codebook      w = scale * levels[argmin |v - scale levels|],  dw/dv = 1 inside the outer levels, else 0
  (4) activation    y = scale * (clip(round(x / scale) + zero_point, -128, 127) - zero_point)
                    dy/dx = 1 inside the range, else 0

Every quantizer also states its result as codes with a `kwsq.ir.quant` grid; the exporter writes those, so
training and converter cannot disagree on a grid.

Source: (1) our reconstruction, in the manner of Zeng et al. 2022 (tanh squashing after Strom et al. 2022);
(2) Esser et al. 2020; (3) fixed centroids in the manner of Zhen et al. 2022, with STE in place of their
regulariser; (4) Jacob et al. 2018.
"""

from typing import Any, assert_never

import numpy as np
import tensorflow as tf
import tf_keras
from numpy.typing import NDArray

from kwsq.ir.quant import INT8, UNQUANTIZED, Affine, Codebook
from kwsq.models.layer_records import WeightTensor
from kwsq.models.lloyd_max import nearest_index, snapped_codebook
from kwsq.models.schemes import FloatWeights, LearnedStep, LloydMax, TwoStage, WeightScheme, weight_range

Floats = NDArray[np.float32]

SQUASH_SIGMAS = 3.0
SQUASH_LIMIT = 0.995
SMALLEST_SPAN = 1e-6


def straight_through(exact: Any, surrogate: Any) -> Any:
    """Return `exact` with the gradient of `surrogate`; what is added is exactly zero, so no bit changes."""
    return tf.stop_gradient(exact) + (surrogate - tf.stop_gradient(surrogate))


class FloatWeightQuantizer(tf_keras.layers.Layer):
    """The identity, so that a float model is the same model with another scheme."""

    def adopt(self, weight: Floats) -> Floats:
        """Return the free parameter that stands for a float weight."""
        return weight

    def call(self, parameter: Any) -> Any:
        """Return the weight of a free parameter."""
        return parameter

    def weight_tensor(self, parameter: Any) -> WeightTensor:
        """Return the weight as it is stored in an exported model."""
        return WeightTensor(np.asarray(parameter, dtype=np.float32), UNQUANTIZED)


class TwoStageQuantizer(tf_keras.layers.Layer):
    """Squashed weights on a uniform grid, equation (1); the gain is per tensor and trained."""

    def __init__(self, bits: int, **options: Any) -> None:
        super().__init__(**options)
        self.range = weight_range(bits)

    def build(self, input_shape: Any) -> None:
        """Create the gain."""
        self.gain = self.add_weight(name="gain", shape=(), initializer="ones")
        super().build(input_shape)

    def adopt(self, weight: Floats) -> Floats:
        """Set gain = 3 sigma and return P = atanh(w / gain): the same weight, |w| / gain cut at 0.995."""
        gain = np.float32(SQUASH_SIGMAS * weight.std())
        self.gain.assign(gain)
        squashed = np.clip(weight / gain, -SQUASH_LIMIT, SQUASH_LIMIT)
        return np.asarray(np.arctanh(squashed), dtype=np.float32)

    def call(self, parameter: Any) -> Any:
        """Return the fake-quantized weight, equation (1)."""
        squashed = tf.tanh(parameter) * self.range.high
        return straight_through(tf.round(squashed), squashed) * self._scale()

    def _scale(self) -> Any:
        return self.gain / tf.cast(self.range.high, self.gain.dtype)

    def weight_tensor(self, parameter: Any) -> WeightTensor:
        """Return codes and scale; the codes come from the same TensorFlow operations as in `call`."""
        codes = tf.round(tf.tanh(parameter) * self.range.high).numpy().astype(np.int8)
        return WeightTensor(codes, Affine.per_tensor(self._scale().numpy(), 0, self.range))


class LearnedStepQuantizer(tf_keras.layers.Layer):
    """Uniform weights with a trained per-tensor step, equation (2)."""

    def __init__(self, bits: int, **options: Any) -> None:
        super().__init__(**options)
        self.range = weight_range(bits)

    def build(self, input_shape: Any) -> None:
        """Create the step."""
        self.step = self.add_weight(name="step", shape=(), initializer="ones")
        super().build(input_shape)

    def adopt(self, weight: Floats) -> Floats:
        """Set step = 2 mean|w| / sqrt(q_max), as the LSQ paper starts, and return the weight."""
        self.step.assign(np.float32(2.0 * np.abs(weight).mean() / np.sqrt(self.range.high)))
        return weight

    def call(self, parameter: Any) -> Any:
        """Return the fake-quantized weight, equation (2)."""
        shrink = 1.0 / np.sqrt(float(np.prod(parameter.shape)) * self.range.high)
        step = straight_through(self.step, self.step * shrink)
        ratio = tf.clip_by_value(parameter / step, self.range.low, self.range.high)
        return straight_through(tf.round(ratio), ratio) * step

    def weight_tensor(self, parameter: Any) -> WeightTensor:
        """Return codes and scale."""
        codes = tf.round(tf.clip_by_value(parameter / self.step, self.range.low, self.range.high))
        grid = Affine.per_tensor(self.step.numpy(), 0, self.range)
        return WeightTensor(codes.numpy().astype(np.int8), grid)


class CodebookQuantizer(tf_keras.layers.Layer):
    """Weights on fixed int8 levels, equation (3); the levels are those of the float weights it adopted."""

    def __init__(self, bits: int, **options: Any) -> None:
        super().__init__(**options)
        self.bits = bits

    def build(self, input_shape: Any) -> None:
        """Create levels and scale; both stay fixed in training."""
        self.levels = self.add_weight(name="levels", shape=(2**self.bits,), trainable=False)
        self.scale = self.add_weight(name="scale", shape=(), trainable=False, initializer="ones")
        super().build(input_shape)

    def adopt(self, weight: Floats) -> Floats:
        """Take the int8-snapped Lloyd-Max codebook of the float weight and return the weight."""
        codebook = snapped_codebook(weight, self.bits)
        self.levels.assign(codebook.levels.astype(np.float32))
        self.scale.assign(codebook.scale[0])
        return weight

    def call(self, parameter: Any) -> Any:
        """Return the weight at its nearest level, equation (3)."""
        real = self.levels * self.scale
        inside = tf.clip_by_value(parameter, real[0], real[-1])
        return straight_through(tf.gather(real, self._index(parameter)), inside)

    def _index(self, parameter: Any) -> Any:
        real = tf.cast(self.levels, tf.float64) * tf.cast(self.scale, tf.float64)
        flat = tf.cast(tf.reshape(parameter, [-1]), tf.float64)
        index = tf.searchsorted((real[:-1] + real[1:]) / 2.0, flat, side="left")
        return tf.reshape(index, tf.shape(parameter))

    def weight_tensor(self, parameter: Any) -> WeightTensor:
        """Return the int8 level of every weight, with the codebook."""
        codebook = Codebook(self.levels.numpy().astype(np.int8), np.array([self.scale.numpy()]), self.bits)
        index = nearest_index(np.asarray(parameter), codebook)
        return WeightTensor(np.asarray(codebook.levels)[index].astype(np.int8), codebook)


def weight_quantizer(scheme: WeightScheme) -> Any:
    """Return the Keras layer that realises a weight scheme."""
    match scheme:
        case FloatWeights():
            return FloatWeightQuantizer()
        case TwoStage(bits):
            return TwoStageQuantizer(bits)
        case LearnedStep(bits):
            return LearnedStepQuantizer(bits)
        case LloydMax(bits):
            return CodebookQuantizer(bits)
        case _:
            assert_never(scheme)


class ActivationQuantizer(tf_keras.layers.Layer):
    """Int8 activations, equation (4), once enabled; before that the identity.

    The range is set by `calibrate` and, where `momentum` < 1, then follows the batches' minima and maxima.
    Zero is always a grid value.
    """

    def __init__(self, momentum: float = 0.99, **options: Any) -> None:
        super().__init__(**options)
        self.momentum = momentum

    def build(self, input_shape: Any) -> None:
        """Create the range and the switch."""
        self.low = self.add_weight(name="low", shape=(), trainable=False, initializer="zeros")
        self.high = self.add_weight(name="high", shape=(), trainable=False, initializer="ones")
        self.enabled = self.add_weight(name="enabled", shape=(), trainable=False, initializer="zeros")
        super().build(input_shape)

    def calibrate(self, values: Floats, percentile: float) -> None:
        """Set the range from values of any shape and switch on.

        Args:
            values: activations in real units.
            percentile: share in percent kept at each end; 100 takes minimum and maximum.
        """
        low, high = np.percentile(values, [100.0 - percentile, percentile])
        self.low.assign(min(low, 0.0))
        self.high.assign(max(high, 0.0))
        self.enabled.assign(1.0)

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Return inputs on the int8 grid, or unchanged before calibration."""
        if training:
            self._follow(inputs)
        scale, zero_point = self._grid()
        shifted = inputs / scale + zero_point
        codes = tf.clip_by_value(tf.round(inputs / scale) + zero_point, INT8.low, INT8.high)
        inside = tf.clip_by_value(shifted, INT8.low, INT8.high)
        exact = tf.stop_gradient((codes - zero_point) * scale)
        return tf.where(self.enabled > 0.0, straight_through(exact, inside * scale), inputs)

    def _follow(self, inputs: Any) -> None:
        keep = tf.where(self.enabled > 0.0, self.momentum, 1.0)
        self.low.assign(keep * self.low + (1.0 - keep) * tf.minimum(tf.reduce_min(inputs), 0.0))
        self.high.assign(keep * self.high + (1.0 - keep) * tf.maximum(tf.reduce_max(inputs), 0.0))

    def _grid(self) -> tuple[Any, Any]:
        """Scale and zero point; no gradient, the range follows the data."""
        scale = tf.maximum(self.high - self.low, SMALLEST_SPAN) / float(INT8.high - INT8.low)
        zero_point = tf.clip_by_value(tf.round(INT8.low - self.low / scale), INT8.low, INT8.high)
        return tf.stop_gradient(scale), tf.stop_gradient(zero_point)

    def spec(self) -> Affine | None:
        """Return the grid, or None before calibration."""
        if self.enabled.numpy() == 0.0:
            return None
        scale, zero_point = self._grid()
        return Affine.per_tensor(float(scale.numpy()), int(zero_point.numpy()), INT8)
