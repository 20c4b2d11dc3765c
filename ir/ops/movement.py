"""Operators that move values without changing them (Pad adds a constant)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from kwsq.ir.quant import FloatArray

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Reshape:
    """Row-major reshape to a static shape; also Flatten, Squeeze and Unsqueeze."""

    shape: Shape
    name: ClassVar[str] = "Reshape"

    def infer(self, x: Shape) -> tuple[Shape, ...]:
        """Returns the target shape."""
        if int(np.prod(x, dtype=np.int64)) != int(np.prod(self.shape, dtype=np.int64)):
            raise ValueError(f"cannot reshape {x} to {self.shape}")
        return (self.shape,)

    def evaluate(self, x: FloatArray) -> tuple[FloatArray, ...]:
        """Returns the reshaped input."""
        return (x.reshape(self.shape),)


@dataclass(frozen=True, slots=True)
class Transpose:
    """Permutation: output dimension i is input dimension perm[i]."""

    perm: Shape
    name: ClassVar[str] = "Transpose"

    def infer(self, x: Shape) -> tuple[Shape, ...]:
        """Returns the permuted shape."""
        return (tuple(x[i] for i in self.perm),)

    def evaluate(self, x: FloatArray) -> tuple[FloatArray, ...]:
        """Returns the permuted input."""
        return (np.ascontiguousarray(x.transpose(self.perm)),)


@dataclass(frozen=True, slots=True)
class Concat:
    """Concatenation along `axis` (non-negative)."""

    axis: int
    name: ClassVar[str] = "Concat"

    def infer(self, *shapes: Shape) -> tuple[Shape, ...]:
        """Returns the joined shape."""
        first = shapes[0]
        rests = {shape[: self.axis] + shape[self.axis + 1 :] for shape in shapes}
        if len(rests) != 1:
            raise ValueError(f"cannot concatenate {shapes} along {self.axis}")
        return ((*first[: self.axis], sum(shape[self.axis] for shape in shapes), *first[self.axis + 1 :]),)

    def evaluate(self, *arrays: FloatArray) -> tuple[FloatArray, ...]:
        """Returns the joined array."""
        return (np.concatenate(arrays, axis=self.axis),)


@dataclass(frozen=True, slots=True)
class Slice:
    """x[begin:end:step] on every dimension; 0 <= begin <= end <= size and step >= 1."""

    begin: Shape
    end: Shape
    step: Shape
    name: ClassVar[str] = "Slice"

    def infer(self, x: Shape) -> tuple[Shape, ...]:
        """Returns the sliced shape."""
        return (tuple(len(range(b, e, s)) for b, e, s in zip(self.begin, self.end, self.step, strict=True)),)

    def evaluate(self, x: FloatArray) -> tuple[FloatArray, ...]:
        """Returns the slice."""
        return (x[tuple(slice(b, e, s) for b, e, s in zip(self.begin, self.end, self.step, strict=True))],)


@dataclass(frozen=True, slots=True)
class Split:
    """Split along `axis` into parts of `sizes`."""

    axis: int
    sizes: Shape
    name: ClassVar[str] = "Split"

    def infer(self, x: Shape) -> tuple[Shape, ...]:
        """Returns the shapes of the parts."""
        return tuple((*x[: self.axis], size, *x[self.axis + 1 :]) for size in self.sizes)

    def evaluate(self, x: FloatArray) -> tuple[FloatArray, ...]:
        """Returns the parts."""
        return tuple(np.split(x, np.cumsum(self.sizes)[:-1].tolist(), axis=self.axis))


@dataclass(frozen=True, slots=True)
class Pad:
    """Constant padding by (before, after) on every dimension."""

    pads: tuple[tuple[int, int], ...]
    value: float = 0.0
    name: ClassVar[str] = "Pad"

    def infer(self, x: Shape) -> tuple[Shape, ...]:
        """Returns the padded shape."""
        return (tuple(before + size + after for size, (before, after) in zip(x, self.pads, strict=True)),)

    def evaluate(self, x: FloatArray) -> tuple[FloatArray, ...]:
        """Returns the padded input."""
        return (np.pad(x, self.pads, constant_values=np.float32(self.value)),)
