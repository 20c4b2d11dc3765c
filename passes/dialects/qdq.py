"""QuantizeLinear / DequantizeLinear pairs, with an integer Clip between them (QCDQ) or without (QDQ).

The Clip is where QCDQ keeps the bit width: codes clamped to [-7, 7] are 4-bit codes in int8. Operators that only move
codes (Reshape, Transpose, Concat ...) may stand between Q and DQ; they move real values just as well, so the
quantizer is put where Q was. Semantics: ONNX QuantizeLinear, opsets 10 to 25, q = saturate(round_half_even(x / scale)
+ zero_point), and com.microsoft's operators of the same names.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import TensorProto

from kwsq.ir.quant import Affine, Granularity, IntRange, Rounding
from kwsq.passes.decode import Array, code_range
from kwsq.passes.dialects.canonical import (
    INTEGER_INPUT,
    INTEGER_OUTPUT,
    DialectContext,
    Refused,
    plain_codes,
    zero_points,
)
from kwsq.passes.known_ops import MICROSOFT_DOMAIN

MOVEMENT_OPS = frozenset(
    "Reshape Transpose Flatten Squeeze Unsqueeze Identity Slice Concat Split MaxPool GlobalMaxPool Gather Expand".split()
)
"""Operators that commute with a monotone grid: they select or reorder codes and compute nothing."""

_LIMITERS = frozenset({"Clip", "Max", "Min"})
_MAX_DEPTH = 64


@dataclass(frozen=True, slots=True, eq=False)
class _Parameters:
    """Scale and zero point of one Q or DQ node, and the integer type of its codes."""

    scale: Array
    zero_point: Array
    container: IntRange
    dtype: str
    axis: int

    def spec(self, granularity: Granularity, codes: IntRange) -> Affine:
        return Affine(self.scale.reshape(-1), self.zero_point, codes, granularity)

    def agrees(self, other: _Parameters) -> bool:
        return (
            np.array_equal(self.scale.reshape(-1), other.scale.reshape(-1))
            and np.array_equal(self.zero_point, other.zero_point)
            and self.container == other.container
        )


def rewrite(context: DialectContext) -> None:
    """Replaces every DQ by the real value of its codes, and every Q at a graph output by an integer output."""
    for node in list(context.editor.nodes()):
        if is_node(node, "DequantizeLinear"):
            try:
                _Reader(context, node).read()
            except Refused:
                continue
    for tensor in context.editor.graph.outputs:
        _rewrite_output(context, tensor)


def is_node(node: gs.Node | None, op: str) -> bool:
    """Returns whether `node` is the standard or Microsoft operator `op`."""
    return node is not None and node.op == op and (node.domain or "") in ("", MICROSOFT_DOMAIN)


def _parameters(context: DialectContext, node: gs.Node, codes: Array | None) -> _Parameters:
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
    return _Parameters(scale, zero_point, container, dtype.name, _axis(context, node))


def _axis(context: DialectContext, node: gs.Node) -> int:
    axis = node.attrs.get("axis", 1)
    if not isinstance(axis, int):
        raise context.broken(node, f"axis {axis!r}", "an integer")
    return axis


def _code_type(
    context: DialectContext, node: gs.Node, codes: Array | None, zero: Array | None
) -> np.dtype[np.generic]:
    output = node.attrs.get("output_dtype", 0)
    if node.op == "DequantizeLinear":
        if output not in (0, TensorProto.FLOAT):
            raise context.refuse(node, f"output_dtype {output}", "float32", "export in float32")
        known = codes if codes is not None else zero
        return np.dtype(np.uint8) if known is None else known.dtype
    if zero is not None:
        return zero.dtype
    if output:
        supported = [t for t in _OUTPUT_TYPES if t == output]
        if not supported:
            raise context.refuse(
                node, f"output_dtype {output}", "an integer type", "quantize to 8 bits or fewer"
            )
        return onnx.helper.tensor_dtype_to_np_dtype(supported[0])
    return np.dtype(np.uint8)


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


class _Reader:
    """Reads what one DQ node dequantizes."""

    def __init__(self, context: DialectContext, node: gs.Node) -> None:
        self.context = context
        self.node = node
        self.editor = context.editor
        self.clipped = False
        self.moved: dict[tuple[int, IntRange], gs.Tensor] = {}

    def read(self) -> None:
        tensor, output = self.node.inputs[0], self.node.outputs[0]
        codes = self.context.value(tensor)
        if codes is not None:
            self._read_constant(tensor, codes, output)
            return
        self._read_computed(tensor, output)

    def _read_constant(self, tensor: gs.Tensor, codes: Array, output: gs.Tensor) -> None:
        parameters = _parameters(self.context, self.node, codes)
        if codes.dtype.name == "int32" and np.any(parameters.zero_point):
            raise self.context.broken(self.node, "a zero point for int32 codes", "0")
        granularity = self.context.granularity(self.node, parameters.scale.size, parameters.axis, codes.shape)
        limits = self._limits_above(tensor, parameters.container)
        spec = parameters.spec(granularity, limits)
        self.context.codes(self.node, output, plain_codes(codes), spec, self._dialect())

    def _limits_above(self, tensor: gs.Tensor, limits: IntRange) -> IntRange:
        """The range declared by clips anywhere between the constant and the DQ."""
        for _ in range(_MAX_DEPTH):
            node = self.editor.producer(tensor)
            if node is None:
                return limits
            if node.op in _LIMITERS:
                tensor, limits = self._limited(node, limits)
            elif node.op in MOVEMENT_OPS and node.op != "Concat":
                tensor = node.inputs[0]
            else:
                return limits
        return limits

    def _limited(self, node: gs.Node, limits: IntRange) -> tuple[gs.Tensor, IntRange]:
        """The data input of a Clip, Min or Max on codes, and the range it leaves."""
        low, high = limits.low, limits.high
        data = node.inputs[0]
        if node.op == "Clip":
            bounds = [self._bound(node, i) for i in (1, 2)]
        else:
            at = next((i for i, item in enumerate(node.inputs) if self._is_scalar(item)), None)
            if at is None or len(node.inputs) != 2:
                found = f"{node.op} of codes with something that is not a constant scalar"
                raise self.context.refuse(node, found, "a constant bound", "clamp codes with Clip")
            data = node.inputs[1 - at]
            bound = self._bound(node, at)
            bounds = [bound, None] if node.op == "Max" else [None, bound]
        low = low if bounds[0] is None else max(low, bounds[0])
        high = high if bounds[1] is None else min(high, bounds[1])
        if low > high:
            raise self.context.broken(node, f"a clamp to [{low}, {high}]", "a non-empty range of codes")
        self.clipped = True
        return data, IntRange(low, high)

    def _is_scalar(self, tensor: gs.Tensor) -> bool:
        value = self.context.value(tensor)
        return value is not None and value.size == 1

    def _bound(self, node: gs.Node, index: int) -> int | None:
        if index >= len(node.inputs) or not node.inputs[index].name:
            return None
        value = self.context.required(node, index, "clip bound")
        if value.size != 1:
            raise self.context.broken(node, f"a clip bound of shape {list(value.shape)}", "a scalar")
        return int(value.reshape(())[()])

    def _dialect(self) -> str:
        return "qcdq" if self.clipped else "qdq"

    def _read_computed(self, tensor: gs.Tensor, output: gs.Tensor) -> None:
        source = self.editor.producer(tensor)
        if source is None:
            self._read_graph_input(tensor, output)
            return
        limits = None
        while source is not None and source.op in _LIMITERS:
            tensor, limits = self._limited(source, limits or IntRange(-(2**31), 2**31 - 1))
            source = self.editor.producer(tensor)
        if source is None:
            raise self._stranger(None)
        if is_node(source, "QuantizeLinear"):
            self._fake_quantize(source, output, limits)
        elif source.op in MOVEMENT_OPS and not source.domain:
            self._sink(source, tensor, output, limits)
        else:
            raise self._stranger(source)

    def _stranger(self, source: gs.Node | None) -> Refused:
        found = (
            "codes from a graph input through a clamp"
            if source is None
            else f"codes computed by {source.op} {source.name!r}"
        )
        remedy = "keep every computation in real numbers between DequantizeLinear and QuantizeLinear"
        return self.context.refuse(self.node, found, "codes from QuantizeLinear or a constant", remedy)

    def _fake_quantize(self, source: gs.Node, output: gs.Tensor, limits: IntRange | None) -> None:
        own = _parameters(self.context, source, None)
        back = _parameters(self.context, self.node, np.zeros((), _dtype(own.dtype)))
        if not own.agrees(back):
            found = "other parameters than those of the QuantizeLinear it reads"
            remedy = "use the same scale and zero point in both"
            raise self.context.refuse(self.node, found, "the same scale and zero point", remedy)
        codes = own.container if limits is None else _intersection(own.container, limits)
        x = source.inputs[0]
        latent = self.context.value(x)
        shape = None if latent is None else latent.shape
        granularity = self.context.granularity(source, own.scale.size, own.axis, shape)
        if own.axis != back.axis and own.scale.size > 1:
            raise self.context.refuse(
                self.node, f"axis {back.axis}", f"axis {own.axis}, as in Q", "use one axis"
            )
        spec = own.spec(granularity, codes)
        self.context.fake_quantize(self.node, output, x, spec, self._dialect(), Rounding.HALF_EVEN)

    def _sink(self, move: gs.Node, moved: gs.Tensor, output: gs.Tensor, limits: IntRange | None) -> None:
        raise self._stranger(move)

    def _read_graph_input(self, tensor: gs.Tensor, output: gs.Tensor) -> None:
        if not self.editor.is_input(tensor):
            raise self._stranger(None)
        dtype = np.dtype(tensor.dtype)
        parameters = _parameters(self.context, self.node, np.zeros((), dtype))
        if parameters.scale.size != 1 or dtype.name not in ("int8", "uint8"):
            found = f"a graph input of type {dtype.name} with {parameters.scale.size} scales"
            raise self.context.refuse(
                self.node, found, "int8 or uint8 and one scale", "quantize inputs per tensor"
            )
        spec = parameters.spec(self.context.granularity(self.node, 1, 0, None), parameters.container)
        attrs: dict[str, object] = {"spec": spec, "dtype": dtype.name}
        self.editor.compute(output, INTEGER_INPUT, self.node.name, [tensor], attrs)
        self.context.dialects.setdefault("qdq")


def _dtype(name: str) -> np.dtype[np.generic]:
    elem = next(
        t for t in (*_OUTPUT_TYPES, TensorProto.INT32) if onnx.helper.tensor_dtype_to_np_dtype(t).name == name
    )
    return onnx.helper.tensor_dtype_to_np_dtype(elem)


def _intersection(a: IntRange, b: IntRange) -> IntRange:
    return IntRange(max(a.low, b.low), min(a.high, b.high))


def _rewrite_output(context: DialectContext, tensor: gs.Tensor) -> None:
    source = context.editor.producer(tensor)
    if not is_node(source, "QuantizeLinear"):
        return
    try:
        parameters = _parameters(context, source, None)
        if parameters.scale.size != 1 or parameters.dtype not in ("int8", "uint8"):
            found = f"a graph output of type {parameters.dtype} with {parameters.scale.size} scales"
            raise context.refuse(source, found, "int8 or uint8 and one scale", "quantize outputs per tensor")
    except Refused:
        return
    spec = parameters.spec(context.granularity(source, 1, 0, None), parameters.container)
    attrs: dict[str, object] = {"spec": spec, "dtype": parameters.dtype}
    context.editor.compute(tensor, INTEGER_OUTPUT, source.name, [source.inputs[0]], attrs)
    context.dialects.setdefault("qdq")
