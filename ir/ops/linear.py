"""Linear operators. Legend: N batch, C_in/C_out channels, K kernel taps, G groups, O/I dense outputs/inputs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from kwsq.ir.ops.arithmetic import Activation
from kwsq.ir.quant import FloatArray

Shape = tuple[int, ...]
Array = npt.NDArray[Any]


def output_size(size: int, kernel: int, stride: int, pad: int, dilation: int = 1) -> int:
    """Returns the length of a strided window pass over `size` elements with `pad` elements added in total.

    >>> output_size(49, 10, 2, 8)
    24
    """
    return (size + pad - dilation * (kernel - 1) - 1) // stride + 1


def windows(x: Array, kernel: Shape, strides: Shape, dilations: Shape) -> Array:
    """Returns a view of sliding windows over the trailing dimensions.

    Args:
        x: (..., *spatial), already padded.
        kernel: taps per spatial dimension.
        strides: steps between windows per spatial dimension.
        dilations: steps between taps per spatial dimension.

    Returns:
        (..., *out, *kernel) view.
    """
    rank = len(kernel)
    extents = tuple(d * (k - 1) + 1 for k, d in zip(kernel, dilations, strict=True))
    view = np.lib.stride_tricks.sliding_window_view(x, extents, axis=tuple(range(x.ndim - rank, x.ndim)))
    steps = tuple(slice(None, None, s) for s in strides)
    taps = tuple(slice(None, None, d) for d in dilations)
    index: tuple[Any, ...] = (..., *steps, *taps)
    result: Array = view[index]
    return result


def pad_spatial(x: Array, pads: tuple[tuple[int, int], ...], value: float = 0) -> Array:
    """Returns `x` with its trailing dimensions padded by (before, after) pairs."""
    if not any(before or after for before, after in pads):
        return x
    return np.pad(x, [(0, 0)] * (x.ndim - len(pads)) + list(pads), constant_values=value)


@dataclass(frozen=True, slots=True)
class Conv:
    """1-D or 2-D convolution: x (N, C_in, *spatial), weight (C_out, C_in/G, *K), optional bias (C_out).

    Args:
        strides, dilations: per spatial dimension.
        pads: (before, after) per spatial dimension.
        groups: G; C_in for depthwise.
        activation: fused clamp.
    """

    strides: Shape
    pads: tuple[tuple[int, int], ...]
    dilations: Shape
    groups: int = 1
    activation: Activation = Activation.NONE
    name: ClassVar[str] = "Conv"

    def infer(self, x: Shape, weight: Shape, bias: Shape = ()) -> tuple[Shape, ...]:
        """Returns (N, C_out, *out)."""
        spatial = tuple(
            output_size(size, kernel, stride, sum(pad), dilation)
            for size, kernel, stride, pad, dilation in zip(
                x[2:], weight[2:], self.strides, self.pads, self.dilations, strict=True
            )
        )
        return ((x[0], weight[0], *spatial),)

    def evaluate(self, x: FloatArray, weight: FloatArray, bias: FloatArray | None = None) -> tuple[FloatArray, ...]:
        """Returns the convolution in float32."""
        padded = pad_spatial(x, self.pads)
        depthwise = self.groups == x.shape[1] == weight.shape[0] > 1
        y = self._depthwise(padded, weight) if depthwise else self._grouped(padded, weight)
        if bias is not None:
            y = y + bias.reshape(-1, *[1] * len(self.strides))
        return (self.activation.apply(np.ascontiguousarray(y, np.float32)),)

    def _depthwise(self, padded: Array, weight: FloatArray) -> Array:
        """Sums the taps channels last, where each addition runs over long contiguous rows."""
        channels_last = np.ascontiguousarray(np.moveaxis(padded, 1, -1))
        (shape,) = replace(self, pads=((0, 0),) * len(self.strides)).infer(padded.shape, weight.shape)
        out, row = (shape[0], *shape[2:], shape[1]), (shape[-1], shape[1])
        y, product = np.zeros(out, np.float32), np.empty(out, np.float32)
        for tap in np.ndindex(*weight.shape[2:]):
            starts = tuple(t * d for t, d in zip(tap, self.dilations, strict=True))
            reach = (
                slice(start, start + (size - 1) * stride + 1, stride)
                for start, size, stride in zip(starts, out[1:-1], self.strides, strict=True)
            )
            # The tap's weights repeated along the row: a broadcast operand would break the row into short loops.
            taps = np.broadcast_to(weight[(slice(None), 0, *tap)], row).copy()
            y += np.multiply(channels_last[(slice(None), *reach)], taps, out=product, casting="same_kind")
        return np.moveaxis(y, -1, 1)

    def _grouped(self, padded: Array, weight: FloatArray) -> Array:
        """One matrix product per sample and group; the columns come out in the layout of the result."""
        rank, groups = len(self.strides), self.groups
        view = windows(padded, weight.shape[2:], self.strides, self.dilations)
        n, c_in, out = view.shape[0], view.shape[1], view.shape[2 : 2 + rank]
        taps = view.transpose(0, 1, *range(2 + rank, 2 + 2 * rank), *range(2, 2 + rank))
        kernel_size = c_in // groups * int(np.prod(weight.shape[2:]))
        columns = taps.reshape(n, groups, kernel_size, int(np.prod(out)))
        y = weight.reshape(groups, weight.shape[0] // groups, kernel_size) @ columns
        return y.reshape(n, weight.shape[0], *out)


@dataclass(frozen=True, slots=True)
class Dense:
    """x (..., I) times weight (O, I) transposed, plus optional bias (O)."""

    activation: Activation = Activation.NONE
    name: ClassVar[str] = "Dense"

    def infer(self, x: Shape, weight: Shape, bias: Shape = ()) -> tuple[Shape, ...]:
        """Returns (..., O)."""
        return ((*x[:-1], weight[0]),)

    def evaluate(self, x: FloatArray, weight: FloatArray, bias: FloatArray | None = None) -> tuple[FloatArray, ...]:
        """Returns the product in float32."""
        y = x @ weight.T
        return (self.activation.apply(y if bias is None else y + bias),)


@dataclass(frozen=True, slots=True)
class MatMul:
    """Product of two computed tensors, NumPy matmul rules."""

    name: ClassVar[str] = "MatMul"

    def infer(self, a: Shape, b: Shape) -> tuple[Shape, ...]:
        """Returns (*broadcast batch, rows of a, columns of b)."""
        return ((*np.broadcast_shapes(a[:-2], b[:-2]), a[-2], b[-1]),)

    def evaluate(self, a: FloatArray, b: FloatArray) -> tuple[FloatArray, ...]:
        """Returns the product."""
        return (a @ b,)


@dataclass(frozen=True, slots=True)
class BatchNorm:
    """Inference-mode batch normalisation along axis 1; inputs x, gamma, beta, mean, variance."""

    epsilon: float
    name: ClassVar[str] = "BatchNorm"

    def infer(self, x: Shape, *parameters: Shape) -> tuple[Shape, ...]:
        """Returns the input shape."""
        return (x,)

    def evaluate(
        self, x: FloatArray, gamma: FloatArray, beta: FloatArray, mean: FloatArray, variance: FloatArray
    ) -> tuple[FloatArray, ...]:
        """Returns gamma * (x - mean) / sqrt(variance + epsilon) + beta."""
        shape = (-1, *[1] * (x.ndim - 2))
        gain = gamma / np.sqrt(variance + np.float32(self.epsilon))
        return ((x - mean.reshape(shape)) * gain.reshape(shape) + beta.reshape(shape),)


@dataclass(frozen=True, slots=True)
class ChannelAffine:
    """x * gain + offset per channel of `axis`, rounded once when quantised; inputs x, gain (C), offset (C)."""

    axis: int
    activation: Activation = Activation.NONE
    name: ClassVar[str] = "ChannelAffine"

    def infer(self, x: Shape, gain: Shape, offset: Shape) -> tuple[Shape, ...]:
        """Returns the input shape."""
        return (x,)

    def evaluate(self, x: FloatArray, gain: FloatArray, offset: FloatArray) -> tuple[FloatArray, ...]:
        """Returns the affine map."""
        shape = [1] * x.ndim
        shape[self.axis] = -1
        return (self.activation.apply(x * gain.reshape(shape) + offset.reshape(shape)),)
