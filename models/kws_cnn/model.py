"""The convolutional network: four convolutions over time and frequency, then one mean over the map.

98 x 64 LFBE -> (8 x 8, stride 4, 24) -> (3 x 3, stride 2, 48) -> (3 x 3, stride 2 and 3, 64) -> (3 x 3, 64) -> mean
-> 12; batch norm and ReLU after each convolution: 77,996 parameters and 3.0 million multiply-accumulates per clip. The
mean is over 7 x 3 positions: on one grid, as in fixed point, that of an odd number of codes is never half way between
two, and every runtime rounds it alike.

Source: our own choice of a small convolutional network; the papers' networks are not public.
"""

from typing import Any

import tf_keras

from kwsq.models.data.clips import LABELS
from kwsq.models.data.features import BANDS, SAMPLE_RATE_HZ, frame_count
from kwsq.models.layers.fixed_point import FEATURE_GAIN, FixedPointInput, FixedPointLayer, FixedPointMean
from kwsq.models.layers.over_maps import AddChannel, MeanOverMap, QuantizedConv2D
from kwsq.models.layers.over_time import QuantizedDense, batch_norm
from kwsq.models.quantizers.activation import ActivationQuantizer
from kwsq.models.schemes import FixedPoint, WeightScheme

CLIP_SECONDS = 1
FRAMES = frame_count(CLIP_SECONDS * SAMPLE_RATE_HZ)
UNITS_KERNELS_STRIDES = ((24, 8, (4, 4)), (48, 3, (2, 2)), (64, 3, (2, 3)), (64, 3, (1, 1)))


def build(scheme: WeightScheme, classes: int = len(LABELS)) -> Any:
    """Return the untrained network as a Sequential model over (N, 98, 64) features.

    Args:
        scheme: representation of every weight, first and last layer included.
        classes: number of outputs.

    Returns:
        A built `tf_keras.Sequential`; activation quantizers are present and off.
    """
    if isinstance(scheme, FixedPoint):
        return _build_fixed_point(scheme, classes)
    layers: list[Any] = [tf_keras.Input((FRAMES, BANDS)), AddChannel(name="map")]
    layers += [ActivationQuantizer(name="features_quantizer")]
    for number, (units, kernel, stride) in enumerate(UNITS_KERNELS_STRIDES, start=1):
        layers += _block(f"conv{number}", units, kernel, stride, scheme)
    layers += [MeanOverMap(name="mean"), ActivationQuantizer(name="mean_quantizer")]
    layers += [QuantizedDense(classes, scheme=scheme, name="classifier")]
    layers += [ActivationQuantizer(name="logits_quantizer")]
    return tf_keras.Sequential(layers, name="kws_cnn")


def _build_fixed_point(scheme: FixedPoint, classes: int) -> Any:
    """The same network, batch norms folded, of fixed-point layers under the same names."""
    layers: list[Any] = [tf_keras.Input((FRAMES, BANDS)), AddChannel(name="map")]
    layers += [FixedPointInput(name="features_quantizer")]
    for number, (units, kernel, stride) in enumerate(UNITS_KERNELS_STRIDES, start=1):
        gain = FEATURE_GAIN if number == 1 else 1.0
        options: dict[str, Any] = {"kernel": (kernel, kernel), "stride": stride, "input_gain": gain}
        layers.append(FixedPointLayer(units, scheme=scheme, **options, name=f"conv{number}"))
    layers += [FixedPointMean(name="mean"), FixedPointLayer(classes, scheme=scheme, relu=False, name="classifier")]
    return tf_keras.Sequential(layers, name="kws_cnn")


def _block(name: str, units: int, kernel: int, stride: tuple[int, int], scheme: WeightScheme) -> list[Any]:
    return [
        QuantizedConv2D(units, kernel=(kernel, kernel), stride=stride, scheme=scheme, name=name),
        batch_norm(scheme, f"{name}_norm"),
        tf_keras.layers.ReLU(name=f"{name}_relu"),
        ActivationQuantizer(name=f"{name}_quantizer"),
    ]
