"""Chooses the grid of every activation, from the inputs on.

The clips run through the float network once; at every tensor that needs a grid the run stops, candidates are tried on
the rest of the network, and the run goes on with the tensor on the grid chosen. So each choice sees the errors made
before it, and none of those after it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kwsq.ir.graph import Graph
from kwsq.ir.quant import Affine, FloatArray
from kwsq.passes.ptq.grids import GridGroup, find_groups
from kwsq.passes.ptq.options import PtqOptions, PtqRecord
from kwsq.passes.ptq.output_loss import OutputLoss
from kwsq.passes.ptq.ranges import Range, affine_of, least_squares, minmax, percentile, range_of
from kwsq.passes.ptq.replay import Replay
from kwsq.passes.ptq.search import search_range

Float64 = npt.NDArray[np.float64]
Grids = dict[str, Affine]

INPUT_SEARCH_SHARE = 2
"""A graph input is searched on this many times the clips of another tensor: features have the wildest ranges."""


@dataclass(slots=True)
class ActivationSearch:
    """The search and what it has chosen so far.

    Args:
        graph: float graph.
        replay: the clips at the start of the graph.
        loss: against the float run of the same clips.
        options: method and effort.
    """

    graph: Graph
    replay: Replay
    loss: OutputLoss
    options: PtqOptions

    def run(self) -> tuple[Grids, list[PtqRecord]]:
        """Returns the grid of every activation that lacked one, and a record per group."""
        groups = {name: group for group in find_groups(self.graph) for name in group.tensors}
        grids: Grids = {}
        records: list[PtqRecord] = []
        self._place(self.graph.inputs, groups, grids, records)
        for node in self.graph.nodes:
            self.replay.advance()
            self._place(node.outputs, groups, grids, records)
        return grids, records

    def _place(
        self, names: tuple[str, ...], groups: Mapping[str, GridGroup], grids: Grids, records: list[PtqRecord]
    ) -> None:
        """Puts the tensors just computed on their grids; the first of a group chooses for all of it."""
        for name in names:
            if name in groups and name not in grids:
                record, grid = self._choose(name, groups[name])
                records.append(record)
                grids.update(dict.fromkeys(groups[name].tensors, grid))
                self.replay.grids.update(dict.fromkeys(groups[name].tensors, grid))
                self.replay.replace_live(name, grid)

    def _choose(self, name: str, group: GridGroup) -> tuple[PtqRecord, Affine]:
        if group.fixed is not None:
            return _record(name, group.fixed, "fixed by the runtime", None), group.fixed
        chunks = self._values(group)
        start = minmax(chunks, name).including(group.introduced)
        loss: float | None = None
        match self.options.range_method:
            case "output":
                chosen, losses = search_range(start, lambda r: self._loss_of(name, group, r))
                loss = float(losses.mean())
            case "minmax":
                chosen = start
            case "percentile":
                chosen = percentile(chunks)
            case "mse":
                chosen = least_squares(chunks)
        grid = affine_of(chosen.including(group.introduced))
        narrowed = f" (extremes {start.low:.5g} to {start.high:.5g})" if chosen != start else ""
        return _record(name, grid, f"{self.options.range_method}{narrowed}", loss), grid

    def _values(self, group: GridGroup) -> list[FloatArray]:
        """Returns the group's values: of those computed already as they are now, of the others in the float run."""
        live = [name for name in group.tensors if self.replay.is_live(name)]
        later = [name for name in group.tensors if name not in live]
        values = [chunk for name in live for chunk in self.replay.live(name)]
        return values + [chunk for chunk in self.replay.preview(later).values()] if later else values

    def _loss_of(self, name: str, group: GridGroup, candidate: Range) -> Float64:
        grid = affine_of(candidate.including(group.introduced))
        clips = self.options.search_clips * (INPUT_SEARCH_SHARE if name in self.graph.inputs else 1)
        later = dict.fromkeys(group.tensors, grid)
        outputs = self.replay.finish(clips=clips, live_grids={name: grid}, grids=later)
        return self.loss.per_clip(outputs)


def _record(name: str, grid: Affine, method: str, loss: float | None) -> PtqRecord:
    interval = range_of(grid)
    return PtqRecord(name, "activation", interval.low, interval.high, method, "per_tensor", grid.bits, loss)
