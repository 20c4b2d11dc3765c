"""Tries bias codes one off, a few at a time, and keeps what brings the outputs within one code of the reference.

The last resort of `feed_bias_error`: where activations or weights are so coarse that single codes decide an output,
choosing biases by the codes of their own layer is not enough. A try moves a few biases of one of the last layers by one
step, runs the rest of the graph by every kernel set, and is kept when the outputs come no further away. The number of
tries follows from their work, counted and not timed, so that every machine finds the same biases.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from kwsq.ir.execute.integer import run_node
from kwsq.ir.execute.kernel_sets import KernelSet
from kwsq.ir.graph import Array
from kwsq.ir.lowered import LoweredGraph, LoweredNode
from kwsq.passes.bias_reference import BiasReference

TRIES = 150
TRY_MACS = 1_000_000_000
"""Multiply-accumulates of all tries together."""
LAST_LAYERS = 4
"""Biases move in this many of the last layers: the rest of the graph behind them is short."""
SHARE = 0.05
"""A try moves this share of a layer's biases."""
REACH = 2
"""How far a bias may end up from where it started."""


def refine_biases(
    graph: LoweredGraph,
    layers: Sequence[LoweredNode],
    reference: BiasReference,
    kernel_sets: Sequence[KernelSet],
    *,
    close_share: float,
) -> dict[str, Array]:
    """Returns new bias codes by tensor name.

    Args:
        graph: with the biases to start from.
        layers: nodes whose third input may move, in topological order.
        reference: what the outputs should be.
        kernel_sets: by which the outputs should come closer, the one that matters most first.
        close_share: stop when this share of outputs is close by each of them.
    """
    rng = np.random.default_rng(0)
    start: dict[str, Array] = {t.name: t.data for t in graph.tensors.values() if t.data is not None}
    first = start | {name: reference.codes(graph[name], name) for name in graph.inputs}
    best = [_run(graph, graph.nodes, first, reference.count, kernels) for kernels in kernel_sets]
    distance, last = reference.distance(graph, best), layers[-LAST_LAYERS:]
    position = {node.name: i for i, node in enumerate(graph.nodes)}
    for _ in range(_tries(reference, len(layers), len(kernel_sets))):
        if min(distance.close_shares) >= close_share:
            break
        layer = last[int(rng.integers(len(last)))]
        name, rest = layer.inputs[2], graph.nodes[position[layer.name] :]
        moved = {name: _moved(np.asarray(best[0][name]), np.asarray(start[name]), rng)}
        tried = [
            _run(graph, rest, {**values, **moved}, reference.count, kernels)
            for values, kernels in zip(best, kernel_sets, strict=True)
        ]
        found = reference.distance(graph, tried)
        if found.excess <= distance.excess:
            best, distance = tried, found
    return {node.inputs[2]: best[0][node.inputs[2]] for node in layers}


def _tries(reference: BiasReference, layers: int, kernel_sets: int) -> int:
    """Returns how many tries TRY_MACS allow; a try runs half of the last layers on average."""
    share = min(LAST_LAYERS, layers) / (2 * max(1, layers))
    return min(TRIES, int(TRY_MACS / max(1.0, reference.macs * kernel_sets * share)))


def _moved(codes: Array, start: Array, rng: np.random.Generator) -> Array:
    chosen = rng.random(codes.size) < max(SHARE, 1 / codes.size)
    steps = np.where(chosen, rng.choice((-1, 1), codes.size), 0)
    return np.clip(codes + steps, start - REACH, start + REACH).astype(np.int32)


def _run(
    graph: LoweredGraph, nodes: Sequence[LoweredNode], values: Mapping[str, Array], count: int, kernels: KernelSet
) -> dict[str, Array]:
    computed = dict(values)
    for node in nodes:
        computed |= run_node(graph, node, computed, count, kernels.kernels)
    return computed
