"""Penalties that draw weights to the values of their grid.

With r = w / scale in units of codes, d the distance of neighbouring codes, c_0 < c_1 < .. centroids:

  (1) ACosR    |sin(pi r)|                                  mid-tread grid, codes 0, +-1, ..
  (2) ACosR    |cos(pi r / 2)|                              mid-rise grid, codes +-1, +-3, ..
  (3) MRACos   |cos(pi (w - m_i) / d_i)|                    c_i <= w <= c_(i+1), m_i their mean, d_i their distance
               |w - c_end| / d_end                          beyond the outermost centroid

all 0 on a grid value and 1 on the threshold between two. The slope of (1) grows as 1 / scale, so a penalty is summed
over the weights and multiplied by the distance of neighbours: its pull on a weight is then at most pi times its
factor on every grid. The phase comes from the grid itself; a wrong one would hold weights on the thresholds.

Source: (1), (2) in the manner of Nguyen et al. 2020 and Macha et al. 2023, (3) in the manner of Zhen et al. 2022; the
formulas are our reconstruction, and so are the factor d and what (3) does outside.
"""

from typing import Any

import numpy as np
import tensorflow as tf

from kwsq.ir.uniform_grid import UniformGrid
from kwsq.models.quantizers.intervals import edges_below


def absolute_cosine(ratio: Any, grid: UniformGrid) -> Any:
    """Return (1) or (2) for every weight.

    Args:
        ratio: weights over scale, any shape; beyond the outermost code counts as on it.
        grid: the codes.

    Returns:
        Shape and type of the ratio, 0 to 1.
    """
    inside = tf.clip_by_value(ratio, -float(grid.top), float(grid.top))
    return tf.abs(tf.sin(np.pi / grid.spacing * (inside - float(grid.top))))


def multi_regional_cosine(weights: Any, centroids: Any) -> tuple[Any, Any]:
    """Return (3) for every weight, and the distance d of its cell.

    Args:
        weights: any shape, floating point.
        centroids: (L,) of the same type, L >= 2, strictly increasing, in the unit of the weights.

    Returns:
        Two of the weights' shape and type: the penalty, 0 to 1 between the outermost centroids, and d in their unit.
    """
    cell = tf.reshape(edges_below(tf.reshape(weights, [-1]), centroids[1:-1]), tf.shape(weights))
    lower, upper = tf.gather(centroids, cell), tf.gather(centroids, cell + 1)
    distance = upper - lower
    wave = tf.abs(tf.cos(np.pi * (weights - (lower + upper) / 2.0) / distance))
    beyond = tf.maximum(centroids[0] - weights, weights - centroids[-1])
    return tf.where(beyond > 0.0, beyond / distance, wave), distance


def ramp(step: Any, steps: int) -> Any:
    """Return how much of a penalty is on: linear from 0 to 1.

    Args:
        step: number of training steps done, integer scalar.
        steps: number after which all of it is on.

    Returns:
        Float32 scalar.
    """
    return tf.minimum(tf.cast(step, tf.float32) / float(max(steps, 1)), 1.0)
