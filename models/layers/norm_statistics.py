"""Statistics of batch norms for the weights and inputs that ship, taken once training has ended.

In training a batch norm follows its batches with a moving average. Weights of few bits still jump from level to level
in the last steps, so that the averages lag behind them; and they are those of augmented clips. So, layer by layer,

  (1) mean, variance <- those of the layer's inputs on training clips, all layers before it settled

Which clips is a choice between a quiet and a noisy room (`kwsq.models.schemes.NormClips`). `python
benchmarks/norm_statistics.py`, kws_ff, means over weights of float, 4, 2 and 1 bit and two folds of some 612 clips of
set-aside speakers, on clips as they are and in noise at -3 to 9 dB:

  as trained                            86.2 %   69.3 %
  clips as they are                     86.5 %   63.3 %
  half of them augmented                86.3 %   67.8 %

The float controls of docs/results.md, 3,700 clips, gain about half a point on clips as they are with the second
against the first (0.9 and 0.0 in two seeds, 0.4 in the longer one); few-bit weights are where averages lag most. The
third lies between on both counts, and is what recipes take and files ship with; the table, whose clips are scored as
they are, has the second. `ds_cnn`, whose training hears no noise, names the second too.

The float model keeps the averages of its training, but where that was so short that they still hold what they began
with: with Keras' momentum of 0.99, after 30 steps, three quarters of it. Of such a one they are those of

  (2) mean, variance <- as (1), on augmented clips, where momentum^steps > 0.001

Source: re-estimation after Nagel et al. 2022 (oscillations in quantization-aware training); the clips are our choice.
"""

from typing import Any

import tensorflow as tf
import tf_keras
from numpy.typing import NDArray

from kwsq.models.layers.linear_parameters import QuantizedBatchNorm
from kwsq.models.layers.walk import layer_inputs

MOST_CLIPS = 4096
LEFT_OVER = 1e-3


def settle_norms(model: Any, features: NDArray[Any]) -> None:
    """Set the statistics of every batch norm, equation (1); one that has been merged and quantized keeps its own.

    Args:
        model: Sequential model that has been trained.
        features: (n, ...) of training clips; a recipe draws at most MOST_CLIPS.
    """
    for layer, values in layer_inputs(model, features):
        if isinstance(layer, tf_keras.layers.BatchNormalization) and not _is_merged(layer):
            mean, variance = tf.nn.moments(values, axes=list(range(len(values.shape) - 1)))
            layer.moving_mean.assign(mean)
            layer.moving_variance.assign(variance)


def are_young(model: Any, steps: int) -> bool:
    """Return whether moving averages hold more than a thousandth of what they began with, as in equation (2)."""
    norms = [layer for layer in model.layers if isinstance(layer, tf_keras.layers.BatchNormalization)]
    return any(norm.momentum**steps > LEFT_OVER for norm in norms)


def _is_merged(layer: Any) -> bool:
    return isinstance(layer, QuantizedBatchNorm) and bool(layer.quantized.numpy() > 0.0)
