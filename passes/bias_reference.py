"""What the integer graph should compute while its biases are rounded: the float graph's activations as codes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kwsq.ir.execute import run_float
from kwsq.ir.graph import Array, Graph
from kwsq.ir.lowered import DType, LoweredGraph, LoweredNode, LoweredTensor
from kwsq.ir.ops import ChannelAffine, Conv, Dense
from kwsq.ir.quant import Affine, FloatArray, dequantize, quantize
from kwsq.passes.lower import LowerResult
from kwsq.passes.lowering.context import View

Float64 = npt.NDArray[np.float64]

CLOSE_LSB = 1.001
"""One code, and float32 noise."""
NOTICEABLE_STEP = 1 / 64
"""A layer whose bias step is below this part of an output code has no codes to compare: its rounding does not show."""
PROBE_MACS = 100_000_000
"""Work of running the largest layer once, in multiply-accumulates: it bounds the vectors whose codes are compared."""
MIN_PROBES = 8


NEARLY_FAR_LSB = 0.9
"""From here on a distance counts as excess: an output just within one code is easily lost again."""
SCATTER = 0.002
"""Weight of the mean square beside the excess."""
REFERENCE_WEIGHT = 3.0
"""Weight of the reference kernels' excess, of the other kernel set's 1."""


@dataclass(frozen=True, slots=True, eq=False)
class Distance:
    """How far outputs are from the reference.

    Args:
        rms_lsb: root mean square in codes, over all kernel sets.
        close_shares: share within CLOSE_LSB of the output where it is smallest, per kernel set.
        largest: in codes, over all kernel sets.
        excess: what to lower so that more are: mean distance beyond NEARLY_FAR_LSB and a little of the mean square.
    """

    rms_lsb: float
    close_shares: tuple[float, ...]
    largest: float
    excess: float


class BiasReference:
    """The float graph on its inputs.

    Args:
        result: lowered graph with its views.
        attached: the float graph that was lowered, one grid per activation.
        annotated: the float graph with explicit quantisers.
        inputs: real-valued arrays, (n * batch, ...).

    Attributes:
        count: n, the number of vectors.
        macs: multiply-accumulates of running all of them.
        probes: how many of the first vectors `wanted` covers.
        means: mean over all vectors of every layer's input, rounded to its grid, logical order, batch size 1.
        wanted: float32 codes (probes * batch, ...) of layer outputs by lowered tensor, stored order.
    """

    def __init__(
        self, result: LowerResult, attached: Graph, annotated: Graph, inputs: Mapping[str, FloatArray]
    ) -> None:
        self.attached = attached
        self.inputs = inputs
        layers = [node for node in attached.nodes if isinstance(node.op, Conv | Dense | ChannelAffine)]
        first = attached.inputs[0]
        self.count = len(inputs[first]) // attached[first].shape[0]
        work = [_macs(attached, node.outputs[0], node.inputs[1]) for node in layers]
        self.macs = self.count * sum(work)
        self.probes = min(self.count, max(MIN_PROBES, PROBE_MACS // max(work, default=1)))
        views = dict(_noticeable_outputs(result, annotated))
        shown = [view.name for view in views.values()]
        known = dict.fromkeys(node.inputs[0] for node in layers if node.inputs[0] in annotated.tensors)
        keep = [name for name in known if name not in annotated.inputs]
        one_run = self.probes == self.count
        values = run_float(annotated, inputs, keep=keep + shown if one_run else keep)
        states = {pair.output for pair in annotated.states}
        self.outputs = {name: values[name] for name in annotated.outputs if name not in states}
        self.means = {name: self._mean(name, values | dict(inputs)) for name in known}
        if shown and not one_run:
            few = {name: array[: self.probes * attached[name].shape[0]] for name, array in inputs.items()}
            values = run_float(annotated, few, keep=shown)
        self.wanted = {name: self._codes_of(result.graph[name], view, values) for name, view in views.items()}

    def _mean(self, name: str, values: Mapping[str, FloatArray]) -> Float64:
        return np.asarray(self._rounded(name, values[name]).mean(axis=0, keepdims=True, dtype=np.float64))

    def _rounded(self, name: str, real: FloatArray) -> FloatArray:
        spec = self.attached[name].quant
        assert isinstance(spec, Affine)
        return dequantize(quantize(real, spec), spec)

    def _codes_of(self, tensor: LoweredTensor, view: View, values: Mapping[str, FloatArray]) -> FloatArray:
        assert tensor.scale is not None
        stored = _stored(self._rounded(view.name, values[view.name]), view)
        codes = np.clip(np.rint(stored / tensor.scale[0]) + tensor.zero_point, -128, 127)
        return np.asarray(codes.astype(np.float32).reshape(-1, *tensor.shape[1:]))

    def codes(self, tensor: LoweredTensor, name: str) -> Array:
        """Returns a graph input in its lowered element type."""
        if tensor.scale is None or tensor.dtype is DType.FLOAT32:
            return self.inputs[name]
        low, high = (0, 255) if tensor.dtype is DType.UINT8 else (-128, 127)
        codes = np.rint(self.inputs[name] / tensor.scale[0]) + tensor.zero_point
        return np.asarray(np.clip(codes, low, high).astype(tensor.dtype.numpy))

    def distance(self, graph: LoweredGraph, runs: Sequence[Mapping[str, Array]]) -> Distance:
        """Returns how far the outputs are from the reference.

        Args:
            graph: grids of the outputs.
            runs: tensors by name, one mapping per kernel set.
        """
        by_output = [list(self._errors(graph, values)) or [np.zeros(1)] for values in runs]
        errors = [np.concatenate(each) for each in by_output]
        mean_square = np.mean(np.square(errors), axis=1)
        over = np.mean(np.maximum(np.array(errors) - NEARLY_FAR_LSB, 0), axis=1) + SCATTER * mean_square
        weights = np.array([REFERENCE_WEIGHT, *np.ones(len(errors) - 1)])
        return Distance(
            float(np.sqrt(mean_square.mean())),
            tuple(float(min(np.mean(error <= CLOSE_LSB) for error in each)) for each in by_output),
            float(np.max(errors)),
            float(over @ weights / weights.sum()),
        )

    def _errors(self, graph: LoweredGraph, values: Mapping[str, Array]) -> Iterator[Float64]:
        """Yields, per output, the distances in codes."""
        for name, expected in self.outputs.items():
            spec = self.attached[name].quant
            assert isinstance(spec, Affine)
            tensor, scale = graph[name], float(spec.scale[0])
            found = values[name].astype(np.float64)
            real = found if tensor.scale is None else (found - tensor.zero_point) * float(tensor.scale[0])
            yield np.abs(real.reshape(-1) - expected.reshape(-1)) / scale


def _macs(graph: Graph, output: str, weight: str) -> int:
    return max(1, int(np.prod(graph[output].shape)) * int(np.prod(graph[weight].shape[1:])))


def _noticeable_outputs(result: LowerResult, annotated: Graph) -> Iterator[tuple[str, View]]:
    """Yields the layer outputs, with their views, where one bias step is a noticeable part of a code."""
    for node in result.graph.nodes:
        bias, output = _real_bias(result, node), result.graph[node.outputs[0]]
        view = result.views.get(output.name)
        if bias is None or bias.scale is None or output.scale is None or view is None:
            continue
        shows = float(bias.scale.max()) > NOTICEABLE_STEP * float(output.scale[0])
        if shows and view.form[0] == 0 and view.features is None and view.name in annotated.tensors:
            yield output.name, view


def _real_bias(result: LowerResult, node: LoweredNode) -> LoweredTensor | None:
    name = node.inputs[2] if len(node.inputs) > 2 else ""
    return result.graph[name] if name in result.real_biases else None


def _stored(real: FloatArray, view: View) -> FloatArray:
    """Returns stacked values in stored order, without unit dimensions."""
    axes = [axis for axis in view.form if axis is not None]
    dropped = tuple(axis for axis in range(real.ndim) if axis not in axes)
    return real.squeeze(dropped).transpose(np.argsort(np.argsort(axes)))


def logical(stored: Float64, view: View, shape: tuple[int, ...]) -> Float64:
    """Returns one vector's stored values in logical order.

    Args:
        stored: batch size 1.
        view: how they are stored.
        shape: logical shape, batch size 1.
    """
    if view.features is not None:
        flat = np.empty(stored.size)
        flat[view.features] = stored.reshape(-1)
        return flat.reshape(shape)
    axes = [axis for axis in view.form if axis is not None and shape[axis] > 1]
    core = stored.reshape([shape[axis] for axis in axes])
    return core.transpose(np.argsort(axes)).reshape(shape)
