"""The integer executor with the accumulators a model was trained for.

Layers and means of a model whose metadata name an accumulator are executed by equations (46) to (46c),
docs/quantization.md: sums in a stated order with saturation, and one rounding, ties to even, of whatever leaves an
accumulator, as source runtimes round. Everything else is `run_integer`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from kwsq.ir import lowered as ir
from kwsq.ir import numerics
from kwsq.ir.execute.call import Call
from kwsq.ir.execute.integer import run_node
from kwsq.ir.execute.kernel_sets import single_params
from kwsq.ir.execute.kernels import KERNELS, Array, Kernels, Results
from kwsq.ir.lowered import LoweredGraph
from kwsq.ir.numerics.accumulator import Accumulator, OverflowProof, prove_no_overflow, saturating_sums
from kwsq.ir.numerics.fixed_point import Int8Array
from kwsq.ir.numerics.window import pad_for_window
from kwsq.ir.numerics.xnnpack import requantize_single
from kwsq.ir.ops import Activation

METADATA_KEY = "kwsq.accumulator"


@dataclass(frozen=True, slots=True, eq=False)
class NarrowRun:
    """Outputs of a run, and how often an accumulator was cut, by node."""

    outputs: dict[str, Array]
    saturated: dict[str, int] = field(default_factory=dict)


def run_narrow(graph: LoweredGraph, inputs: Mapping[str, npt.ArrayLike], contract: Accumulator) -> NarrowRun:
    """Runs a graph with the sums of its convolutions and dense layers as `contract` says.

    Args:
        graph: verified graph.
        inputs: per graph input an array, the first dimension any multiple of the declared one.
        contract: accumulator the model was trained for.

    Returns:
        Graph outputs and saturations.
    """
    values: dict[str, Array] = {t.name: t.data for t in graph.tensors.values() if t.data is not None}
    values |= {name: np.asarray(inputs[name]) for name in graph.inputs}
    count = len(values[graph.inputs[0]]) // graph[graph.inputs[0]].shape[0]
    saturated: dict[str, int] = {}
    for node in graph.nodes:
        cuts: list[int] = []
        values |= run_node(graph, node, values, count, _kernels(contract, cuts))
        if cuts:
            saturated[node.name] = sum(cuts)
    return NarrowRun({name: values[name] for name in graph.outputs}, saturated)


def _kernels(contract: Accumulator, cuts: list[int]) -> Kernels:
    def conv2d(call: Call) -> Results:
        op = call.op
        assert isinstance(op, ir.Conv2D)
        weights = call.codes(1)
        window = call.window(op.stride, op.dilation, op.pads)
        patches = _patches(call.codes(), weights.shape[1:3], window, call.source.zero_point)
        return layer(call, patches, weights.reshape(len(weights), -1), op.activation)

    def fully_connected(call: Call) -> Results:
        op = call.op
        assert isinstance(op, ir.FullyConnected)
        return layer(call, call.codes(), call.codes(1), op.activation)

    def layer(call: Call, patches: npt.NDArray[np.int8], weights: Int8Array, activation: Activation) -> Results:
        params = single_params(call, activation)
        sums, cut = saturating_sums(patches, weights, call.bias, contract, input_zero_point=params.input_zero_point)
        cuts.append(cut)
        widened = replace(params, effective_scale=params.effective_scale * np.float32(2.0**contract.shift))
        return (requantize_single(sums, widened),)

    return {**KERNELS, ir.Conv2D: conv2d, ir.FullyConnected: fully_connected, ir.Mean: _mean}


def _mean(call: Call) -> Results:
    op = call.op
    assert isinstance(op, ir.Mean)
    return (numerics.mean_to_even(call.codes(), call.source, call.target, axis=op.axes, keepdims=op.keepdims),)


def _patches(x: Int8Array, kernel: tuple[int, ...], window: numerics.Window, zero_point: int) -> npt.NDArray[np.int8]:
    """Returns (N, OH, OW, KH * KW * C): what each output position sees, in weight order."""
    rows, columns = kernel
    padded = pad_for_window(x, kernel=(rows, columns), window=window, value=zero_point)
    height, width = window.output_size
    taps = []
    for row in range(rows):
        for column in range(columns):
            top, left = row * window.dilation[0], column * window.dilation[1]
            down = slice(top, top + (height - 1) * window.stride[0] + 1, window.stride[0])
            right = slice(left, left + (width - 1) * window.stride[1] + 1, window.stride[1])
            taps.append(padded[:, down, right])
    return np.concatenate(taps, axis=-1)


def overflow_proofs(graph: LoweredGraph, contract: Accumulator) -> dict[str, OverflowProof]:
    """Returns the overflow proof of every convolution and dense layer, by node name.

    Inputs are taken over the whole of int8, or its non-negative half behind a fused or an explicit ReLU.

    Args:
        graph: verified graph.
        contract: accumulator.
    """
    proofs = {}
    for node in graph.nodes:
        if isinstance(node.op, ir.Conv2D | ir.FullyConnected):
            weights = graph[node.inputs[1]].data
            bias = graph[node.inputs[2]].data if len(node.inputs) > 2 else None
            assert weights is not None
            flat = np.asarray(weights, np.int8).reshape(len(weights), -1)
            codes = None if bias is None else np.asarray(bias, np.int32)
            proofs[node.name] = prove_no_overflow(
                flat, codes, contract, input_range=_input_range(graph, node.inputs[0])
            )
    return proofs


def _input_range(graph: LoweredGraph, name: str) -> tuple[int, int]:
    """Returns the codes a tensor can hold, minus its zero point."""
    zero_point = graph[name].zero_point
    producer = next((node for node in graph.nodes if name in node.outputs), None)
    while producer is not None and isinstance(producer.op, ir.Mean | ir.Reshape | ir.Transpose):
        # None of these leaves the range of its input where the grids agree, as in a fixed-point model.
        source = producer.inputs[0]
        if graph[source].zero_point != zero_point:
            break
        producer = next((node for node in graph.nodes if source in node.outputs), None)
    rectified = isinstance(producer and producer.op, ir.Conv2D | ir.FullyConnected) and producer is not None
    activation = getattr(producer.op, "activation", None) if rectified and producer is not None else None
    low = 0 if activation is not None and activation.bounds[0] == 0.0 else -128 - zero_point
    return low, 127 - zero_point
