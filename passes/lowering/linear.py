"""Conv, Dense, MatMul and ChannelAffine."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kwsq.ir import lowered as low
from kwsq.ir.graph import Array, Node, Tensor
from kwsq.ir.lowered import DType, LoweredOp, LoweredTensor
from kwsq.ir.ops import Activation, ChannelAffine, Conv, Dense
from kwsq.ir.quant import Affine, Codebook, IntRange, PerAxis, PerTensor, Unquantized
from kwsq.passes.base import Level
from kwsq.passes.lowering.context import LoweringContext, LoweringRefusedError, int8_grid
from kwsq.passes.lowering.forms import channels_last, identity_form, physical_shape, unit_dimensions_fitted
from kwsq.passes.quantize_bias import LayerCodes, integer_bias, scale_from_bias

Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class _Codes:
    """Symmetric int8 codes of a weight with their scales."""

    data: npt.NDArray[np.int8]
    scale: npt.NDArray[np.float32]
    bits: int
    levels: npt.NDArray[np.integer] | None


def weight_codes(weight: Tensor) -> _Codes:
    """Returns the codes of a weight, recentred to zero point 0, equation (39).

    Raises:
        LoweringRefusedError: the weight has no grid, or its centred codes do not fit int8.
    """
    assert weight.data is not None
    match weight.quant:
        case Unquantized():
            raise LoweringRefusedError(
                f"weight {weight.name!r} without a quantiser, in a model that has others",
                "a quantiser on every weight of Conv, Gemm and MatMul",
                "quantise it in training, or give --calibration so that it is quantised after training",
            )
        case Codebook() as book:
            return _Codes(weight.data.astype(np.int8), book.scale, book.bits, book.levels)
        case Affine() as spec:
            zero = spec.zero_point.astype(np.int32)
            if isinstance(spec.granularity, PerAxis):
                zero = zero.reshape([-1 if i == spec.granularity.axis else 1 for i in range(weight.rank)])
            centred = weight.data.astype(np.int32) - zero
            if centred.size and (centred.min() < -128 or centred.max() > 127):
                raise LoweringRefusedError(
                    f"weight {weight.name!r} with asymmetric codes in [{centred.min()}, {centred.max()}] around zero",
                    "codes that fit int8 around zero point 0",
                    "train with symmetric weight quantisation",
                )
            return _Codes(centred.astype(np.int8), spec.scale, spec.bits, None)


def layer_weight_codes(weight: Tensor) -> _Codes:
    """Returns the codes of the weight of a Conv or Dense, see `weight_codes`.

    Raises:
        LoweringRefusedError: also where its scales are not those of output channels.
    """
    quant = weight.quant
    if isinstance(quant, Affine | Codebook) and isinstance(quant.granularity, PerAxis) and quant.granularity.axis != 0:
        raise LoweringRefusedError(
            f"weight {weight.name!r} with scales along axis {quant.granularity.axis}",
            "scales per output channel (axis 0 of the layer's weight)",
            "quantise weights per tensor or per output channel",
        )
    return weight_codes(weight)


def _store_weight(ctx: LoweringContext, node: Node, weight: Tensor, codes: _Codes, data: Array, *, axis: int) -> str:
    """Adds the weight tensor in physical order and returns its name."""
    name = weight.name if weight.name not in ctx.tensors else ctx.fresh(f"{node.name}/{weight.name}")
    frozen = np.ascontiguousarray(data, np.int8)
    frozen.setflags(write=False)
    source_scale = weight.source_scale if weight.source_scale is not None else codes.scale
    ctx.tensors[name] = LoweredTensor(
        name,
        tuple(frozen.shape),
        DType.INT8,
        frozen,
        codes.scale,
        0,
        axis if codes.scale.size > 1 else 0,
        codes.bits,
        codes.levels,
        weight.origin or weight.name,
        source_scale,
    )
    if frozen.size and frozen.min() == -128:
        ctx.note(name, "contains code -128, outside TFLite's symmetric weight range; emitted unchanged")
    return name


def _layer_codes(ctx: LoweringContext, node: Node, weight: Tensor, bias: Tensor | None) -> LayerCodes:
    codes = layer_weight_codes(weight)
    grid = int8_grid(ctx.spec(node.inputs[0]))
    layer = integer_bias(codes.data, codes.scale, grid.scale, bias, weight.shape[0])
    if layer.zeroed:
        channels = list(layer.zeroed)
        if codes.levels is not None and 0 not in codes.levels:
            raise LoweringRefusedError(
                f"output channels {channels} of weight {weight.name!r}, whose scale is too small for their int32 bias",
                "a codebook with a zero level, or a larger scale",
                "prune these channels, or train them with a bounded batch norm gain",
            )
        text = f"codes of output channels {channels} set to zero: their scale is too small for an int32 bias"
        ctx.note(node.name, text, Level.WARNING)
    return layer


def _bias(ctx: LoweringContext, node: Node, layer: LayerCodes, bias: Tensor | None) -> str:
    scale = layer.bias_scale
    base = f"{node.name}/bias" if bias is None else bias.name
    base = base if base not in ctx.tensors and bias is not None else ctx.fresh(f"{node.name}/bias")
    frozen = layer.bias
    name = base
    if layer.real_bias is not None:
        ctx.real_biases[name] = layer.real_bias
    ctx.tensors[name] = LoweredTensor(
        name, tuple(frozen.shape), DType.INT32, frozen, scale, 0, 0, 32, origin=bias.origin if bias else name
    )
    return name


def _bias_tensor(ctx: LoweringContext, node: Node) -> Tensor | None:
    return ctx.graph[node.inputs[2]] if len(node.inputs) > 2 and node.inputs[2] else None


def lower_conv(ctx: LoweringContext, node: Node) -> None:
    """Conv to CONV_2D or DEPTHWISE_CONV_2D, channels last; 1-D convolutions run with height 1."""
    op = node.op
    assert isinstance(op, Conv)
    x, weight, bias = ctx.graph[node.inputs[0]], ctx.graph[node.inputs[1]], _bias_tensor(ctx, node)
    form = channels_last(x.rank, dims=4)
    layer = _layer_codes(ctx, node, weight, bias)
    data = layer.codes if weight.rank == 4 else layer.codes[:, :, None, :]
    stride, dilation = _pair(op.strides, 1), _pair(op.dilations, 1)
    pads = op.pads if len(op.pads) == 2 else ((0, 0), op.pads[0])
    depthwise = op.groups == x.shape[1] and op.groups > 1 and weight.shape[1] == 1
    codes = _Codes(layer.codes, layer.scale, weight_codes(weight).bits, weight_codes(weight).levels)
    if depthwise:
        name = _store_weight(ctx, node, weight, codes, data.transpose(1, 2, 3, 0), axis=3)
    else:
        name = _store_weight(ctx, node, weight, codes, data.transpose(0, 2, 3, 1), axis=0)
    inputs = [ctx.get(x.name, form), name, _bias(ctx, node, layer, bias)]

    def make(activation: Activation) -> LoweredOp:
        kind = low.DepthwiseConv2D if depthwise else low.Conv2D
        return kind(stride, dilation, (pads[0], pads[1]), activation)

    ctx.emit(node, make, inputs, form, activation=op.activation)


def _pair(values: tuple[int, ...], fill: int) -> tuple[int, int]:
    return (values[0], values[1]) if len(values) == 2 else (fill, values[0])


def lower_dense(ctx: LoweringContext, node: Node) -> None:
    """Dense to FULLY_CONNECTED; a flattened channels-last input is met by permuting the weight's columns."""
    op = node.op
    assert isinstance(op, Dense)
    x, weight, bias = ctx.graph[node.inputs[0]], ctx.graph[node.inputs[1]], _bias_tensor(ctx, node)
    layer = _layer_codes(ctx, node, weight, bias)
    codes = _Codes(layer.codes, layer.scale, weight_codes(weight).bits, weight_codes(weight).levels)
    form = identity_form(x.rank)
    data = layer.codes
    if x.name in ctx.feature_order:
        data = data[:, ctx.feature_order[x.name]]
        source = ctx.names[x.name]
    else:
        source = ctx.get(x.name, form)
    name = _store_weight(ctx, node, weight, codes, data, axis=0)
    inputs = [source, name, _bias(ctx, node, layer, bias)]
    ctx.emit(node, low.FullyConnected, inputs, form, activation=op.activation)


