"""How the weights of a model are represented while it trains: a closed set of choices, free of TensorFlow."""

from dataclasses import dataclass

from kwsq.ir.errors import Problem, UsageError
from kwsq.ir.quant import IntRange


@dataclass(frozen=True, slots=True)
class FloatWeights:
    """Weights stay float32."""


@dataclass(frozen=True, slots=True)
class TwoStage:
    """Squashed weights, gain * round(tanh(P) * q_max) / q_max, in the manner of Zeng et al. 2022."""

    bits: int


@dataclass(frozen=True, slots=True)
class LearnedStep:
    """Uniform weights with a trained step, after LSQ (Esser et al. 2020)."""

    bits: int


@dataclass(frozen=True, slots=True)
class LloydMax:
    """Codebook weights: int8-snapped Lloyd-Max centroids of the float weights, in the manner of S8BQAT."""

    bits: int


WeightScheme = FloatWeights | TwoStage | LearnedStep | LloydMax

_SCHEMES: dict[str, type[TwoStage] | type[LearnedStep] | type[LloydMax]] = {
    "two_stage": TwoStage,
    "learned_step": LearnedStep,
    "lloyd_max": LloydMax,
}


def weight_scheme(name: str, bits: int) -> WeightScheme:
    """Return the scheme a recipe names.

    Raises:
        UsageError: no such scheme, or a width outside 2..8 (2..7 for a codebook).
    """
    if name not in _SCHEMES:
        where, expected = "recipe: variant.weights", f"one of {', '.join(_SCHEMES)}"
        raise UsageError(Problem(where, repr(name), expected, "correct the recipe"))
    widest = 7 if name == "lloyd_max" else 8
    if not 2 <= bits <= widest:
        where = "recipe: variant.bits"
        raise UsageError(Problem(where, str(bits), f"2..{widest} for {name}", "correct the recipe"))
    return _SCHEMES[name](bits)


def weight_range(bits: int) -> IntRange:
    """Return the symmetric codes of a uniform weight grid, such as [-7, 7] for 4 bits."""
    return IntRange.of(bits, signed=True, narrow=True)
