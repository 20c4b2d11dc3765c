"""LoweredGraph -> Program: which tensor, operator and constant stands where in the file."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from kwsq.ir.lowered import Array, LoweredGraph, LoweredNode, LoweredTensor
from kwsq.targets.base import TargetOptions
from kwsq.targets.neon.container import Containers, pack_int4
from kwsq.targets.neon.lookup import DECODE, Lookup
from kwsq.targets.neon.metadata import metadata
from kwsq.targets.neon.operators import row_of
from kwsq.targets.neon.options import Call
from kwsq.targets.neon.program import OperatorRecord, Options, Program, TensorRecord


def build_program(graph: LoweredGraph, containers: Containers, options: TargetOptions) -> Program:
    """Returns the records of a legalised graph.

    Tensors are numbered by first use: graph inputs, then each node's operands and results. Operands kwsq adds follow
    all of the graph's own, so that the index of a tensor of the graph does not depend on them (see `tensor_order`).

    Args:
        graph: legalised graph.
        containers: which weights are INT4, which constants are decoded from a table.
        options: names, version, source.
    """
    order = tensor_order(graph)
    index = {name: i for i, name in enumerate(order)}
    records = [_record(graph[name], name in containers.packed) for name in order]
    operators = []
    for node in graph.nodes:
        # The operator is described as if its constants were plain; only then do they lose their contents.
        operator = _operator(graph, node, index, records)
        decoded = [name for name in node.inputs if name in containers.lookups]
        if decoded:
            lookups = {index[name]: containers.lookups[name] for name in decoded}
            operators.append(_decode(lookups, len(order), records))
        operators.append(operator)
    entries = metadata([graph[name] for name in order], operators, options)
    if options.strip_names:
        public = {*graph.inputs, *graph.outputs}
        records = [r if r.name in public else replace(r, name="") for r in records]
    return Program(
        tensors=tuple(records),
        operators=tuple(operators),
        inputs=tuple(index[name] for name in graph.inputs),
        outputs=tuple(index[name] for name in graph.outputs),
        metadata=entries,
        description=f"kwsq {options.version}".strip(),
    )


def tensor_order(graph: LoweredGraph) -> tuple[str, ...]:
    """Returns the names of the graph's tensors by their index in the file."""
    names = [*graph.inputs]
    for node in graph.nodes:
        names += [name for name in (*node.inputs, *node.outputs) if name]
    return tuple(dict.fromkeys([*names, *graph.outputs]))


def _record(tensor: LoweredTensor, packed: bool) -> TensorRecord:
    data = None
    if tensor.data is not None:
        data = pack_int4(np.asarray(tensor.data, np.int8)) if packed else _file_bytes(tensor.data)
    return TensorRecord(
        shape=tensor.shape,
        type="INT4" if packed else tensor.dtype.name,
        name=tensor.name,
        data=data,
        scale=tensor.scale,
        zero_point=tensor.zero_point,
        quantized_dimension=tensor.quantized_dimension,
    )


def _file_bytes(data: Array) -> bytes:
    return data.astype(data.dtype.newbyteorder("<"), copy=False).tobytes()


def _operator(
    graph: LoweredGraph, node: LoweredNode, index: dict[str, int], records: list[TensorRecord]
) -> OperatorRecord:
    row = row_of(node.op)
    inputs = [name for name in node.inputs if name]
    call = Call(node.op, tuple(records[index[n]] for n in inputs), tuple(records[index[n]] for n in node.outputs))
    operands = row.operands(call) if row.operands else tuple(range(len(inputs)))
    places = [index[inputs[o]] if isinstance(o, int) else _place(o, len(index), records) for o in operands]
    version = row.version(call)
    outputs = tuple(index[name] for name in node.outputs)
    return OperatorRecord(row.builtin, version, tuple(places), outputs, row.options(call), row.releases[version])


def _decode(lookups: dict[int, Lookup], first: int, records: list[TensorRecord]) -> OperatorRecord:
    """Returns the operator that writes tensors from their tables, and makes their records those of results."""
    inputs = []
    for i, lookup in lookups.items():
        contents = (lookup.indices, lookup.ancillary)
        inputs += [_place(TensorRecord((len(data),), "UINT8", data=data), first, records) for data in contents]
        record = records[i]
        per_channel = record.scale is not None and record.scale.size > 1
        # Micro's DECODE refuses the axis that a single scale carries in vain.
        records[i] = replace(record, data=None, quantized_dimension=record.quantized_dimension if per_channel else 0)
    return OperatorRecord(DECODE, 1, tuple(inputs), tuple(lookups), Options(), "1.5.0")


def _place(operand: TensorRecord, first: int, records: list[TensorRecord]) -> int:
    """Returns the index of an added operand, an equal one's where there is one from index `first` on."""
    for i in range(first, len(records)):
        if _same_operand(records[i], operand):
            return i
    records.append(operand)
    return len(records) - 1


def _same_operand(a: TensorRecord, b: TensorRecord) -> bool:
    return _operand_key(a) == _operand_key(b)


def _operand_key(operand: TensorRecord) -> tuple[object, ...]:
    scale = b"" if operand.scale is None else operand.scale.tobytes()
    return operand.shape, operand.type, operand.data, scale, operand.zero_point
