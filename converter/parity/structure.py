"""Reading the artefact back: every tensor and operator as the integer graph says, bit for bit.

Inputs reach few of a model's codes; this check reaches all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from kwsq.converter.parity.report import Check, Mismatch
from kwsq.ir.lowered import LoweredGraph, LoweredTensor
from kwsq.targets.base import TargetOptions
from kwsq.targets.neon import schema
from kwsq.targets.neon.build import build_program, tensor_order
from kwsq.targets.neon.container import Containers, fits_int4
from kwsq.targets.neon.emission import operator_codes
from kwsq.targets.neon.flatbuffer import Table
from kwsq.targets.neon.lookup import DECODE, Lookup, compress, decompress
from kwsq.targets.neon.program import OperatorRecord, Options, Program, TensorRecord, Value
from kwsq.targets.neon.reader import FileOperator, FileSubgraph, FileTensor, read
from kwsq.targets.neon.schema import Field, Kind

_LAYOUTS = {Kind.FLOAT32: "f", Kind.INT32: "i", Kind.UINT32: "I", Kind.INT8: "b", Kind.UINT8: "B", Kind.BOOL: "?"}


def check_structure(graph: LoweredGraph, artefact: bytes) -> Check:
    """Compares the file with the graph.

    Args:
        graph: legalised graph the file was written from.
        artefact: bytes of the `.tflite` file.
    """
    file = read(artefact, "model.tflite").main
    order = tensor_order(graph)
    if len(file.tensors) < len(order):
        found = Mismatch(graph.name, "tensors", str(len(order)), str(len(file.tensors)))
        return _check([found], file)
    packed = tuple(n for n, t in zip(order, file.tensors, strict=False) if t.dtype == "INT4" and fits_int4(graph[n]))
    indexed = [order[i] for op in file.operators if op.name == DECODE for i in op.outputs if i < len(order)]
    program = build_program(graph, Containers(packed, lookups=dict(_lookups(graph, indexed))), TargetOptions())
    mismatches = [*_tensors(graph, order, file), *_added(program, len(order), file), *_wiring(graph, program, file)]
    return _check([*mismatches, *_decoded(graph, order, file)], file)


def _lookups(graph: LoweredGraph, names: Sequence[str]) -> Iterator[tuple[str, Lookup]]:
    for tensor in (graph[name] for name in names):
        channels = 1 if tensor.scale is None else tensor.scale.size
        if tensor.data is not None and (lookup := compress(np.asarray(tensor.data, np.int8), channels)) is not None:
            yield tensor.name, lookup


def _decoded(graph: LoweredGraph, order: tuple[str, ...], file: FileSubgraph) -> Iterator[Mismatch]:
    """Compares what every DECODE will write with the codes, without the encoder."""
    for operator in file.operators:
        if operator.name != DECODE or len(operator.inputs) != 2 * len(operator.outputs):
            continue
        for place, output in enumerate(operator.outputs):
            indices, ancillary = (bytes(file.tensors[i].data) for i in operator.inputs[2 * place : 2 * place + 2])
            tensor = graph[order[output]] if output < len(order) else None
            if tensor is None or tensor.data is None:
                yield Mismatch(file.tensors[output].name, "constant", "a tensor with codes", "none")
                continue
            try:
                codes = decompress(indices, ancillary, tensor.shape)
            except ValueError as error:
                yield Mismatch(tensor.name, "lookup table", "indices into a table", str(error))
            else:
                yield from _first_code(tensor, codes)


def _check(mismatches: list[Mismatch], file: FileSubgraph) -> Check:
    question = "the file read back: codes, scales, zero points, axes, operators and options equal the integer graph's"
    figures = {"tensors": len(file.tensors), "operators": len(file.operators)}
    return Check("structure", question, tuple(mismatches), figures)


def _tensors(graph: LoweredGraph, order: tuple[str, ...], file: FileSubgraph) -> Iterator[Mismatch]:
    results = {i for operator in file.operators if operator.name == DECODE for i in operator.outputs}
    for i, (name, found) in enumerate(zip(order, file.tensors, strict=False)):
        yield from _tensor(graph[name], found, decoded=i in results)


def _tensor(tensor: LoweredTensor, found: FileTensor, *, decoded: bool) -> Iterator[Mismatch]:
    name = tensor.name
    if found.name not in (name, ""):
        yield Mismatch(name, "name", name, found.name)
    if found.shape != tensor.shape:
        yield Mismatch(name, "shape", str(tensor.shape), str(found.shape))
        return
    allowed = {tensor.dtype.name} | ({"INT4"} if fits_int4(tensor) else set())
    if found.dtype not in allowed:
        yield Mismatch(name, "type", tensor.dtype.name, found.dtype)
        return
    if not decoded:
        yield from _codes(tensor, found)
    yield from _grid(tensor, found)


def _codes(tensor: LoweredTensor, found: FileTensor) -> Iterator[Mismatch]:
    if tensor.data is None or not found.is_constant:
        if tensor.is_constant != found.is_constant:
            yield Mismatch(tensor.name, "constant", str(tensor.is_constant), str(found.is_constant))
        return
    yield from _first_code(tensor, found.codes())


def _first_code(tensor: LoweredTensor, codes: npt.NDArray[np.generic]) -> Iterator[Mismatch]:
    assert tensor.data is not None, f"{tensor.name} is a constant"
    different = np.flatnonzero(codes.reshape(-1) != tensor.data.reshape(-1))
    if different.size:
        index = tuple(int(i) for i in np.unravel_index(int(different[0]), tensor.shape))
        yield Mismatch(tensor.name, "code", str(tensor.data[index]), str(codes[index]), index)


def _grid(tensor: LoweredTensor, found: FileTensor) -> Iterator[Mismatch]:
    name, scale = tensor.name, tensor.scale if tensor.scale is not None else np.zeros(0, np.float32)
    if found.scale.size != scale.size:
        yield Mismatch(name, "number of scales", str(scale.size), str(found.scale.size))
        return
    # Compared as bits: a scale is an exact float32, not an approximation.
    different = np.flatnonzero(found.scale.view(np.uint32) != scale.view(np.uint32))
    if different.size:
        i = int(different[0])
        yield Mismatch(
            name, "scale", float(scale[i]).hex(), float(found.scale[i]).hex(), (i,) if scale.size > 1 else None
        )
    if found.zero_point.size not in (1, scale.size) and scale.size:
        yield Mismatch(name, "number of zero points", str(scale.size), str(found.zero_point.size))
    wrong = found.zero_point[found.zero_point != tensor.zero_point]
    if wrong.size:
        yield Mismatch(name, "zero point", str(tensor.zero_point), str(int(wrong[0])))
    if scale.size > 1 and found.quantized_dimension != tensor.quantized_dimension:
        yield Mismatch(name, "quantized dimension", str(tensor.quantized_dimension), str(found.quantized_dimension))


def _added(program: Program, first: int, file: FileSubgraph) -> Iterator[Mismatch]:
    """Compares the operands kwsq added: axes, paddings, permutations."""
    if len(file.tensors) != len(program.tensors):
        yield Mismatch("file", "tensors", str(len(program.tensors)), str(len(file.tensors)))
        return
    for i in range(first, len(program.tensors)):
        expected, found = program.tensors[i], file.tensors[i]
        if _operand(expected) != (found.shape, found.dtype, bytes(found.data)):
            yield Mismatch(_user(program, i), f"operand {i}", _shown(expected), f"{found.dtype} {found.shape}")


def _operand(record: TensorRecord) -> tuple[object, ...]:
    return record.shape, record.type, record.data or b""


def _shown(record: TensorRecord) -> str:
    return (
        f"{record.type} {np.frombuffer(record.data or b'', '<i4').tolist()}" if record.type == "INT32" else record.type
    )


def _user(program: Program, index: int) -> str:
    operator = next(op for op in program.operators if index in op.inputs)
    return program.tensors[operator.outputs[0]].name


def _wiring(graph: LoweredGraph, program: Program, file: FileSubgraph) -> Iterator[Mismatch]:
    """Compares inputs, outputs and operators."""
    for what, expected, found in (
        ("inputs", program.inputs, file.inputs),
        ("outputs", program.outputs, file.outputs),
        ("number of operators", (len(program.operators),), (len(file.operators),)),
    ):
        if expected != found:
            yield Mismatch(graph.name, what, str(expected), str(found))
            return
    versions = {name: version for name, (_, version) in operator_codes(program).items()}
    for record, operator in zip(program.operators, file.operators, strict=True):
        yield from _operator(program.tensors[record.outputs[0]].name, record, operator, versions)


def _operator(name: str, expected: OperatorRecord, found: FileOperator, versions: dict[str, int]) -> Iterator[Mismatch]:
    pairs = (
        ("operator", expected.builtin, found.name),
        ("operator version", versions[expected.builtin], found.version),
        ("operator inputs", expected.inputs, found.inputs),
        ("operator outputs", expected.outputs, found.outputs),
    )
    for what, want, got in pairs:
        if want != got:
            yield Mismatch(name, what, str(want), str(got))
            return
    yield from _options(name, expected.options, found)


def _options(name: str, expected: Options, found: FileOperator) -> Iterator[Mismatch]:
    if not expected.union_code:
        return
    if found.options is None:
        yield Mismatch(name, "options", "a table", "none")
        return
    for label, field in options_fields(expected.union_code):
        want, got = _field_values(field, expected.fields.get(field, field.default), found.options)
        if want != got:
            yield Mismatch(name, label, str(want), str(got))


def _field_values(field: Field, value: Value, table: Table) -> tuple[object, object]:
    """Returns an options field as expected and as found, comparable."""
    if isinstance(value, np.ndarray):
        return value.tolist(), table.vector(field.slot, "i4").tolist()
    if field.kind is Kind.OFFSET:
        return 0, int(table.vector(field.slot, "i4").size)
    found = table.integer(field.slot, _LAYOUTS[field.kind], field.default)  # type: ignore[arg-type]  # float too
    return (np.float32(value).item() if field.kind is Kind.FLOAT32 else value), found


def options_fields(union_code: int) -> list[tuple[str, Field]]:
    """Returns the fields of an options table with their names, e.g. ("fused activation function", Field(...))."""
    tables = (table for table in vars(schema).values() if getattr(table, "UNION_CODE", None) == union_code)
    table = next(tables)
    return [(name.lower().replace("_", " "), f) for name, f in vars(table).items() if isinstance(f, Field)]
