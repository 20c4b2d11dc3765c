"""Rounding within a range: whole numbers forward, ties to even; one gradient inside, none outside."""

import numpy as np
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from kwsq.models.quantizers.straight_through import rounded_within


@settings(max_examples=100, deadline=None)
@given(ratios=st.lists(st.floats(-300, 300, width=32), min_size=1, max_size=20), low=st.integers(-128, 0))
def test_values_are_whole_and_gradients_pass_inside_only(ratios: list[float], low: int) -> None:
    values = np.array([*ratios, low, low - 0.25, 100.0, 100.25, 0.5, 1.5], np.float32)
    upstream = np.random.default_rng(0).normal(size=values.size).astype(np.float32)
    watched = tf.constant(values)
    with tf.GradientTape() as tape:
        tape.watch(watched)
        codes = rounded_within(watched, float(low), 100.0)
        total = tf.reduce_sum(codes * upstream)
    np.testing.assert_array_equal(codes, np.clip(np.rint(values), low, 100))
    inside = (values >= low) & (values <= 100)
    np.testing.assert_array_equal(tape.gradient(total, watched), np.where(inside, upstream, 0.0))
