"""Keras layers whose weights pass through a quantizer, and a trained model read into layer records."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras

from kwsq.ir.errors import InternalError, Problem, UsageError
from kwsq.models.activation_quantizer import ActivationQuantizer
from kwsq.models.fixed_point import FixedPointInput, FixedPointLayer, FixedPointMean, adopt_fixed_point
from kwsq.models.layer_records import (
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
from kwsq.models.layers_2d import AddChannel, MeanOverMap, QuantizedConv2D
from kwsq.models.linear_parameters import QuantizedBatchNorm, on_linear_grid
from kwsq.models.quantizers import trained_weight, weight_quantizer
from kwsq.models.schemes import WeightScheme, parameter_bits


class SplicedDense(tf_keras.layers.Layer):
    """A dense layer over `taps` neighbouring frames: a 1-D convolution without padding or bias.

    Args:
        units: output channels.
        taps: frames spliced.
        stride: frames between outputs.
        scheme: representation of the (taps, C_in, units) weight.
    """

    def __init__(self, units: int, *, taps: int, stride: int, scheme: WeightScheme, **options: Any) -> None:
        super().__init__(**options)
        self.units, self.taps, self.stride = units, taps, stride
        self.quantizer = weight_quantizer(scheme)

    def build(self, input_shape: Any) -> None:
        """Create the free parameter behind the weight."""
        shape = (self.taps, int(input_shape[-1]), self.units)
        self.parameter = self.add_weight(name="parameter", shape=shape, initializer="glorot_uniform")
        self.quantizer.build(shape)
        super().build(input_shape)

    def adopt(self, weight: Any) -> None:
        """Start from a float weight (taps, C_in, units)."""
        self.parameter.assign(self.quantizer.adopt(weight))

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Map (N, T, C_in) to (N, (T - taps) // stride + 1, units)."""
        weight = trained_weight(self.quantizer, self.parameter, training)
        return tf.nn.conv1d(inputs, weight, stride=self.stride, padding="VALID")


class QuantizedDense(tf_keras.layers.Layer):
    """A dense layer with bias whose weight passes through a quantizer.

    Args:
        units: output channels.
        scheme: representation of the (C_in, units) weight.
    """

    def __init__(self, units: int, *, scheme: WeightScheme, **options: Any) -> None:
        super().__init__(**options)
        self.units, self.bias_bits = units, parameter_bits(scheme)
        self.quantizer = weight_quantizer(scheme)

    def build(self, input_shape: Any) -> None:
        """Create the free parameter behind the weight, and the bias."""
        shape = (int(input_shape[-1]), self.units)
        self.parameter = self.add_weight(name="parameter", shape=shape, initializer="glorot_uniform")
        self.bias = self.add_weight(name="bias", shape=(self.units,), initializer="zeros")
        if self.bias_bits:
            self.quantized = self.add_weight(name="quantized", shape=(), trainable=False, initializer="zeros")
        self.quantizer.build(shape)
        super().build(input_shape)

    def adopt(self, weight: Any) -> None:
        """Start from a float weight (C_in, units)."""
        self.parameter.assign(self.quantizer.adopt(weight))

    def quantize(self) -> None:
        """From now on round the bias to the scheme's width; nothing where that is float."""
        if self.bias_bits:
            self.quantized.assign(1.0)

    def used_bias(self) -> Any:
        """Return the bias as the layer adds it."""
        if not self.bias_bits:
            return self.bias
        return tf.where(self.quantized > 0.0, on_linear_grid(self.bias, self.bias_bits), self.bias)

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Map (N, C_in) to (N, units)."""
        return tf.matmul(inputs, trained_weight(self.quantizer, self.parameter, training)) + self.used_bias()


def batch_norm(scheme: WeightScheme, name: str) -> Any:
    """Return a batch norm that stage 2 can quantize where the scheme says so."""
    bits = parameter_bits(scheme)
    return QuantizedBatchNorm(bits, name=name) if bits else tf_keras.layers.BatchNormalization(name=name)


class MeanOverTime(tf_keras.layers.Layer):
    """Mean over the frames: (N, T, C) to (N, C)."""

    def call(self, inputs: Any) -> Any:
        """Return the mean."""
        return tf.reduce_mean(inputs, axis=1)


def layer_records(model: Any) -> tuple[LayerRecord, ...]:
    """Read a Sequential model into records, in order; layers that compute nothing leave none.

    Raises:
        InternalError: a layer of a kind that has no record.
    """
    return tuple(record for layer in model.layers for record in _layer_records(layer))


def _layer_records(layer: Any) -> list[LayerRecord]:
    if isinstance(layer, FixedPointInput | FixedPointLayer | FixedPointMean | QuantizedBatchNorm):
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
            raise UsageError(Problem("recipe: variant.layer_bits", repr(name), expected, "correct the recipe"))
        named[name].quantizer = weight_quantizer(scheme)
        named[name].quantizer.build(named[name].parameter.shape)


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
            case tf_keras.layers.BatchNormalization():
                new.set_weights([*old.get_weights(), *new.get_weights()[len(old.weights) :]])
            case _:
                continue
