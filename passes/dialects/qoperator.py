"""ONNX Runtime's QOperator format: QLinearConv, QLinearMatMul and com.microsoft's QLinear operators.

Each node computes on codes with the scales as inputs. It is the same as dequantizing, computing in real numbers and
quantizing again, and that is what it is rewritten to; the Q/DQ dialect reads the result.

Source: ONNX QLinearConv and QLinearMatMul; ONNX Runtime's ContribOperators document for the com.microsoft ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from kwsq.passes.dialects.canonical import DialectContext, Refused
from kwsq.passes.known_ops import MICROSOFT_DOMAIN

DIALECT = "qoperator"


@dataclass(slots=True, eq=False)
class _Operator:
    """One QLinear node being written out."""

    context: DialectContext
    node: gs.Node

    def has(self, index: int) -> bool:
        """Returns whether an optional input is present."""
        return index < len(self.node.inputs) and bool(self.node.inputs[index].name)

    def tensor(self, index: int) -> gs.Tensor:
        """Returns a required input."""
        if not self.has(index):
            raise self.context.broken(self.node, f"no input {index}", "a tensor")
        return self.node.inputs[index]

    def real(self, index: int, scale: int, axis: int = 0) -> gs.Tensor:
        """Returns input `index` dequantized with the scale at `scale` and the zero point after it."""
        parameters = [self.tensor(scale), *self._zero_point(scale)]
        return self._dequantized(self.tensor(index), parameters, axis)

    def _zero_point(self, scale: int) -> list[gs.Tensor]:
        if not self.has(scale + 1):
            return []
        size = self.context.required(self.node, scale, "scale").size
        zero = self.context.required(self.node, scale + 1, "zero point")
        if zero.size == 1 and size > 1:
            spread = np.full(size, zero.reshape(())[()], zero.dtype)
            return [self.context.editor.constant(f"{self.node.name}.zero_point", spread)]
        return [self.node.inputs[scale + 1]]

    def _dequantized(self, codes: gs.Tensor, parameters: list[gs.Tensor], axis: int) -> gs.Tensor:
        real = self.context.editor.variable(f"{codes.name}.real")
        inputs = [codes, *parameters]
        self.context.editor.compute(real, "DequantizeLinear", real.name, inputs, {"axis": axis})
        return real

    def bias(self, index: int, x_scale: int, w_scale: int) -> list[gs.Tensor]:
        """Returns the int32 bias dequantized with the product of both scales, [] when absent."""
        if not self.has(index):
            return []
        x, w = (self.context.required(self.node, i, "scale") for i in (x_scale, w_scale))
        product = np.asarray(x.reshape(-1) * w.reshape(-1), np.float32)
        scale = self.context.editor.constant(f"{self.node.name}.bias_scale", product)
        return [self._dequantized(self.tensor(index), [scale], 0)]

    def finish(self, op: str, inputs: list[gs.Tensor], scale: int, attrs: Mapping[str, object]) -> None:
        """Makes the node's output the quantized result of `op`."""
        editor = self.context.editor
        real = editor.variable(f"{self.node.outputs[0].name}.real")
        editor.compute(real, op, f"{self.node.name}.real", inputs, dict(attrs))
        if not self.has(scale):
            editor.compute(self.node.outputs[0], "Identity", self.node.name, [real], {})
            return
        parameters = [self.tensor(scale), *self._zero_point(scale)]
        editor.compute(self.node.outputs[0], "QuantizeLinear", self.node.name, [real, *parameters], {})


def rewrite(context: DialectContext) -> None:
    """Writes every QLinear node out as DQ, operator, Q."""
    for node in list(context.editor.nodes()):
        reader = _READERS.get((node.domain or "", node.op))
        if reader is None:
            continue
        with suppress(Refused):
            reader(_Operator(context, node))
            context.expanded.add(DIALECT)


def _conv(operator: _Operator) -> None:
    inputs = [operator.real(0, 1), operator.real(3, 4), *operator.bias(8, 1, 4)]
    operator.finish("Conv", inputs, 6, operator.node.attrs)


