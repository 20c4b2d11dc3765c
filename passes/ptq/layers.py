"""Linear layers as matrices: weights by rows and columns, calibration inputs by their second moments.

A convolution is the product of its weight matrix with the columns of its input (im2col), a depthwise convolution one
such product per channel. Legend: G groups, R = C_out / G rows, K = taps times input channels per group.

The moments take clips for independent of each other, so it matters what a clip is: the leading dimension of a tensor
may be a batch, but also time, or in a tensor of rank 1 the features.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kwsq.ir import ops
from kwsq.ir.execute.batching import keeps_samples_apart
from kwsq.ir.graph import Graph, Node, Shape
from kwsq.ir.ops.linear import pad_spatial, windows
from kwsq.ir.quant import FloatArray, Unquantized
from kwsq.ir.rewrite import Rewriter
from kwsq.passes.ptq.reproducible import EXACT_BITS, FLOAT32_BITS, grid_step, snap

Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Layer:
    """A convolution or dense node whose weight lacks a grid.

    Args:
        node: the node.
        weight: name of the weight tensor.
        bias: name of the bias tensor, empty when there is none that may change.
        clip: shape of one clip of the input, which is stacked along the leading dimension.
    """

    node: Node
    weight: str
    bias: str
    clip: Shape

    @property
    def groups(self) -> int:
        """Number of groups, G."""
        return self.node.op.groups if isinstance(self.node.op, ops.Conv) else 1

    def as_rows(self, weight: npt.NDArray[np.floating]) -> Float64:
        """Returns the weight tensor as (G, R, K)."""
        return weight.astype(np.float64).reshape(self.groups, weight.shape[0] // self.groups, -1)

    def columns(self, x: npt.NDArray[np.floating], kernel: tuple[int, ...]) -> Float64:
        """Returns the input as (clips, G, K, positions): what the rows are multiplied with.

        Args:
            x: stacked input of the node.
            kernel: spatial kernel shape; () for a dense layer.
        """
        clips = x.shape[0] // self.clip[0]
        if not isinstance(self.node.op, ops.Conv):
            rows = np.asarray(x, np.float64).reshape(clips, -1, self.clip[-1])
            return rows.swapaxes(1, 2)[:, None]
        rank = len(kernel)
        view = windows(pad_spatial(x, self.node.op.pads), kernel, self.node.op.strides, self.node.op.dilations)
        taps = view.transpose(0, 1, *range(2 + rank, 2 + 2 * rank), *range(2, 2 + rank))
        positions = math.prod(view.shape[2 : 2 + rank])
        columns = np.asarray(taps, np.float64).reshape(clips, self.clip[0], self.groups, -1, positions)
        return np.moveaxis(columns, 1, 3).reshape(clips, self.groups, -1, self.clip[0] * positions)


@dataclass(frozen=True, slots=True, eq=False)
class Half:
    """What every second clip contributes to the moments; those of both halves add up to those of all.

    Args:
        covariance: (G, K, K) of x.
        gap: (G, K, K) covariance of x0 - x with x.
    """

    covariance: Float64
    gap: Float64


@dataclass(frozen=True, slots=True, eq=False)
class InputMoments:
    """Moments of a layer's input columns x over the calibration clips, and of x0, what they would be without errors.

    Args:
        halves: clips taken alternately.
        mean: (G, K) of x.
        reference_mean: (G, K) of x0.
        shrinkage: (G,) how much of the covariance's scatter is chance, 0 to 1.
    """

    halves: tuple[Half, Half]
    mean: Float64
    reference_mean: Float64
    shrinkage: Float64

    @property
    def covariance(self) -> Float64:
        """(G, K, K), of x over all clips."""
        return self.halves[0].covariance + self.halves[1].covariance


def find_layers(graph: Graph) -> tuple[Layer, ...]:
    """Returns the layers with constant weights on no grid, in topological order, a shared weight once."""
    layers: dict[str, Layer] = {}
    batch = _batch(graph)
    for node in graph.nodes:
        weight = graph.constant(node.inputs[1]) if isinstance(node.op, ops.Conv | ops.Dense) else None
        if weight is not None and isinstance(weight.quant, Unquantized):
            leading, *rest = graph[node.inputs[0]].shape
            clip = (leading // batch, *rest)
            layers.setdefault(weight.name, Layer(node, weight.name, _movable_bias(graph, node), clip))
    return tuple(layers.values())


def _batch(graph: Graph) -> int:
    """Returns how many clips the leading dimension of every activation is a mere list of; 1 in doubt."""
    sizes = {tensor.shape[0] if tensor.shape else 1 for tensor in graph.tensors.values() if not tensor.is_constant}
    is_list = len(sizes) == 1 and all(_keeps_list(graph, node) for node in graph.nodes)
    return sizes.pop() if is_list else 1


def _keeps_list(graph: Graph, node: Node) -> bool:
    tensors = [graph[name] if name else None for name in node.inputs]
    shapes = [tensor.shape if tensor is not None else () for tensor in tensors]
    stacked = [tensor is not None and not tensor.is_constant for tensor in tensors]
    return keeps_samples_apart(node.op, shapes, stacked)


def _movable_bias(graph: Graph, node: Node) -> str:
    name = node.inputs[2] if len(node.inputs) > 2 else ""
    bias = graph.constant(name)
    return name if bias is not None and isinstance(bias.quant, Unquantized) else ""


def own_biases(graph: Graph) -> Graph:
    """Returns the graph in which every layer without a grid has a bias of its own, for the mean error to go to."""
    rewriter = Rewriter(graph)
    taken: set[str] = set()
    for layer in find_layers(graph):
        node, name = layer.node, layer.bias
        given = node.inputs[2] if len(node.inputs) > 2 else ""
        if given in taken or not given:
            channels = graph[layer.weight].shape[0]
            values = graph[given].real() if given else np.zeros(channels, np.float32)
            name = rewriter.add_constant(f"{layer.weight}/bias", values)
            rewriter.update_node(node.name, inputs=(*node.inputs[:2], name))
        taken.add(name)
    return rewriter.finish()


def input_moments(
    layer: Layer, kernel: tuple[int, ...], inputs: Sequence[FloatArray], reference: Sequence[FloatArray]
) -> InputMoments:
    """Returns the moments of a layer's inputs.

    With S the covariance over n clips, S_c the contribution of clip c, and m the mean of S's diagonal, the shrinkage
    towards m I is

        delta = min(1, (mean_c |S_c|^2 - |S|^2) / (n |S - m I|^2)),                                             (57)

    squares in the Frobenius norm: small for a convolution that sees thousands of positions, large for a dense layer
    with more inputs than there are clips. All sums but (57) are exact, hence independent of their order: see
    `kwsq.passes.ptq.reproducible`.

    Args:
        layer: the layer.
        kernel: spatial kernel shape.
        inputs: the node's input x as it is, chunk by chunk.
        reference: the same without errors, x0.

    Source: (57): O. Ledoit, M. Wolf, "A well-conditioned estimator for large-dimensional covariance matrices",
    J. Multivariate Analysis 2004, with clips as the independent observations.
    """
    snapped, step = _snapped(inputs, reference)
    clips = sum(len(x) for x, _ in snapped) // layer.clip[0]
    mean, reference_mean = (_mean(layer, kernel, [pair[i] for pair in snapped], step) for i in (0, 1))
    second, gap, squares, clips_before = np.zeros((2, 1, 1, 1)), np.zeros((2, 1, 1, 1)), np.zeros(()), 0
    for x, x0 in snapped:
        centred = layer.columns(x, kernel) - mean[:, :, None]
        centred0 = layer.columns(x0, kernel) - reference_mean[:, :, None]
        positions = centred.shape[3]
        pairs = [(centred[i::2], centred0[i::2]) for i in (clips_before % 2, (clips_before + 1) % 2)]
        second = second + np.stack([_product(a, a) for a, _ in pairs])
        gap = gap + np.stack([_product(b, a) - _product(a, a) for a, b in pairs])
        clips_before += len(centred)
        squares = squares + _clip_squares(centred) / positions**2
    scale = clips * positions
    halves = Half(second[0] / scale, gap[0] / scale), Half(second[1] / scale, gap[1] / scale)
    shrinkage = _shrinkage(second.sum(axis=0) / scale, squares / clips, clips)
    return InputMoments(halves, mean, reference_mean, shrinkage)


def _snapped(
    inputs: Sequence[FloatArray], reference: Sequence[FloatArray]
) -> tuple[list[tuple[Float64, Float64]], float]:
    """Returns both inputs on one power-of-two grid, coarse enough for exact sums over all clips, and its step."""
    elements = sum(chunk.size for chunk in inputs)
    spare = EXACT_BITS - 2 - math.ceil(math.log2(max(elements, 2)))  # 2: subtracting the mean may double a value
    bits = min(spare // 2, FLOAT32_BITS)
    largest = max(float(np.abs(chunk).max(initial=0)) for chunk in (*inputs, *reference))
    pairs = [(snap(x, bits, largest), snap(x0, bits, largest)) for x, x0 in zip(inputs, reference, strict=True)]
    return pairs, grid_step(largest, bits)


def _mean(layer: Layer, kernel: tuple[int, ...], chunks: Sequence[Float64], step: float) -> Float64:
    """Returns the mean column on the grid of the inputs, so that centred inputs are on it too."""
    total, count = np.zeros(()), 0
    for x in chunks:
        columns = layer.columns(x, kernel)
        total = total + columns.sum(axis=(0, 3))
        count += columns.shape[0] * columns.shape[3]
    return np.asarray(np.rint(total / count / step) * step, np.float64)


def _product(left: Float64, right: Float64) -> Float64:
    """Returns the sum over samples and positions of left times right transposed, (G, K, K)."""
    flat = (a.transpose(1, 2, 0, 3).reshape(a.shape[1], a.shape[2], -1) for a in (left, right))
    a, b = flat
    result: Float64 = a @ b.swapaxes(1, 2)
    return result


def _clip_squares(centred: Float64) -> Float64:
    """Returns the sum over samples of |x x^T|^2, by whichever of x x^T and x^T x is smaller, (G,)."""
    other = centred.swapaxes(2, 3)
    gram = centred @ other if centred.shape[2] <= centred.shape[3] else other @ centred
    result: Float64 = np.square(gram).sum(axis=(0, 2, 3))
    return result


def _shrinkage(covariance: Float64, mean_square: Float64, clips: int) -> Float64:
    square = np.square(covariance).sum(axis=(1, 2))
    power = np.diagonal(covariance, axis1=1, axis2=2).mean(axis=1)
    spread = square - covariance.shape[1] * np.square(power)
    chance = (mean_square - square) / clips
    result: Float64 = np.where(spread > chance, chance / np.where(spread > 0, spread, 1.0), 1.0)
    return np.clip(result, 0.0, 1.0)
