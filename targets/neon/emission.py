"""Program -> bytes of a `.tflite` file.

Buffers are written first, so that they lie at the end of the file; equal ones are stored once.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from kwsq.targets.neon import schema
from kwsq.targets.neon.program import OperatorRecord, Options, Program, TensorRecord
from kwsq.targets.neon.schema import Field
from kwsq.targets.neon.writer import Offset, Writer

# Tables, names and vectors of a tensor or operator take less than this; a larger file only costs a copy.
_TABLE_BYTES = 512


def emit_flatbuffer(program: Program) -> bytes:
    """Returns the file.

    Args:
        program: complete records.

    Source: tensorflow/compiler/mlir/lite/schema/schema.fbs.
    """
    contents = _distinct_contents(program)
    size = sum(map(len, contents)) + _TABLE_BYTES * (len(program.tensors) + len(program.operators) + 8)
    writer = Writer(size)
    buffers = _buffers(writer, contents)
    index = {data: i for i, data in enumerate(contents)}
    root: dict[Field, float] = {
        schema.Model.VERSION: schema.SCHEMA_VERSION,
        schema.Model.BUFFERS: buffers,
        schema.Model.METADATA: _metadata(writer, program.metadata, index),
        schema.Model.DESCRIPTION: writer.text(program.description) if program.description else 0,
        schema.Model.SUBGRAPHS: writer.offsets([_subgraph(writer, program, index)]),
        schema.Model.OPERATOR_CODES: _operator_codes(writer, program),
    }
    return writer.finish(writer.table(root), schema.FILE_IDENTIFIER)


def _distinct_contents(program: Program) -> list[bytes]:
    # Buffer 0 is empty by convention: activations refer to it.
    found = dict.fromkeys([b"", *(t.data for t in program.tensors if t.data is not None)])
    return list(dict.fromkeys([*found, *program.metadata.values()]))


def _buffers(writer: Writer, contents: list[bytes]) -> Offset:
    tables = [writer.shared_table({schema.Buffer.DATA: writer.contents(data)} if data else {}) for data in contents]
    return writer.offsets(tables)


def _metadata(writer: Writer, metadata: Mapping[str, bytes], index: Mapping[bytes, int]) -> Offset:
    entries = [
        writer.table({schema.Metadata.NAME: writer.text(name), schema.Metadata.BUFFER: index[data]})
        for name, data in metadata.items()
    ]
    return writer.offsets(entries)


def _subgraph(writer: Writer, program: Program, index: Mapping[bytes, int]) -> Offset:
    codes = operator_codes(program)
    tensors = [_tensor(writer, tensor, index) for tensor in program.tensors]
    operators = [_operator(writer, operator, codes) for operator in program.operators]
    return writer.table(
        {
            schema.SubGraph.TENSORS: writer.offsets(tensors),
            schema.SubGraph.INPUTS: writer.numbers(program.inputs, "int32"),
            schema.SubGraph.OUTPUTS: writer.numbers(program.outputs, "int32"),
            schema.SubGraph.OPERATORS: writer.offsets(operators),
        }
    )


def _tensor(writer: Writer, tensor: TensorRecord, index: Mapping[bytes, int]) -> Offset:
    # Not shared even where equal: a tensor is its place in the list.
    return writer.table(
        {
            schema.Tensor.SHAPE: writer.numbers(tensor.shape, "int32"),
            schema.Tensor.TYPE: schema.TENSOR_TYPE[tensor.type],
            schema.Tensor.BUFFER: index[tensor.data or b""],
            schema.Tensor.NAME: writer.text(tensor.name) if tensor.name else 0,
            schema.Tensor.QUANTIZATION: _quantization(writer, tensor),
        }
    )


def _quantization(writer: Writer, tensor: TensorRecord) -> Offset:
    if tensor.scale is None:
        return 0
    zero_points = np.full(tensor.scale.size, tensor.zero_point)
    return writer.shared_table(
        {
            schema.QuantizationParameters.SCALE: writer.numbers(tensor.scale, "float32"),
            schema.QuantizationParameters.ZERO_POINT: writer.numbers(zero_points, "int64"),
            schema.QuantizationParameters.QUANTIZED_DIMENSION: tensor.quantized_dimension,
        }
    )


def operator_codes(program: Program) -> dict[str, tuple[int, int]]:
    """Returns operator name -> (index in the file's operator codes, version): one code each, sorted by number."""
    versions: dict[str, int] = {}
    for operator in program.operators:
        versions[operator.builtin] = max(operator.version, versions.get(operator.builtin, 1))
    ordered = sorted(versions, key=_code)
    return {name: (i, versions[name]) for i, name in enumerate(ordered)}


def _code(name: str) -> int:
    return schema.BUILTIN_OPERATOR[name.partition(":")[0]]


def _operator_codes(writer: Writer, program: Program) -> Offset:
    tables = []
    for name, (_, version) in operator_codes(program).items():
        code, custom = _code(name), name.partition(":")[2]
        fields: dict[Field, float] = {
            schema.OperatorCode.DEPRECATED_BUILTIN_CODE: min(code, schema.LARGEST_DEPRECATED_CODE),
            schema.OperatorCode.CUSTOM_CODE: writer.text(custom) if custom else 0,
            schema.OperatorCode.VERSION: version,
            schema.OperatorCode.BUILTIN_CODE: code,
        }
        tables.append(writer.table(fields))
    return writer.offsets(tables)


def _operator(writer: Writer, operator: OperatorRecord, codes: Mapping[str, tuple[int, int]]) -> Offset:
    return writer.table(
        {
            schema.Operator.OPCODE_INDEX: codes[operator.builtin][0],
            schema.Operator.INPUTS: writer.numbers(operator.inputs, "int32"),
            schema.Operator.OUTPUTS: writer.numbers(operator.outputs, "int32"),
            schema.Operator.BUILTIN_OPTIONS_TYPE: operator.options.union_code,
            schema.Operator.BUILTIN_OPTIONS: _options(writer, operator.options),
        }
    )


def _options(writer: Writer, options: Options) -> Offset:
    if not options.union_code:
        return 0
    fields: dict[Field, float] = {
        field: writer.numbers(value, "int32") if isinstance(value, np.ndarray) else value
        for field, value in options.fields.items()
    }
    return writer.shared_table(fields)