def _matmul(operator: _Operator) -> None:
    b = operator.context.value(operator.tensor(3))
    axis = 1 if b is None else b.ndim - 1
    operator.finish("MatMul", [operator.real(0, 1), operator.real(3, 4, axis)], 6, {})


def _gemm(operator: _Operator) -> None:
    attrs = dict(operator.node.attrs)
    if attrs.get("alpha", 1.0) != 1.0:
        remedy = "export with alpha 1"
        raise operator.context.refuse(operator.node, f"QGemm with alpha {attrs['alpha']}", "alpha 1", remedy)
    axis = 0 if attrs.get("transB", 0) else 1
    inputs = [operator.real(0, 1), operator.real(3, 4, axis), *operator.bias(6, 1, 4)]
    operator.finish("Gemm", inputs, 7, attrs)


def _binary(op: str) -> Callable[[_Operator], None]:
    def write(operator: _Operator) -> None:
        operator.finish(op, [operator.real(0, 1), operator.real(3, 4)], 6, {})

    return write


def _unary(op: str, *kept: str) -> Callable[[_Operator], None]:
    def write(operator: _Operator) -> None:
        _check_layout(operator)
        attrs = {name: value for name, value in operator.node.attrs.items() if name in kept}
        operator.finish(op, [operator.real(0, 1)], 3, attrs)

    return write


def _check_layout(operator: _Operator) -> None:
    if operator.node.attrs.get("channels_last", 0):
        remedy = "export with channels first"
        raise operator.context.refuse(operator.node, "channels_last 1", "channels first", remedy)


def _softmax(operator: _Operator) -> None:
    """The attribute `opset` says which Softmax is meant: before 13 it normalises everything from `axis` on."""
    attrs = operator.node.attrs
    stated, own = attrs.get("opset", 13), operator.context.opsets.get("", 13)
    if attrs.get("axis", -1) != -1 and (int(str(stated)) < 13) != (own < 13):
        found = f"a softmax of opset {stated} in a model of opset {own}"
        raise operator.context.refuse(operator.node, found, "one meaning of axis", "export with axis -1")
    operator.finish("Softmax", [operator.real(0, 1)], 3, {"axis": attrs.get("axis", -1)})


def _concat(operator: _Operator) -> None:
    """Inputs: output scale and zero point, then tensor, scale, zero point for each part."""
    count = len(operator.node.inputs)
    if count < 5 or (count - 2) % 3:
        raise operator.context.broken(operator.node, f"{count} inputs", "2 and 3 for every part")
    parts = [operator.real(i, i + 1) for i in range(2, count, 3)]
    operator.finish("Concat", parts, 0, {"axis": operator.node.attrs.get("axis", 1)})


_POOL = ("kernel_shape", "strides", "pads", "auto_pad", "ceil_mode", "count_include_pad")
_READERS: Mapping[tuple[str, str], Callable[[_Operator], None]] = {
    ("", "QLinearConv"): _conv,
    ("", "QLinearMatMul"): _matmul,
    (MICROSOFT_DOMAIN, "QGemm"): _gemm,
    (MICROSOFT_DOMAIN, "QLinearAdd"): _binary("Add"),
    (MICROSOFT_DOMAIN, "QLinearMul"): _binary("Mul"),
    (MICROSOFT_DOMAIN, "QLinearAveragePool"): _unary("AveragePool", *_POOL),
    (MICROSOFT_DOMAIN, "QLinearGlobalAveragePool"): _unary("GlobalAveragePool"),
    (MICROSOFT_DOMAIN, "QLinearReduceMean"): _unary("ReduceMean", "axes", "keepdims"),
    (MICROSOFT_DOMAIN, "QLinearSigmoid"): _unary("Sigmoid"),
    (MICROSOFT_DOMAIN, "QLinearLeakyRelu"): _unary("LeakyRelu", "alpha"),
    (MICROSOFT_DOMAIN, "QLinearSoftmax"): _softmax,
    (MICROSOFT_DOMAIN, "QLinearConcat"): _concat,
}
