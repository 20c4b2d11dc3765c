"""Runs of the calibration clips through the graph, resumable at every node.

A `Replay` holds the live tensors of every clip at one place of the graph. `advance` computes the next node;
`finish` computes all the rest, with other grids or weights on trial, and returns the scored tensors. So a trial at a
node costs only the nodes behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from kwsq.ir.execute.real import run_node, sample_chunks
from kwsq.ir.graph import Graph, Node
from kwsq.ir.quant import Affine, FloatArray, fake_quantize
from kwsq.passes.ptq.reproducible import evaluate_reproducibly

Values = dict[str, FloatArray]
Grids = Mapping[str, Affine]


class Replay:
    """The clips at one place of the graph.

    Args:
        graph: verified graph.
        inputs: stacked float32 arrays per graph input.
        samples: number of clips.
        scored: tensors to return from `finish`.
        grids: grid per activation, applied when the tensor is computed; filled by the caller as grids are chosen.
        put: puts values on a grid: rounded and clipped, or clipped alone.
        constants: real values per constant; quantised weights are put in by the caller.
    """

    def __init__(
        self,
        graph: Graph,
        inputs: Mapping[str, FloatArray],
        samples: int,
        scored: Sequence[str],
        put: Callable[[FloatArray, Affine], FloatArray] = fake_quantize,
    ) -> None:
        self.graph = graph
        self._put = put
        self.samples = samples
        self.scored = tuple(scored)
        self.grids: dict[str, Affine] = {}
        self.constants: Values = {tensor.name: tensor.real() for tensor in graph.constants()}
        self.position = 0
        self._chunks: list[tuple[Values, int]] = list(sample_chunks(graph, inputs, samples))
        self._last_use = {name: i for i, node in enumerate(graph.nodes) for name in node.inputs}

    def is_live(self, name: str) -> bool:
        """Whether the tensor is computed already and still needed."""
        return name in self._chunks[0][0]

    def live(self, name: str) -> list[FloatArray]:
        """Returns a live tensor, chunk by chunk."""
        return [values[name] for values, _ in self._chunks]

    def replace_live(self, name: str, grid: Affine) -> None:
        """Puts a live tensor on its grid, for this and all later nodes."""
        self.grids[name] = grid
        for values, _ in self._chunks:
            values[name] = self._put(values[name], grid)

    @property
    def node(self) -> Node:
        """The next node."""
        return self.graph.nodes[self.position]

    def advance(self) -> None:
        """Computes the next node; its outputs are put on the grids already chosen for them."""
        for values, count in self._chunks:
            self._step(self.position, values, count, self.grids, self.constants)
        self.position += 1

    def finish(
        self,
        *,
        clips: int | None = None,
        live_grids: Grids | None = None,
        grids: Grids | None = None,
        constants: Mapping[str, FloatArray] | None = None,
    ) -> Values:
        """Returns the scored tensors when the rest of the graph runs with a trial.

        Args:
            clips: run only about the first so many clips; None for all.
            live_grids: grids on trial for tensors that are live now.
            grids: grids on trial for tensors still to come.
            constants: real values on trial.
        """
        all_grids, all_constants = {**self.grids, **(grids or {})}, {**self.constants, **(constants or {})}
        results, done = [], 0
        for values, count in self._chunks:
            if clips is not None and done >= clips:
                break
            trial = {**values, **{name: self._put(values[name], g) for name, g in (live_grids or {}).items()}}
            for position in range(self.position, len(self.graph.nodes)):
                self._step(position, trial, count, all_grids, all_constants)
            results.append({name: trial[name] for name in self.scored})
            done += count
        return {name: _joined([result[name] for result in results]) for name in self.scored}

    def preview(self, names: Sequence[str]) -> Values:
        """Returns tensors still to come, as they are computed without further grids."""
        values: list[Values] = []
        for live, count in self._chunks:
            trial, found = dict(live), {}
            for position in range(self.position, len(self.graph.nodes)):
                self._step(position, trial, count, self.grids, self.constants)
                found.update({name: trial[name] for name in names if name in self.graph.nodes[position].outputs})
            values.append(found)
        return {name: _joined([chunk[name] for chunk in values]) for name in names}

    def _step(
        self, position: int, values: Values, count: int, grids: Grids, constants: Mapping[str, FloatArray]
    ) -> None:
        node = self.graph.nodes[position]
        for name, value in run_node(self.graph, node, values, constants, count, evaluate_reproducibly).items():
            values[name] = self._put(value, grids[name]) if name in grids else value
        for name in node.inputs:
            if self._last_use[name] == position and name not in self.scored:
                values.pop(name, None)


def _joined(chunks: Sequence[FloatArray]) -> FloatArray:
    """Returns the chunks stacked; a scalar of one clip has no dimension to be stacked along."""
    return np.concatenate([np.atleast_1d(chunk) for chunk in chunks])
