"""The canonical quantiser nodes the dialects leave behind."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_graphsurgeon as gs

from kwsq.ir.graph import Tensor
from kwsq.ir.ops import FakeQuant
from kwsq.ir.quant import Affine, PerTensor, Unquantized, quantize
from kwsq.passes.importers.context import ImportContext, UnsupportedNodeError


def import_fake_quant(ctx: ImportContext, node: gs.Node) -> None:
    """FakeQuant: an activation quantiser stays a node, a constant becomes codes at once."""
    spec, rounding = node.attrs["spec"], node.attrs["rounding"]
    tensor = ctx.tensor(node.inputs[0])
    if tensor.is_constant:
        if not isinstance(tensor.quant, Unquantized):
            tensor = replace(tensor, data=tensor.real(), quant=Unquantized())
        assert tensor.data is not None
        codes = quantize(tensor.data.astype(np.float32), spec, rounding)
        _add_codes(ctx, node, codes, spec, tensor.origin)
        return
    if not isinstance(spec.granularity, PerTensor):
        raise UnsupportedNodeError(
            f"a quantiser of activation {tensor.name!r} with {spec.scale.size} scales",
            "one scale per activation tensor",
            "train with per-tensor activation quantisation",
        )
    ctx.add(node, FakeQuant(spec, rounding, str(node.attrs.get("dialect", ""))), [tensor.name])


def import_codes(ctx: ImportContext, node: gs.Node) -> None:
    """Codes: a weight stored as integers."""
    _add_codes(ctx, node, np.asarray(node.attrs["codes"]), node.attrs["spec"], str(node.attrs.get("origin", "")))


def _add_codes(ctx: ImportContext, node: gs.Node, codes: np.ndarray, spec: object, origin: str) -> None:
    name = node.outputs[0].name
    fits_int8 = codes.size == 0 or (codes.min() >= -128 and codes.max() <= 127)
    data = codes.astype(np.int8 if fits_int8 else np.int32)
    scale = spec.scale  # type: ignore[attr-defined]  # Affine or Codebook
    ctx.builder.tensors[name] = Tensor(name, tuple(codes.shape), data, spec, origin or name, scale)  # type: ignore[arg-type]


def import_integer_input(ctx: ImportContext, node: gs.Node) -> None:
    """IntegerInput: the graph input itself holds codes."""
    spec: Affine = node.attrs["spec"]
    name = ctx.name(node.inputs[0])
    before = ctx.builder.tensors[name].quant
    if isinstance(before, Affine) and not before.same_as(spec):
        raise UnsupportedNodeError(
            f"integer graph input {name!r} read on two grids",
            "one scale and zero point for all its readers",
            "dequantize the input once, and quantize again where another grid is wanted",
        )
    ctx.builder.update_tensor(name, quant=spec)
    ctx.builder.integer_io = {**ctx.builder.integer_io, name: str(node.attrs["dtype"])}
    ctx.alias(node, name)


def import_integer_output(ctx: ImportContext, node: gs.Node) -> None:
    """IntegerOutput: the graph output itself holds codes."""
    ctx.builder.integer_io = {**ctx.builder.integer_io, node.outputs[0].name: str(node.attrs["dtype"])}
    ctx.add(node, FakeQuant(node.attrs["spec"], dialect=str(node.attrs.get("dialect", ""))), [ctx.name(node.inputs[0])])
