"""Weights on int8 levels times one scale: fixed Lloyd-Max levels, or centroids that train.

  (1) straight-through   w = scale * levels[argmin |v - scale levels|],  dw/dv = 1 inside the outer levels, else 0
  (2) compressed         in training  w = v, with the penalty (3) of `regularizers`, and every N steps
                         v <- nearest level; otherwise  w = nearest level
  (3) soft to hard       u = F(v / gain),  a_j = softmax_j(-alpha |u - c_j|),  w = sum_j a_j scale levels_j,
                         scale levels_j = gain F^-1(c_j) rounded to int8 with straight-through gradient,
                         F(x) = sgn(x) ln(1 + mu |x|) / ln(1 + mu);  alpha grows by a constant factor per step;
                         at its last value w becomes the level of the nearest c_j, gradient as before

Source: (1) fixed centroids in the manner of Zhen et al. 2022 with STE; (2) in their manner: pseudo compressor and hard
compressor, float training in between; (3) in the manner of Zhen et al. 2022b (GQ). Formulas are our reconstruction.
"""

from typing import Any

import numpy as np
import tensorflow as tf

from kwsq.ir.quant import Codebook
from kwsq.models.layer_records import WeightTensor
from kwsq.models.lloyd_max import nearest_index, snapped_codebook, strictly_increasing
from kwsq.models.regularizers import multi_regional_cosine, ramp
from kwsq.models.schemes import Compressed, SoftToHard
from kwsq.models.straight_through import Floats, WeightQuantizer, straight_through

HIGHEST_LEVEL = 127.0


class CodebookQuantizer(WeightQuantizer):
    """Weights on fixed int8 levels, equation (1); the levels are those of the float weights it adopted."""

    def __init__(self, bits: int, **options: Any) -> None:
        super().__init__(**options)
        self.bits = bits

    def build(self, input_shape: Any) -> None:
        """Create levels and scale; both stay fixed in training."""
        levels = self.add_weight(name="levels", shape=(2**self.bits,), trainable=False, initializer="zeros")
        self.levels = levels
        self.scale = self.add_weight(name="scale", shape=(), trainable=False, initializer="ones")
        super().build(input_shape)

    def adopt(self, weight: Floats) -> Floats:
        """Take the int8-snapped Lloyd-Max codebook of the float weight and return the weight."""
        codebook = snapped_codebook(weight, self.bits)
        self.levels.assign(codebook.levels.astype(np.float32))
        self.scale.assign(codebook.scale[0])
        return weight

    def call(self, parameter: Any, training: bool | None = None) -> Any:
        """Return the weight at its nearest level, equation (1)."""
        real = self.levels * self.scale
        inside = tf.clip_by_value(parameter, real[0], real[-1])
        return straight_through(self.nearest(parameter), inside)

    def nearest(self, parameter: Any) -> Any:
        """Return the level nearest to every weight, in real units."""
        real = tf.cast(self.levels, tf.float64) * tf.cast(self.scale, tf.float64)
        flat = tf.cast(tf.reshape(parameter, [-1]), tf.float64)
        index = tf.searchsorted((real[:-1] + real[1:]) / 2.0, flat, side="left")
        return tf.gather(self.levels * self.scale, tf.reshape(index, tf.shape(parameter)))

    def weight_tensor(self, parameter: Any) -> WeightTensor:
        """Return the int8 level of every weight, with the codebook."""
        codebook = Codebook(self.levels.numpy().astype(np.int8), np.array([self.scale.numpy()]), self.bits)
        index = nearest_index(np.asarray(parameter), codebook)
        return WeightTensor(np.asarray(codebook.levels)[index].astype(np.int8), codebook)


class CompressedQuantizer(CodebookQuantizer):
    """Float weights in training, drawn to the levels and snapped to them every N steps, equation (2)."""

    def __init__(self, scheme: Compressed, **options: Any) -> None:
        super().__init__(scheme.bits, **options)
        self.scheme = scheme

    def advance(self, parameter: Any) -> None:
        """Count a step; every `snap_steps` of them put the free parameter on its nearest levels."""
        super().advance(parameter)
        due = tf.equal(self.steps % self.scheme.snap_steps, 0)
        parameter.assign(tf.cond(due, lambda: self.nearest(parameter), lambda: tf.identity(parameter)))

    def call(self, parameter: Any, training: bool | None = None) -> Any:
        """Return the float weight in training, its nearest level otherwise."""
        if not training:
            return super().call(parameter)
        penalty, distance = multi_regional_cosine(parameter, self.levels * self.scale)
        factor = self.scheme.cosine * ramp(self.steps, self.scheme.ramp_steps)
        self.add_loss(factor * tf.reduce_sum(distance * penalty))
        return tf.identity(parameter)


