"""Graph inputs of type uint8 or int8 that the model casts to float: codes with scale 1 and zero point 0."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs
from onnx import TensorProto

from kwsq.passes.decode import code_range
from kwsq.passes.dialects.canonical import DialectContext, Refused
from kwsq.passes.dialects.qdq import integer_input
from kwsq.passes.dialects.qdq_parameters import Parameters


def rewrite(context: DialectContext) -> None:
    """Replaces casts of integer graph inputs; refuses every other use that no dialect has read."""
    for node in list(context.editor.nodes()):
        try:
            for index, tensor in enumerate(node.inputs):
                _check_use(context, node, index, tensor)
        except Refused:
            continue


def _check_use(context: DialectContext, node: gs.Node, index: int, tensor: gs.Tensor) -> None:
    if not context.editor.is_input(tensor) or np.dtype(tensor.dtype) == np.float32:
        return
    if node.op.startswith("kwsq.") or node.name in context.refused:
        return
    if node.op in ("Shape", "Size") and not node.domain:  # read no codes
        return
    dtype = np.dtype(tensor.dtype)
    container = code_range(dtype)
    if node.op == "Cast" and node.attrs.get("to") == TensorProto.FLOAT and container is not None:
        one, zero = np.ones(1, np.float32), np.zeros(1, np.int32)
        parameters = Parameters(one, zero, container, dtype, 0)
        integer_input(context, node, node.outputs[0], tensor, parameters)
        return
    found = f"graph input {tensor.name!r} of type {dtype.name} used as it is (input {index})"
    remedy = "dequantize it with DequantizeLinear, or give the model a float32 input"
    raise context.refuse(node, found, "codes read by DequantizeLinear or Cast", remedy)
