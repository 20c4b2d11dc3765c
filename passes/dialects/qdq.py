"""QuantizeLinear / DequantizeLinear pairs, with an integer Clip between them (QCDQ) or without (QDQ).

The Clip is where QCDQ keeps the bit width: codes clamped to [-7, 7] are 4-bit codes in int8. Operators that only move
codes (Reshape, Transpose, Concat ...) may stand between Q and DQ; they move real values just as well, so the
quantizer is put where Q was. Semantics: ONNX QuantizeLinear, opsets 10 to 25, q = saturate(round_half_even(x / scale)
+ zero_point), and com.microsoft's operators of the same names.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx_graphsurgeon as gs

from kwsq.ir.quant import IntRange, Rounding
from kwsq.passes.decode import Array
from kwsq.passes.dialects.canonical import INTEGER_INPUT, INTEGER_OUTPUT, DialectContext, Refused, plain_codes
from kwsq.passes.dialects.integer_path import (
    LIMITERS,
    MAX_DEPTH,
    clamped,
    data_inputs,
    limits_above,
    moves_codes,
    through_limiters,
)
from kwsq.passes.dialects.qdq_parameters import Parameters, is_node, read_parameters

DIALECT = "qdq"
DIALECT_CLIPPED = "qcdq"


def rewrite(context: DialectContext) -> None:
    """Replaces every DQ by the real value of its codes, and every Q at a graph output by an integer output."""
    for node in list(context.editor.nodes()):
        if not is_node(node, "DequantizeLinear") or node.name in context.refused:
            continue
        try:
            _Reader(context, node).read()
        except Refused:
            context.refused.add(node.name)  # whichever node was to blame
    for tensor in context.editor.graph.outputs:
        try:
            _rewrite_output(context, tensor)
        except Refused:
            continue


@dataclass(slots=True, eq=False)
class _Reader:
    """Reads what one DQ node dequantizes.

    Args:
        context: the graph.
        node: the DQ node.
        known: real values already made of tensors of codes, by tensor id and range.
    """

    context: DialectContext
    node: gs.Node
    known: dict[tuple[int, IntRange | None], gs.Tensor] = field(default_factory=dict)

    def read(self) -> None:
        """Replaces the node."""
        if not self.node.inputs:
            raise self.context.broken(self.node, "no input", "codes")
        self._read(self.node.inputs[0], self.node.outputs[0], None, 0)

    def _read(self, tensor: gs.Tensor, output: gs.Tensor, limits: IntRange | None, depth: int) -> None:
        """Makes `output` the real value of the codes in `tensor`, which are clamped to `limits` further on."""
        codes = self.context.value(tensor)
        if codes is not None:
            self._read_constant(tensor, codes, output, limits)
            return
        tensor, source, limits = through_limiters(self.context, tensor, limits)
        if source is not None and source.name in self.context.refused:
            raise Refused(source.name)
        if source is None:
            self._read_graph_input(tensor, output, limits)
        elif is_node(source, "QuantizeLinear"):
            self._fake_quantize(source, output, limits)
        elif moves_codes(source) and depth < MAX_DEPTH:
            self._sink(source, output, limits, depth)
        else:
            raise self._stranger(source)

    def _read_constant(self, tensor: gs.Tensor, codes: Array, output: gs.Tensor, limits: IntRange | None) -> None:
        parameters = read_parameters(self.context, self.node, codes.dtype)
        if codes.dtype.name == "int32" and np.any(parameters.zero_point):
            raise self.context.broken(self.node, "a zero point for int32 codes", "0")
        size = parameters.scale.size
        granularity = self.context.granularity(self.node, size, parameters.axis, codes.shape)
        declared = limits_above(self.context, tensor, parameters.container)
        dialect = DIALECT if declared == parameters.container else DIALECT_CLIPPED
        span = clamped(declared, limits)
        plain = np.clip(plain_codes(codes), span.low, span.high)
        spec = parameters.spec(granularity, span)
        self.context.codes(self.node, output, plain, spec, dialect, origin=tensor.name)

    def _fake_quantize(self, source: gs.Node, output: gs.Tensor, limits: IntRange | None) -> None:
        own = read_parameters(self.context, source)
        other = read_parameters(self.context, self.node, own.dtype)
        x = source.inputs[0]
        latent = self.context.value(x)
        shape = None if latent is None else latent.shape
        granularity = self.context.granularity(source, own.scale.size, own.axis, shape)
        # An axis may be counted from either end; what it means is compared.
        if not own.agrees(other) or granularity != self.context.granularity(
            self.node, other.scale.size, other.axis, shape
        ):
            found = f"other parameters than those of {source.name!r}, whose codes it reads"
            remedy = "use the same scale and zero point in both"
            raise self.context.refuse(self.node, found, "the same scale, zero point and axis", remedy)
        spec = own.spec(granularity, clamped(own.container, limits))
        dialect = DIALECT if limits is None else DIALECT_CLIPPED
        self.context.fake_quantize(self.node, output, x, spec, dialect, Rounding.HALF_EVEN)

    def _sink(self, move: gs.Node, output: gs.Tensor, limits: IntRange | None, depth: int) -> None:
        """Moves real values in place of codes: move(codes) dequantized is move(codes dequantized)."""
        parameters = read_parameters(self.context, self.node)
        if parameters.scale.size != 1:
            found = f"codes with one scale per channel moved by {move.op} {move.name!r}"
            raise self.context.refuse(self.node, found, "one scale", "quantize activations per tensor")
        inputs = list(move.inputs)
        for i in range(data_inputs(move)):
            inputs[i] = self._real(inputs[i], limits, depth + 1)
        self.context.editor.compute(output, move.op, f"{move.name}.real", inputs, dict(move.attrs))

    def _real(self, tensor: gs.Tensor, limits: IntRange | None, depth: int) -> gs.Tensor:
        key = (id(tensor), limits)
        if key not in self.known:
            real = self.context.editor.variable(f"{tensor.name}.real")
            self._read(tensor, real, limits, depth)
            self.known[key] = real
        return self.known[key]

    def _read_graph_input(self, tensor: gs.Tensor, output: gs.Tensor, limits: IntRange | None) -> None:
        if not self.context.editor.is_input(tensor):
            raise self._stranger(None)
        dtype = np.dtype(tensor.dtype)
        if limits is not None or dtype.name not in ("int8", "uint8"):
            found = f"a graph input of type {dtype.name}" + (" through a clamp" if limits else "")
            raise self.context.refuse(self.node, found, "int8 or uint8 codes", "quantize inputs to 8 bits")
        parameters = read_parameters(self.context, self.node, dtype)
        integer_input(self.context, self.node, output, tensor, parameters)

    def _stranger(self, source: gs.Node | None) -> Refused:
        found = "codes that nothing computes" if source is None else f"codes computed by {source.op} {source.name!r}"
        remedy = "keep every computation in real numbers between DequantizeLinear and QuantizeLinear"
        return self.context.refuse(self.node, found, "codes from QuantizeLinear or a constant", remedy)


def integer_input(
    context: DialectContext, node: gs.Node, output: gs.Tensor, tensor: gs.Tensor, parameters: Parameters
) -> None:
    """Makes `output` the real value of a graph input that holds codes."""
    if parameters.scale.size != 1:
        found = f"a graph input with {parameters.scale.size} scales"
        raise context.refuse(node, found, "one scale", "quantize inputs per tensor")
    spec = parameters.spec(context.granularity(node, 1, 0, None), parameters.container)
    attrs: dict[str, object] = {"spec": spec, "dtype": parameters.dtype.name, "dialect": DIALECT}
    context.editor.compute(output, INTEGER_INPUT, node.name, [tensor], attrs)


def _comes_from_quantize(context: DialectContext, tensor: gs.Tensor) -> bool:
    """Returns whether a tensor is codes: a QuantizeLinear is above, behind operators that move or clamp codes."""
    for _ in range(2 * MAX_DEPTH):
        source = context.editor.producer(tensor)
        if source is None or is_node(source, "QuantizeLinear"):
            return source is not None
        if source.domain or not (source.op in LIMITERS or moves_codes(source)):
            return False
        tensor = next((item for item in source.inputs if context.value(item) is None), source.inputs[0])
    return False


def _rewrite_output(context: DialectContext, tensor: gs.Tensor) -> None:
    """A graph output that is codes: Q directly, or Q followed by operators that move codes."""
    if not _comes_from_quantize(context, tensor):
        return  # a Clip, Max or Min on real numbers
    moves: list[gs.Node] = []
    _, source, limits = through_limiters(context, tensor)
    while source is not None and moves_codes(source) and data_inputs(source) == 1 and len(moves) < MAX_DEPTH:
        moves.append(source)
        _, source, limits = through_limiters(context, source.inputs[0], limits)
    if not is_node(source, "QuantizeLinear"):
        return
    assert source is not None, "is_node says so"
    parameters = read_parameters(context, source)
    if parameters.scale.size != 1 or parameters.dtype.name not in ("int8", "uint8"):
        found = f"a graph output of type {parameters.dtype.name} with {parameters.scale.size} scales"
        raise context.refuse(source, found, "int8 or uint8 and one scale", "quantize outputs per tensor")
    real = source.inputs[0]
    for move in reversed(moves):
        moved = context.editor.variable(f"{move.outputs[0].name}.real")
        context.editor.compute(moved, move.op, f"{move.name}.real", [real, *move.inputs[1:]], dict(move.attrs))
        real = moved
    granularity = context.granularity(source, 1, 0, None)
    spec = parameters.spec(granularity, clamped(parameters.container, limits))
    attrs: dict[str, object] = {"spec": spec, "dtype": parameters.dtype.name, "dialect": DIALECT}
    context.editor.compute(tensor, INTEGER_OUTPUT, source.name, [real], attrs)
