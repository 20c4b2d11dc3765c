"""The weight quantizer of every scheme.

Every quantizer also states its result as codes with a `kwsq.ir.quant` grid; the exporter writes those, so
training and converter cannot disagree on a grid.
"""

from typing import Any, assert_never

import numpy as np
import tensorflow as tf

from kwsq.ir.errors import Problem, UsageError
from kwsq.ir.quant import UNQUANTIZED
from kwsq.models.quantizers.codebook import CodebookQuantizer, CompressedQuantizer
from kwsq.models.quantizers.soft_assignment import SoftToHardQuantizer
from kwsq.models.quantizers.straight_through import WeightQuantizer
from kwsq.models.quantizers.uniform import (
    DorefaQuantizer,
    LearnedStepQuantizer,
    MaxAbsQuantizer,
    TwoStageQuantizer,
)
from kwsq.models.records import WeightTensor
from kwsq.models.schemes import (
    Compressed,
    Dorefa,
    FixedPoint,
    FloatWeights,
    LearnedStep,
    LloydMax,
    MaxAbs,
    SoftToHard,
    TwoStage,
    WeightScheme,
    uniform_grid,
)


class FloatWeightQuantizer(WeightQuantizer):
    """The identity, so that a float model is the same model with another scheme."""

    def build(self, input_shape: Any) -> None:
        """Create nothing: a float model has no schedule."""
        self.built = True

    def advance(self, parameter: Any) -> None:
        """Count nothing."""
        del parameter  # AutoGraph cannot read a body that is a docstring alone

    def call(self, parameter: Any, training: bool | None = None) -> Any:
        """Return the weight of a free parameter."""
        return tf.convert_to_tensor(parameter)

    def weight_tensor(self, parameter: Any) -> WeightTensor:
        """Return the weight as it is stored in an exported model."""
        return WeightTensor(np.asarray(parameter, dtype=np.float32), UNQUANTIZED)


def weight_quantizer(scheme: WeightScheme, *, channel_axis: int = -1) -> WeightQuantizer:
    """Return the Keras layer that realises a weight scheme.

    Args:
        scheme: of weights.
        channel_axis: of the weight, along which its output channels lie.

    Returns:
        The layer; `build` it with the shape of the weight.

    Raises:
        UsageError: the scheme has layers of its own.
    """
    match scheme:
        case FloatWeights():
            return FloatWeightQuantizer()
        case TwoStage() | LearnedStep():
            kind = TwoStageQuantizer if isinstance(scheme, TwoStage) else LearnedStepQuantizer
            return kind(
                uniform_grid(scheme),
                cosine=scheme.cosine,
                ramp_steps=scheme.ramp_steps,
                power_of_two=scheme.power_of_two,
                channel_axis=channel_axis if scheme.per_channel else None,
            )
        case MaxAbs():
            axis = channel_axis if scheme.per_channel else None
            return MaxAbsQuantizer(uniform_grid(scheme), power_of_two=scheme.power_of_two, channel_axis=axis)
        case Dorefa(1):
            return MaxAbsQuantizer(uniform_grid(scheme))
        case Dorefa():
            return DorefaQuantizer(uniform_grid(scheme))
        case LloydMax(bits):
            return CodebookQuantizer(bits)
        case Compressed():
            return CompressedQuantizer(scheme)
        case SoftToHard():
            return SoftToHardQuantizer(scheme)
        case FixedPoint():
            remedy = "build this architecture of kwsq.models.layers.fixed_point layers"
            raise UsageError(Problem("weights", "fxp", "a scheme of weights alone", remedy))
        case _:
            assert_never(scheme)


def trained_weight(quantizer: WeightQuantizer, parameter: Any, training: bool | None) -> Any:
    """Return the weight of a free parameter; a training step is counted first.

    Args:
        quantizer: built for the shape of the parameter.
        parameter: float32 variable of a layer.
        training: as Keras passes it.

    Returns:
        Float32 of the parameter's shape, in real units.
    """
    if training:
        quantizer.advance(parameter)
    return quantizer(parameter, training=training)
