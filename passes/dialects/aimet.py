"""Quantizers from an AIMET side file, put on the tensors of a float model."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

import numpy as np
import onnx_graphsurgeon as gs

from kwsq.ir.errors import InvalidModelError, Problem, UnsupportedModelError, UsageError
from kwsq.ir.quant import INT32, Affine, Rounding
from kwsq.passes.dialects.aimet_encodings import Encoding, read_encodings
from kwsq.passes.dialects.canonical import DialectContext, Refused
from kwsq.passes.fold_source import ConstantEvaluator
from kwsq.passes.load import Source
from kwsq.passes.source_graph import SourceEditor

DIALECT = "aimet"

_NODE = "AIMET encoding"


def apply_encodings(source: Source, data: bytes) -> Source:
    """Returns the model with a canonical quantizer on every tensor the side file names.

    Args:
        source: loaded float model; its graph is changed.
        data: content of the .encodings file, JSON.

    Raises:
        UsageError: not an encodings file, of an unknown version, or for another model.
        UnsupportedModelError: an encoding integer kernels cannot hold.
        InvalidModelError: an encoding with impossible values.
    """
    encodings = read_encodings(data)
    editor = SourceEditor(source.graph)
    context = DialectContext(editor, ConstantEvaluator(editor, source.opsets[""], {}), source.opsets, source.metadata)
    tensors = _tensors(source.graph)
    unknown = sorted(set(encodings) - set(tensors))
    if unknown:
        listed = ", ".join(unknown[:8]) + (" ..." if len(unknown) > 8 else "")
        found = f"{len(unknown)} tensors the model does not have ({listed})"
        raise UsageError(Problem("encodings file", found, "the model's tensors", "use the model's own file"))
    for name, encoding in encodings.items():
        with suppress(Refused):
            _insert(context, tensors[name], encoding)
    if context.findings.invalid:
        raise InvalidModelError(context.findings.invalid)
    if context.findings.unsupported:
        raise UnsupportedModelError(context.findings.unsupported)
    return replace(source, graph=editor.finish())


def _tensors(graph: gs.Graph) -> dict[str, gs.Tensor]:
    tensors = {tensor.name: tensor for tensor in (*graph.inputs, *graph.outputs)}
    for node in graph.nodes:
        tensors.update({tensor.name: tensor for tensor in (*node.inputs, *node.outputs) if tensor.name})
    return tensors


def _channel_axis(context: DialectContext, tensor: gs.Tensor) -> int:
    """Output channels come first, except in the second operand of a product that is not transposed."""
    for node in context.editor.consumers(tensor):
        if node.op == "MatMul" or (node.op == "Gemm" and not node.attrs.get("transB", 0)):
            return 1
    return 0


def _insert(context: DialectContext, tensor: gs.Tensor, encoding: Encoding) -> None:
    """Puts a quantizer on a tensor: its readers, or the graph, see the quantized values."""
    node = gs.Node(_NODE, tensor.name)
    with np.errstate(over="ignore"):
        scale = context.scale(node, np.array(encoding.scales).astype(np.float32))
    if len(encoding.offsets) != scale.size:
        raise context.broken(node, f"{len(encoding.offsets)} zero points for {scale.size} scales", "one per scale")
    latent = context.value(tensor)
    shape = None if latent is None else latent.shape
    axis = _channel_axis(context, tensor) if encoding.axis is None else encoding.axis
    granularity = context.granularity(node, scale.size, axis, shape)
    # Biases of 32 unsigned bits are read as signed codes, whose zero points int32 holds.
    base = 2**31 if encoding.codes.high > INT32.high else 0
    zeros = context.zero_points(node, np.array(encoding.offsets, np.float64) - base, scale.size)
    spec = Affine(scale, zeros, encoding.codes.shifted(-base), granularity)
    real = context.editor.variable(f"{tensor.name}.unquantized")
    if context.editor.producer(tensor) is None:
        quantized = context.editor.variable(f"{tensor.name}.quantized")
        context.editor.redirect(tensor, quantized)
        context.fake_quantize(node, quantized, tensor, spec, DIALECT, Rounding.HALF_EVEN)
        return
    context.editor.rename_output(tensor, real)
    context.fake_quantize(node, tensor, real, spec, DIALECT, Rounding.HALF_EVEN)
