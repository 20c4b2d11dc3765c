"""The MLPerf Tiny keyword spotter: one convolution, four depthwise-separable blocks, one mean over the map.

49 x 10 MFCC -> (10 x 4, stride 2, 64) -> 4 x [depthwise 3 x 3, pointwise 64] -> mean -> 12; batch norm and ReLU after
each convolution: 24,332 parameters, 22,016 weights.

Source: the layer table of the MLPerf Tiny keyword-spotting reference (Banbury et al. 2021), after Zhang et al. 2017,
"Hello Edge". Its convolutions have biases before the batch norms, which compute nothing more and are left out here.
"""

from typing import Any

import tf_keras

from kwsq.models.data.clips import LABELS
from kwsq.models.data.mfcc import COEFFICIENTS, FRAMES
from kwsq.models.layers.over_maps import AddChannel, MeanOverMap, QuantizedConv2D
from kwsq.models.layers.over_time import QuantizedDense, batch_norm
from kwsq.models.quantizers.activation import ActivationQuantizer
from kwsq.models.schemes import WeightScheme

CHANNELS = 64
BLOCKS = 4


def build(scheme: WeightScheme, classes: int = len(LABELS)) -> Any:
    """Return the untrained network as a Sequential model over (N, 49, 10) features.

    Args:
        scheme: representation of every weight, first and last layer included.
        classes: number of outputs.

    Returns:
        A built `tf_keras.Sequential`; activation quantizers are present and off.
    """
    layers: list[Any] = [tf_keras.Input((FRAMES, COEFFICIENTS)), AddChannel(name="map")]
    layers += [ActivationQuantizer(name="features_quantizer")]
    first = QuantizedConv2D(CHANNELS, kernel=(10, 4), stride=(2, 2), scheme=scheme, name="conv")
    layers += _with_norm(first, scheme)
    for number in range(1, BLOCKS + 1):
        depthwise = QuantizedConv2D(None, kernel=(3, 3), stride=(1, 1), scheme=scheme, name=f"depthwise{number}")
        pointwise = QuantizedConv2D(CHANNELS, kernel=(1, 1), stride=(1, 1), scheme=scheme, name=f"pointwise{number}")
        layers += [*_with_norm(depthwise, scheme), *_with_norm(pointwise, scheme)]
    layers += [MeanOverMap(name="mean"), ActivationQuantizer(name="mean_quantizer")]
    layers += [QuantizedDense(classes, scheme=scheme, name="classifier")]
    layers += [ActivationQuantizer(name="logits_quantizer")]
    return tf_keras.Sequential(layers, name="ds_cnn")


def _with_norm(convolution: Any, scheme: WeightScheme) -> list[Any]:
    name = convolution.name
    return [
        convolution,
        batch_norm(scheme, f"{name}_norm"),
        tf_keras.layers.ReLU(name=f"{name}_relu"),
        ActivationQuantizer(name=f"{name}_quantizer"),
    ]
