"""Weights on int8 levels times one scale, the levels fixed: those of Lloyd and Max for the float weights.

  (1) straight-through   w = scale * levels[argmin |v - scale levels|],  dw/dv = 1 inside the outer levels, else 0
  (2) compressed         in training  w = v, with penalty (3) of `quantizers.regularizers`, and every N steps
                         v <- nearest level; otherwise  w = nearest level
  (3) nearest level      v lies above the middle of levels i and i + 1 just where
                         ceil(2 v / scale) > levels[i] + levels[i + 1]: one look-up among whole numbers, exact in
                         float64 where v and scale are no denormals; NaN, of a training that diverges, gives the
                         lowest level

Source: (1) fixed centroids in the manner of Zhen et al. 2022 with STE; (2) in their manner: pseudo compressor and hard
compressor, float training in between. Formulas are our reconstruction.
"""

from typing import Any

import numpy as np
import tensorflow as tf

from kwsq.ir.quant import Codebook
from kwsq.models.quantizers.intervals import edges_below
from kwsq.models.quantizers.lloyd_max import HIGHEST_LEVEL, nearest_index, snapped_codebook
from kwsq.models.quantizers.regularizers import multi_regional_cosine, ramp
from kwsq.models.quantizers.straight_through import Floats, WeightQuantizer, straight_through
from kwsq.models.records import WeightTensor
from kwsq.models.schemes import Compressed


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
        """Return the level nearest to every weight, equation (3), without gradient.

        Args:
            parameter: float32 of any shape, in real units.

        Returns:
            Float32 of that shape, in real units.
        """
        reach = 2.0 * HIGHEST_LEVEL + 1.0
        index = edges_below(tf.range(-reach, reach + 1.0, dtype=self.levels.dtype), self.levels[:-1] + self.levels[1:])
        table = tf.gather(self.levels * self.scale, index)
        ratio = 2.0 * tf.cast(parameter, tf.float64) / tf.cast(self.scale, tf.float64)
        place = tf.where(ratio > -reach, tf.minimum(tf.math.ceil(ratio), reach), -reach) + reach
        return tf.gather(table, tf.cast(place, tf.int32))

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
