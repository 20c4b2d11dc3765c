"""One walk through a Sequential model, layer by layer, for whatever sets a layer by what reaches it."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray


def layer_inputs(model: Any, features: NDArray[np.float32], batch: int | None = None) -> Iterator[tuple[Any, Any]]:
    """Yield every layer with its input at inference; what is done to a layer before the next one is asked for counts.

    Args:
        model: Sequential model.
        features: (n, ...) float32 input of the first layer, n >= 1.
        batch: clips computed at once, None for all.

    Yields:
        The layer, and the (n, ...) tensor that reaches it.
    """
    values = tf.constant(features)
    size = len(features) if batch is None else batch
    for layer in model.layers:
        yield layer, values
        parts = [layer(values[start : start + size], training=False) for start in range(0, len(features), size)]
        values = parts[0] if len(parts) == 1 else tf.concat(parts, axis=0)
