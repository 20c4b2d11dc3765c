"""The feed-forward network: dense layers over spliced frames, then one mean over time.

64 LFBE -> (5 taps, stride 3, 112) -> 3 x (5 taps, 104) -> (5 taps, 80) -> mean -> 12; batch norm and ReLU
after each spliced layer: 246,828 parameters with those of the batch norms. Every output before the mean
depends on 53 frames only, so the network can run as a stream without recurrent state.

Source: our reconstruction of a feed-forward, streaming, state-free network of 250K parameters, in the manner
of Zeng et al. 2022, whose layer table we have not seen.
"""

from typing import Any

import tf_keras

from kwsq.models.data.clips import LABELS
from kwsq.models.data.features import BANDS, SAMPLE_RATE_HZ, frame_count
from kwsq.models.layers.fixed_point import FEATURE_GAIN, FixedPointInput, FixedPointLayer, FixedPointMean
from kwsq.models.layers.over_time import MeanOverTime, QuantizedDense, SplicedDense, batch_norm
from kwsq.models.quantizers.activation import ActivationQuantizer
from kwsq.models.schemes import FixedPoint, WeightScheme

CLIP_SECONDS = 1
FRAMES = frame_count(CLIP_SECONDS * SAMPLE_RATE_HZ)
TAPS = 5
SPLICED_UNITS_AND_STRIDES = ((112, 3), (104, 1), (104, 1), (104, 1), (80, 1))


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
    layers: list[Any] = [tf_keras.Input((FRAMES, BANDS)), ActivationQuantizer(name="features_quantizer")]
    for number, (units, stride) in enumerate(SPLICED_UNITS_AND_STRIDES, start=1):
        layers += _spliced_block(f"splice{number}", units, stride, scheme)
    layers += [MeanOverTime(name="mean"), ActivationQuantizer(name="mean_quantizer")]
    layers += [QuantizedDense(classes, scheme=scheme, name="classifier")]
    layers += [ActivationQuantizer(name="logits_quantizer")]
    return tf_keras.Sequential(layers, name="kws_ff")


def _build_fixed_point(scheme: FixedPoint, classes: int) -> Any:
    """The same network, batch norms folded, of fixed-point layers under the same names."""
    layers: list[Any] = [tf_keras.Input((FRAMES, BANDS)), FixedPointInput(name="features_quantizer")]
    for number, (units, stride) in enumerate(SPLICED_UNITS_AND_STRIDES, start=1):
        gain = FEATURE_GAIN if number == 1 else 1.0
        options: dict[str, Any] = {"kernel": (TAPS,), "stride": (stride,), "input_gain": gain}
        layers.append(FixedPointLayer(units, scheme=scheme, **options, name=f"splice{number}"))
    layers += [FixedPointMean(name="mean"), FixedPointLayer(classes, scheme=scheme, relu=False, name="classifier")]
    return tf_keras.Sequential(layers, name="kws_ff")


def _spliced_block(name: str, units: int, stride: int, scheme: WeightScheme) -> list[Any]:
    return [
        SplicedDense(units, taps=TAPS, stride=stride, scheme=scheme, name=name),
        batch_norm(scheme, f"{name}_norm"),
        tf_keras.layers.ReLU(name=f"{name}_relu"),
        ActivationQuantizer(name=f"{name}_quantizer"),
    ]
