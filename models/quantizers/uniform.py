"""Weights on the uniform grids of `kwsq.ir.uniform_grid`: exact values forward, straight-through gradients backward.

All have the form  w = scale * code(r),  dw/dr = scale, where `code` takes the nearest code of the grid and `top` is the
largest one:

  (1) two-stage     r = top tanh P,  scale = gain / top
                    dw/dP = gain (1 - tanh(P)^2),  dw/dgain = code(top tanh P) / top
  (2) learned step  r = clip(v / step, -top, top),  scale = step
                    dw/dv = 1 inside the range, else 0;  dw/dstep = code(r) - v / step inside, else
                    +-top; the step's gradient is scaled by 1 / sqrt(size top)
  (3) DoReFa        r = top tanh(v) / max|tanh v|,  scale = gain / top, the gain fixed
  (4) max-abs       r = v / scale,  scale = max|v| / top without gradient; dw/dv = 1
                    1 bit, and DoReFa's: scale = mean|v|

The scale of (1) and (2) is the magnitude of what trains. Where scales are to be powers of two, that of (1) and (2) is
the nearest one, straight-through, that of (4) the next one up, for 1 bit the nearest.

A scale is that of the tensor or, per channel, that of an output channel's weights: maxima, means, sizes and gradients
of scales are then taken over these alone. No channel's scale is below

  (5) s_c >= 2^-16 max s

because a channel that training has emptied would else have one in which no bias can be counted: it counts as nothing.

Source: (1) our reconstruction, in the manner of Zeng et al. 2022 (tanh squashing after Strom et al. 2022); (2) Esser
et al. 2020, on symmetric grids; (3) Zhou et al. 2016, whose grid spans [-1, 1]: the fixed gain is ours, so that a
float model can be adopted; (4) common practice, its 1-bit case Rastegari et al. 2016, which has a scale per channel;
scales per channel otherwise after Krishnamoorthi 2018; (5) as quantization after training has it (`kwsq.passes.ptq`).
"""

from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from kwsq.ir.quant import PER_TENSOR, PerAxis
from kwsq.ir.uniform_grid import UniformGrid
from kwsq.models.quantizers.powers_of_two import nearest_power, power_at_least
from kwsq.models.quantizers.regularizers import absolute_cosine, ramp
from kwsq.models.quantizers.straight_through import Floats, WeightQuantizer, straight_through
from kwsq.models.records import WeightTensor

SQUASH_LIMIT = 0.995
SMALLEST_SCALE = 1e-8
SMALLEST_CHANNEL = 2.0**-16
_SQUASH_SIGMAS = {1: 1.5, 2: 1.5, 3: 2.0}
_WIDE_SQUASH_SIGMAS = 3.0


def nearest_code(ratio: Any, grid: UniformGrid) -> Any:
    """Return `UniformGrid.nearest` in TensorFlow, as floats."""
    code = 2.0 * tf.floor(ratio / 2.0) + 1.0 if grid.mid_rise else tf.round(ratio)
    return tf.clip_by_value(code, -float(grid.top), float(grid.top))


