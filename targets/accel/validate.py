"""Whether records make a network that can be run: every rule of docs/pack-format.md, "What a reader checks".

After these checks no operator can read or write outside its tensors, overflow an accumulator or run without end.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from kwsq.targets.accel.arena import Buffer, lifetimes
from kwsq.targets.accel.format import ALIGNMENT_BYTES, MAX_ARENA_BYTES, MAX_WORK, ElementType, Role, Section, Storage
from kwsq.targets.accel.records import PackGraph, PackIo, PackTensor
from kwsq.targets.accel.validate_layers import check_layer, check_layer_sections
from kwsq.targets.accel.validate_operators import check_operator, operator_work
from kwsq.targets.machine import LAYER_OPCODES

Sections = Mapping[Section, memoryview]


def check_graph(graph: PackGraph, io: Sequence[PackIo], sections: Sections) -> None:
    """Checks records against each other and against the sections they point into.

    Raises:
        ValueError: "found ..., expected ..." for the first rule broken.
    """
    if graph.arena_bytes > MAX_ARENA_BYTES:
        raise ValueError(f"found an arena of {graph.arena_bytes} bytes, expected at most {MAX_ARENA_BYTES}")
    for number, tensor in enumerate(graph.tensors):
        _check_grid(tensor, f"tensor {number}")
        _check_place(tensor, f"tensor {number}", graph.arena_bytes, len(sections[Section.CONSTANTS]))
    check_layer_sections(sections)
    for number, layer in enumerate(graph.layers):
        check_layer(layer, f"layer {number}", sections)
    if len({(layer.layout.order, layer.layout.row_align_bits) for layer in graph.layers}) > 1:
        raise ValueError("found layers of different layout or row alignment, expected one for the whole pack")
    _check_order(graph, io)
    for number, operator in enumerate(graph.operators):
        check_operator(operator, f"operator {number} ({operator.code.name})", graph, sections)
    work = graph_work(graph)
    if work > MAX_WORK:
        raise ValueError(f"found {work} operations per inference, expected at most {MAX_WORK}")
    _check_arena(graph, io)


def graph_work(graph: PackGraph) -> int:
    """Returns the element operations of one inference."""
    return sum(operator_work(operator, graph) for operator in graph.operators)


def _check_grid(tensor: PackTensor, where: str) -> None:
    if tensor.dtype is ElementType.FLOAT32:
        fits = tensor.scale == 0.0 and tensor.zero_point == 0 and tensor.storage is Storage.ARENA
    else:
        low = 0 if tensor.dtype is ElementType.UINT8 else -128
        in_range = low <= tensor.zero_point <= low + 255
        in_range = in_range and (tensor.storage is Storage.ARENA or tensor.dtype is ElementType.INT8)
        fits = in_range and math.isfinite(tensor.scale) and tensor.scale > 0.0
    if not fits:
        found = f"scale {tensor.scale}, zero point {tensor.zero_point}, {tensor.dtype.name} of {where}"
        raise ValueError(f"found {found}, expected a positive scale and an 8-bit zero point, int8 for a constant")


def _check_place(tensor: PackTensor, where: str, arena_bytes: int, constant_bytes: int) -> None:
    limit = constant_bytes if tensor.storage is Storage.CONSTANTS else arena_bytes
    if tensor.offset + tensor.size_bytes > limit or tensor.offset % ALIGNMENT_BYTES:
        found = f"{where} at {tensor.offset} with {tensor.size_bytes} bytes"
        raise ValueError(f"found {found}, expected a multiple of {ALIGNMENT_BYTES} within {limit}")


def check_io(graph: PackGraph, io: Sequence[PackIo]) -> None:
    """Checks the inputs and outputs.

    Raises:
        ValueError: "found ..., expected ..." for the first rule broken.
    """
    roles = [entry.role for entry in io]
    if roles != sorted(roles) or Role.OUTPUT not in roles:
        raise ValueError("found inputs and outputs mixed or no output, expected inputs, then outputs")
    names = [(entry.role, entry.name) for entry in io]
    tensors = [(entry.role, entry.tensor) for entry in io]
    if len(set(names)) < len(io) or len(set(tensors)) < len(io) or not all(entry.name for entry in io):
        raise ValueError("found an empty name or a name or tensor given twice, expected one entry for each")
    for entry in io:
        if graph.tensors[entry.tensor].storage is not Storage.ARENA:
            raise ValueError(f"found the constant tensor {entry.tensor} at the boundary, expected an activation")
        if entry.partner is not None:
            _check_partner(graph, io, entry)


def _check_partner(graph: PackGraph, io: Sequence[PackIo], entry: PackIo) -> None:
    partner = io[entry.partner] if entry.partner is not None and entry.partner < len(io) else entry
    state, source = graph.tensors[entry.tensor], graph.tensors[partner.tensor]
    alike = (state.shape, state.dtype) == (source.shape, source.dtype)
    if entry.role is not Role.INPUT or partner.role is not Role.OUTPUT or not alike:
        raise ValueError(f"found entry {entry.partner} as the source of state {entry.name!r}, expected an equal output")


def _check_order(graph: PackGraph, io: Sequence[PackIo]) -> None:
    """Every tensor is written once, before it is read; layers belong to their operators in order."""
    constant = {i for i, tensor in enumerate(graph.tensors) if tensor.storage is Storage.CONSTANTS}
    known = constant | {entry.tensor for entry in io if entry.role is Role.INPUT}
    layers = 0
    for number, operator in enumerate(graph.operators):
        early = [tensor for tensor in operator.inputs if tensor not in known]
        twice = [tensor for tensor in operator.outputs if tensor in known]
        if early or twice or len(set(operator.outputs)) < len(operator.outputs):
            raise ValueError(
                f"found operator {number} on tensors {early + twice}, expected each written once, then read"
            )
        known.update(operator.outputs)
        if operator.code in LAYER_OPCODES:
            if operator.attributes[:1] != (layers,):
                raise ValueError(f"found operator {number} without layer {layers}, expected the layers in order")
            layers += 1
    if layers != len(graph.layers):
        raise ValueError(f"found {len(graph.layers)} layers, expected {layers}, one for each operator with weights")
    missing = [entry.name for entry in io if entry.tensor not in known]
    if missing:
        raise ValueError(f"found the output {missing[0]!r} that nothing computes, expected an operator for it")


def _check_arena(graph: PackGraph, io: Sequence[PackIo]) -> None:
    """Tensors needed at the same step do not overlap."""
    constant = {i for i, tensor in enumerate(graph.tensors) if tensor.storage is Storage.CONSTANTS}
    uses = [(set(op.inputs) - constant, op.outputs) for op in graph.operators]
    inputs, outputs = ([e.tensor for e in io if e.role is role] for role in (Role.INPUT, Role.OUTPUT))
    steps = lifetimes(uses, inputs, outputs, [e.tensor for e in io if e.partner is not None])
    buffers = [Buffer(i, graph.tensors[i].size_bytes, *span) for i, span in steps.items()]
    placed = sorted(buffers, key=lambda b: graph.tensors[b.tensor].offset)
    for i, buffer in enumerate(placed):
        end = graph.tensors[buffer.tensor].offset + buffer.size_bytes
        for other in placed[i + 1 :]:
            if graph.tensors[other.tensor].offset >= end:
                break
            if buffer.meets(other):
                raise ValueError(
                    f"found tensors {buffer.tensor} and {other.tensor} in one place, expected room for both"
                )
