"""Which interval between sorted edges a value lies in.

Comparing with every edge in turn is vectorised, a binary search per value is not; codebooks have few edges.

Source: common practice.
"""

from typing import Any

import tensorflow as tf

MOST_COUNTED = 64  # what a codebook of 6 bits has; beyond, one search is the shorter program


def edges_below(values: Any, edges: Any, *, or_at: bool = False) -> Any:
    """Return how many edges lie below every value: the index of its interval.

    Args:
        values: (n,) floating point.
        edges: (m,) of the same type, non-decreasing; m is known when traced.
        or_at: count an edge that equals the value too.

    Returns:
        (n,) int32 in 0..m, without gradient.
    """
    values, edges = tf.stop_gradient(values), tf.stop_gradient(edges)
    many = int(edges.shape[0])
    if many > MOST_COUNTED:
        return tf.searchsorted(edges, values, side="right" if or_at else "left")
    below = tf.greater_equal if or_at else tf.greater
    # int16 because most of the time goes into reading and writing what each comparison gives.
    none = tf.zeros(tf.shape(values), tf.int16)
    return tf.cast(tf.add_n([none, *(tf.cast(below(values, edge), tf.int16) for edge in tf.unstack(edges))]), tf.int32)
