"""Equalises the channels of activations before their grids are chosen, where no weight pays for it.

An int8 activation has one step for all channels, so a channel of a small range loses most of its codes. Along a stream
(see `kwsq.passes.ptq.channel_streams`) channel c may be scaled by any g_c > 0. With r[t, c] the largest magnitude of
channel c of tensor t on the calibration clips,

    1 / g_c = max over tensors t of the stream of r[t, c] / max_c r[t, c],                                      (62)

at most MOST_GAIN: every channel gets as much of the codes as it can without widening any tensor's range.

Only streams read by depthwise layers alone are scaled. There the gain leaves with the scale of one row; a layer that
adds channels up would have to hold g's whole spread in the weights of every row, and round them the coarser.

Source: after cross-layer equalisation, M. Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias
Correction", ICCV 2019, section 4.1, with ranges of activations in place of weights'.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from kwsq.ir.graph import Graph, Node
from kwsq.ir.ops import ChannelAffine, Conv
from kwsq.ir.quant import FloatArray
from kwsq.ir.rewrite import Rewriter
from kwsq.passes.base import Note
from kwsq.passes.ptq.channel_streams import ChannelAxis, Stream, find_streams
from kwsq.passes.ptq.replay import Replay

Float64 = npt.NDArray[np.float64]

NAME = "ptq"
MOST_GAIN = 64.0
"""A channel that stays below 1/64 of the others' range on the clips may not do so on others."""


def equalize_channels(replay: Replay) -> tuple[Graph, tuple[Note, ...]]:
    """Returns the graph with equalised channels, and what was done.

    Args:
        replay: the calibration clips at the start of the float graph; used up.
    """
    graph = replay.graph
    streams = [stream for stream in find_streams(graph) if _is_free(graph, stream)]
    if not streams:
        return graph, ()
    ranges = _channel_ranges(replay, {name: axis for stream in streams for name, axis in stream.axes.items()})
    rewriter = Rewriter(graph)
    notes = []
    for stream in streams:
        gain = gain_of([ranges[name] for name in stream.axes if name in ranges], stream.channels)
        if gain.max() > 1:
            scale_stream(rewriter, stream, gain)
            names = list(stream.axes)
            text = f"channels of {len(names)} tensors scaled by up to {gain.max():.3g} to use more of the int8 codes"
            notes.append(Note(NAME, names[0], f"{text}; the layers around them take it up"))
    return rewriter.finish(), tuple(notes)


def gain_of(ranges: Sequence[Float64], channels: int) -> Float64:
    """Returns the gain per channel, equation (62); 1 for a channel that is 0 everywhere.

    Args:
        ranges: largest magnitude per channel, (C,), of every tensor of a stream.
        channels: C.
    """
    shares = [largest / largest.max() for largest in ranges if largest.max() > 0]
    share = np.max(shares, axis=0) if shares else np.ones(channels)
    return np.where(share > 0, 1 / np.maximum(share, 1 / MOST_GAIN), 1.0)


def scale_stream(rewriter: Rewriter, stream: Stream, gain: Float64) -> None:
    """Multiplies output channels of the layers that write a stream and divides input channels of those that read it.

    Args:
        rewriter: holds the layers.
        stream: what to scale.
        gain: (C,), positive.
    """
    for node in stream.producers:
        for name in filter(None, node.inputs[1:]):
            values = rewriter.tensors[name].real().astype(np.float64)
            _replace(rewriter, name, values * gain.reshape(-1, *[1] * (values.ndim - 1)))
    for node in stream.consumers:
        name = node.inputs[1]
        values = rewriter.tensors[name].real().astype(np.float64)
        _replace(rewriter, name, _without(node, values, np.repeat(gain, stream.axes[node.inputs[0]].repeats)))


def _without(node: Node, weight: Float64, gain: Float64) -> Float64:
    """Returns the weight with its input channels divided by the gain."""
    if isinstance(node.op, ChannelAffine):
        return weight / gain
    groups = node.op.groups if isinstance(node.op, Conv) else 1
    by_group = weight.reshape(groups, weight.shape[0] // groups, weight.shape[1], -1)
    return (by_group / gain.reshape(groups, 1, -1, 1)).reshape(weight.shape)


def _replace(rewriter: Rewriter, name: str, values: Float64) -> None:
    rewriter.update_tensor(name, data=values.astype(np.float32))


def _is_free(graph: Graph, stream: Stream) -> bool:
    """Whether every layer that reads the stream keeps channels apart."""
    return bool(stream.consumers) and all(
        isinstance(node.op, ChannelAffine) or (isinstance(node.op, Conv) and graph[node.inputs[1]].shape[1] == 1)
        for node in stream.consumers
    )


def _channel_ranges(replay: Replay, axes: Mapping[str, ChannelAxis]) -> dict[str, Float64]:
    ranges: dict[str, Float64] = {}
    for node in replay.graph.nodes:
        replay.advance()
        for name in node.outputs:
            if name in axes and replay.is_live(name):
                shape = replay.graph[name].shape
                clips = (chunk.reshape(-1, *shape) for chunk in replay.live(name))
                ranges[name] = np.max([_largest(chunk, axes[name]) for chunk in clips], axis=0)
    return ranges


def _largest(clips: FloatArray, at: ChannelAxis) -> Float64:
    """Returns the largest magnitude per channel of a tensor given as (clips, *shape)."""
    by_index = np.abs(clips).max(axis=tuple(i for i in range(clips.ndim) if i != at.axis + 1))
    return np.asarray(by_index.reshape(-1, at.repeats).max(axis=1), np.float64)
