"""Conv, BatchNormalization, LayerNormalization."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from kwsq.ir.ops import Add, BatchNorm, Conv, Mean, Mul, Reciprocal, Sqrt, SquaredDifference, Sub
from kwsq.passes.importers.context import ImportContext, UnsupportedNodeError, positive_axis

Pads = tuple[tuple[int, int], ...]


def spatial_pads(
    node: gs.Node, size: tuple[int, ...], kernel: tuple[int, ...], strides: tuple[int, ...], dilations: tuple[int, ...]
) -> Pads:
    """Returns (before, after) per spatial dimension from `pads` or `auto_pad`.

    Source: ONNX operator specification, Conv.
    """
    rank = len(kernel)
    mode = node.attrs.get("auto_pad", "NOTSET")
    if mode in ("NOTSET", ""):
        pads = [int(p) for p in node.attrs.get("pads", [0] * 2 * rank)]
        if len(pads) != 2 * rank or min(pads) < 0:
            raise UnsupportedNodeError(f"pads {pads}", f"{2 * rank} non-negative numbers")
        return tuple(zip(pads[:rank], pads[rank:], strict=True))
    if mode == "VALID":
        return ((0, 0),) * rank
    if mode not in ("SAME_UPPER", "SAME_LOWER"):
        raise UnsupportedNodeError(f"auto_pad {mode!r}", "NOTSET, VALID, SAME_UPPER or SAME_LOWER")
    result = []
    for n, k, s, d in zip(size, kernel, strides, dilations, strict=True):
        total = max(0, (-(-n // s) - 1) * s + d * (k - 1) + 1 - n)
        small = total // 2
        result.append((small, total - small) if mode == "SAME_UPPER" else (total - small, small))
    return tuple(result)


def import_conv(ctx: ImportContext, node: gs.Node) -> None:
    """Conv of one or two spatial dimensions."""
    weight = ctx.weight(node, 1, "weight")
    rank = weight.rank - 2
    if rank not in (1, 2):
        raise UnsupportedNodeError(f"a {rank}-D convolution", "a 1-D or 2-D convolution")
    x = ctx.shape(node)
    if len(x) != rank + 2:
        raise UnsupportedNodeError(
            f"an input of rank {len(x)}", f"rank {rank + 2}", "reshape the input before the Conv"
        )
    strides = tuple(int(s) for s in node.attrs.get("strides", [1] * rank))
    dilations = tuple(int(d) for d in node.attrs.get("dilations", [1] * rank))
    groups = int(node.attrs.get("group", 1))
    if groups < 1 or x[1] != weight.shape[1] * groups or weight.shape[0] % groups:
        raise UnsupportedNodeError(
            f"input channels {x[1]}, weight {list(weight.shape)}, group {groups}", "matching channels and groups"
        )
    pads = spatial_pads(node, x[2:], weight.shape[2:], strides, dilations)
    op = Conv(strides, pads, dilations, groups)
    inputs = ctx.inputs(node)
    if min(op.infer(x, weight.shape)[0]) < 1:
        raise UnsupportedNodeError(f"an input of {list(x)}, smaller than its kernel", "at least one output element")
    if len(inputs) == 3 and not ctx.builder.tensors[inputs[2]].is_constant:
        raise UnsupportedNodeError("a bias computed at run time", "a constant bias")
    ctx.add(node, op, inputs)


def import_batchnorm(ctx: ImportContext, node: gs.Node) -> None:
    """BatchNormalization in inference mode."""
    if node.attrs.get("training_mode", 0) or len([t for t in node.outputs if not t.is_empty()]) > 1:
        raise UnsupportedNodeError("training mode", "inference mode", "export the model in eval mode")
    for i, what in enumerate(("scale", "bias", "mean", "variance"), start=1):
        ctx.weight(node, i, what)
    ctx.add(node, BatchNorm(float(node.attrs.get("epsilon", 1e-5))), ctx.inputs(node))


def import_layernorm(ctx: ImportContext, node: gs.Node) -> None:
    """LayerNormalization becomes mean, squared difference, mean, reciprocal root and affine.

    Source: ONNX operator specification, LayerNormalization function body.
    """
    if ctx.reads_beyond_first(node):
        raise UnsupportedNodeError("the mean and deviation outputs", "the normalised output only", "remove them")
    x = ctx.tensor(node.inputs[0])
    axis = positive_axis(int(node.attrs.get("axis", -1)), x.rank)
    axes = tuple(range(axis, x.rank))
    mean = ctx.add(node, Mean(axes, keepdims=True), [x.name], last=False, part="mean")
    centred = ctx.add(node, Sub(), [x.name, mean], last=False, part="centred")
    squares = ctx.add(node, SquaredDifference(), [x.name, mean], last=False, part="squares")
    variance = ctx.add(node, Mean(axes, keepdims=True), [squares], last=False, part="variance")
    epsilon = ctx.scalar(node, "epsilon", float(node.attrs.get("epsilon", 1e-5)))
    root = ctx.add(
        node, Sqrt(), [ctx.add(node, Add(), [variance, epsilon], last=False, part="stable")], last=False, part="root"
    )
    inverse = ctx.add(node, Reciprocal(), [root], last=False, part="inverse")
    affine = ctx.inputs(node)[1:]
    y = ctx.add(node, Mul(), [centred, inverse], last=not affine, part="normalised")
    if affine:
        y = ctx.add(node, Mul(), [y, affine[0]], last=len(affine) == 1, part="gain")
    if len(affine) == 2:
        ctx.add(node, Add(), [y, affine[1]])