def lower_matmul(ctx: LoweringContext, node: Node) -> None:
    """Product of two activations."""
    inputs = [ctx.get(name, identity_form(ctx.graph[name].rank)) for name in node.inputs]
    form = identity_form(ctx.graph[node.outputs[0]].rank)
    ctx.emit(node, lambda _: low.BatchMatMul(), inputs, form, fuses=False)


def lower_channel_affine(ctx: LoweringContext, node: Node) -> None:
    """One affine per channel as a 1x1 depthwise convolution: code 127 or -127 per channel, one rounding."""
    op = node.op
    assert isinstance(op, ChannelAffine)
    x = ctx.graph[node.inputs[0]]
    if x.rank > 4:
        raise LoweringRefusedError(f"a per-channel affine on rank {x.rank}", "rank 4 at most", "reshape the tensor")
    gain, offset = (ctx.graph[name].real().astype(np.float64) for name in node.inputs[1:])
    form = channels_last(x.rank, op.axis, dims=4)
    if np.ptp(gain) == 0 and np.ptp(offset) == 0:
        # One gain and offset for all: whatever is stored last serves as the channels, and nothing is transposed.
        form = unit_dimensions_fitted(ctx.form(x.name), 4)
        channels = physical_shape(form, x.shape)[-1]
        gain, offset = np.full(channels, gain[0]), np.full(channels, offset[0])
    weight = _affine_weight(gain, offset, f"{node.name}/gain")
    shift = Tensor(f"{node.name}/offset", offset.shape, offset.astype(np.float32), origin=node.name)
    grid = int8_grid(ctx.spec(x.name))
    codes = weight_codes(weight)
    layer = integer_bias(codes.data, codes.scale, grid.scale, shift, gain.size)
    stored = _Codes(layer.codes, layer.scale, 8, None)
    name = _store_weight(ctx, node, weight, stored, layer.codes.reshape(1, 1, 1, -1), axis=3)
    inputs = [ctx.get(x.name, form), name, _bias(ctx, node, layer, shift)]
    if form[-1] != op.axis:
        # Its channels are not the operator's: rounding it by the mean error of the operator's would be wrong.
        ctx.real_biases.pop(inputs[2], None)

    def make(activation: Activation) -> LoweredOp:
        return low.DepthwiseConv2D((1, 1), (1, 1), ((0, 0), (0, 0)), activation)

    ctx.emit(node, make, inputs, form, activation=op.activation)


def _affine_weight(gain: Float64, offset: Float64, name: str) -> Tensor:
    alive = np.abs(gain) / 127 > np.finfo(np.float32).tiny
    codes = np.where(alive, np.sign(gain) * 127, 0).astype(np.int8).reshape(-1, 1)
    scale = np.where(alive, np.abs(gain) / 127, scale_from_bias(offset)).astype(np.float32)
    quant = Affine(
        scale, np.zeros(gain.size, np.int32), IntRange(-127, 127), PerAxis(0) if gain.size > 1 else PerTensor()
    )
    return Tensor(name, codes.shape, codes, quant, name)
