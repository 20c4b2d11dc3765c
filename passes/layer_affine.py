"""Folding y' = gain * y + offset (per output channel) into the Conv or Dense that computes y, equation (11)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from kwsq.ir.errors import Problem, UnsupportedModelError
from kwsq.ir.graph import Node, Tensor
from kwsq.ir.ops import Activation, Conv, Dense
from kwsq.ir.quant import UNQUANTIZED, Unquantized
from kwsq.ir.rewrite import Rewriter
from kwsq.passes.base import Level, Note
from kwsq.passes.channel_gain import GainedWeight, GainRefusedError, apply_gain
from kwsq.passes.quantize_bias import scale_from_bias

Float64 = npt.NDArray[np.float64]


def foldable_layer(rewriter: Rewriter, tensor: str, axis: int) -> Node | None:
    """Returns the Conv or Dense that can take an affine map of its output channels.

    Args:
        rewriter: graph under construction.
        tensor: output of the layer; nobody else reads it and no clamp is fused into it.
        axis: axis of `tensor` along which the map varies, which must be the layer's output channels; -1 for none.
    """
    producer = next((n for n in rewriter.nodes.values() if tensor in n.outputs), None)
    uses = sum(node.inputs.count(tensor) for node in rewriter.nodes.values())
    if producer is None or uses != 1 or tensor in rewriter.outputs:
        return None
    if not isinstance(producer.op, Conv | Dense) or producer.op.activation is not Activation.NONE:
        return None
    channels = 1 if isinstance(producer.op, Conv) else rewriter.tensors[tensor].rank - 1
    return producer if axis in (-1, channels) else None


def fold_into_layer(rewriter: Rewriter, layer: Node, gain: Float64, offset: Float64, source: str) -> list[Note]:
    """Rewrites weight and bias of `layer` in place.

    Args:
        rewriter: graph under construction.
        layer: Conv or Dense with a constant weight.
        gain: (C_out,) float64.
        offset: (C_out,) float64.
        source: name of the pass, for the notes.

    Raises:
        UnsupportedModelError: a negative gain meets codes that cannot absorb it.
    """
    weight = rewriter.tensors[layer.inputs[1]]
    try:
        gained = apply_gain(weight, gain)
    except GainRefusedError as refused:
        raise UnsupportedModelError(_refusal(layer, weight, str(refused))) from None
    bias_name = layer.inputs[2] if len(layer.inputs) > 2 else ""
    bias = rewriter.tensors[bias_name].real().astype(np.float64) if bias_name else np.zeros(weight.shape[0])
    folded = (gain * bias + offset).astype(np.float32)
    new_weight = _store(rewriter, _scaled_by_bias(gained, folded), layer)
    new_bias = rewriter.fresh(f"{layer.name}/bias")
    origin = rewriter.tensors[bias_name].origin if bias_name else new_bias
    rewriter.tensors[new_bias] = Tensor(new_bias, folded.shape, folded, UNQUANTIZED, origin)
    rewriter.update_node(layer.name, inputs=(layer.inputs[0], new_weight, new_bias))
    return _notes(layer, gained, source)


def _scaled_by_bias(gained: GainedWeight, bias: npt.NDArray[np.float32]) -> Tensor:
    """Gives channels whose weights vanished a scale on which their bias is exact enough."""
    spec, zeroed = gained.tensor.quant, list(gained.zeroed)
    if not zeroed or isinstance(spec, Unquantized):
        return gained.tensor
    scale = np.array(spec.scale)
    scale[zeroed] = scale_from_bias(bias[zeroed].astype(np.float64))
    return replace(gained.tensor, quant=replace(spec, scale=scale))


def _store(rewriter: Rewriter, weight: Tensor, layer: Node) -> str:
    """Keeps the weight's name unless another node shares it."""
    uses = sum(node.inputs.count(weight.name) for node in rewriter.nodes.values())
    name = weight.name if uses == 1 else rewriter.fresh(f"{layer.name}/{weight.name}")
    rewriter.tensors[name] = replace(weight, name=name)
    return name


def _refusal(layer: Node, weight: Tensor, reason: str) -> Problem:
    return Problem(
        layer.name,
        f"weight {weight.name!r}: {reason}",
        "a positive gain, or codes symmetric around zero",
        "train with a symmetric narrow weight range, or constrain gamma to be positive",
        layer.source,
    )


def _notes(layer: Node, gained: GainedWeight, source: str) -> list[Note]:
    notes = []
    if gained.negated:
        text = f"codes of {len(gained.negated)} output channels negated to absorb a negative gain"
        notes.append(Note(source, layer.name, text))
    if gained.zeroed:
        text = f"codes of output channels {list(gained.zeroed)} set to zero: their gain vanishes"
        notes.append(Note(source, layer.name, text, Level.WARNING))
    return notes
