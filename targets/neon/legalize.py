"""LoweredGraph -> an equal LoweredGraph in which every node is one LiteRT operator.

- A padding that is neither SAME nor VALID becomes a PAD node before a VALID window. PAD fills with the zero point, so
  a convolution sees the zeros it would have seen; a max pool gets the lowest code instead, which never wins.
- A sum becomes a layer of ones (`sum_as_layer`).
- TensorFlow Lite Micro needs further forms (`micro`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from kwsq.ir.errors import UnsupportedModelError
from kwsq.ir.lowered import (
    Conv2D,
    DepthwiseConv2D,
    LoweredGraph,
    LoweredNode,
    MaxPool2D,
    Pad,
    Pads,
    Pair,
)
from kwsq.targets.base import TargetOptions
from kwsq.targets.draft import Draft
from kwsq.targets.neon.constraints import problems
from kwsq.targets.neon.micro import clamp_in_steps, dense_as_convolution
from kwsq.targets.neon.padding import needed_pads, padding_scheme
from kwsq.targets.sum_as_layer import sum_as_layer

_LOWEST_CODE = -128
_NO_PADS: Pads = ((0, 0), (0, 0))
Rule = Callable[[Draft, LoweredNode], bool]
"""Adds what stands for a node and returns True, or returns False where the node needs nothing."""


def legalize(graph: LoweredGraph, options: TargetOptions) -> LoweredGraph:
    """Returns the graph as LiteRT can express it; a legal graph comes back equal.

    Args:
        graph: verified graph.
        options: container and runtime.

    Raises:
        UnsupportedModelError: naming every node that has no form.
    """
    rules: list[Rule] = [_pad_window, sum_as_layer]
    if options.runtime == "tflm":
        rules += [clamp_in_steps, dense_as_convolution] if options.container == "int4" else [clamp_in_steps]
    draft = Draft(graph)
    for node in graph.nodes:
        if not any(rule(draft, node) for rule in rules):
            draft.nodes.append(node)
    legal = draft.graph()
    if found := list(problems(legal)):
        raise UnsupportedModelError(found, "the model has nodes LiteRT's int8 kernels cannot compute")
    return legal


def _pad_window(draft: Draft, node: LoweredNode) -> bool:
    op = node.op
    if not isinstance(op, Conv2D | DepthwiseConv2D | MaxPool2D):
        return False
    x = draft.tensors[node.inputs[0]]
    kernel, dilation = _kernel(draft, node)
    size = (x.shape[1], x.shape[2])
    if padding_scheme(size, kernel, op.stride, dilation, op.pads) is not None:
        return False
    pads = [needed_pads(*axis) for axis in zip(size, kernel, op.stride, dilation, op.pads, strict=True)]
    shape = (x.shape[0], size[0] + sum(pads[0]), size[1] + sum(pads[1]), x.shape[3])
    padded = draft.add_tensor(x, "padded", shape)
    value = _LOWEST_CODE if isinstance(op, MaxPool2D) else None
    pad = Pad(((0, 0), *pads, (0, 0)), value)
    draft.add_node(node, "pad", pad, (x.name,), padded)
    draft.nodes.append(replace(node, op=replace(op, pads=_NO_PADS), inputs=(padded, *node.inputs[1:])))
    return True


def _kernel(draft: Draft, node: LoweredNode) -> tuple[Pair, Pair]:
    """Returns kernel and dilation of a window node."""
    if isinstance(node.op, MaxPool2D):
        return node.op.kernel, (1, 1)
    assert isinstance(node.op, Conv2D | DepthwiseConv2D)
    _, height, width, _ = draft.tensors[node.inputs[1]].shape
    return (height, width), node.op.dilation
