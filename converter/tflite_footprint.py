"""The footprint of a `.tflite` file, ours or anybody's: every byte of the file is counted once."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from kwsq.converter.footprint import (
    FLOAT_BYTES,
    Flash,
    FloatModel,
    LayerFootprint,
    MemoryReport,
    WeightTensor,
    distinct_codes,
)
from kwsq.converter.runtimes import tflm
from kwsq.converter.tflite_flash import constants_by_operator, count_bytes, purpose_of
from kwsq.ir.errors import ParityError
from kwsq.ir.quant import IntRange
from kwsq.targets.neon.lookup import DECODE, decompress
from kwsq.targets.neon.memory import activation_lifetimes, memory_plan, tensor_name
from kwsq.targets.neon.reader import FileOperator, FileSubgraph, FileTensor, TfliteModel, read
from kwsq.targets.neon.schema_names import NPU_OPERATOR
from kwsq.targets.planner import plan


@dataclass(frozen=True, slots=True, eq=False)
class DeclaredWeights:
    """What a file written by kwsq says about the widths its weights were trained for.

    Args:
        by_kwsq: whether the file says anything.
        widths: tensor index -> bits, where they differ from the container's.
        codebooks: indices of tensors whose codes are levels of a codebook.
    """

    by_kwsq: bool
    widths: Mapping[int, int]
    codebooks: frozenset[int]

    def bits(self, index: int, tensor: FileTensor) -> int | None:
        """Returns the declared width of a weight tensor, None when the file does not say."""
        return self.widths.get(index, 8) if self.by_kwsq and tensor.element_bits <= 8 else None


def declared_weights(model: TfliteModel) -> DeclaredWeights:
    """Returns the declared widths; nothing is known of files that others wrote."""
    try:
        facts = json.loads(model.metadata.get("kwsq", b"null"))
    except (ValueError, RecursionError):  # somebody else's entry of that name
        facts = None
    if not isinstance(facts, dict):
        return DeclaredWeights(False, {}, frozenset())
    bits, levels = facts.get("bits"), facts.get("levels")
    widths = bits.items() if isinstance(bits, dict) else ()
    if any(operator.name == NPU_OPERATOR for operator in model.main.operators):
        return DeclaredWeights(False, {}, frozenset())  # the indices are those of the file before Vela
    return DeclaredWeights(
        by_kwsq=True,
        widths={int(i): b for i, b in widths if i.isdecimal() and isinstance(b, int) and 1 <= b <= 32},
        codebooks=frozenset(int(i) for i in levels if i.isdecimal()) if isinstance(levels, dict) else frozenset(),
    )


def measure(model: TfliteModel) -> MemoryReport:
    """Returns the footprint of a `.tflite` file.

    Args:
        model: the file, read.
    """
    graph = model.main
    flash = count_bytes(model)
    steps = len(graph.operators) + 1
    constants, declared = constants_by_operator(graph), declared_weights(model)
    arena = memory_plan(model)
    layers = tuple(
        _layer(
            graph,
            index,
            constants.get(index, []),
            flash.get((0, index), Flash()),
            arena.live_bytes[index + 1],
            declared,
        )
        for index in range(len(graph.operators))
    )
    attributed = Flash.sum(layer.flash for layer in layers)
    outside = Flash.sum(part for owner, part in flash.items() if owner is None or owner[0] != 0)
    padding = model.size_bytes - attributed.total_bytes - outside.total_bytes
    parameters = sum(layer.parameters for layer in layers)
    return MemoryReport(
        format="tflite",
        file_bytes=model.size_bytes,
        layers=layers,
        outside_layers=replace(outside, padding_bytes=padding),
        plan=arena,
        state_bytes=sum(t.size_bytes for t in graph.tensors if t.is_variable),
        float_model=FloatModel(parameters * FLOAT_BYTES, _float_activation_bytes(graph, steps)),
        notes=_notes(model),
    )


def measure_with_arena(data: bytes, name: str) -> MemoryReport:
    """Returns the footprint of a file, with the arena TensorFlow Lite Micro records where it is installed.

    Args:
        data: the file.
        name: of it, for messages.

    Raises:
        InvalidModelError: the file is damaged.
    """
    report = measure(read(data, name))
    if not tflm.is_installed():
        return report
    try:
        return replace(report, recorded=tflm.record_arena(data))
    except ParityError as error:
        refused = f"TensorFlow Lite Micro does not run it: {error.problems[0].found}"
        return replace(report, notes=(*report.notes, refused))


def _notes(model: TfliteModel) -> tuple[str, ...]:
    notes = []
    if any(operator.name == NPU_OPERATOR for operator in model.main.operators):
        notes.append("operators compiled for an accelerator are one; their weights are encoded, their MACs not known")
    if len(model.subgraphs) > 1:
        notes.append(f"activation memory and layers cover the first of {len(model.subgraphs)} subgraphs")
    unsized = sum(t.element_bits == 0 for t in model.main.tensors)
    if unsized:
        notes.append(f"{unsized} tensors have no fixed size and are not counted in activation memory")
    return tuple(notes)


def _float_activation_bytes(graph: FileSubgraph, steps: int) -> int:
    return plan(activation_lifetimes(graph, FLOAT_BYTES), steps).high_water_bytes


def _layer(
    graph: FileSubgraph,
    index: int,
    constants: Sequence[tuple[int, int]],
    flash: Flash,
    live_bytes: int,
    declared: DeclaredWeights,
) -> LayerFootprint:
    operator = graph.operators[index]
    weights, parameters = [], 0
    if operator.name == DECODE:
        weights = list(_indexed_weights(graph, operator, declared))
        parameters, constants = sum(weight.size for weight in weights), ()
    for tensor_index, position in constants:
        tensor = graph.tensors[tensor_index]
        purpose = purpose_of(operator, tensor, position)
        if purpose == "weights_bytes":
            weights.append(_weight(graph, tensor_index, operator.name, declared))
        if purpose != "other_constants_bytes":
            parameters += tensor.size
    return LayerFootprint(
        name=tensor_name(graph, operator.outputs[0]) if operator.outputs else f"operator {index}",
        operator=operator.name,
        macs=macs(graph, operator),
        parameters=parameters,
        weights=tuple(weights),
        flash=flash,
        output_bytes=sum(graph.tensors[i].size_bytes for i in operator.outputs),
        live_bytes=live_bytes,
        input_bytes=sum(graph.tensors[i].size_bytes for i in operator.inputs if i >= 0 and _is_activation(graph, i)),
    )


def _is_activation(graph: FileSubgraph, index: int) -> bool:
    return not graph.tensors[index].is_constant


def _indexed_weights(graph: FileSubgraph, operator: FileOperator, declared: DeclaredWeights) -> Iterator[WeightTensor]:
    """Yields the constants a DECODE writes, as wide as their indices."""
    for output, indices, table in zip(operator.outputs, operator.inputs[::2], operator.inputs[1::2], strict=False):
        tensor, packed = graph.tensors[output], graph.tensors[indices].data
        if tensor.dtype != "INT8" or not tensor.shape:
            continue
        try:
            codes = decompress(bytes(packed), bytes(graph.tensors[table].data), tensor.shape)
        except ValueError:  # somebody else's table: its bytes are counted, its weights are not known
            continue
        grid = IntRange(min(int(codes.min(initial=0)), -1), max(int(codes.max(initial=0)), 0))
        yield WeightTensor(
            name=tensor_name(graph, output),
            shape=tensor.shape,
            rows=tensor.shape[tensor.quantized_dimension if tensor.scale.size > 1 else 0],
            container_bits=8 * len(packed) // max(tensor.size, 1),
            declared_bits=declared.bits(output, tensor),
            needed_bits=grid.bits,
            distinct=distinct_codes(codes),
            scales=tensor.scale.size,
            codebook=output in declared.codebooks,
        )


def _weight(graph: FileSubgraph, index: int, operator: str, declared: DeclaredWeights) -> WeightTensor:
    tensor = graph.tensors[index]
    needed = distinct = None
    if tensor.dtype in ("INT8", "INT4", "INT2", "INT16") and tensor.size and len(tensor.data) == tensor.size_bytes:
        codes = tensor.codes()
        distinct = distinct_codes(codes)
        needed = IntRange(min(int(codes.min()), -1), max(int(codes.max()), 0)).bits
    axis = -1 if operator == "DEPTHWISE_CONV_2D" else 0
    return WeightTensor(
        name=tensor_name(graph, index),
        shape=tensor.shape,
        rows=tensor.shape[axis] if tensor.shape else 1,
        container_bits=tensor.element_bits,
        declared_bits=declared.bits(index, tensor),
        needed_bits=needed,
        distinct=distinct,
        scales=tensor.scale.size,
        codebook=index in declared.codebooks,
    )


def macs(graph: FileSubgraph, operator: FileOperator) -> int:
    """Returns the multiply-accumulates of one operator; 0 for operators that are not matrix products."""
    shapes = [graph.tensors[i].shape if i >= 0 else () for i in operator.inputs]
    if not operator.outputs or len(shapes) < 2:
        return 0
    output = math.prod(graph.tensors[operator.outputs[0]].shape)
    weight = shapes[1]
    match operator.name:
        case "CONV_2D" | "CONV_3D" | "FULLY_CONNECTED":
            return output * math.prod(weight[1:])
        case "DEPTHWISE_CONV_2D":
            return output * math.prod(weight[1:-1])
        case "TRANSPOSE_CONV" if len(shapes) > 2:
            return math.prod(shapes[2]) * math.prod(weight[:-1])
        case "BATCH_MATMUL" if shapes[0]:
            transposed = operator.options is not None and operator.options.integer(0, "?") != 0
            return output * shapes[0][-2 if transposed and len(shapes[0]) > 1 else -1]
        case _:
            return 0
