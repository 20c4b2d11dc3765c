"""What rounding alone does to a model's outputs, by simulation on the very vectors compared.

Two faithful executions of a quantised model round the same real numbers, and at each operator some codes come out one
step apart: ties broken differently, one rounding instead of two. How far apart the outputs then are depends on the
model. Here such differences are drawn: every operator that rounds has a share of its codes moved by one step, all of
them up or all down, along a whole sequence too, since a kernel breaks its ties one way and a shift of the mean carries
further than as many steps either way; the outputs are compared with those of the undisturbed integer reference.

Source: our construction; shares measured (docs/quantization.md, section 10) and rounded up.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from kwsq.converter.parity.kernels import recomputed, rounding_bound_lsb
from kwsq.converter.parity.sequences import Arrays, run_vectors, zero_states
from kwsq.ir import lowered as ir
from kwsq.ir.lowered import DType, LoweredGraph, LoweredNode

Array = npt.NDArray[Any]

_ROUGH_SHARE = 0.15
_FINE_SHARE = 0.01
# These kernels round to a binary fraction of the output's step first, one to two steps of the accumulator, and to the
# output then: the second rounding meets a tie that the first one made about as often as that fraction is large.
# Few-bit weights have large steps (docs/parity.md).
_TWICE_ROUNDED = (ir.BatchMatMul, ir.Conv2D, ir.DepthwiseConv2D)
# Ties are common where few codes are averaged or a grid changes by a simple ratio.
_ROUGH = (ir.AveragePool2D, ir.LeakyRelu, ir.Mean, ir.Mul, ir.PRelu, ir.Quantize, ir.Rectify)


_BIASED = (ir.Conv2D, ir.DepthwiseConv2D, ir.FullyConnected)
_ELEMENTWISE = (ir.Add, ir.Mul, ir.Sub)


def noisy_outputs(graph: LoweredGraph, inputs: Arrays, seed: int = 0) -> dict[str, Array]:
    """Returns the outputs of the integer reference with rounding differences drawn at every operator.

    Args:
        graph: legalised graph.
        inputs: stacked codes by input name.
        seed: of the draws.
    """
    rng = np.random.default_rng(seed)
    shifted = _with_shifted_constants(graph, rng)
    signs = {node.name: int(rng.choice(np.array([-1, 1]))) for node in graph.nodes}
    return run_vectors(graph, lambda arrays: _run(shifted, arrays, signs, rng), inputs, zero_states(graph))


def _with_shifted_constants(graph: LoweredGraph, rng: np.random.Generator) -> LoweredGraph:
    """Returns the graph with the rounding of its biases, and of constants that are added or multiplied, drawn anew.

    An integer bias is off its real value by up to half a step, variance 1/12: drawn here as one whole step, up or down,
    for one bias in twelve, which has the same variance. Unlike other rounding it moves a channel everywhere at once.
    A constant that is added or multiplied is off as far, but the result is rounded right away: what counts is how often
    that gives another code, which follows the mean of the distance, 1/4: drawn as a step for one code in four.
    """
    tensors = dict(graph.tensors)
    for node in graph.nodes:
        share = 1 / 4 if isinstance(node.op, _ELEMENTWISE) else 1 / 12
        for constant in (tensors[name] for name in _rounded_constants(node) if tensors[name].data is not None):
            steps = rng.choice(np.array([-1, 0, 1]), constant.shape, p=[share / 2, 1 - share, share / 2])
            limits = np.iinfo(constant.dtype.value)
            moved = np.clip(np.asarray(constant.data, np.int64) + steps, limits.min, limits.max)
            tensors[constant.name] = replace(constant, data=moved.astype(constant.dtype.numpy))
    return replace(graph, tensors=tensors)


def _rounded_constants(node: LoweredNode) -> tuple[str, ...]:
    """Returns the inputs that, where they are constant, the artefact may have rounded and the source not."""
    if isinstance(node.op, _BIASED):
        return node.inputs[2:3]
    return node.inputs if isinstance(node.op, _ELEMENTWISE) else ()


def _run(graph: LoweredGraph, inputs: Arrays, signs: Mapping[str, int], rng: np.random.Generator) -> dict[str, Array]:
    arrays = dict(inputs)
    for node in graph.nodes:
        for name, codes in recomputed(graph, node, arrays).items():
            arrays[name] = _disturbed(codes, _share(graph, node), signs[node.name], rng)
    return {name: arrays[name] for name in graph.outputs}


def _share(graph: LoweredGraph, node: LoweredNode) -> float:
    rounds = rounding_bound_lsb(node.op) > 0 and graph[node.outputs[0]].dtype is not DType.FLOAT32
    if not rounds:
        return 0.0
    if isinstance(node.op, _ROUGH):
        return _ROUGH_SHARE
    if isinstance(node.op, _TWICE_ROUNDED):
        return min(_ROUGH_SHARE, max(_FINE_SHARE, _step_ratio(graph, node)))
    return _FINE_SHARE


def _step_ratio(graph: LoweredGraph, node: LoweredNode) -> float:
    """Returns the step of the accumulator in steps of the output, mean over channels."""
    a, b, y = (graph[name].scale for name in (*node.inputs[:2], node.outputs[0]))
    assert a is not None and b is not None and y is not None  # noqa: PT018 - integer tensors have a grid
    return float(np.mean(a.astype(np.float64) * b) / y[0])


def _disturbed(codes: Array, share: float, sign: int, rng: np.random.Generator) -> Array:
    if share == 0:
        return codes
    step = sign * (rng.random(codes.shape) < share)
    limits = np.iinfo(codes.dtype)
    moved: Array = np.clip(codes.astype(np.int32) + step, limits.min, limits.max).astype(codes.dtype)
    return moved
