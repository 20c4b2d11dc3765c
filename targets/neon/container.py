"""How many bits a weight code takes in the file: one byte, or a nibble where a uniform grid's codes fit.

The INT4 type is affine, so a codebook's levels, which are arbitrary int8 values, stay bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from kwsq.ir.errors import Problem, UsageError
from kwsq.ir.lowered import Conv2D, DepthwiseConv2D, DType, FullyConnected, LoweredGraph, LoweredNode, LoweredTensor
from kwsq.ir.quant import IntArray, IntRange

INT4 = IntRange(-8, 7)


@dataclass(frozen=True, slots=True, eq=False)
class Containers:
    """Which weight tensors are stored as nibbles.

    Args:
        packed: names of the tensors stored as INT4.
        kept: the others' names -> why they stay INT8; empty unless int4 was asked for.
    """

    packed: tuple[str, ...] = ()
    kept: Mapping[str, str] = field(default_factory=dict)


def weight_nodes(graph: LoweredGraph) -> Iterator[tuple[LoweredNode, LoweredTensor]]:
    """Yields the layers with weights and their weight tensors, in graph order."""
    for node in graph.nodes:
        if isinstance(node.op, Conv2D | DepthwiseConv2D | FullyConnected):
            yield node, graph[node.inputs[1]]


def choose_containers(graph: LoweredGraph, container: str, runtime: str) -> Containers:
    """Returns the container of every weight tensor.

    Args:
        graph: legalised graph.
        container: "int8" or "int4".
        runtime: "litert" or "tflm".

    Raises:
        UsageError: int4 was asked for and no tensor fits it.
    """
    if container == "int8":
        return Containers()
    reasons = {weight.name: _obstacle(graph, node, weight, runtime) for node, weight in weight_nodes(graph)}
    packed = tuple(name for name, reason in reasons.items() if reason is None)
    kept = {name: reason for name, reason in reasons.items() if reason is not None}
    if not packed:
        raise UsageError([_nothing_fits(name, reason) for name, reason in kept.items()], "no weight tensor fits int4")
    return Containers(packed, kept)


def _obstacle(graph: LoweredGraph, node: LoweredNode, weight: LoweredTensor, runtime: str) -> str | None:
    """Returns why `weight` cannot be INT4, or None."""
    if weight.data is None or weight.dtype is not DType.INT8:
        return "computed by the model"
    if weight.levels is not None:
        return f"a codebook of {weight.levels.size} levels"
    if not fits_int4(weight):
        codes = np.asarray(weight.data, np.int8)
        return f"codes in [{codes.min()}, {codes.max()}]"
    uses = [n for n in graph.nodes for name in n.inputs if name == weight.name]
    if any(not isinstance(n.op, type(node.op)) or n.inputs[1] != weight.name for n in uses):
        return "used by other operators too"
    per_channel = weight.scale is not None and weight.scale.size > 1
    if runtime == "tflm" and isinstance(node.op, FullyConnected) and per_channel:
        return "TensorFlow Lite Micro refuses a dense layer with per-channel INT4 weights"
    return None


def fits_int4(weight: LoweredTensor) -> bool:
    """Returns whether constant weights are nibbles of a uniform grid."""
    return weight.data is not None and weight.levels is None and INT4.contains(np.asarray(weight.data, np.int8))


def _nothing_fits(name: str, reason: str) -> Problem:
    return Problem(name, reason, "uniform codes in [-8, 7]", "use --container int8, or fewer weight bits")


def pack_int4(codes: IntArray) -> bytes:
    """Returns codes in [-8, 7] as nibbles, the first in the low half of the first byte; an odd count ends in zero.

    >>> pack_int4(np.array([1, -1, 7], np.int8)).hex()
    'f107'
    """
    nibbles = (codes.reshape(-1) & 15).astype(np.uint8)
    if nibbles.size % 2:
        nibbles = np.append(nibbles, np.uint8(0))
    return bytes(nibbles[0::2] | (nibbles[1::2] << 4))
