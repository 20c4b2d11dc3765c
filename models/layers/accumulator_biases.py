"""Biases on the steps of the integer accumulator: what an integer runtime would round anyway, rounded before export.

A layer of integers adds its bias to sums of products, in steps of

  (1) u_c = s_x s_w,c g_c           s_x input scale, s_w weight scale, g_c gain of the batch norm that follows, else 1
  (2) o_c' = u_c round(o_c / u_c)   o_c the layer's bias, or the offset beta - g mean of its batch norm

Once (2) holds, the Keras model, its ONNX file and the artefact add the same numbers. Without it they part where a step
is coarse: a depthwise filter of 4-bit codes sums nine products only, and half a step is several output codes.

Biases on a power-of-two grid s_b of their own (`linear_parameters`) stand before the gain, so that u_c = s_x s_w,c.
Where all of these are powers of two as well, (2) keeps the biases on few bits: where u_c <= s_b, a bias is a whole
number of steps already; where u_c > s_b, the steps lie on the grid. One that (2) carries beyond the top code doubles
s_b, and both hold again.

Source: (1) Jacob et al. 2018, section 2.4; rounding before export is ours.
"""

from typing import Any

import numpy as np
import tf_keras
from numpy.typing import NDArray

from kwsq.ir.quant import UNQUANTIZED
from kwsq.models.layers.linear_parameters import QuantizedBatchNorm
from kwsq.models.layers.over_time import QuantizedDense
from kwsq.models.layers.recurrent import QuantizedRecurrent
from kwsq.models.quantizers.activation import ActivationQuantizer

LARGEST_CODE = 2.0**30


def round_biases(model: Any) -> None:
    """Round the biases of a model whose weights and activations are quantized, equation (2), in place.

    Left alone are layers without a quantized input or weight, biases with a grid of their own where steps are no powers
    of two, and channels whose step is too small for a code of 31 bits.

    Args:
        model: Sequential model after stage 2.
    """
    input_scale: np.float64 | None = None
    steps: NDArray[np.float64] | None = None
    for layer in model.layers:
        if isinstance(layer, ActivationQuantizer):
            input_scale, steps = _scale(layer), None
        elif isinstance(layer, QuantizedBatchNorm):
            _round_own_grid(layer, steps)
            steps = None
        elif isinstance(layer, tf_keras.layers.BatchNormalization):
            if steps is not None:
                _round_offset(layer, steps)
            steps = None
        elif isinstance(layer, QuantizedRecurrent):
            _round_bias(layer, _accumulator_steps(layer.input_kernel, input_scale))
            input_scale, steps = _scale(layer.held), None
        elif hasattr(layer, "quantizer"):  # fixed-point layers have none: their biases are codes
            steps = _accumulator_steps(layer, input_scale)
            if getattr(layer, "bias_bits", 0):
                _round_own_grid(layer, steps)
            elif hasattr(layer, "bias"):
                _round_bias(layer, steps)


def _scale(quantizer: ActivationQuantizer) -> np.float64 | None:
    spec = quantizer.spec()
    return None if spec is None else np.float64(spec.scale[0])


def _round_bias(layer: Any, steps: NDArray[np.float64] | None) -> None:
    if steps is not None:
        layer.bias.assign(_rounded(layer.bias.numpy().astype(np.float64), steps))


def _round_own_grid(layer: QuantizedDense | QuantizedBatchNorm, steps: NDArray[np.float64] | None) -> None:
    if steps is not None and np.all(np.frexp(steps)[0] == 0.5) and layer.quantized.numpy():
        layer.set_bias(_rounded(layer.used_bias().numpy().astype(np.float64), steps))


def _accumulator_steps(layer: Any, input_scale: np.float64 | None) -> NDArray[np.float64] | None:
    spec = layer.quantizer.weight_tensor(layer.parameter).spec
    return None if input_scale is None or spec == UNQUANTIZED else input_scale * spec.scale.astype(np.float64)


def _round_offset(norm: Any, steps: NDArray[np.float64]) -> None:
    gamma, beta, mean, variance = (np.asarray(array, np.float64) for array in norm.get_weights())
    gain = gamma / np.sqrt(variance + norm.epsilon)
    norm.beta.assign(_rounded(beta - gain * mean, steps * gain) + gain * mean)


def _rounded(values: NDArray[np.float64], steps: NDArray[np.float64]) -> NDArray[np.float64]:
    codes = values / np.where(steps == 0.0, np.inf, steps)
    usable = (steps != 0.0) & (np.abs(codes) < LARGEST_CODE)
    return np.where(usable, np.rint(codes) * steps, values)
