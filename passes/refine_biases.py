"""Tries bias codes one off, layer by layer, and keeps what brings the outputs closer to the reference.

The last resort of `feed_bias_error`: where activations or weights are so coarse that single codes decide an output,
choosing biases by the codes of their own layer is not enough. A try moves a few biases of one layer by one step, runs
the rest of the graph, and is kept when the outputs come closer. The number of tries follows from their work, counted
and not timed, so that every machine finds the same biases.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from kwsq.ir.execute.integer import run_node
from kwsq.ir.graph import Array
from kwsq.ir.lowered import LoweredGraph, LoweredNode
from kwsq.passes.bias_reference import BiasReference

TRIES = 400
TRY_MACS = 1_000_000_000
"""Multiply-accumulates of all tries together."""
SHARE = 0.05
"""A try moves this share of a layer's biases."""
REACH = 1
"""How far a bias may end up from where it started."""


def refine_biases(
    graph: LoweredGraph, layers: Sequence[LoweredNode], reference: BiasReference, *, close_share: float
) -> dict[str, Array]:
    """Returns new bias codes by tensor name.

    Args:
        graph: with the biases to start from.
        layers: nodes whose third input may move.
        reference: what the outputs should be.
        close_share: stop when this share of outputs is close.
    """
    rng = np.random.default_rng(0)
    start: dict[str, Array] = {t.name: t.data for t in graph.tensors.values() if t.data is not None}
    best = start | {name: reference.codes(graph[name], name) for name in graph.inputs}
    best = _run(graph, graph.nodes, best, reference.count)
    loss, close = reference.distance(graph, best)
    position = {node.name: i for i, node in enumerate(graph.nodes)}
    for _ in range(min(TRIES, TRY_MACS // max(1, reference.macs // 2))):
        if close >= close_share:
            break
        layer = layers[int(rng.integers(len(layers)))]
        name = layer.inputs[2]
        moved = _moved(np.asarray(best[name]), np.asarray(start[name]), rng)
        tried = _run(graph, graph.nodes[position[layer.name] :], {**best, name: moved}, reference.count)
        tried_loss, tried_close = reference.distance(graph, tried)
        if tried_loss < loss:
            best, loss, close = tried, tried_loss, tried_close
    return {node.inputs[2]: best[node.inputs[2]] for node in layers}


def _moved(codes: Array, start: Array, rng: np.random.Generator) -> Array:
    chosen = rng.random(codes.size) < max(SHARE, 1 / codes.size)
    steps = np.where(chosen, rng.choice((-1, 1), codes.size), 0)
    return np.clip(codes + steps, start - REACH, start + REACH).astype(np.int32)


def _run(
    graph: LoweredGraph, nodes: Sequence[LoweredNode], values: Mapping[str, Array], count: int
) -> dict[str, Array]:
    computed = dict(values)
    for node in nodes:
        computed |= run_node(graph, node, computed, count)
    return computed
