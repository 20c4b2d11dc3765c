"""A Sequential model as a whole: read into records, started from a float one, its layers given schemes of their own."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras

from kwsq.ir.errors import InternalError, Problem, UsageError
from kwsq.models.layers.fixed_point import FixedPointInput, FixedPointLayer, FixedPointMean, adopt_fixed_point
from kwsq.models.layers.linear_parameters import QuantizedBatchNorm
from kwsq.models.layers.over_maps import AddChannel, MeanOverMap, QuantizedConv2D
from kwsq.models.layers.over_time import MeanOverTime, QuantizedDense, SplicedDense
from kwsq.models.layers.recurrent import QuantizedRecurrent
from kwsq.models.quantizers.activation import ActivationQuantizer
from kwsq.models.quantizers.by_scheme import weight_quantizer
from kwsq.models.records import (
    BatchNormRecord,
    Conv2DRecord,
    DenseRecord,
    FakeQuantizeRecord,
    LayerRecord,
    MeanOverMapRecord,
    MeanOverTimeRecord,
    ReluRecord,
    SplicedDenseRecord,
)
from kwsq.models.schemes import WeightScheme


def layer_records(model: Any) -> tuple[LayerRecord, ...]:
    """Read a Sequential model into records, in order; layers that compute nothing leave none.

    Args:
        model: built, its quantizers as they are to be exported.

    Raises:
        InternalError: a layer of a kind that has no record.
    """
    return tuple(record for layer in model.layers for record in _layer_records(layer))


def _layer_records(layer: Any) -> list[LayerRecord]:
    if isinstance(layer, FixedPointInput | FixedPointLayer | FixedPointMean | QuantizedBatchNorm | QuantizedRecurrent):
        return layer.records()
    record = _layer_record(layer)
    return [] if record is None else [record]


def _layer_record(layer: Any) -> LayerRecord | None:
    name = str(layer.name)
    match layer:
        case SplicedDense():
            return SplicedDenseRecord(name, layer.quantizer.weight_tensor(layer.parameter), layer.stride)
        case QuantizedConv2D():
            weight = layer.quantizer.weight_tensor(layer.parameter)
            return Conv2DRecord(name, weight, layer.stride, layer.pads, layer.is_depthwise)
        case QuantizedDense():
            bias = tf.convert_to_tensor(layer.used_bias()).numpy()
            return DenseRecord(name, layer.quantizer.weight_tensor(layer.parameter), bias)
        case tf_keras.layers.BatchNormalization():
            return _batch_norm_record(layer)
        case tf_keras.layers.ReLU():
            return ReluRecord(name)
        case MeanOverTime():
            return MeanOverTimeRecord(name)
        case MeanOverMap():
            return MeanOverMapRecord(name)
        case AddChannel():
            return None  # a question of layout only: the exported input has the channel
        case ActivationQuantizer():
            spec = layer.spec()
            return None if spec is None else FakeQuantizeRecord(name, spec)
        case _:
            remedy = "add a record and an emitter for it"
            raise InternalError(Problem(name, type(layer).__name__, "a layer that can be exported", remedy))


def _batch_norm_record(layer: Any) -> BatchNormRecord:
    gamma, beta, mean, variance = (np.asarray(array) for array in layer.get_weights())
    return BatchNormRecord(str(layer.name), gamma, beta, mean, variance, float(layer.epsilon))


def set_schemes(model: Any, schemes: Mapping[str, WeightScheme]) -> None:
    """Give named layers of a built model weight schemes of their own; call before anything is trained or adopted.

    Args:
        model: Sequential model.
        schemes: layer name -> scheme.

    Raises:
        UsageError: no layer of that name, or one without a quantized weight.
    """
    named = {layer.name: layer for layer in model.layers if hasattr(layer, "parameter")}
    for name, scheme in schemes.items():
        if name not in named:
            expected = f"one of {', '.join(named)}"
            raise UsageError(Problem("layer_bits", repr(name), expected, "correct it"))
        layer = named[name]
        layer.quantizer = weight_quantizer(scheme, channel_axis=layer.channel_axis)
        layer.quantizer.build(layer.parameter.shape)


def adopt_weights(target: Any, source: Any) -> None:
    """Start `target` from the trained float model `source` of the same architecture.

    Args:
        target: model whose quantized layers adopt the float weights; other trained layers are copied.
        source: float model with the same layers in the same order.
    """
    if any(isinstance(layer, FixedPointLayer) for layer in target.layers):
        adopt_fixed_point(target, source)
        return
    for new, old in zip(target.layers, source.layers, strict=True):
        match new:
            case SplicedDense() | QuantizedConv2D():
                new.adopt(old.parameter.numpy())
            case QuantizedDense():
                new.adopt(old.parameter.numpy())
                new.bias.assign(old.bias)
            case QuantizedRecurrent():
                new.adopt(old)
            case tf_keras.layers.BatchNormalization():
                new.set_weights([*old.get_weights(), *new.get_weights()[len(old.weights) :]])
            case _:
                continue
