"""How the weights of a model are represented while it trains: a closed set of choices, free of TensorFlow.

Every scheme states its width and its grid; a recipe names one and may set its options. An option that came later than
the first finished rows of a table stays out of `repr`, of which their digests are made; where it is set, the digest has
it from the recipe's options.
"""

from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any, TypeVar

from kwsq.ir.errors import Problem, UsageError
from kwsq.ir.numerics.accumulator import Accumulator
from kwsq.ir.uniform_grid import UniformGrid
from kwsq.models.allowed import FLAG, number, one_of, refused, require_none, whole, within


@dataclass(frozen=True, slots=True)
class FloatWeights:
    """Weights stay float32."""


@dataclass(frozen=True, slots=True)
class MaxAbs:
    """Plain straight-through weights: the step is max|w| / top code; for 1 bit mean|w| (Rastegari et al. 2016).

    Options as in `TwoStage`.
    """

    bits: int
    parameter_bits: int = 0
    power_of_two: bool = field(default=False, repr=False)
    per_channel: bool = field(default=False, repr=False)


@dataclass(frozen=True, slots=True)
class Dorefa:
    """tanh(w) / max|tanh(w)| on odd codes (Zhou et al. 2016), times a fixed gain."""

    bits: int


@dataclass(frozen=True, slots=True)
class TwoStage:
    """Squashed weights, gain * code(tanh(P)) / top, in the manner of Zeng et al. 2022.

    Args:
        bits: width.
        cosine: weight of the absolute cosine penalty (ACosR) per weight, 0 for none.
        ramp_steps: steps over which the penalty grows to its weight.
        parameter_bits: width of biases and batch norms in stage 2, 0 for float: `kwsq.models.layers.linear_parameters`.
        power_of_two: whether the scale of the weight is a power of two.
        per_channel: whether every output channel of the weight has a scale of its own.
    """

    bits: int
    cosine: float = 0.0
    ramp_steps: int = 500
    parameter_bits: int = 0
    power_of_two: bool = field(default=False, repr=False)
    per_channel: bool = field(default=False, repr=False)


@dataclass(frozen=True, slots=True)
class LearnedStep:
    """Uniform weights with a trained step, after LSQ (Esser et al. 2020); options as in `TwoStage`."""

    bits: int
    cosine: float = 0.0
    ramp_steps: int = 500
    parameter_bits: int = 0
    power_of_two: bool = field(default=False, repr=False)
    per_channel: bool = field(default=False, repr=False)


@dataclass(frozen=True, slots=True)
class LloydMax:
    """Codebook weights with straight-through gradients: int8-snapped Lloyd-Max centroids of the float weights."""

    bits: int


@dataclass(frozen=True, slots=True)
class Compressed:
    """Float weights drawn to Lloyd-Max centroids and snapped at times, in the manner of S8BQAT (Zhen et al. 2022).

    Args:
        bits: width of an index.
        cosine: weight of the multi-regional absolute cosine penalty (MRACos) per weight.
        ramp_steps: steps over which the penalty grows to its weight.
        snap_steps: steps between two hard compressions.
    """

    bits: int
    cosine: float = 1e-4
    ramp_steps: int = 500
    snap_steps: int = 100


@dataclass(frozen=True, slots=True)
class SoftToHard:
    """Soft assignment to trained centroids that hardens, in the manner of GQ (Zhen et al. 2022b).

    Args:
        bits: width of an index, at most 5: every weight is compared with every centroid.
        mu: constant of the mu-law in which distances are taken.
        first_sharpness: initial inverse temperature, per unit of the compressed space, in which centroids span 2.
        last_sharpness: inverse temperature at which annealing ends and assignment becomes hard.
        anneal_steps: steps between the two; the exponent grows linearly.
    """

    bits: int
    mu: float = 15.0
    first_sharpness: float = 10.0
    last_sharpness: float = 400.0
    anneal_steps: int = 700


@dataclass(frozen=True, slots=True)
class FixedPoint:
    """Everything in one fixed-point format (`kwsq.models.layers.fixed_point`), after FXP-QAT (Macha et al. 2023).

    Args:
        bits: width of the weights, 3..8; everything else has 8 bits.
        accumulator_bits: 16 or 32.
        group: products summed exactly before they reach the accumulator.
        cosine: weight of the absolute cosine penalty (ACosR) per weight, 0 for none.
        ramp_steps: steps over which the penalty grows to its weight.
        squash: whether weights are tanh of what trains; else plain straight-through weights, in the same format.
    """

    bits: int
    accumulator_bits: int = 16
    group: int = 32
    cosine: float = field(default=0.0, repr=False)
    ramp_steps: int = field(default=500, repr=False)
    squash: bool = field(default=True, repr=False)

    @property
    def accumulator(self) -> Accumulator:
        """The contract: 32 products of up to 4-bit weights fit 16 bits, wider ones are narrowed to fit."""
        narrowing = max(0, self.bits - 4) if self.accumulator_bits == 16 else 0
        return Accumulator(self.accumulator_bits, self.group, narrowing)


