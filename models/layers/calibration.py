"""Activation ranges from what calibration clips cause in a model."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kwsq.models.layers.linear_parameters import QuantizedBatchNorm
from kwsq.models.layers.over_time import QuantizedDense
from kwsq.models.layers.recurrent import QuantizedRecurrent
from kwsq.models.layers.walk import layer_inputs
from kwsq.models.quantizers.activation import ActivationQuantizer


def calibrate(model: Any, features: NDArray[np.float32], percentile: float) -> None:
    """Set every activation range, in layer order, from what these features cause there, and switch it on.

    Biases and batch norms of a scheme that has few bits for them are quantized from here on.

    Args:
        model: Sequential model.
        features: (n, ...) float32 clips.
        percentile: share in percent of the values kept at each end; below 100, ranges stay so in training.
    """
    for layer, values in layer_inputs(model, features):
        if isinstance(layer, QuantizedBatchNorm | QuantizedDense):
            layer.quantize()
        if isinstance(layer, ActivationQuantizer):
            layer.calibrate(values.numpy(), percentile)
        if isinstance(layer, QuantizedRecurrent):
            layer.calibrate(values, percentile)
