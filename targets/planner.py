"""Where activations lie in memory: TensorFlow Lite Micro's greedy planner, and the bound no plan can beat.

live(t)     = sum of align16(size_i) over first_i <= t <= last_i          (M1)
lower bound = max over t of live(t)                                       (M2)
high water  = max over i of offset_i + align16(size_i)                    (M3)

Source: tensorflow/lite/micro/memory_planner/greedy_memory_planner.cc and micro_allocation_info.cc.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

ALIGNMENT_BYTES = 16
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Lifetime:
    """A buffer and the steps during which it must keep its contents.

    Args:
        name: tensor name.
        size_bytes: size before alignment.
        first: step that writes it; 0 is before the first operator.
        last: last step that needs it, at least `first`.
    """

    name: str
    size_bytes: int
    first: int
    last: int

    @property
    def aligned_bytes(self) -> int:
        """Size rounded up to the alignment."""
        return -(-self.size_bytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES


@dataclass(frozen=True, slots=True)
class Placement:
    """A buffer at its offset in the arena."""

    lifetime: Lifetime
    offset_bytes: int


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """The arena of one model.

    Args:
        placements: in the order of the buffers given.
        high_water_bytes: size of the arena, equation (M3).
        lower_bound_bytes: equation (M2).
        live_bytes: live(t) for every step, equation (M1).
    """

    placements: tuple[Placement, ...]
    high_water_bytes: int
    lower_bound_bytes: int
    live_bytes: tuple[int, ...]


def plan(buffers: Sequence[Lifetime], steps: int, fixed: Sequence[int | None] = ()) -> MemoryPlan:
    """Returns the greedy plan: large buffers first, each in the first gap that its lifetime leaves.

    Args:
        buffers: what to place; equal sizes keep this order.
        steps: number of steps, the initial one included.
        fixed: offsets that somebody else made, e.g. in the file, for the first buffers; None where there is none. Such
            buffers may share bytes.

    >>> arena = plan([Lifetime("x", 100, 0, 1), Lifetime("y", 40, 1, 2), Lifetime("z", 90, 2, 2)], steps=3)
    >>> arena.high_water_bytes, arena.lower_bound_bytes, [p.offset_bytes for p in arena.placements]
    (160, 160, [0, 112, 0])
    """
    return _placed(buffers, _greedy_offsets(buffers, fixed), steps)


def _placed(buffers: Sequence[Lifetime], offsets: Sequence[int], steps: int) -> MemoryPlan:
    live = _live_bytes(buffers, steps)
    placements = tuple(Placement(b, o) for b, o in zip(buffers, offsets, strict=True))
    high_water = max((p.offset_bytes + p.lifetime.aligned_bytes for p in placements), default=0)
    return MemoryPlan(placements, high_water, max(live, default=0), live)


def _greedy_offsets(buffers: Sequence[Lifetime], fixed: Sequence[int | None]) -> list[int]:
    sizes = np.array([b.aligned_bytes for b in buffers], np.int64)
    first = np.array([b.first for b in buffers], np.int64)
    last = np.array([b.last for b in buffers], np.int64)
    offsets = np.zeros(len(buffers), np.int64)
    known = {i: offset for i, offset in enumerate(fixed) if offset is not None}
    offsets[list(known)] = list(known.values())
    # Indices by rising offset, later placements behind earlier ones of equal offset.
    placed = np.array(sorted(known, key=known.__getitem__), np.int64)
    for index in np.argsort(-sizes, kind="stable"):
        if index in known:
            continue
        active = placed[(first[placed] <= last[index]) & (last[placed] >= first[index])]
        offsets[index] = _first_gap(offsets[active], sizes[active], int(sizes[index]))
        at = int(np.searchsorted(offsets[placed], offsets[index], side="right"))
        placed = np.insert(placed, at, index)
    return [int(offset) for offset in offsets]


def _first_gap(offsets: IntArray, sizes: IntArray, wanted: int) -> int:
    """Returns the lowest offset with `wanted` free bytes among neighbours that are sorted by offset."""
    ends = np.concatenate([np.zeros(1, np.int64), np.maximum.accumulate(offsets + sizes)])
    fits = np.flatnonzero(offsets - ends[:-1] >= wanted)
    return int(ends[fits[0]] if fits.size else ends[-1])


def _live_bytes(buffers: Sequence[Lifetime], steps: int) -> tuple[int, ...]:
    change = np.zeros(steps + 1, np.int64)
    for buffer in buffers:
        change[buffer.first] += buffer.aligned_bytes
        change[buffer.last + 1] -= buffer.aligned_bytes
    return tuple(int(v) for v in np.cumsum(change)[:steps])