Choice = TypeVar("Choice", bound=StrEnum)
QuantizedScheme = FixedPoint | MaxAbs | Dorefa | TwoStage | LearnedStep | LloydMax | Compressed | SoftToHard
WeightScheme = FloatWeights | QuantizedScheme

_SCHEMES: dict[str, tuple[type[QuantizedScheme], range]] = {
    "max_abs": (MaxAbs, range(1, 9)),
    "dorefa": (Dorefa, range(1, 8)),
    "two_stage": (TwoStage, range(1, 9)),
    "learned_step": (LearnedStep, range(1, 9)),
    "lloyd_max": (LloydMax, range(1, 8)),
    "s8bqat": (Compressed, range(1, 8)),
    "gq": (SoftToHard, range(1, 6)),
    "fxp": (FixedPoint, range(3, 9)),
}
_OPTIONS = {
    "cosine": number(0),
    "ramp_steps": whole(0),
    "snap_steps": whole(1),
    "mu": number(0, above=True),
    "first_sharpness": number(0, above=True),
    "last_sharpness": number(0, above=True),
    "anneal_steps": whole(0),
    "parameter_bits": one_of(0, *range(2, 9)),
    "power_of_two": FLAG,
    "per_channel": FLAG,
    "accumulator_bits": one_of(16, 32),
    "group": whole(1),
    "squash": FLAG,
}


def weight_scheme(name: str, bits: int, **options: Any) -> WeightScheme:
    """Return the scheme a recipe names.

    Args:
        name: key of the recipe, such as "two_stage".
        bits: width.
        options: further fields of the scheme, such as `cosine`.

    Raises:
        UsageError: no such scheme, a width it does not have, an option it does not know or a value it cannot have.
    """
    if name not in _SCHEMES:
        raise UsageError(Problem("weights", repr(name), f"one of {', '.join(_SCHEMES)}", "correct it"))
    kind, widths = _SCHEMES[name]
    if not whole(widths.start, widths.stop - 1).allows(bits):
        raise UsageError(Problem("bits", repr(bits), f"{widths.start}..{widths.stop - 1} for {name}", "correct it"))
    known = {field.name for field in fields(kind)} - {"bits"}
    unknown = sorted(options.keys() - known)
    if unknown:
        expected = f"options of {name}: {', '.join(sorted(known)) or 'none'}"
        raise UsageError(Problem("options", unknown[0], expected, "correct it"))
    with within("options."):
        require_none(refused(options, _OPTIONS))
    return kind(bits, **options)


class ActivationRanges(StrEnum):
    """How the scale of int8 activations comes about in stage 2: equations (1) to (3) of `quantizers.activation`."""

    MOVING = "moving"
    POWER_OF_TWO = "power_of_two"
    LEARNED = "learned"


class NormClips(StrEnum):
    """Whose statistics batch norms take once training has ended: see `kwsq.models.layers.norm_statistics`."""

    AS_TRAINED = "as_trained"
    CLEAN = "clean"
    MIXED = "mixed"


def choice(kind: type[Choice], where: str, name: str) -> Choice:
    """Return the choice that a recipe or protocol names.

    Args:
        kind: the choices.
        where: file and key, as an error names them.
        name: what stands there.

    Raises:
        UsageError: no such choice.
    """
    try:
        return kind(name)
    except ValueError as error:
        raise UsageError(Problem(where, repr(name), f"one of {', '.join(kind)}", "correct it")) from error


def uniform_grid(scheme: MaxAbs | Dorefa | TwoStage | LearnedStep) -> UniformGrid:
    """Return the codes of a uniform scheme: mid-tread from 3 bits on, DoReFa's always mid-rise."""
    return UniformGrid(scheme.bits, mid_rise=True) if isinstance(scheme, Dorefa) else UniformGrid.of(scheme.bits)


def schedules(scheme: WeightScheme) -> dict[str, int]:
    """Return the steps that training must have before a scheme is what it was chosen for, by option."""
    match scheme:
        case SoftToHard():
            return {"anneal_steps": scheme.anneal_steps}
        case Compressed() | TwoStage() | LearnedStep() | FixedPoint():
            ramp = {"ramp_steps": scheme.ramp_steps} if scheme.cosine > 0 else {}
            return ramp | ({"snap_steps": scheme.snap_steps} if isinstance(scheme, Compressed) else {})
    return {}


def parameter_bits(scheme: WeightScheme) -> int:
    """Return the width of biases and batch norms in stage 2, 0 where they stay float."""
    return scheme.parameter_bits if isinstance(scheme, MaxAbs | TwoStage | LearnedStep) else 0


def all_parameters_are_quantized(scheme: WeightScheme) -> bool:
    """Return whether stage 2 leaves no trained parameter in float."""
    return isinstance(scheme, FixedPoint) or parameter_bits(scheme) > 0
