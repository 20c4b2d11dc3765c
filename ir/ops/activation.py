"""Activation functions: elementwise, except Softmax and LogSoftmax."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from kwsq.ir.ops.arithmetic import _Unary
from kwsq.ir.quant import FloatArray

Shape = tuple[int, ...]


class Relu(_Unary):
    """max(x, 0)."""

    __slots__ = ()
    name: ClassVar[str] = "Relu"

    def evaluate(self, x: FloatArray) -> tuple[FloatArray, ...]:
        """Returns max(x, 0)."""
        return (np.maximum(x, np.float32(0)),)


@dataclass(frozen=True, slots=True)
class Clip(_Unary):
    """Clamp to [low, high]; an infinite bound is absent."""

    low: float
    high: float
    name: ClassVar[str] = "Clip"

    def evaluate(self, x: FloatArray) -> tuple[FloatArray, ...]:
        """Returns the clamped input."""
        return (np.clip(x, np.float32(self.low), np.float32(self.high)),)


@dataclass(frozen=True, slots=True)
class LeakyRelu(_Unary):
    """x for x >= 0, alpha * x below."""

    alpha: float
    name: ClassVar[str] = "LeakyRelu"

    def evaluate(self, x: FloatArray) -> tuple[FloatArray, ...]:
        """Returns the leaky rectified input."""
        return (np.where(x >= 0, x, np.float32(self.alpha) * x),)


@dataclass(frozen=True, slots=True)
class PRelu:
    """x for x >= 0, slope * x below; slope is a second, broadcast input."""

    name: ClassVar[str] = "PRelu"

    def infer(self, x: Shape, slope: Shape) -> tuple[Shape, ...]:
        """Returns the input shape."""
        return (np.broadcast_shapes(x, slope),)

    def evaluate(self, x: FloatArray, slope: FloatArray) -> tuple[FloatArray, ...]:
        """Returns the rectified input."""
        return (np.where(x >= 0, x, slope * x),)


class Sigmoid(_Unary):
    """1 / (1 + exp(-x))."""

    __slots__ = ()
    name: ClassVar[str] = "Sigmoid"

    def evaluate(self, x: FloatArray) -> tuple[FloatArray, ...]:
        """Returns the logistic function, by the branch that cannot overflow."""
        e = np.exp(-np.abs(x))
        return (np.where(x >= 0, 1 / (1 + e), e / (1 + e)).astype(np.float32),)


@dataclass(frozen=True, slots=True)
class HardSigmoid(_Unary):
    """clip(alpha * x + beta, 0, 1)."""

    alpha: float = 0.2
    beta: float = 0.5
    name: ClassVar[str] = "HardSigmoid"

    def evaluate(self, x: FloatArray) -> tuple[FloatArray, ...]:
        """Returns the piecewise linear sigmoid."""
        return (np.clip(np.float32(self.alpha) * x + np.float32(self.beta), 0, 1).astype(np.float32),)


class HardSwish(_Unary):
    """x * clip(x + 3, 0, 6) / 6."""

    __slots__ = ()
    name: ClassVar[str] = "HardSwish"

    def evaluate(self, x: FloatArray) -> tuple[FloatArray, ...]:
        """Returns the piecewise swish."""
        return ((x * np.clip(x + 3, 0, 6) / np.float32(6)).astype(np.float32),)


class Tanh(_Unary):
    """Hyperbolic tangent."""

    __slots__ = ()
    name: ClassVar[str] = "Tanh"

    def evaluate(self, x: FloatArray) -> tuple[FloatArray, ...]:
        """Returns tanh(x)."""
        return (np.tanh(x),)


@dataclass(frozen=True, slots=True)
class Softmax(_Unary):
    """exp(x) normalised along `axis` (non-negative)."""

    axis: int
    name: ClassVar[str] = "Softmax"

    def evaluate(self, x: FloatArray) -> tuple[FloatArray, ...]:
        """Returns the normalised exponentials."""
        e = np.exp(x - x.max(axis=self.axis, keepdims=True))
        return (e / e.sum(axis=self.axis, keepdims=True),)


@dataclass(frozen=True, slots=True)
class LogSoftmax(_Unary):
    """Logarithm of Softmax along `axis` (non-negative)."""

    axis: int
    name: ClassVar[str] = "LogSoftmax"

    def evaluate(self, x: FloatArray) -> tuple[FloatArray, ...]:
        """Returns x less the logarithm of the sum of its exponentials."""
        centred = x - x.max(axis=self.axis, keepdims=True)
        return (centred - np.log(np.exp(centred).sum(axis=self.axis, keepdims=True)),)
