"""How many bits a weight code takes in the file: one byte, a nibble where a uniform grid's codes fit, or an index.

The INT4 type is affine, so a codebook's levels, which are arbitrary int8 values, stay bytes there. A lookup table
(`lookup`) takes any int8 constant with at most 128 distinct values, for TensorFlow Lite Micro only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from kwsq.ir.errors import Problem, UsageError
from kwsq.ir.lowered import Conv2D, DepthwiseConv2D, DType, FullyConnected, LoweredGraph, LoweredNode, LoweredTensor
from kwsq.ir.quant import IntArray, IntRange
from kwsq.targets.neon.lookup import MAX_BITS, Lookup, compress

INT4 = IntRange(-8, 7)
DECODE_BYTES = 240
"""What a DECODE and its tensors add to the file besides indices and table, at most; see tests/targets/neon."""


@dataclass(frozen=True, slots=True, eq=False)
class Containers:
    """Which constants are not stored as bytes.

    Args:
        packed: names of the tensors stored as INT4.
        kept: the others' names -> why they stay INT8; empty unless int4 or lut was asked for.
        lookups: name -> table and indices of the tensors that are decoded when they are needed.
    """

    packed: tuple[str, ...] = ()
    kept: Mapping[str, str] = field(default_factory=dict)
    lookups: Mapping[str, Lookup] = field(default_factory=dict)

    def of(self, name: str) -> str:
        """Returns how a tensor is stored."""
        return "int4" if name in self.packed else "lut" if name in self.lookups else "int8"


def weight_nodes(graph: LoweredGraph) -> Iterator[tuple[LoweredNode, LoweredTensor]]:
    """Yields the layers with weights and their weight tensors, in graph order."""
    for node in graph.nodes:
        if isinstance(node.op, Conv2D | DepthwiseConv2D | FullyConnected):
            yield node, graph[node.inputs[1]]


def choose_containers(graph: LoweredGraph, container: str, runtime: str) -> Containers:
    """Returns the container of every weight tensor.

    Args:
        graph: legalised graph.
        container: "int8", "int4" or "lut".
        runtime: "litert" or "tflm".

    Raises:
        UsageError: int4 or lut was asked for and no tensor fits it.
    """
    if container == "int8":
        return Containers()
    if container == "lut":
        return _choose_lookups(graph)
    reasons = {weight.name: _obstacle(graph, node, weight, runtime) for node, weight in weight_nodes(graph)}
    packed = tuple(name for name, reason in reasons.items() if reason is None)
    kept = {name: reason for name, reason in reasons.items() if reason is not None}
    if not packed:
        problems = [_nothing_fits(name, reason) for name, reason in kept.items()] or [_no_weights(graph)]
        raise UsageError(problems, "no weight tensor fits int4")
    return Containers(packed, kept)


def _choose_lookups(graph: LoweredGraph) -> Containers:
    lookups: dict[str, Lookup] = {}
    kept: dict[str, str] = {}
    for tensor in graph.tensors.values():
        if tensor.data is None or tensor.dtype is not DType.INT8:
            continue
        lookup = compress(np.asarray(tensor.data, np.int8), 1 if tensor.scale is None else tensor.scale.size)
        reason = _lookup_obstacle(graph, tensor, lookup)
        if lookup is None or reason is not None:
            kept[tensor.name] = reason or ""
        else:
            lookups[tensor.name] = lookup
    if not lookups:
        where = kept or {graph.name: "no int8 constants"}
        raise UsageError([_no_lookup(*item) for item in where.items()], "the lut container makes no constant smaller")
    return Containers(lookups=lookups, kept=kept)


def _lookup_obstacle(graph: LoweredGraph, tensor: LoweredTensor, lookup: Lookup | None) -> str | None:
    """Returns why `tensor` stays as it is, or None."""
    if lookup is None:
        return f"more than {2**MAX_BITS} distinct values"
    if sum(n.inputs.count(tensor.name) for n in graph.nodes) != 1 or tensor.name in graph.outputs:
        return "used more than once"  # what DECODE writes lives until the next operator has run
    needed = lookup.size_bytes + DECODE_BYTES
    return None if needed < tensor.size else f"{tensor.size} bytes would become {needed} with their DECODE"


def _no_lookup(name: str, reason: str) -> Problem:
    expected = f"at most {2**MAX_BITS} distinct values, enough of them to save more than a DECODE takes"
    return Problem(name, reason, expected, "use --container int8, or fewer weight bits")


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


def _no_weights(graph: LoweredGraph) -> Problem:
    return Problem(f"graph {graph.name!r}", "no layer with weights", "weights to pack", "use --container int8")


def pack_int4(codes: IntArray) -> bytes:
    """Returns codes in [-8, 7] as nibbles, the first in the low half of the first byte; an odd count ends in zero.

    >>> pack_int4(np.array([1, -1, 7], np.int8)).hex()
    'f107'
    """
    nibbles = (codes.reshape(-1) & 15).astype(np.uint8)
    if nibbles.size % 2:
        nibbles = np.append(nibbles, np.uint8(0))
    return bytes(nibbles[0::2] | (nibbles[1::2] << 4))
