"""The purpose of every byte of a `.tflite` file; each byte is counted once, the rest is padding."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from kwsq.converter.footprint import Flash
from kwsq.targets.neon.flatbuffer import Extent, Region
from kwsq.targets.neon.lookup import DECODE
from kwsq.targets.neon.reader import FileOperator, FileSubgraph, FileTensor, TfliteModel

# Operator -> positions of its biases among the inputs.
_BIAS_INPUTS = {
    "CONV_2D": (2,),
    "CONV_3D": (2,),
    "DEPTHWISE_CONV_2D": (2,),
    "FULLY_CONNECTED": (2,),
    "TRANSPOSE_CONV": (3,),
    "SVDF": (3,),
    "UNIDIRECTIONAL_SEQUENCE_LSTM": (12, 13, 14, 15, 17),
}
_INDEX_TYPES = ("INT32", "INT64", "UINT32", "UINT64", "BOOL", "STRING", "RESOURCE", "VARIANT")
_PURPOSE = {
    Region.GRAPH: "graph_tables_bytes",
    Region.NAME: "names_bytes",
    Region.QUANTIZATION: "requant_tables_bytes",
    Region.METADATA: "metadata_bytes",
    Region.BUFFER: "other_constants_bytes",
}
Owner = tuple[int, int]
"""(subgraph, operator)."""


@dataclass(frozen=True, slots=True)
class _Claim:
    """A stretch of the file, its purpose (a field of Flash) and its operator, None for no operator."""

    extent: Extent
    purpose: str
    owner: Owner | None


def count_bytes(model: TfliteModel) -> dict[Owner | None, Flash]:
    """Returns bytes per owner; a byte claimed twice counts for the first claim, so nothing counts twice."""
    claims = sorted(_claims(model), key=lambda claim: claim.extent.start)
    counts: dict[Owner | None, dict[str, int]] = {}
    position = 0
    for claim in claims:
        size = claim.extent.stop - max(position, claim.extent.start)
        if size > 0:
            purposes = counts.setdefault(claim.owner, {})
            purposes[claim.purpose] = purposes.get(claim.purpose, 0) + size
            position = claim.extent.stop
    return {owner: Flash(**purposes) for owner, purposes in counts.items()}


def _claims(model: TfliteModel) -> Iterator[_Claim]:
    buffers: dict[int, tuple[str, Owner]] = {}
    for number, graph in enumerate(model.subgraphs):
        uses = first_uses(graph)
        for index, (user, position) in uses.items():
            tensor = graph.tensors[index]
            owner = (number, user)
            yield from (_Claim(extent, _PURPOSE[extent.region], owner) for extent in tensor.extents)
            buffers.setdefault(tensor.buffer, (purpose_of(graph.operators[user], tensor, position), owner))
        for index, tensor in enumerate(graph.tensors):
            if index not in uses:
                yield from (_Claim(extent, _PURPOSE[extent.region], None) for extent in tensor.extents)
        for index, operator in enumerate(graph.operators):
            yield from (_Claim(e, _PURPOSE[e.region], (number, index)) for e in operator.extents)
    yield from _buffer_claims(model, buffers)
    yield from (_Claim(extent, _PURPOSE[extent.region], None) for extent in model.extents)


def _buffer_claims(model: TfliteModel, buffers: Mapping[int, tuple[str, Owner]]) -> Iterator[_Claim]:
    for index, buffer in enumerate(model.buffers):
        purpose, owner = buffers.get(index, ("other_constants_bytes", None))
        if index in model.metadata_buffers:
            purpose, owner = "metadata_bytes", None
        for extent in buffer.extents:
            is_content = extent.region is Region.BUFFER
            yield _Claim(extent, purpose if is_content else _PURPOSE[extent.region], owner)


def first_uses(graph: FileSubgraph) -> dict[int, tuple[int, int]]:
    """Returns tensor -> (operator that writes it or first reads it, input position or -1)."""
    uses: dict[int, tuple[int, int]] = {}
    inputs = frozenset(graph.inputs)
    for index, operator in enumerate(graph.operators):
        for tensor in operator.outputs:
            uses.setdefault(tensor, (index, -1))
        for position, tensor in enumerate(operator.inputs):
            if tensor >= 0 and tensor not in inputs:
                uses.setdefault(tensor, (index, position))
    return uses


def purpose_of(operator: FileOperator, tensor: FileTensor, position: int) -> str:
    """Returns the field of Flash for a constant that `operator` takes as input number `position`."""
    if position in _BIAS_INPUTS.get(operator.name, ()):
        return "biases_bytes"
    if operator.name == DECODE and position % 2:
        return "codebooks_bytes"
    return "weights_bytes" if tensor.dtype not in _INDEX_TYPES else "other_constants_bytes"


def constants_by_operator(graph: FileSubgraph) -> dict[int, list[tuple[int, int]]]:
    """Returns operator -> (tensor, input position) of the constants that it is the first to use."""
    found: dict[int, list[tuple[int, int]]] = {}
    for tensor, (operator, position) in first_uses(graph).items():
        if position >= 0 and graph.tensors[tensor].is_constant:
            found.setdefault(operator, []).append((tensor, position))
    return found