class SoftToHardQuantizer(WeightQuantizer):
    """Weights drawn by a softmax to centroids that train, hard once it is sharp, equation (3)."""

    def __init__(self, scheme: SoftToHard, **options: Any) -> None:
        super().__init__(**options)
        self.scheme = scheme

    def build(self, input_shape: Any) -> None:
        """Create the centroids, in the compressed space, and the gain."""
        start = np.linspace(-1.0, 1.0, 2**self.scheme.bits).astype(np.float32)
        constant = tf.constant_initializer(start)
        self.centroids = self.add_weight(name="centroids", shape=start.shape, initializer=constant)
        self.gain = self.add_weight(name="gain", shape=(), trainable=False, initializer="ones")
        super().build(input_shape)

    def adopt(self, weight: Floats) -> Floats:
        """Start from the Lloyd-Max levels of the float weight and return the weight."""
        codebook = snapped_codebook(weight, self.scheme.bits)
        self.gain.assign(codebook.scale[0] * HIGHEST_LEVEL)
        unit = codebook.levels.astype(np.float64) / HIGHEST_LEVEL
        mu = self.scheme.mu
        self.centroids.assign(np.sign(unit) * np.log1p(mu * np.abs(unit)) / np.log1p(mu))
        return weight

    def call(self, parameter: Any, training: bool | None = None) -> Any:
        """Return the soft sum while annealing, else the nearest level."""
        real = self._real_levels()
        distances = self._distances(parameter)
        hard = tf.gather(real, tf.argmin(distances, axis=-1))
        if not training:
            return hard
        soft = tf.reduce_sum(tf.nn.softmax(-self._sharpness() * distances, axis=-1) * real, axis=-1)
        # Hard assignment is a matter of value alone: its gradient stays that of the soft sum.
        annealed = self.steps >= self.scheme.anneal_steps
        return straight_through(tf.where(annealed, hard, soft), soft)

    def _distances(self, parameter: Any) -> Any:
        """Distance of every weight to every centroid, in the compressed space."""
        return tf.abs(_compress(parameter / self.gain, self.scheme.mu)[..., None] - self.centroids)

    def _sharpness(self) -> Any:
        """Alpha: geometric from first to last over the annealing."""
        first, last = self.scheme.first_sharpness, self.scheme.last_sharpness
        done = tf.cast(ramp(self.steps, self.scheme.anneal_steps), self.centroids.dtype)
        return first * (last / first) ** done

    def _real_levels(self) -> Any:
        expanded = _expand(self.centroids, self.scheme.mu) * HIGHEST_LEVEL
        snapped = tf.clip_by_value(tf.round(expanded), -HIGHEST_LEVEL, HIGHEST_LEVEL)
        return straight_through(snapped, expanded) * (self.gain / HIGHEST_LEVEL)

    def weight_tensor(self, parameter: Any) -> WeightTensor:
        """Return the int8 level of every weight; levels that have met are stored once."""
        real = self._real_levels()
        scale = np.float32((self.gain / HIGHEST_LEVEL).numpy())
        levels = np.rint(real.numpy() / scale).astype(np.int16)
        chosen = levels[tf.argmin(self._distances(parameter), axis=-1).numpy()].astype(np.int8)
        distinct = np.unique(levels)
        if distinct.size == 1:
            distinct = strictly_increasing(np.repeat(distinct, 2))
        return WeightTensor(chosen, Codebook(distinct.astype(np.int8), np.array([scale]), self.scheme.bits))


def _compress(values: Any, mu: float) -> Any:
    return tf.sign(values) * tf.math.log1p(mu * tf.abs(values)) / np.log1p(mu)


def _expand(values: Any, mu: float) -> Any:
    return tf.sign(values) * tf.math.expm1(np.log1p(mu) * tf.abs(values)) / mu
