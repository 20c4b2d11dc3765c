"""LoweredGraph -> the records and constants of a pack."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from kwsq.ir import numerics
from kwsq.ir.execute.call import Call
from kwsq.ir.lowered import DType, LoweredGraph, LoweredNode, LoweredTensor
from kwsq.targets.accel.arena import Buffer, lifetimes, place
from kwsq.targets.accel.bits import Layout, RowLayout, choose_alignment, pack_rows
from kwsq.targets.accel.codes import Coding, choose_coding
from kwsq.targets.accel.format import ElementType, Role, Section, Storage, aligned
from kwsq.targets.accel.implied import implied_scales
from kwsq.targets.accel.records import PackGraph, PackIo, PackLayer, PackOperator, PackTensor
from kwsq.targets.operators import LAYERS, Codes, describe, weight_rows

_ELEMENT_TYPES = {DType.INT8: ElementType.INT8, DType.UINT8: ElementType.UINT8, DType.FLOAT32: ElementType.FLOAT32}


@dataclass(frozen=True, slots=True)
class StoredWeight:
    """How one weight tensor is stored.

    Args:
        tensor: its name.
        shape: its physical shape.
        layer: number of its layer.
        coding: fields of the codes.
        layout: rows and bits.
    """

    tensor: str
    shape: tuple[int, ...]
    layer: int
    coding: Coding
    layout: RowLayout


@dataclass(frozen=True, slots=True)
class PackContents:
    """Everything of a pack but the manifest."""

    graph: PackGraph
    io: tuple[PackIo, ...]
    sections: Mapping[Section, bytes]
    weights: tuple[StoredWeight, ...]


def coding_of(weight: LoweredTensor) -> Coding | None:
    """Returns how the codes of a weight tensor fit its declared width, None when they do not."""
    assert weight.data is not None, f"{weight.name} is a constant"
    return choose_coding(np.asarray(weight.data, np.int8), weight.bits, weight.levels)


def _weight_shapes(graph: LoweredGraph) -> list[tuple[int, int, int]]:
    nodes = [node for node in graph.nodes if isinstance(node.op, LAYERS)]
    weights = [(graph[node.inputs[1]], weight_rows(node, graph[node.inputs[1]])) for node in nodes]
    return [(rows.shape[0], rows.shape[1], weight.bits) for weight, rows in weights]


class Builder:
    """Collects constants while the operators of a graph are numbered.

    Args:
        graph: legalised graph.
        order: order of the bits of a row.
        row_align_bits: alignment of the rows of every tensor; None chooses the widest whose padding is small.
    """

    def __init__(self, graph: LoweredGraph, order: Layout, row_align_bits: int | None = None) -> None:
        self._graph, self._order = graph, order
        self._align = row_align_bits or choose_alignment(_weight_shapes(graph), order)
        self._blobs = {section: bytearray() for section in Section}
        self._multipliers: list[int] = []
        self._shifts: list[int] = []
        self._found: dict[tuple[Section, bytes], int] = {}
        self._layers: list[PackLayer] = []
        self._weights: list[StoredWeight] = []
        used = [name for node in graph.nodes for name in self._operands(node)]
        names = dict.fromkeys([*graph.inputs, *used, *graph.outputs])
        self._number = {name: i for i, name in enumerate(names)}

    def build(self) -> PackContents:
        """Returns the contents."""
        operators = tuple(self._operator(node) for node in self._graph.nodes)
        offsets, arena_bytes = self._plan(operators)
        tensors = tuple(self._tensor(self._graph[name], offsets.get(i)) for name, i in self._number.items())
        graph = PackGraph(tensors, tuple(self._layers), operators, arena_bytes)
        sections = {section: bytes(blob) for section, blob in self._blobs.items()}
        requantization = np.array(self._multipliers, "<i4").tobytes() + np.array(self._shifts, "<i1").tobytes()
        sections[Section.REQUANTIZATION] = requantization
        return PackContents(graph, self._io(), sections, tuple(self._weights))

    def _operands(self, node: LoweredNode) -> tuple[str, ...]:
        """Returns the tensors a node names in the pack: weights and biases belong to its layer."""
        inputs = node.inputs[:1] if isinstance(node.op, LAYERS) else tuple(n for n in node.inputs if n)
        return (*inputs, *node.outputs)

    def _operator(self, node: LoweredNode) -> PackOperator:
        names = [name for name in node.inputs if name]
        tensors = tuple(self._graph[name] for name in names)
        call = Call(node.op, tensors, tuple(self._graph[name] for name in node.outputs), ())
        found = describe(call)
        attributes = found.attributes
        if isinstance(node.op, LAYERS):
            names = names[:1]
            attributes = (self._layer(node, call), *attributes)
        elif found.table is not None:
            attributes = (self._shared(Section.CONSTANTS, found.table.tobytes()), *attributes)
        inputs, outputs = (tuple(self._number[name] for name in group) for group in (names, node.outputs))
        return PackOperator(found.code, inputs, outputs, attributes)

    def _layer(self, node: LoweredNode, call: Call) -> int:
        weight = call.inputs[1]
        coding = coding_of(weight)
        assert coding is not None, f"{weight.name} fits its width: a constraint"
        rows = weight_rows(node, weight)
        layout = self._layout(rows, coding)
        stored = StoredWeight(weight.name, weight.shape, len(self._layers), coding, layout)
        self._weights.append(stored)
        packed = pack_rows(coding.to_fields(rows), layout)
        layer = PackLayer(
            scheme=coding.scheme,
            layout=layout,
            kernel=(weight.shape[1], weight.shape[2]) if len(weight.shape) == 4 else (1, 1),
            weights_offset=self._shared(Section.WEIGHTS, packed),
            levels_offset=0 if coding.levels is None else self._shared(Section.CODEBOOKS, coding.levels.tobytes(), 1),
            level_count=0 if coding.levels is None else int(coding.levels.size),
            per_channel=weight.scale is not None and weight.scale.size > 1,
            bias_index=self._biases(call),
            multiplier_index=len(self._multipliers),
            scale_index=None,
        )
        self._layers.append(replace(layer, scale_index=self._requantization(call)))
        return stored.layer

    def _layout(self, rows: Codes, coding: Coding) -> RowLayout:
        count, columns = rows.shape
        return RowLayout(count, columns, coding.bits, self._align, self._order)

    def _biases(self, call: Call) -> int | None:
        if len(call.inputs) < 3:
            return None
        data = call.inputs[2].data
        assert data is not None, f"{call.inputs[2].name} is a constant"
        return self._shared(Section.BIASES, data.astype("<i4").tobytes(), 4) // 4

    def _requantization(self, call: Call) -> int | None:
        """Adds multipliers and shifts; returns the index of the scales, None where they follow from these."""
        scale = call.inputs[1].scale
        assert scale is not None, f"{call.inputs[1].name} is quantised"
        effective = numerics.effective_scale_conv(call.source.scale, scale, call.target.scale)
        multipliers, shifts = numerics.quantize_multipliers(effective)
        self._multipliers += multipliers.tolist()
        self._shifts += shifts.tolist()
        implied = implied_scales(multipliers, shifts, call.source.scale, call.target.scale)
        if scale.size > 1 and np.array_equal(implied, scale):
            return None
        return self._shared(Section.SCALES, scale.astype("<f4").tobytes(), 4) // 4

    def _shared(self, section: Section, data: bytes, alignment: int = 16) -> int:
        """Appends bytes to a section, once, and returns their offset."""
        if (section, data) not in self._found:
            blob = self._blobs[section]
            blob += bytes(aligned(len(blob), alignment) - len(blob))
            self._found[section, data] = len(blob)
            blob += data
        return self._found[section, data]

    def _plan(self, operators: tuple[PackOperator, ...]) -> tuple[Mapping[int, int], int]:
        graph, number = self._graph, self._number
        constant = {number[name] for name in number if graph[name].is_constant}
        uses = [(set(op.inputs) - constant, op.outputs) for op in operators]
        inputs, outputs = ([number[name] for name in names] for names in (graph.inputs, graph.outputs))
        steps = lifetimes(uses, inputs, outputs, [number[pair.input] for pair in graph.states])
        names = tuple(number)
        return place([Buffer(i, graph[names[i]].size_bytes, *span) for i, span in steps.items()])

    def _tensor(self, tensor: LoweredTensor, offset: int | None) -> PackTensor:
        storage = Storage.ARENA
        if tensor.data is not None:
            storage = Storage.CONSTANTS
            offset = self._shared(Section.CONSTANTS, tensor.data.tobytes())
        assert offset is not None, f"{tensor.name} has a place"
        scale = 0.0 if tensor.scale is None else float(tensor.scale[0])
        dtype = _ELEMENT_TYPES[tensor.dtype]
        return PackTensor(tensor.shape, dtype, scale, tensor.zero_point, storage, offset)

    def _io(self) -> tuple[PackIo, ...]:
        graph, inputs = self._graph, len(self._graph.inputs)
        outputs = {name: inputs + i for i, name in enumerate(graph.outputs)}
        partners = {pair.input: outputs[pair.output] for pair in graph.states}
        entries = [PackIo(name, self._number[name], Role.INPUT, partners.get(name)) for name in graph.inputs]
        return (*entries, *(PackIo(name, self._number[name], Role.OUTPUT) for name in graph.outputs))


def build_contents(graph: LoweredGraph, order: Layout, row_align_bits: int | None = None) -> PackContents:
    """Returns the contents of a pack.

    Args:
        graph: legalised graph.
        order: stream or planes.
        row_align_bits: alignment of the rows of every tensor; None chooses the widest whose padding is small.
    """
    return Builder(graph, order, row_align_bits).build()
