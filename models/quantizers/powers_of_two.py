"""Scales that are powers of two, computed so that export and training get the same bits.

Exponents are taken in float64 and the powers built in float64: both are exact for every float32.

Source: rounding a range up to a power of two as Jain et al. 2020 do; slack and lower limit are our choice.
"""

from typing import Any

import numpy as np
import tensorflow as tf

SMALLEST = 2.0**-30
_SLACK = 1e-12
"""Less than the logarithms of neighbouring float32 differ by, more than that of an exact power may be off."""


def power_at_least(values: Any) -> Any:
    """Return the smallest powers of two that are at least as large as values, without gradient.

    Args:
        values: any shape, float32, in the unit of the scale; below SMALLEST counts as SMALLEST.

    Returns:
        Shape and type of the values.
    """
    return _power(values, lambda exponent: tf.math.ceil(exponent - _SLACK))


def nearest_power(values: Any) -> Any:
    """Return the powers of two nearest to values by ratio, ties to the even exponent; as `power_at_least` otherwise."""
    return _power(values, tf.round)


def _power(values: Any, rounding: Any) -> Any:
    reach = tf.cast(tf.maximum(tf.stop_gradient(values), SMALLEST), tf.float64)
    exponent = rounding(tf.math.log(reach) / np.log(2.0))
    return tf.cast(tf.pow(tf.constant(2.0, tf.float64), exponent), values.dtype)
