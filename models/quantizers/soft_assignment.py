"""Weights drawn to centroids that train, softly at first and hard in the end.

  (1) u = F(v / gain),  a_j = softmax_j(-alpha |u - c_j|),  w = sum_j a_j r_j,
      r_j = gain F^-1(c_j) rounded to int8 levels with straight-through gradient,
      F(x) = sgn(x) ln(1 + mu |x|) / ln(1 + mu);  alpha grows by a constant factor per step;
      at its last value w becomes the r_j of the nearest c_j, gradient as before

With c_l the nearest centroid at or below u, c_r the nearest above, and q_l and q_r the means of the r_j on either side,
weighted by exp(-alpha |c_l - c_j|) and exp(-alpha |c_r - c_j|) whose sums are L and R, this is

  (2) w = q_l + (q_r - q_l) sigmoid(2 alpha u - alpha (c_l + c_r) + ln R / L)

All but u depends on the interval alone: a weight costs a look-up and a sigmoid, however many centroids there are.

Source: (1) our reconstruction in the manner of Zhen et al. 2022b (GQ); (2) follows from it.
"""

from typing import Any

import numpy as np
import tensorflow as tf

from kwsq.ir.quant import Codebook
from kwsq.models.quantizers.intervals import edges_below
from kwsq.models.quantizers.lloyd_max import snapped_codebook, strictly_increasing
from kwsq.models.quantizers.regularizers import ramp
from kwsq.models.quantizers.straight_through import Floats, WeightQuantizer, straight_through
from kwsq.models.records import WeightTensor
from kwsq.models.schemes import SoftToHard

HIGHEST_LEVEL = 127.0


class SoftToHardQuantizer(WeightQuantizer):
    """Weights drawn by a softmax to centroids that train, hard once it is sharp, equation (1)."""

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
        order = tf.argsort(self.centroids)
        centroids, real = tf.gather(self.centroids, order), tf.gather(self._real_levels(), order)
        unit = tf.reshape(_compress(parameter / self.gain, self.scheme.mu), [-1])
        interval = edges_below(unit, centroids, or_at=True)
        sides = tf.stop_gradient(_sides(centroids, real))
        if not training:
            nearest = _nearest(unit, *tf.unstack(tf.gather(sides, interval), axis=1))
            return tf.reshape(nearest, tf.shape(parameter))
        sharpness = self._sharpness()
        *side, start, rise, offset = _looked_up(_intervals(centroids, real, sharpness), sides, interval)
        soft = start + rise * tf.sigmoid(2.0 * sharpness * unit + offset)
        # Hard assignment is a matter of value alone: its gradient stays that of the soft sum.
        annealed = self.steps >= self.scheme.anneal_steps
        value = tf.cond(annealed, lambda: straight_through(_nearest(unit, *side), soft), lambda: tf.identity(soft))
        return tf.reshape(value, tf.shape(parameter))

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
        scale = np.float32((self.gain / HIGHEST_LEVEL).numpy())
        chosen = np.rint(self(tf.convert_to_tensor(parameter)).numpy() / scale).astype(np.int8)
        distinct = np.unique(np.rint(self._real_levels().numpy() / scale).astype(np.int16))
        if distinct.size == 1:
            distinct = strictly_increasing(np.repeat(distinct, 2))
        return WeightTensor(chosen, Codebook(distinct.astype(np.int8), np.array([scale]), self.scheme.bits))


def _sides(centroids: Any, real: Any) -> Any:
    """Return what an interval lies between, by the number of centroids at or below: (count + 1, 3).

    The middle of its two centroids, the level of the lower one and that of the upper one.
    """
    middle = tf.concat([centroids[:1] - 1.0, (centroids[:-1] + centroids[1:]) / 2.0, centroids[-1:]], 0)
    return tf.stack([middle, tf.concat([real[:1], real], 0), tf.concat([real, real[-1:]], 0)], axis=1)


def _nearest(unit: Any, middle: Any, lower: Any, upper: Any) -> Any:
    """Return the level of the nearest centroid, the lower one of two; no gradient."""
    return tf.where(tf.stop_gradient(unit) > middle, upper, lower)


@tf.custom_gradient
def _looked_up(soft: Any, sides: Any, index: Any) -> Any:
    """Return the columns of `sides` (k, m) and of `soft` (k, n) in the rows that an index names, in one look-up.

    Gradients reach `soft` alone: sums per column cost less than per row.
    """
    rows, fixed = int(soft.shape[0]), int(sides.shape[1])

    def backward(*upstream: Any) -> Any:
        sums = [tf.math.unsorted_segment_sum(part, index, rows) for part in upstream[fixed:]]
        return tf.stack(sums, axis=1), None, None

    return tuple(tf.unstack(tf.gather(tf.concat([sides, soft], axis=1), index), axis=1)), backward


def _intervals(centroids: Any, real: Any, sharpness: Any) -> Any:
    """Return q_l, q_r - q_l and the constant that (2) adds, by the number of centroids at or below: (count + 1, 3)."""
    differences = sharpness * (centroids[:, None] - centroids[None, :])
    low = tf.linalg.band_part(tf.exp(-tf.abs(differences)), -1, 0)
    high = tf.linalg.band_part(tf.exp(-tf.abs(differences)), 0, -1)
    below, above = tf.reduce_sum(low, 1), tf.reduce_sum(high, 1)
    mean_below, mean_above = tf.linalg.matvec(low, real) / below, tf.linalg.matvec(high, real) / above
    # Beyond the outer centroids there is one side only.
    rise = tf.pad(mean_above[1:] - mean_below[:-1], [[1, 1]])
    offset = tf.math.log(above[1:] / below[:-1]) - sharpness * (centroids[1:] + centroids[:-1])
    return tf.stack([tf.concat([mean_above[:1], mean_below], 0), rise, tf.pad(offset, [[1, 1]])], axis=1)


def _compress(values: Any, mu: float) -> Any:
    """Return F of (1), with its derivative written out: fewer passes over the weights, and right at 0 as well."""
    height = float(np.log1p(mu))

    @tf.custom_gradient
    def compressed(values: Any) -> Any:
        grown = mu * tf.abs(values)
        return tf.sign(values) * (tf.math.log1p(grown) / height), lambda up: up * ((mu / height) / (1.0 + grown))

    return compressed(values)


def _expand(values: Any, mu: float) -> Any:
    return tf.sign(values) * tf.math.expm1(np.log1p(mu) * tf.abs(values)) / mu
