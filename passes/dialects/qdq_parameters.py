"""Scale, zero point and integer type of one QuantizeLinear or DequantizeLinear node."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import TensorProto

from kwsq.ir.quant import Affine, FloatArray, Granularity, IntArray, IntRange
from kwsq.passes.decode import Array, code_range
from kwsq.passes.dialects.canonical import DialectContext, zero_points
from kwsq.passes.known_ops import MICROSOFT_DOMAIN

_OUTPUT_TYPES = (
    TensorProto.UINT8,
    TensorProto.INT8,
    TensorProto.UINT16,
    TensorProto.INT16,
    TensorProto.UINT4,
    TensorProto.INT4,
    TensorProto.UINT2,
    TensorProto.INT2,
)


@dataclass(frozen=True, slots=True, eq=False)
class Parameters:
    """What one Q or DQ node says about its codes.

    Args:
        scale: () or (C,) float32, checked.
        zero_point: (1,) or (C,) int32.
        container: range of the integer type.
        dtype: the integer type.
        axis: as written; meaningless where there is one scale.
    """

    scale: FloatArray
    zero_point: IntArray
    container: IntRange
    dtype: np.dtype[np.generic]
    axis: int

    def spec(self, granularity: Granularity, codes: IntRange) -> Affine:
        """Returns the grid with `codes` in use."""
        return Affine(self.scale.reshape(-1), self.zero_point, codes, granularity)

    def agrees(self, other: Parameters) -> bool:
        """Returns whether both describe the same grids, scales compared bit for bit, whatever their axes mean."""
        return (
            np.array_equal(self.scale.reshape(-1), other.scale.reshape(-1))
            and np.array_equal(self.zero_point, other.zero_point)
            and self.container == other.container
        )


def is_node(node: gs.Node | None, op: str) -> bool:
    """Returns whether `node` is the standard or Microsoft operator `op`."""
    return node is not None and node.op == op and (node.domain or "") in ("", MICROSOFT_DOMAIN)


def read_parameters(context: DialectContext, node: gs.Node, codes: np.dtype[np.generic] | None = None) -> Parameters:
    """Returns the checked parameters of a Q or DQ node.

    Args:
        context: the graph.
        node: QuantizeLinear or DequantizeLinear.
        codes: for DequantizeLinear, the type of what it reads, where that is known.

    Raises:
        Refused: the parameters are impossible (invalid) or of a kind integer kernels cannot hold (unsupported).
    """
    scale = context.scale(node, context.required(node, 1, "scale"))
    if node.attrs.get("block_size") or scale.ndim > 1:
        remedy = "quantize weights per tensor or per output channel"
        raise context.refuse(node, "block-wise scales", "one scale, or one per channel", remedy)
    has_zero = len(node.inputs) > 2 and bool(node.inputs[2].name)
    zero = context.required(node, 2, "zero point") if has_zero else None
    dtype = _code_type(context, node, codes, zero)
    container = code_range(dtype)
    if container is None:
        remedy = "quantize to integers of 8 bits or fewer"
        raise context.refuse(node, f"codes of type {dtype.name}", "integer codes", remedy)
    if zero is not None and zero.size != scale.size:
        raise context.broken(node, f"{zero.size} zero points for {scale.size} scales", "one per scale")
    if zero is not None and zero.dtype != dtype:
        raise context.broken(node, f"a {zero.dtype.name} zero point for {dtype.name} codes", "one type")
    zero_point = zero_points(0 if zero is None else zero, scale.size)
    return Parameters(scale, zero_point, container, dtype, _axis(context, node))


def _axis(context: DialectContext, node: gs.Node) -> int:
    axis = node.attrs.get("axis", 1)
    if not isinstance(axis, int):
        raise context.broken(node, f"axis {axis!r}", "an integer")
    return axis


def _code_type(
    context: DialectContext, node: gs.Node, codes: np.dtype[np.generic] | None, zero: Array | None
) -> np.dtype[np.generic]:
    output = node.attrs.get("output_dtype", 0)
    if node.op == "DequantizeLinear":
        if output not in (0, TensorProto.FLOAT):
            raise context.refuse(node, f"output_dtype {output}", "float32", "export in float32")
        known = zero.dtype if codes is None and zero is not None else codes
        return np.dtype(np.uint8) if known is None else known
    if not output:
        return np.dtype(np.uint8) if zero is None else zero.dtype
    stated = next((elem_type for elem_type in _OUTPUT_TYPES if elem_type == output), None)
    if stated is None:
        raise context.refuse(node, f"output_dtype {output}", "an integer type", "quantize to 8 bits or fewer")
    return onnx.helper.tensor_dtype_to_np_dtype(stated)
