"""Static shapes of computed tensors, for models that compute with shapes.

Only asked for where a Shape or Size operator reads a computed tensor. onnx.shape_inference does the work on a copy
without weights; declared intermediate shapes are dropped first, because nothing guarantees that they are true.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx

from kwsq.passes.known_ops import QONNX_DOMAINS
from kwsq.passes.load import Source

Shape = tuple[int, ...]

_LARGEST_KEPT = 64
"""Constants up to this many elements are kept: shapes, axes and indices are; weights are not needed."""


def computed_shapes(source: Source) -> dict[str, Shape]:
    """Returns the static shapes of the tensors a Shape or Size operator reads, {} when there is none.

    Args:
        source: loaded model, not yet rewritten.

    Returns:
        Shapes by tensor name; tensors whose shape cannot be inferred are missing.
    """
    asked = {
        node.inputs[0].name
        for node in source.graph.nodes
        if node.op in ("Shape", "Size") and node.inputs and node.inputs[0].inputs
    }
    if not asked:
        return {}
    model = _without_weights(source)
    try:
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    except onnx.shape_inference.InferenceError:
        return {}
    values = (*inferred.graph.value_info, *inferred.graph.output)
    shapes = {value.name: _static(value) for value in values if value.name in asked}
    return {name: shape for name, shape in shapes.items() if shape is not None}


def _static(value: onnx.ValueInfoProto) -> Shape | None:
    tensor_type = value.type.tensor_type
    if not tensor_type.HasField("shape"):
        return None
    dims = [dim.dim_value if dim.HasField("dim_value") else 0 for dim in tensor_type.shape.dim]
    return tuple(dims) if all(dim > 0 for dim in dims) else None


def _without_weights(source: Source) -> onnx.ModelProto:
    model = onnx.ModelProto.FromString(source.data)
    graph = model.graph
    del graph.value_info[:]
    static = {tensor.name: tuple(tensor.shape) for tensor in source.graph.inputs}
    kept = [tensor for tensor in graph.initializer if _size(tensor) <= _LARGEST_KEPT]
    weights = [tensor for tensor in graph.initializer if _size(tensor) > _LARGEST_KEPT]
    weights_info = [onnx.helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in weights]
    inputs = [_with_shape(value, static[value.name]) for value in graph.input if value.name in static]
    outputs = [onnx.helper.make_empty_tensor_value_info(value.name) for value in graph.output]
    small = onnx.helper.make_graph(list(_standard_nodes(graph)), graph.name, [*inputs, *weights_info], outputs, kept)
    opsets = [opset for opset in model.opset_import if opset.domain not in QONNX_DOMAINS]
    return onnx.helper.make_model(small, opset_imports=opsets, ir_version=model.ir_version)


def _size(tensor: onnx.TensorProto) -> int:
    size = 1
    for dim in tensor.dims:
        size *= dim
    return size


def _with_shape(value: onnx.ValueInfoProto, shape: Shape) -> onnx.ValueInfoProto:
    return onnx.helper.make_tensor_value_info(value.name, value.type.tensor_type.elem_type, shape)


def _standard_nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """The nodes, with QONNX quantizers as the identities they are to a shape."""
    for node in graph.node:
        if node.domain in QONNX_DOMAINS:
            yield onnx.helper.make_node("Identity", [node.input[0]], [node.output[0]])
        else:
            yield node
