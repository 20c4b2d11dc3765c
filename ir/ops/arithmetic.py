"""Elementwise operators of one or two inputs with NumPy broadcasting, and the fused activation."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import ClassVar

import numpy as np

from kwsq.ir.quant import FloatArray

Shape = tuple[int, ...]


class Activation(Enum):
    """Clamp fused into the operator before it."""

    NONE = "none"
    RELU = "relu"
    RELU6 = "relu6"
    RELU_N1_TO_1 = "relu_n1_to_1"

    @property
    def bounds(self) -> tuple[float, float]:
        """Real clamp bounds; infinite where there is none."""
        return _BOUNDS[self]

    def apply(self, x: FloatArray) -> FloatArray:
        """Returns `x` clamped."""
        if self is Activation.NONE:
            return x
        low, high = self.bounds
        return np.clip(x, np.float32(low), np.float32(high))


_BOUNDS = {
    Activation.NONE: (-np.inf, np.inf),
    Activation.RELU: (0.0, np.inf),
    Activation.RELU6: (0.0, 6.0),
    Activation.RELU_N1_TO_1: (-1.0, 1.0),
}


@dataclass(frozen=True, slots=True)
class _Binary:
    """An operator of two broadcast inputs."""

    activation: Activation = Activation.NONE

    def infer(self, a: Shape, b: Shape) -> tuple[Shape, ...]:
        """Returns the broadcast shape."""
        return (np.broadcast_shapes(a, b),)


class Add(_Binary):
    """a + b."""

    __slots__ = ()
    name: ClassVar[str] = "Add"

    def evaluate(self, a: FloatArray, b: FloatArray) -> tuple[FloatArray, ...]:
        """Returns the clamped sum."""
        return (self.activation.apply(a + b),)


class Sub(_Binary):
    """a - b."""

    __slots__ = ()
    name: ClassVar[str] = "Sub"

    def evaluate(self, a: FloatArray, b: FloatArray) -> tuple[FloatArray, ...]:
        """Returns the clamped difference."""
        return (self.activation.apply(a - b),)


class Mul(_Binary):
    """a * b."""

    __slots__ = ()
    name: ClassVar[str] = "Mul"

    def evaluate(self, a: FloatArray, b: FloatArray) -> tuple[FloatArray, ...]:
        """Returns the clamped product."""
        return (self.activation.apply(a * b),)


class Div(_Binary):
    """a / b."""

    __slots__ = ()
    name: ClassVar[str] = "Div"

    def evaluate(self, a: FloatArray, b: FloatArray) -> tuple[FloatArray, ...]:
        """Returns the quotient."""
        return (self.activation.apply(a / b),)


class SquaredDifference(_Binary):
    """(a - b) squared."""

    __slots__ = ()
    name: ClassVar[str] = "SquaredDifference"

    def evaluate(self, a: FloatArray, b: FloatArray) -> tuple[FloatArray, ...]:
        """Returns the squared difference."""
        return (np.square(a - b),)


class Pow(_Binary):
    """a to the power b."""

    __slots__ = ()
    name: ClassVar[str] = "Pow"

    def evaluate(self, a: FloatArray, b: FloatArray) -> tuple[FloatArray, ...]:
        """Returns the power."""
        return (np.power(a, b),)


class Maximum(_Binary):
    """Elementwise maximum."""

    __slots__ = ()
    name: ClassVar[str] = "Maximum"

    def evaluate(self, a: FloatArray, b: FloatArray) -> tuple[FloatArray, ...]:
        """Returns the maximum."""
        return (np.maximum(a, b),)


class Minimum(_Binary):
    """Elementwise minimum."""

    __slots__ = ()
    name: ClassVar[str] = "Minimum"

    def evaluate(self, a: FloatArray, b: FloatArray) -> tuple[FloatArray, ...]:
        """Returns the minimum."""
        return (np.minimum(a, b),)


@dataclass(frozen=True, slots=True)
class _Unary:
    """An operator that keeps the shape of its input."""

    def infer(self, x: Shape) -> tuple[Shape, ...]:
        """Returns the input shape."""
        return (x,)


class Abs(_Unary):
    """Absolute value."""

    __slots__ = ()
    name: ClassVar[str] = "Abs"

    def evaluate(self, x: FloatArray) -> tuple[FloatArray, ...]:
        """Returns |x|."""
        return (np.abs(x),)


class Neg(_Unary):
    """Negation."""

    __slots__ = ()
    name: ClassVar[str] = "Neg"

    def evaluate(self, x: FloatArray) -> tuple[FloatArray, ...]:
        """Returns -x."""
        return (-x,)


class Sqrt(_Unary):
    """Square root."""

    __slots__ = ()
    name: ClassVar[str] = "Sqrt"

    def evaluate(self, x: FloatArray) -> tuple[FloatArray, ...]:
        """Returns the square root; negative values give NaN, as in ONNX."""
        with np.errstate(invalid="ignore"):
            return (np.sqrt(x),)


class Reciprocal(_Unary):
    """1 / x."""

    __slots__ = ()
    name: ClassVar[str] = "Reciprocal"

    def evaluate(self, x: FloatArray) -> tuple[FloatArray, ...]:
        """Returns the reciprocal; zero gives infinity, as in ONNX."""
        with np.errstate(divide="ignore"):
            return (np.float32(1) / x,)


class Rsqrt(_Unary):
    """1 / sqrt(x)."""

    __slots__ = ()
    name: ClassVar[str] = "Rsqrt"

    def evaluate(self, x: FloatArray) -> tuple[FloatArray, ...]:
        """Returns the reciprocal square root; zero gives infinity, negative values NaN."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return (np.asarray(np.float32(1) / np.sqrt(x), np.float32),)
