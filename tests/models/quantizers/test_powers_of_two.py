"""Powers of two from any float32: exact, also beside an exact power."""

import numpy as np
import pytest
import tensorflow as tf

from kwsq.models.quantizers.powers_of_two import SMALLEST, nearest_power, power_at_least

EXPONENTS = np.arange(-29, 60)


@pytest.mark.parametrize("side", [-np.inf, np.inf])
def test_neighbours_of_a_power_fall_on_the_right_side(side: float) -> None:
    powers = (2.0**EXPONENTS).astype(np.float32)
    beside = np.nextafter(powers, np.float32(side))
    np.testing.assert_array_equal(power_at_least(tf.constant(powers)), powers)
    np.testing.assert_array_equal(nearest_power(tf.constant(beside)), powers)
    np.testing.assert_array_equal(power_at_least(tf.constant(beside)), powers if side < 0 else 2 * powers)


def test_powers_enclose_random_values_and_have_no_gradient() -> None:
    values = tf.constant(np.exp(np.random.default_rng(0).normal(0, 8, 2000)).astype(np.float32))
    with tf.GradientTape() as tape:
        tape.watch(values)
        above, nearest = power_at_least(values), nearest_power(values)
        total = tf.reduce_sum(above + nearest)
    assert tape.gradient(total, values) is None
    floor = np.maximum(values.numpy(), SMALLEST)
    assert ((above.numpy() >= floor) & (above.numpy() < 2 * floor)).all()
    assert np.abs(np.log2(nearest.numpy() / floor)).max() <= 0.5 + 1e-6


def test_nothing_is_smaller_than_the_smallest() -> None:
    np.testing.assert_array_equal(power_at_least(tf.constant([0.0, 1e-30])), [SMALLEST, SMALLEST])
