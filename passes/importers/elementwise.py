"""Elementwise operators, activations and Softmax."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce

import numpy as np
import onnx_graphsurgeon as gs

from kwsq.ir.graph import Op
from kwsq.ir.ops import (
    Add,
    Clip,
    Div,
    LeakyRelu,
    LogSoftmax,
    Mul,
    Pow,
    PRelu,
    Relu,
    Reshape,
    Softmax,
    SquaredDifference,
)
from kwsq.passes.importers.context import ImportContext, Importer, UnsupportedNodeError, positive_axis


def simple(make: Callable[[], Op]) -> Importer:
    """Returns an importer for an operator without attributes."""

    def importer(ctx: ImportContext, node: gs.Node) -> None:
        ctx.add(node, make(), ctx.inputs(node))

    return importer


def variadic(make: Callable[[], Op]) -> Importer:
    """Returns an importer that folds an n-ary operator (Max, Min, Sum) into binary ones."""

    def importer(ctx: ImportContext, node: gs.Node) -> None:
        names = ctx.inputs(node)
        if len(names) == 1:
            ctx.alias(node, names[0])
            return
        head = reduce(lambda a, b: ctx.add(node, make(), [a, b], last=False, part="fold"), names[1:-1], names[0])
        ctx.add(node, make(), [head, names[-1]])

    return importer


def import_clip(ctx: ImportContext, node: gs.Node) -> None:
    """Clip with constant bounds; [0, inf) is Relu."""
    low = float(node.attrs.get("min", -np.inf))
    high = float(node.attrs.get("max", np.inf))
    for i, name in ((1, "min"), (2, "max")):
        bound = ctx.constant(node, i)
        if bound is not None:
            low, high = (float(bound.reshape(())), high) if name == "min" else (low, float(bound.reshape(())))
    if np.isnan(low) or np.isnan(high) or low > high:
        raise UnsupportedNodeError(f"bounds [{low}, {high}]", "min <= max")
    if (low, high) == (-np.inf, np.inf):
        ctx.alias(node, ctx.name(node.inputs[0]))
        return
    ctx.add(node, Relu() if (low, high) == (0.0, np.inf) else Clip(low, high), ctx.inputs(node)[:1])


def import_leaky_relu(ctx: ImportContext, node: gs.Node) -> None:
    """LeakyRelu."""
    ctx.add(node, LeakyRelu(float(node.attrs.get("alpha", 0.01))), ctx.inputs(node))


def import_prelu(ctx: ImportContext, node: gs.Node) -> None:
    """PRelu; one slope for all channels is LeakyRelu."""
    slope = ctx.weight(node, 1, "slope").real()
    if slope.size == 1:
        ctx.add(node, LeakyRelu(float(slope.reshape(()))), ctx.inputs(node)[:1])
        return
    ctx.add(node, PRelu(), ctx.inputs(node))


def import_hard_sigmoid(ctx: ImportContext, node: gs.Node) -> None:
    """HardSigmoid as gain, offset and clamp, operators every runtime has."""
    alpha, beta = float(node.attrs.get("alpha", 0.2)), float(node.attrs.get("beta", 0.5))
    y = ctx.add(node, Mul(), [ctx.inputs(node)[0], ctx.scalar(node, "alpha", alpha)], last=False, part="gain")
    y = ctx.add(node, Add(), [y, ctx.scalar(node, "beta", beta)], last=False, part="offset")
    ctx.add(node, Clip(0.0, 1.0), [y])


def softmax(kind: type[Softmax | LogSoftmax]) -> Importer:
    """Returns the importer of Softmax or LogSoftmax."""

    def import_softmax(ctx: ImportContext, node: gs.Node) -> None:
        _import_softmax(ctx, node, kind)

    return import_softmax


def _import_softmax(ctx: ImportContext, node: gs.Node, kind: type[Softmax | LogSoftmax]) -> None:
    """Before opset 13 both normalise over all dimensions from `axis` on."""
    x = ctx.tensor(node.inputs[0])
    axis = positive_axis(int(node.attrs.get("axis", -1 if ctx.opset >= 13 else 1)), x.rank)
    if ctx.opset >= 13 or axis == x.rank - 1:
        ctx.add(node, kind(axis), [x.name])
        return
    flat = (int(np.prod(x.shape[:axis])), int(np.prod(x.shape[axis:])))
    y = ctx.add(node, Reshape(flat), [x.name], last=False, part="flat")
    y = ctx.add(node, kind(1), [y], last=False, part="softmax")
    ctx.add(node, Reshape(x.shape), [y])


def import_div(ctx: ImportContext, node: gs.Node) -> None:
    """Div by a constant is a gain; of two activations it stays Div (see the reciprocal root pattern)."""
    divisor = ctx.tensor(node.inputs[1])
    if not divisor.is_constant:
        ctx.add(node, Div(), ctx.inputs(node))
        return
    values = divisor.real()
    if not np.all(np.isfinite(values)) or not np.all(values):
        raise UnsupportedNodeError("a division by zero", "a finite, non-zero divisor")
    gain = ctx.builder.add_constant(f"{divisor.name}/reciprocal", np.float32(1) / values, origin=divisor.origin)
    ctx.add(node, Mul(), [ctx.inputs(node)[0], gain])


def import_neg(ctx: ImportContext, node: gs.Node) -> None:
    """Neg is a gain of -1, which the layer before it may take."""
    ctx.add(node, Mul(), [ctx.inputs(node)[0], ctx.scalar(node, "minus_one", -1.0)])


def import_pow(ctx: ImportContext, node: gs.Node) -> None:
    """Pow: only squares have an integer kernel."""
    exponent = ctx.constant(node, 1)
    if exponent is not None and exponent.ndim > ctx.builder.tensors[ctx.inputs(node)[0]].rank:
        raise UnsupportedNodeError(f"exponents of shape {list(exponent.shape)}", "an exponent of no higher rank")
    if exponent is not None and exponent.size == 1 and float(exponent.reshape(())) == 2.0:
        ctx.add(node, SquaredDifference(), [ctx.inputs(node)[0], ctx.scalar(node, "zero", 0.0)])
        return
    if exponent is not None and exponent.size == 1 and float(exponent.reshape(())) == 0.5:
        ctx.add(node, Pow(), ctx.inputs(node))
        return
    found = "a computed exponent" if exponent is None else f"exponents of shape {list(exponent.shape)}"
    if exponent is not None and exponent.size == 1:
        found = f"exponent {float(exponent.reshape(()))}"
    raise UnsupportedNodeError(found, "2 (or 0.5 inside a reciprocal root)")


def import_identity(ctx: ImportContext, node: gs.Node) -> None:
    """Identity needs no operator."""
    ctx.alias(node, ctx.name(node.inputs[0]))


def import_dropout(ctx: ImportContext, node: gs.Node) -> None:
    """Dropout in inference mode is the identity."""
    if ctx.reads_beyond_first(node):
        raise UnsupportedNodeError("a mask output", "the data output only", "export the model in eval mode")
    ratio, training = ctx.constant(node, 1), ctx.constant(node, 2)
    drops = ratio is None or bool(np.any(ratio))
    if training is not None and bool(np.any(training)) and drops:
        raise UnsupportedNodeError("training mode", "inference mode", "export the model in eval mode")
    ctx.alias(node, ctx.name(node.inputs[0]))


def import_cast(ctx: ImportContext, node: gs.Node) -> None:
    """Cast between float types is the identity here; any other changes values."""
    import onnx

    float_types = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE, onnx.TensorProto.BFLOAT16)
    if int(node.attrs.get("to", 0)) not in float_types:
        kind = onnx.TensorProto.DataType.Name(int(node.attrs.get("to", 0)))
        raise UnsupportedNodeError(f"a cast of an activation to {kind}", "a cast to a float type")
    ctx.alias(node, ctx.name(node.inputs[0]))