class UniformQuantizer(WeightQuantizer):
    """A grid, and optionally the absolute cosine penalty whose phase is that of the grid.

    Args:
        grid: codes.
        cosine: weight of the penalty per weight.
        ramp_steps: steps over which it grows to that weight.
        power_of_two: whether scales are powers of two.
        channel_axis: of the weight, where each slice along it has a scale; None for one scale.
    """

    def __init__(
        self,
        grid: UniformGrid,
        *,
        cosine: float = 0.0,
        ramp_steps: int = 1,
        power_of_two: bool = False,
        channel_axis: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.grid, self.cosine, self.ramp_steps, self.power_of_two = grid, cosine, ramp_steps, power_of_two
        self.channel_axis = channel_axis

    def ratio_and_scale(self, parameter: Any) -> tuple[Any, Any]:
        """Return r and scale of the weights, with the gradients that training is to see."""
        raise NotImplementedError

    def call(self, parameter: Any, training: bool | None = None) -> Any:
        """Return the weight on the grid."""
        ratio, scale = self.ratio_and_scale(parameter)
        if training and self.cosine > 0.0:
            self.add_loss(self._penalty(ratio, scale))
        return straight_through(nearest_code(ratio, self.grid), ratio) * scale

    def _trained_scale(self, trained: Any) -> Any:
        """Return a trained variable as the scale that is used, at least (5): a large step may carry it below zero."""
        magnitude = tf.abs(trained)
        scale = tf.maximum(magnitude, _floor(tf.reduce_max(tf.stop_gradient(magnitude))))
        return straight_through(nearest_power(scale), scale) if self.power_of_two else scale

    def _scale_shape(self, weight_shape: Any) -> tuple[int, ...]:
        """Return the shape of scales that broadcast against the weight."""
        if self.channel_axis is None:
            return ()
        channel = self.channel_axis % len(weight_shape)
        return tuple(int(size) if axis == channel else 1 for axis, size in enumerate(weight_shape))

    def _shared(self, rank: int) -> dict[str, Any]:
        """Return how NumPy and TensorFlow reduce over the weights that share a scale, to the shape of scales."""
        if self.channel_axis is None:
            return {"axis": None, "keepdims": False}
        return {"axis": tuple(axis for axis in range(rank) if axis != self.channel_axis % rank), "keepdims": True}

    def _penalty(self, ratio: Any, scale: Any) -> Any:
        factor = tf.cast(self.cosine * ramp(self.steps, self.ramp_steps), ratio.dtype)
        distance = tf.stop_gradient(scale) * self.grid.spacing
        of_scales = tf.reduce_sum(absolute_cosine(ratio, self.grid), **self._shared(len(ratio.shape)))
        return tf.reduce_sum(factor * distance * of_scales)

    def weight_tensor(self, parameter: Any) -> WeightTensor:
        """Return codes and grid; the codes come from the same TensorFlow operations as in `call`."""
        ratio, scale = self.ratio_and_scale(tf.convert_to_tensor(parameter))
        codes = nearest_code(ratio, self.grid).numpy().astype(np.int8)
        granularity = PER_TENSOR if self.channel_axis is None else PerAxis(self.channel_axis % codes.ndim)
        return WeightTensor(codes, self.grid.spec(np.asarray(scale), granularity))


def _floor(largest: Any) -> Any:
    """Return what no scale is below where this one is the largest, equation (5)."""
    return tf.maximum(largest * SMALLEST_CHANNEL, SMALLEST_SCALE)


class TwoStageQuantizer(UniformQuantizer):
    """Squashed weights, equation (1); gains are trained."""

    def build(self, input_shape: Any) -> None:
        """Create the gain, or one per channel."""
        self.gain = self.add_weight(name="gain", shape=self._scale_shape(input_shape), initializer="ones")
        super().build(input_shape)

    def adopt(self, weight: Floats) -> Floats:
        """Return P = atanh(w / span), |w| / span cut at 0.995, where tanh spans some standard deviations of the weight.

        The gain is the span, so that a fine grid starts from the same weight; a mid-rise grid, too coarse for that,
        starts from the gain with the least squared error.
        """
        shared = self._shared(weight.ndim)
        sigmas = _SQUASH_SIGMAS.get(self.grid.bits, _WIDE_SQUASH_SIGMAS)
        # The few weights of a channel may all have one sign: around their mean they would seem to be small.
        spread = weight.std() if self.channel_axis is None else np.sqrt(np.square(weight).mean(**shared))
        span = _with_floor(sigmas * spread.astype(np.float64))
        if self.power_of_two:  # a gain rounded afterwards would change the weight
            span = (nearest_power(span / np.float32(self.grid.top)).numpy() * self.grid.top).astype(np.float32)
        squashed = np.clip(weight / span, -SQUASH_LIMIT, SQUASH_LIMIT)
        self.gain.assign(_fitted_gain(weight, squashed, self.grid, shared) if self.grid.mid_rise else span)
        return np.asarray(np.arctanh(squashed), dtype=np.float32)

    def ratio_and_scale(self, parameter: Any) -> tuple[Any, Any]:
        """Equation (1)."""
        scale = self._trained_scale(self.gain / tf.cast(self.grid.top, self.gain.dtype))
        return tf.tanh(parameter) * self.grid.top, scale


def _fitted_gain(weight: Floats, squashed: Floats, grid: UniformGrid, shared: dict[str, Any]) -> Floats:
    """Return the g that minimises sum (w - g code / top)^2 over the weights that share it."""
    unit = grid.nearest(squashed * grid.top).astype(np.float64) / grid.top
    return _with_floor((weight * unit).sum(**shared) / np.square(unit).sum(**shared))


def _with_floor(scales: NDArray[np.float64]) -> Floats:
    """Return scales to start from, raised to what (5) lets them be."""
    return np.maximum(scales, max(float(scales.max()) * SMALLEST_CHANNEL, SMALLEST_SCALE)).astype(np.float32)


class LearnedStepQuantizer(UniformQuantizer):
    """Uniform weights with trained steps, equation (2)."""

    def build(self, input_shape: Any) -> None:
        """Create the step, or one per channel."""
        self.step = self.add_weight(name="step", shape=self._scale_shape(input_shape), initializer="ones")
        super().build(input_shape)

    def adopt(self, weight: Floats) -> Floats:
        """Set the distance of codes to 2 mean|w| / sqrt(top), as the LSQ paper starts; half of it between odd codes."""
        mean = np.abs(weight).mean(**self._shared(weight.ndim))
        self.step.assign(_with_floor(2.0 * mean / (self.grid.spacing * np.sqrt(self.grid.top))))
        return weight

    def ratio_and_scale(self, parameter: Any) -> tuple[Any, Any]:
        """Equation (2)."""
        size = float(np.prod(parameter.shape)) / self.step.shape.num_elements()
        shrink = 1.0 / np.sqrt(size * self.grid.top)
        step = self._trained_scale(straight_through(self.step, self.step * shrink))
        return tf.clip_by_value(parameter / step, -float(self.grid.top), float(self.grid.top)), step


class MaxAbsQuantizer(UniformQuantizer):
    """Plain straight-through weights, equation (4)."""

    def ratio_and_scale(self, parameter: Any) -> tuple[Any, Any]:
        """Equation (4)."""
        magnitude, shared = tf.stop_gradient(tf.abs(parameter)), self._shared(len(parameter.shape))
        reach = tf.reduce_mean(magnitude, **shared) if self.grid.bits == 1 else tf.reduce_max(magnitude, **shared)
        scale = reach / tf.cast(self.grid.top, reach.dtype)
        scale = tf.maximum(scale, _floor(tf.reduce_max(scale)))
        if self.power_of_two:
            scale = nearest_power(scale) if self.grid.bits == 1 else power_at_least(scale)
        return parameter / scale, scale


class DorefaQuantizer(UniformQuantizer):
    """DoReFa's weights of 2 bits and more, equation (3); those of 1 bit are `MaxAbsQuantizer`'s."""

    def build(self, input_shape: Any) -> None:
        """Create the fixed gain."""
        self.gain = self.add_weight(name="gain", shape=(), trainable=False, initializer="ones")
        super().build(input_shape)

    def adopt(self, weight: Floats) -> Floats:
        """Set the gain with the least squared error and return the weight."""
        squashed = np.tanh(weight)
        largest = np.float32(max(float(np.abs(squashed).max()), SMALLEST_SCALE))
        unit = np.asarray(squashed / largest, np.float32)
        self.gain.assign(_fitted_gain(weight, unit, self.grid, self._shared(weight.ndim)))
        return weight

    def ratio_and_scale(self, parameter: Any) -> tuple[Any, Any]:
        """Equation (3)."""
        squashed = tf.tanh(parameter)
        unit = squashed / tf.maximum(tf.reduce_max(tf.abs(squashed)), SMALLEST_SCALE)
        return unit * self.grid.top, self.gain / tf.cast(self.grid.top, self.gain.dtype)
