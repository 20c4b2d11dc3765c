"""The two kernel sets of LiteRT an artefact meets: the reference, and what an application's interpreter takes.

The reference is exact (`kernels`). The default one is what XNNPACK computes where that differs from the reference to
one side; it is no oracle, a few codes in ten thousand may differ. Passes use it to do well by both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from kwsq.ir import lowered as ir
from kwsq.ir import numerics
from kwsq.ir.execute.call import Call, Int8Array, Int32Array
from kwsq.ir.execute.integer import call_of, shaped
from kwsq.ir.execute.kernels import KERNELS, Kernels, conv_params, dense_params
from kwsq.ir.lowered import LoweredGraph, LoweredNode
from kwsq.ir.ops import Activation

Array = npt.NDArray[Any]
Results = tuple[Array, ...]
ConvParams = Callable[[Call, Activation], "numerics.FixedPointParams | numerics.SingleParams"]


@dataclass(frozen=True, slots=True, eq=False)
class KernelSet:
    """Functions of every operator, and the constants by which convolutions requantize."""

    kernels: Kernels
    conv_params: ConvParams


@dataclass(frozen=True, slots=True, eq=False)
class LayerSums:
    """A layer before its requantization.

    Args:
        sums: accumulators (n * batch, ..., C_out) int32, bias included.
        requantize: what the kernel set makes of them.
    """

    sums: Int32Array
    requantize: Callable[[Int32Array], Int8Array]


def single_params(call: Call, activation: Activation) -> numerics.SingleParams:
    """Returns the constants of a layer that rounds once, as the default kernels do."""
    low, high = call.bounds(activation)
    weight_scale = call.inputs[1].scale
    assert weight_scale is not None
    return numerics.derive_single(call.source, weight_scale, call.target, low=low, high=high)


def _conv2d(call: Call) -> Results:
    op = call.op
    assert isinstance(op, ir.Conv2D)
    window = call.window(op.stride, op.dilation, op.pads)
    params = single_params(call, op.activation)
    return (numerics.conv2d(call.codes(), call.codes(1), call.bias, params, window=window),)


def _depthwise_conv2d(call: Call) -> Results:
    op = call.op
    assert isinstance(op, ir.DepthwiseConv2D)
    window = call.window(op.stride, op.dilation, op.pads)
    params = single_params(call, op.activation)
    return (numerics.depthwise_conv2d(call.codes(), call.codes(1), call.bias, params, window=window),)


def _mean(call: Call) -> Results:
    op = call.op
    assert isinstance(op, ir.Mean)
    return (numerics.mean_single(call.codes(), call.source, call.target, axis=op.axes, keepdims=op.keepdims),)


def _quantize(call: Call) -> Results:
    if call.inputs[0].dtype is not ir.DType.INT8 or call.output.dtype is not ir.DType.INT8:
        return KERNELS[ir.Quantize](call)
    return (numerics.look_up(call.codes(), numerics.requantize_coarse_table(call.source, call.target)),)


_DIFFERENT: Kernels = {
    ir.Conv2D: _conv2d,
    ir.DepthwiseConv2D: _depthwise_conv2d,
    ir.Mean: _mean,
    ir.Quantize: _quantize,
}
REFERENCE_KERNELS = KernelSet(KERNELS, conv_params)
DEFAULT_KERNELS = KernelSet({**KERNELS, **_DIFFERENT}, single_params)


def kernel_sets(graph: LoweredGraph) -> tuple[KernelSet, ...]:
    """Returns the kernel sets that compute the graph differently, the reference first."""
    differs = any(type(node.op) in _DIFFERENT for node in graph.nodes)
    return (REFERENCE_KERNELS, DEFAULT_KERNELS) if differs else (REFERENCE_KERNELS,)


def layer_sums(
    graph: LoweredGraph, node: LoweredNode, values: Mapping[str, Array], count: int, kernels: KernelSet
) -> LayerSums:
    """Takes a layer apart.

    Args:
        graph: graph of the node.
        node: a layer with weights.
        values: contents of its inputs by name, constants included.
        count: number of vectors stacked along the first dimension.
        kernels: by which the sums are to be requantized.
    """
    call = call_of(graph, node, values)
    zero_point, op, x, weights = call.source.zero_point, call.op, call.codes(), call.codes(1)
    if isinstance(op, ir.FullyConnected):
        real = dense_params(call, op.activation)
        sums = numerics.fully_connected_sums(x, weights, call.bias, zero_point)
        return LayerSums(_shaped(sums, graph, node, count), lambda found: numerics.requantize_real(found, real))
    assert isinstance(op, ir.Conv2D | ir.DepthwiseConv2D)
    window, params = call.window(op.stride, op.dilation, op.pads), kernels.conv_params(call, op.activation)
    convolve = numerics.conv2d_sums if isinstance(op, ir.Conv2D) else numerics.depthwise_conv2d_sums
    sums = convolve(x, weights, call.bias, input_zero_point=zero_point, window=window)
    return LayerSums(_shaped(sums, graph, node, count), lambda found: numerics.requantize_layer(found, params))


def _shaped(sums: Int32Array, graph: LoweredGraph, node: LoweredNode, count: int) -> Int32Array:
    return shaped(sums, graph[node.outputs[0]].shape, count)
