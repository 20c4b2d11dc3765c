"""Fake quantizers for training: the weight quantizer of every scheme, and int8 activations.

  (1) activation    y = scale * (clip(round(x / scale) + zero_point, -128, 127) - zero_point)
                    dy/dx = 1 inside the range, else 0;  round() to nearest even

Every quantizer also states its result as codes with a `kwsq.ir.quant` grid; the exporter writes those, so
training and converter cannot disagree on a grid.

Source: (1) Jacob et al. 2018.
"""

from typing import Any, assert_never

import numpy as np
import tensorflow as tf
import tf_keras

from kwsq.ir.errors import Problem, UsageError
from kwsq.ir.quant import INT8, UNQUANTIZED, Affine
from kwsq.models.codebook_quantizers import CodebookQuantizer, CompressedQuantizer
from kwsq.models.layer_records import WeightTensor
from kwsq.models.schemes import (
    Compressed,
    Dorefa,
    FixedPoint,
    FloatWeights,
    LearnedStep,
    LloydMax,
    MaxAbs,
    SoftToHard,
    TwoStage,
    WeightScheme,
    uniform_grid,
)
from kwsq.models.soft_assignment import SoftToHardQuantizer
from kwsq.models.straight_through import Floats, WeightQuantizer, straight_through
from kwsq.models.uniform_quantizers import (
    DorefaQuantizer,
    LearnedStepQuantizer,
    MaxAbsQuantizer,
    TwoStageQuantizer,
)

SMALLEST_SPAN = 1e-6


class FloatWeightQuantizer(WeightQuantizer):
    """The identity, so that a float model is the same model with another scheme."""

    def build(self, input_shape: Any) -> None:
        """Create nothing: a float model has no schedule."""
        self.built = True

    def advance(self, parameter: Any) -> None:
        """Count nothing."""
        del parameter  # AutoGraph cannot read a body that is a docstring alone

    def call(self, parameter: Any, training: bool | None = None) -> Any:
        """Return the weight of a free parameter."""
        return tf.convert_to_tensor(parameter)

    def weight_tensor(self, parameter: Any) -> WeightTensor:
        """Return the weight as it is stored in an exported model."""
        return WeightTensor(np.asarray(parameter, dtype=np.float32), UNQUANTIZED)


def weight_quantizer(scheme: WeightScheme) -> WeightQuantizer:
    """Return the Keras layer that realises a weight scheme.

    Raises:
        UsageError: the scheme has layers of its own.
    """
    match scheme:
        case FloatWeights():
            return FloatWeightQuantizer()
        case TwoStage(_, cosine, ramp_steps):
            return TwoStageQuantizer(uniform_grid(scheme), cosine=cosine, ramp_steps=ramp_steps)
        case LearnedStep(_, cosine, ramp_steps):
            return LearnedStepQuantizer(uniform_grid(scheme), cosine=cosine, ramp_steps=ramp_steps)
        case MaxAbs() | Dorefa(1):
            return MaxAbsQuantizer(uniform_grid(scheme))
        case Dorefa():
            return DorefaQuantizer(uniform_grid(scheme))
        case LloydMax(bits):
            return CodebookQuantizer(bits)
        case Compressed():
            return CompressedQuantizer(scheme)
        case SoftToHard():
            return SoftToHardQuantizer(scheme)
        case FixedPoint():
            remedy = "build this architecture of kwsq.models.fixed_point layers"
            raise UsageError(Problem("weight scheme", "fxp", "a scheme of weights alone", remedy))
        case _:
            assert_never(scheme)


def trained_weight(quantizer: WeightQuantizer, parameter: Any, training: bool | None) -> Any:
    """Return the weight of a free parameter; a training step is counted first."""
    if training:
        quantizer.advance(parameter)
    return quantizer(parameter, training=training)


class ActivationQuantizer(tf_keras.layers.Layer):
    """Int8 activations, equation (1), once enabled; before that the identity.

    The range is set by `calibrate` and, where `momentum` < 1, then follows the batches' minima and maxima.
    Zero is always a grid value.
    """

    def __init__(self, momentum: float = 0.99, **options: Any) -> None:
        super().__init__(**options)
        self.momentum = momentum

    def build(self, input_shape: Any) -> None:
        """Create the range and the switch."""
        shared: dict[str, Any] = {"shape": (), "trainable": False, "aggregation": tf.VariableAggregation.MEAN}
        self.low = self.add_weight(name="low", initializer="zeros", **shared)
        self.high = self.add_weight(name="high", initializer="ones", **shared)
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
