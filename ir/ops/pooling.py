"""Pooling and reductions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from kwsq.ir.ops.linear import output_size, pad_spatial, windows
from kwsq.ir.quant import FloatArray

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Pool:
    """Sliding window over the spatial dimensions of (N, C, *spatial)."""

    kernel: Shape
    strides: Shape
    pads: tuple[tuple[int, int], ...]

    def infer(self, x: Shape) -> tuple[Shape, ...]:
        """Returns (N, C, *out)."""
        spatial = tuple(
            output_size(size, kernel, stride, sum(pad))
            for size, kernel, stride, pad in zip(x[2:], self.kernel, self.strides, self.pads, strict=True)
        )
        return ((*x[:2], *spatial),)

    def _axes(self, x: FloatArray) -> tuple[int, ...]:
        return tuple(range(x.ndim, x.ndim + len(self.kernel)))


@dataclass(frozen=True, slots=True)
class AveragePool(_Pool):
    """Mean of each window; `count_include_pad` divides by the full window size at borders too."""

    count_include_pad: bool = False
    name: ClassVar[str] = "AveragePool"

    def evaluate(self, x: FloatArray) -> tuple[FloatArray, ...]:
        """Returns the window means."""
        unit = tuple(1 for _ in self.kernel)
        total = windows(pad_spatial(x, self.pads), self.kernel, self.strides, unit).sum(self._axes(x), np.float32)
        if self.count_include_pad:
            return (np.asarray(total / np.float32(np.prod(self.kernel)), np.float32),)
        ones = pad_spatial(np.ones_like(x[:1, :1]), self.pads)
        count = windows(ones, self.kernel, self.strides, unit).sum(self._axes(x), np.float32)
        return (np.asarray(total / count, np.float32),)


class MaxPool(_Pool):
    """Maximum of each window; padding never wins."""

    __slots__ = ()
    name: ClassVar[str] = "MaxPool"

    def evaluate(self, x: FloatArray) -> tuple[FloatArray, ...]:
        """Returns the window maxima."""
        unit = tuple(1 for _ in self.kernel)
        view = windows(pad_spatial(x, self.pads, -np.inf), self.kernel, self.strides, unit)
        return (view.max(self._axes(x)),)


@dataclass(frozen=True, slots=True)
class _Reduction:
    """Reduction over `axes` (non-negative, sorted)."""

    axes: Shape
    keepdims: bool

    def infer(self, x: Shape) -> tuple[Shape, ...]:
        """Returns the reduced shape."""
        if self.keepdims:
            return (tuple(1 if i in self.axes else size for i, size in enumerate(x)),)
        return (tuple(size for i, size in enumerate(x) if i not in self.axes),)


class Mean(_Reduction):
    """Arithmetic mean."""

    __slots__ = ()
    name: ClassVar[str] = "Mean"

    def evaluate(self, x: FloatArray) -> tuple[FloatArray, ...]:
        """Returns the mean over the axes."""
        return (np.asarray(x.mean(self.axes, np.float32, keepdims=self.keepdims), np.float32),)


class ReduceMax(_Reduction):
    """Maximum."""

    __slots__ = ()
    name: ClassVar[str] = "ReduceMax"

    def evaluate(self, x: FloatArray) -> tuple[FloatArray, ...]:
        """Returns the maximum over the axes."""
        return (np.asarray(x.max(self.axes, keepdims=self.keepdims), np.float32),)


class ReduceSum(_Reduction):
    """Sum."""

    __slots__ = ()
    name: ClassVar[str] = "ReduceSum"

    def evaluate(self, x: FloatArray) -> tuple[FloatArray, ...]:
        """Returns the sum over the axes."""
        return (np.asarray(x.sum(self.axes, np.float32, keepdims=self.keepdims), np.float32),)
