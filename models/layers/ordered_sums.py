"""Sums of products as equation (46) of docs/quantization.md orders them, in TensorFlow.

Codes and sums are whole numbers in float32, which is exact below 2^24: 1,040 products of 8 bits stay under it.

In training the value is that of (46) and the gradient that of

  (1) z = start + 2^-r sum w x    where neither start nor a partial sum of an output was cut, else 0

so that one convolution backward serves all groups. The ordered sums alone are compiled by XLA, which reads each group's
products once; step by step they would cost more than the rest of a training step.

Source: (1) our choice of surrogate.
"""

from typing import Any, NamedTuple

import tensorflow as tf

from kwsq.ir.numerics.accumulator import Accumulator


class Window(NamedTuple):
    """The inputs that an output sums over, axis by axis: none of a dense layer, time, or time and frequency.

    Args:
        taps: neighbouring positions.
        stride: positions between outputs.
        pads: zeros before the first and behind the last position.
    """

    taps: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    pads: tuple[tuple[int, int], ...] = ()


def plain_sums(codes: Any, weights: Any, window: Window) -> Any:
    """Return sums of products without a limit.

    Args:
        codes: (N, positions along each axis of the window, C_in).
        weights: (taps along each axis, C_in, C_out).
        window: what an output sums over; pads only with two axes.

    Returns:
        (N, outputs along each axis, C_out).
    """
    if not window.taps:  # no match statement here: TensorFlow's AutoGraph knows none and says so in the user's log
        return tf.matmul(codes, weights)
    if len(window.taps) == 1:
        return tf.nn.conv1d(codes, weights, stride=window.stride[0], padding="VALID")
    # Padded beforehand: TensorFlow has no fast gradient of a convolution with explicit padding.
    return tf.nn.conv2d(_padded(codes, window), weights, strides=window.stride, padding="VALID")


def counted_sums(codes: Any, weights: Any, start: Any, window: Window, contract: Accumulator) -> tuple[Any, Any]:
    """Return the sums of (46), in units of 2^r products, and how many values were cut; without a useful gradient.

    Args:
        codes: as in `plain_sums`.
        weights: as in `plain_sums`.
        start: (C_out,) b' of (46), narrowed; the accumulator cuts it.
        window: as in `plain_sums`.
        contract: accumulator.
    """
    low, high = float(contract.low), float(contract.high)
    shape, groups = _grouped(codes, weights, window, contract.group)
    total = tf.clip_by_value(start, low, high)
    cut = tf.math.count_nonzero(tf.not_equal(start, total)) * tf.cast(tf.reduce_prod(shape[:-1]), tf.int64)
    for part, columns in groups:
        moved = total + _narrowed(tf.matmul(part, columns), contract.shift)
        total = tf.clip_by_value(moved, low, high)
        cut += tf.math.count_nonzero(tf.not_equal(moved, total))
    return tf.reshape(total, shape), cut


def trained_sums(codes: Any, weights: Any, start: Any, window: Window, contract: Accumulator) -> Any:
    """Return the sums of (46) with the gradient of (1); arguments as in `counted_sums`."""

    @tf.custom_gradient
    def sums(codes: Any, weights: Any, start: Any) -> Any:
        total, whole = _compiled(codes, weights, start, window, contract.group, contract.shift, contract.high)

        def slopes(upstream: Any) -> Any:
            kept = upstream * whole
            with tf.GradientTape() as tape:
                tape.watch([codes, weights])
                plain = plain_sums(codes, weights, window)
            scaled = kept * 2.0**-contract.shift
            by_codes, by_weights = tape.gradient(plain, [codes, weights], output_gradients=scaled)
            return by_codes, by_weights, tf.reduce_sum(kept, axis=tuple(range(kept.shape.rank - 1)))

        return total, slopes

    return sums(codes, weights, start)


@tf.function(jit_compile=True)
def _compiled(
    codes: Any, weights: Any, start: Any, window: Window, group: int, shift: int, high: int
) -> tuple[Any, Any]:
    """Return the sums of (46), and 1 where none of an output's values was cut, else 0."""
    shape, groups = _grouped(codes, weights, window, group)
    total = tf.clip_by_value(start, -high - 1.0, float(high))
    whole = tf.equal(start, total)
    for part, columns in groups:
        moved = total + _narrowed(tf.matmul(part, columns), shift)
        total = tf.clip_by_value(moved, -high - 1.0, float(high))
        whole = tf.logical_and(whole, tf.equal(moved, total))
    return tf.reshape(total, shape), tf.reshape(tf.cast(whole, total.dtype), shape)


def _grouped(codes: Any, weights: Any, window: Window, group: int) -> tuple[Any, list[tuple[Any, Any]]]:
    """Return the shape of the sums, and for each group in weight order its inputs (rows, G) and weights (G, C_out).

    A group's inputs are cut from the codes one by one: all of an output's inputs at once would be laid out twice. The
    frequencies that an output of a map sees become channels first, so that what is cut is contiguous.
    """
    padded = _padded(codes, window)
    channels = int(weights.shape[-2])
    taps: list[tuple[slice, ...]] = [()]
    if len(window.taps) == 2:
        cuts = _tap_cuts(int(padded.shape[2]), window.taps[1], window.stride[1])
        padded, channels = tf.concat([padded[:, :, cut] for cut in cuts], axis=-1), channels * window.taps[1]
    if window.taps:
        taps = [(cut,) for cut in _tap_cuts(int(padded.shape[1]), window.taps[0], window.stride[0])]
    columns, groups = tf.reshape(weights, (-1, weights.shape[-1])), []
    for first in range(0, len(taps) * channels, group):
        last = min(first + group, len(taps) * channels)
        pieces = [
            padded[(slice(None), *taps[tap], ..., slice(max(first - tap * channels, 0), last - tap * channels))]
            for tap in range(first // channels, (last - 1) // channels + 1)
        ]
        part = tf.concat(pieces, axis=-1)
        groups.append((tf.reshape(part, (-1, last - first)), columns[first:last]))
    return tf.concat([tf.shape(part)[:-1], [weights.shape[-1]]], axis=0), groups


def _padded(codes: Any, window: Window) -> Any:
    return tf.pad(codes, [(0, 0), *window.pads, (0, 0)]) if window.pads else codes


def _tap_cuts(size: int, taps: int, stride: int) -> list[slice]:
    """Return, tap by tap, the positions along an axis that the outputs see through it."""
    reach = (size - taps) // stride * stride + 1
    return [slice(tap, tap + reach, stride) for tap in range(taps)]


def _narrowed(sums: Any, shift: int) -> Any:
    return tf.floor(sums * 2.0**-shift + 0.5) if shift else sums
