"""The canonical quantizers, and the checks every grid passes whatever dialect it came from.

kwsq.FakeQuant      attrs spec (Affine), rounding, dialect; input: activation or latent float weight
kwsq.Codes          attrs codes (integer codes, or int8 levels), spec (Affine or Codebook), dialect; no inputs
kwsq.IntegerInput   attrs spec, dtype; input: a graph input that holds codes
kwsq.IntegerOutput  attrs spec, dtype; output: a graph output that holds codes
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs

from kwsq.ir.errors import Problem
from kwsq.ir.quant import (
    INT32,
    Affine,
    Codebook,
    FloatArray,
    Granularity,
    IntArray,
    IntRange,
    PerAxis,
    PerTensor,
    Rounding,
    along_axis,
)
from kwsq.passes.base import Note
from kwsq.passes.decode import Array, Findings
from kwsq.passes.fold_source import ConstantEvaluator
from kwsq.passes.source_graph import SourceEditor

FAKE_QUANT = "kwsq.FakeQuant"
CODES = "kwsq.Codes"
INTEGER_INPUT = "kwsq.IntegerInput"
INTEGER_OUTPUT = "kwsq.IntegerOutput"
CANONICAL = frozenset({FAKE_QUANT, CODES, INTEGER_INPUT, INTEGER_OUTPUT})

_MAX_BITS = 8
_FLOAT32_INTEGER_BITS = 24
_SMALLEST_SCALE = float(np.finfo(np.float32).tiny)


class Refused(Exception):  # noqa: N818 - control flow within a dialect, never seen outside
    """A dialect met its own pattern in a form it cannot express; the problem is already noted."""


@dataclass(slots=True, eq=False)
class DialectContext:
    """What the dialects share while they rewrite one graph.

    Args:
        editor: the graph.
        evaluator: values of constant subgraphs.
        opsets: version per domain.
        metadata: the model's metadata_props.
        findings: problems so far.
        refused: names of nodes that have a problem already, or only stay because another one has.
        expanded: dialects that were written out in another one, which names the quantizers.
        notes: remarks for the report.
    """

    editor: SourceEditor
    evaluator: ConstantEvaluator
    opsets: Mapping[str, int]
    metadata: Mapping[str, str]
    findings: Findings = field(default_factory=Findings)
    refused: set[str] = field(default_factory=set)
    expanded: set[str] = field(default_factory=set)
    notes: list[Note] = field(default_factory=list)

    def refuse(self, node: gs.Node, found: str, expected: str, remedy: str) -> Refused:
        """Notes a form kwsq cannot express; raise the result."""
        self.findings.unsupported.append(self._problem(node, found, expected, remedy))
        return self._mark(node)

    def broken(self, node: gs.Node, found: str, expected: str, remedy: str = "export the model again") -> Refused:
        """Notes a broken node; raise the result."""
        self.findings.invalid.append(self._problem(node, found, expected, remedy))
        return self._mark(node)

    def _mark(self, node: gs.Node) -> Refused:
        self.refused.add(node.name)
        return Refused(node.name)

    def _problem(self, node: gs.Node, found: str, expected: str, remedy: str) -> Problem:
        domain = node.domain or ""
        op = f"{domain}.{node.op}" if domain else node.op
        return Problem(f"node {node.name!r}", found, expected, remedy, op, self.opsets.get(domain))

    def value(self, tensor: gs.Tensor) -> Array | None:
        """Returns the value of a tensor that depends on constants only, else None."""
        return self.evaluator.value(tensor)

    def required(self, node: gs.Node, index: int, what: str) -> Array:
        """Returns the constant value of an input.

        Raises:
            Refused: the input is absent (broken) or computed from activations (unsupported).
        """
        if index >= len(node.inputs) or not node.inputs[index].name:
            raise self.broken(node, f"no {what}", "a constant")
        value = self.value(node.inputs[index])
        if value is None:
            found = f"a {what} that is computed from activations"
            raise self.refuse(node, found, "a constant", "use static quantization, so that every scale is a constant")
        return value

    def live_consumers(self) -> dict[int, list[gs.Node]]:
        """Returns the nodes that read each tensor, by tensor id, counting only nodes an output needs."""
        readers: dict[int, list[gs.Node]] = {}
        for node in self.editor.nodes():
            for tensor in node.inputs:
                readers.setdefault(id(tensor), []).append(node)
        return readers

    def fake_quantize(
        self, node: gs.Node, output: gs.Tensor, x: gs.Tensor, spec: Affine, dialect: str, rounding: Rounding
    ) -> None:
        """Makes `output` the fake-quantized `x`; a constant `x` is a latent weight."""
        latent = self.value(x)
        if latent is None:
            self._check_activation(node, spec)
        elif latent.ndim > 1:
            self._check_width(node, spec.range, "weights")
        elif spec.range.bits > _FLOAT32_INTEGER_BITS:
            self.codes(node, output, *self._wide_codes(node, latent, spec), dialect, x.name)
            return
        if latent is not None and not isinstance(x, gs.Constant):
            x = self.editor.constant(f"{x.name}.folded", latent)
        attrs: dict[str, object] = {"spec": spec, "rounding": rounding, "dialect": dialect}
        self.editor.compute(output, FAKE_QUANT, node.name, [x], attrs)

    def _check_activation(self, node: gs.Node, spec: Affine) -> None:
        self._check_width(node, spec.range, "activations")
        if isinstance(spec.granularity, PerAxis):
            found = "an activation with one scale per channel"
            remedy = "quantize activations per tensor; integer kernels share one scale across channels"
            raise self.refuse(node, found, "one scale per activation tensor", remedy)

    def codes(
        self,
        node: gs.Node,
        output: gs.Tensor,
        codes: IntArray,
        spec: Affine | Codebook,
        dialect: str,
        origin: str = "",
    ) -> None:
        """Makes `output` the real values of constant `codes`, which `origin` names in the file."""
        # A vector is a bias or a norm's parameter, and those may be wide.
        if isinstance(spec, Affine) and codes.dtype != np.int32 and codes.ndim > 1:
            self._check_width(node, spec.range, "weights")
        attrs: dict[str, object] = {"codes": codes, "spec": spec, "dialect": dialect, "origin": origin}
        self.editor.compute(output, CODES, node.name, [], attrs)

    def _check_width(self, node: gs.Node, codes: IntRange, what: str) -> None:
        if codes.bits <= _MAX_BITS:
            return
        found = f"{codes.bits}-bit {what} (codes {codes.low} to {codes.high})"
        remedy = f"quantize {what} to {_MAX_BITS} bits; the int8 kernels hold no wider codes"
        raise self.refuse(node, found, f"{what} of {_MAX_BITS} bits or fewer", remedy)

    def _wide_codes(self, node: gs.Node, latent: Array, spec: Affine) -> tuple[IntArray, Affine]:
        """Codes of a bias too wide for float32 arithmetic, counted from the zero point, and their grid.

        Raises:
            Refused: an accumulator, int32, holds not all of them.
        """
        scale, zero = (
            along_axis(values, spec.granularity, latent.ndim)
            for values in (spec.scale.astype(np.float64), spec.zero_point.astype(np.int64))
        )
        codes = np.clip(np.rint(latent.astype(np.float64) / scale), spec.range.low - zero, spec.range.high - zero)
        if codes.size and not (INT32.low <= codes.min() and codes.max() <= INT32.high):
            found = f"{spec.bits}-bit codes {codes.min():.0f} to {codes.max():.0f} of a bias, counted from zero"
            raise self.refuse(node, found, "codes that int32 holds", "use a larger scale, or leave the bias in float")
        low, high = spec.range.low - int(zero.max()), spec.range.high - int(zero.min())
        span = IntRange(max(low, INT32.low), min(high, INT32.high))
        centred = replace(spec, zero_point=np.zeros(spec.scale.shape, np.int32), range=span)
        return codes.astype(np.int32), centred

    def zero_points(self, node: gs.Node, values: Array, size: int) -> IntArray:
        """Returns whole zero points as a vector of `size` int32.

        Raises:
            Refused: one that int32 does not hold.
        """
        wide = np.asarray(values, np.float64)
        held = (wide >= INT32.low) & (wide <= INT32.high)
        if not held.all():
            raise self.broken(node, f"zero point {wide[~held][0]:.0f}", "zero points that int32 holds")
        return zero_points(values, size)

    def scale(self, node: gs.Node, values: Array) -> FloatArray:
        """Returns a checked scale as float32 of its own shape.

        Raises:
            Refused: not float32, or not finite, positive and normal everywhere.
        """
        if values.dtype != np.float32:
            raise self.refuse(node, f"a {values.dtype.name} scale", "a float32 scale", "export in float32")
        good = np.isfinite(values) & (values >= _SMALLEST_SCALE)
        if values.size == 0 or not bool(good.all()):
            worst = float(values[~good][0]) if values.size else "nothing"
            raise self.broken(node, f"scale {worst}", "finite, positive, normal scales", "repair the quantizer's scale")
        return np.asarray(values, np.float32)

    def along_one_axis(self, node: gs.Node, values: Array, shape: Sequence[int] | None) -> tuple[Array, Granularity]:
        """Returns a scale that broadcasts against a tensor of `shape` (None: unknown) as a vector and what it spans.

        Raises:
            Refused: the scale varies along more than one axis, or along one axis of an activation.
        """
        flat = values.reshape(-1)
        if values.size == 1:
            return flat, PerTensor()
        if shape is None:
            found = "an activation with one scale per channel"
            raise self.refuse(node, found, "one scale per activation tensor", "quantize activations per tensor")
        aligned = (1,) * (len(shape) - values.ndim) + values.shape
        axes = [axis for axis, size in enumerate(aligned) if size > 1]
        if len(aligned) != len(shape) or any(aligned[axis] != shape[axis] for axis in axes):
            raise self.broken(node, f"a scale of shape {list(values.shape)} for {list(shape)}", "one that broadcasts")
        if len(axes) > 1:
            remedy = "quantize weights per tensor or per output channel"
            raise self.refuse(node, f"element-wise scales {list(values.shape)}", "scales along one axis", remedy)
        return flat, PerAxis(axes[0])

    def shifted(self, node: gs.Node, x: gs.Tensor, offset: np.float32) -> gs.Tensor:
        """Returns x + offset as a new tensor, or x itself for offset 0."""
        return x if offset == 0 else self._arithmetic(node, "Add", x, offset)

    def scaled(self, node: gs.Node, x: gs.Tensor, factor: np.float32) -> gs.Tensor:
        """Returns x * factor as a new tensor."""
        return self._arithmetic(node, "Mul", x, factor)

    def _arithmetic(self, node: gs.Node, op: str, x: gs.Tensor, operand: np.float32) -> gs.Tensor:
        output = self.editor.variable(f"{node.name}.{op.lower()}")
        constant = self.editor.constant(f"{node.name}.{op.lower()}.operand", np.array(operand, np.float32))
        self.editor.compute(output, op, output.name, [x, constant], {})
        return output

    def granularity(self, node: gs.Node, size: int, axis: int, shape: Sequence[int] | None) -> Granularity:
        """Returns what `size` scales along `axis` of a tensor of `shape` (None: unknown) are.

        Exporters write an axis on scalar scales too, so it is looked at only where there are several.
        """
        if size == 1:
            return PerTensor()
        if shape is None:
            if axis < 0:
                raise self.refuse(
                    node,
                    f"{size} scales along axis {axis} of an activation",
                    "one scale",
                    "quantize activations per tensor",
                )
            return PerAxis(axis)
        if not -len(shape) <= axis < len(shape) or shape[axis] != size:
            raise self.broken(
                node, f"{size} scales along axis {axis} of shape {list(shape)}", "one per slice of the axis"
            )
        return PerAxis(axis % len(shape))


def plain_codes(codes: Array) -> IntArray:
    """Returns codes in a NumPy integer type; 4- and 2-bit types become int8 or uint8 without changing a value."""
    if (
        codes.dtype.kind in "iu"
        and codes.dtype.itemsize >= 1
        and codes.dtype.name in ("int8", "uint8", "int16", "uint16", "int32")
    ):
        return np.asarray(codes)
    return codes.astype(np.uint8 if codes.dtype.name.startswith("uint") else np.int8)


def zero_points(values: npt.ArrayLike, size: int) -> IntArray:
    """Returns zero points as a vector of `size` int32."""
    return np.broadcast_to(np.asarray(values, np.int32).reshape(-1), (size,))
