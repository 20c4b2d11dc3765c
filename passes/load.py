"""ONNX bytes to a validated onnx-graphsurgeon graph with static input shapes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from google.protobuf.message import DecodeError

from kwsq.ir.errors import InvalidModelError, Problem, UsageError
from kwsq.passes.decode import MAX_DIM, MAX_ELEMENTS, MAX_RANK
from kwsq.passes.known_ops import canonical_domain
from kwsq.passes.source_graph import UniqueNames
from kwsq.passes.validate import MAX_FILE_BYTES, CheckedModel, validate

Shape = tuple[int, ...]
NO_SHAPES: Mapping[str, Shape] = MappingProxyType({})


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """A validated model as the dialects read it.

    Args:
        graph: nodes in topological order with unique names; constants decoded; Constant nodes already constants;
            graph inputs have static shapes; attributes are Python values (text as str, tensors as arrays).
        opsets: version per domain, "" for the default one.
        metadata: the model's metadata_props.
        sha256: hash of `data`, hexadecimal.
        data: the file as read.
        producer: tool that wrote the file, with its version.
        path: where it came from, for messages.
        domains: of its operators, "" the default one; a file may import more than it uses.
    """

    graph: gs.Graph
    opsets: dict[str, int]
    metadata: dict[str, str]
    sha256: str
    data: bytes
    producer: str
    path: str
    domains: frozenset[str]


def load_file(path: str | Path, *, batch: int | None = None, shapes: Mapping[str, Shape] = NO_SHAPES) -> Source:
    """Reads and validates a model file; see `read_model` and `load_bytes`."""
    return load_bytes(read_model(path), str(path), batch=batch, shapes=shapes)


def read_model(path: str | Path) -> bytes:
    """Returns a model file's bytes, one more than are allowed of a longer file.

    Raises:
        UsageError: the file is missing, unreadable or not a file.
    """
    path = Path(path)
    where = f"file {str(path)!r}"
    try:
        if not path.is_file():
            found = "a directory" if path.is_dir() else "no such file"
            raise UsageError(Problem(where, found, "an .onnx file", "check the path"))
        with path.open("rb") as stream:
            return stream.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise UsageError(Problem(where, str(error.strerror), "a readable file", "check the permissions")) from error


def load_bytes(data: bytes, path: str, *, batch: int | None = None, shapes: Mapping[str, Shape] = NO_SHAPES) -> Source:
    """Parses and validates a model and resolves its symbolic input dimensions.

    Args:
        data: serialized ModelProto.
        path: name for messages.
        batch: size of symbolic batch dimensions (the first of an input); a fixed batch is kept.
        shapes: full shapes of inputs by name, for other symbolic dimensions.

    Returns:
        The model, ready for the dialects.

    Raises:
        InvalidModelError: not an ONNX model, or a broken or unsafe one.
        UnsupportedModelError: sound, but outside what kwsq reads.
        UsageError: dimensions remain symbolic, or `shapes` does not fit the model.
    """
    model = _parse(data, path)
    try:
        checked = validate(model)
        metadata = {str(entry.key): str(entry.value) for entry in model.metadata_props}
        producer = f"{model.producer_name} {model.producer_version}".strip()
        inputs = _input_shapes(model, checked, batch, shapes)
        graph = _build(model, checked, inputs)
    except UnicodeDecodeError as error:
        problem = Problem(f"file {path!r}", "a name that is not UTF-8", "text", "the file is damaged; export it again")
        raise InvalidModelError(problem) from error
    domains = frozenset(canonical_domain(node.domain) for node in model.graph.node)
    return Source(graph, checked.opsets, metadata, hashlib.sha256(data).hexdigest(), data, producer, path, domains)


def _parse(data: bytes, path: str) -> onnx.ModelProto:
    where = f"file {path!r}"
    if not data:
        raise InvalidModelError(Problem(where, "an empty file", "an ONNX model", "export the model again"))
    if len(data) > MAX_FILE_BYTES:
        found = f"more than {MAX_FILE_BYTES} bytes"
        raise InvalidModelError(Problem(where, found, "a keyword-spotting model", "convert a smaller model"))
    try:
        model: onnx.ModelProto = onnx.ModelProto.FromString(data)
    except DecodeError as error:
        remedy = "check that it is a complete .onnx file"
        raise InvalidModelError(Problem(where, "bytes that are not an ONNX model", "a ModelProto", remedy)) from error
    return model


def _input_shapes(
    model: onnx.ModelProto, checked: CheckedModel, batch: int | None, shapes: Mapping[str, Shape]
) -> dict[str, Shape]:
    inputs = [value for value in model.graph.input if value.name not in checked.constants]
    problems = _unknown_inputs(shapes, [value.name for value in inputs])
    resolved: dict[str, Shape] = {}
    symbols = _batch_symbols(inputs, 1 if batch is None else batch)
    for value in inputs:
        declared = _declared_dims(value)
        if value.name in shapes:
            problems += _misfits(value.name, declared, shapes[value.name])
            resolved[value.name] = shapes[value.name]
            continue
        dims = [symbols.get(dim) if isinstance(dim, str) else dim for dim in declared or ()]
        if declared and dims[0] is None:
            dims[0] = 1 if batch is None else batch
        known = [dim for dim in dims if dim is not None]
        if declared is None or len(known) < len(dims):
            problems.append(_needs_shape(value.name, declared))
        resolved[value.name] = tuple(known)
    problems += [_too_large(name, shape) for name, shape in resolved.items() if not _is_sane(shape)]
    if problems:
        raise UsageError(problems)
    return resolved


def _batch_symbols(inputs: Sequence[onnx.ValueInfoProto], batch: int) -> dict[str, int]:
    """Symbols that stand for the batch: those of first dimensions, wherever they occur."""
    firsts = (dims[0] for dims in map(_declared_dims, inputs) if dims)
    return {dim: batch for dim in firsts if isinstance(dim, str)}


def _declared_dims(value: onnx.ValueInfoProto) -> list[int | str | None] | None:
    tensor_type = value.type.tensor_type
    if not tensor_type.HasField("shape"):
        return None
    return [dim.dim_value if dim.HasField("dim_value") else (dim.dim_param or None) for dim in tensor_type.shape.dim]


def _unknown_inputs(shapes: Mapping[str, Shape], names: list[str]) -> list[Problem]:
    expected = "one of " + ", ".join(names)
    return [
        Problem(f"--shape {name}", "no graph input of that name", expected, "correct the name")
        for name in sorted(set(shapes) - set(names))
    ]


def _misfits(name: str, declared: list[int | str | None] | None, given: Shape) -> list[Problem]:
    if declared is None:
        return []
    fits = len(given) == len(declared) and all(
        not isinstance(dim, int) or dim == size for dim, size in zip(declared, given, strict=True)
    )
    found = ",".join(map(str, given))
    expected = f"a shape that fits {_text(declared)}"
    return [] if fits else [Problem(f"--shape {name}", found, expected, "correct the shape")]


def _needs_shape(name: str, declared: list[int | str | None] | None) -> Problem:
    found = "no shape" if declared is None else f"symbolic dimensions {_text(declared)}"
    return Problem(f"graph input {name!r}", found, "static dimensions", f"give them, e.g. --shape {name}=1,49,10")


def _text(dims: list[int | str | None]) -> str:
    return "[" + ", ".join("?" if dim is None else str(dim) for dim in dims) + "]"


def _is_sane(shape: Shape) -> bool:
    size = int(np.prod(shape, dtype=object)) if shape else 1
    return len(shape) <= MAX_RANK and all(1 <= dim <= MAX_DIM for dim in shape) and size <= MAX_ELEMENTS


def _too_large(name: str, shape: Shape) -> Problem:
    expected = f"1 to {MAX_DIM} per dimension, at most {MAX_RANK} dimensions and {MAX_ELEMENTS} elements"
    return Problem(f"graph input {name!r}", f"shape {list(shape)}", expected, "use --batch or --shape")


def _build(model: onnx.ModelProto, checked: CheckedModel, inputs: Mapping[str, Shape]) -> gs.Graph:
    tensors: dict[str, gs.Tensor] = {name: gs.Constant(name, values) for name, values in checked.constants.items()}
    for value in model.graph.input:
        if value.name in inputs:
            dtype = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
            tensors[value.name] = gs.Variable(value.name, dtype, inputs[value.name])
    names = _node_names(model.graph)
    nodes = []
    for index in checked.order:
        proto, attrs = model.graph.node[index], checked.attributes[index]
        values = _constant_value(proto, attrs)
        if values is not None:
            tensors[proto.output[0]] = gs.Constant(proto.output[0], values)
            continue
        ins = [_tensor(tensors, name) for name in proto.input]
        outs = [_tensor(tensors, name) for name in proto.output]
        nodes.append(gs.Node(proto.op_type, names[index], attrs, ins, outs, canonical_domain(proto.domain)))
    return gs.Graph(
        nodes,
        [tensors[name] for name in inputs],
        [_tensor(tensors, value.name) for value in model.graph.output],
        name=model.graph.name,
        opset=checked.opsets[""],
    )


def _tensor(tensors: dict[str, gs.Tensor], name: str) -> gs.Tensor:
    if not name:
        return gs.Variable.empty()
    if name not in tensors:
        tensors[name] = gs.Variable(name)
    return tensors[name]


def _constant_value(node: onnx.NodeProto, attrs: Mapping[str, object]) -> np.ndarray | None:
    if node.op_type != "Constant" or canonical_domain(node.domain):
        return None
    for key, dtype in (
        ("value_float", np.float32),
        ("value_floats", np.float32),
        ("value_int", np.int64),
        ("value_ints", np.int64),
    ):
        if key in attrs:
            return np.asarray(attrs[key], dtype)
    value = attrs.get("value")
    return value if isinstance(value, np.ndarray) else None


def _node_names(graph: onnx.GraphProto) -> list[str]:
    """Unique node names: the file's, else that of the first output."""
    names = UniqueNames(set())
    return [names.free(node.name or next(filter(None, node.output), "")) for node in graph.node]
