"""The footprint of a kwsq pack: every byte of the file counted once, and what other weight widths would take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from kwsq.converter.footprint import (
    FLOAT_BYTES,
    Flash,
    FloatModel,
    LayerFootprint,
    MemoryReport,
    WeightTensor,
    distinct_codes,
)
from kwsq.converter.projection import project
from kwsq.ir.quant import IntRange
from kwsq.targets.accel.arena import lifetimes
from kwsq.targets.accel.format import ENTRY, HEADER, Role, Section, Storage
from kwsq.targets.accel.records import Pack, PackLayer, PackOperator
from kwsq.targets.accel.validate_operators import operator_work
from kwsq.targets.accel.weights import layer_codes
from kwsq.targets.machine import LAYER_OPCODES
from kwsq.targets.planner import Lifetime, MemoryPlan, Placement, plan

_MULTIPLIED = "CONV DEPTHWISE DENSE MATMUL".split()


def measure_pack(pack: Pack) -> MemoryReport:
    """Returns the footprint of a pack.

    Args:
        pack: the file, read.
    """
    graph = pack.graph
    arena = _arena(pack)
    flash = _flash_by_layer(pack)
    layers = tuple(
        _operator(pack, number, arena.live_bytes[number + 1], flash) for number in range(len(graph.operators))
    )
    attributed = Flash.sum(layer.flash for layer in layers)
    parameters = sum(layer.parameters for layer in layers)
    states = sum(pack.tensor(entry).size_bytes for entry in pack.io if entry.partner is not None)
    return MemoryReport(
        format="kwsq",
        file_bytes=len(pack.data),
        layers=layers,
        outside_layers=_outside(pack, attributed),
        plan=arena,
        # State inputs lie in the arena.
        state_bytes=0,
        float_model=FloatModel(
            parameters * FLOAT_BYTES, plan(_lifetimes(pack, FLOAT_BYTES), len(layers) + 1).high_water_bytes
        ),
        notes=(f"{states} bytes of the arena are streaming states",) if states else (),
        projection=project(pack),
    )


def _flash_by_layer(pack: Pack) -> list[Flash]:
    """Returns the bytes of each layer; what several layers share counts for the first of them."""
    ends = dict.fromkeys(Section, 0)

    def fresh(section: Section, start: int, size: int) -> int:
        new = max(0, start + size - max(start, ends[section]))
        ends[section] = max(ends[section], start + size)
        return new

    flash = []
    for layer in pack.graph.layers:
        layout = layer.layout
        stored = fresh(Section.WEIGHTS, layer.weights_offset, layout.size_bytes)
        used = min(stored, -(-layout.rows * layout.columns * layout.bits // 8))
        biases = 0 if layer.bias_index is None else 4 * layout.rows
        scales = 0 if layer.scale_index is None else 4 * layer.channel_count
        requantization = fresh(Section.REQUANTIZATION, 5 * layer.multiplier_index, 5 * layer.channel_count)
        flash.append(
            Flash(
                weights_bytes=used,
                padding_bytes=stored - used,
                codebooks_bytes=fresh(Section.CODEBOOKS, layer.levels_offset, layer.level_count),
                biases_bytes=fresh(Section.BIASES, 4 * (layer.bias_index or 0), biases),
                requant_tables_bytes=requantization + fresh(Section.SCALES, 4 * (layer.scale_index or 0), scales),
            )
        )
    return flash


def _operator(pack: Pack, number: int, live_bytes: int, by_layer: Sequence[Flash]) -> LayerFootprint:
    operator = pack.graph.operators[number]
    outputs = [pack.graph.tensors[i] for i in operator.outputs]
    is_layer = operator.code in LAYER_OPCODES
    layer = pack.graph.layers[operator.attributes[0]] if is_layer else None
    weights: tuple[WeightTensor, ...] = ()
    flash, parameters = Flash(), 0
    if layer is not None:
        weights, flash = (_weight(pack, operator, layer),), by_layer[operator.attributes[0]]
        parameters = weights[0].size + (0 if layer.bias_index is None else layer.layout.rows)
    return LayerFootprint(
        name=_name(pack, number, operator),
        operator=operator.code.name,
        macs=operator_work(operator, pack.graph) if operator.code.name in _MULTIPLIED else 0,
        parameters=parameters,
        weights=weights,
        flash=flash,
        output_bytes=sum(tensor.size_bytes for tensor in outputs),
        live_bytes=live_bytes,
        input_bytes=sum(pack.graph.tensors[i].size_bytes for i in operator.inputs),
    )


def _outside(pack: Pack, attributed: Flash) -> Flash:
    """Returns what belongs to no operator; constants shared by layers are counted once."""
    size = {section: len(data) for section, data in pack.sections.items()}
    names = sum(len(entry.name.encode()) for entry in pack.io)
    count = sum(bool(length) for length in size.values())
    known = Flash(
        codebooks_bytes=size[Section.CODEBOOKS] - attributed.codebooks_bytes,
        biases_bytes=size[Section.BIASES] - attributed.biases_bytes,
        requant_tables_bytes=size[Section.REQUANTIZATION] + size[Section.SCALES] - attributed.requant_tables_bytes,
        other_constants_bytes=size[Section.CONSTANTS],
        names_bytes=names,
        metadata_bytes=size[Section.MANIFEST],
        graph_tables_bytes=HEADER.size + ENTRY.size * count + size[Section.GRAPH] + size[Section.IO] - names,
    )
    return replace(known, padding_bytes=len(pack.data) - attributed.total_bytes - known.total_bytes)


def _name(pack: Pack, number: int, operator: PackOperator) -> str:
    public = {entry.tensor: entry.name for entry in pack.entries(Role.OUTPUT)}
    named = [public[i] for i in operator.outputs if i in public]
    if operator.code in LAYER_OPCODES and not named:
        named = [str(pack.manifest["tensors"][operator.attributes[0]]["name"])]
    return named[0] if named and named[0] else f"operator {number}"


def _weight(pack: Pack, operator: PackOperator, layer: PackLayer) -> WeightTensor:
    entry = pack.manifest["tensors"][operator.attributes[0]]
    codes = layer_codes(layer, pack.sections)
    return WeightTensor(
        name=entry["name"] or f"weights {operator.attributes[0]}",
        shape=tuple(entry["shape"]),
        rows=layer.layout.rows,
        container_bits=layer.layout.bits,
        declared_bits=layer.layout.bits,
        needed_bits=IntRange(min(int(codes.min()), -1), max(int(codes.max()), 0)).bits,
        distinct=distinct_codes(codes),
        scales=layer.channel_count,
        codebook=layer.level_count > 0,
    )


def _lifetimes(pack: Pack, element_bytes: int | None = None) -> list[Lifetime]:
    graph = pack.graph
    constant = {i for i, tensor in enumerate(graph.tensors) if tensor.storage is Storage.CONSTANTS}
    uses = [(set(op.inputs) - constant, op.outputs) for op in graph.operators]
    inputs, outputs = ([e.tensor for e in pack.entries(role)] for role in (Role.INPUT, Role.OUTPUT))
    steps = lifetimes(uses, inputs, outputs, [e.tensor for e in pack.io if e.partner is not None])
    names = {entry.tensor: entry.name for entry in pack.io}
    sizes = {i: graph.tensors[i].size * element_bytes if element_bytes else graph.tensors[i].size_bytes for i in steps}
    return [Lifetime(names.get(i, f"tensor {i}"), sizes[i], *span) for i, span in steps.items()]


def _arena(pack: Pack) -> MemoryPlan:
    """Returns the pack's own plan: its offsets, beside the bound that no plan can beat."""
    buffers: Sequence[Lifetime] = _lifetimes(pack)
    ours = plan(buffers, len(pack.graph.operators) + 1)
    numbers = [i for i, tensor in enumerate(pack.graph.tensors) if tensor.storage is Storage.ARENA]
    offsets = {name: pack.graph.tensors[i].offset for i, name in zip(numbers, _names(pack, numbers), strict=True)}
    placements = tuple(Placement(buffer, offsets[buffer.name]) for buffer in buffers)
    return MemoryPlan(placements, pack.graph.arena_bytes, ours.lower_bound_bytes, ours.live_bytes)


def _names(pack: Pack, numbers: Sequence[int]) -> list[str]:
    public = {entry.tensor: entry.name for entry in pack.io}
    return [public.get(i, f"tensor {i}") for i in numbers]
