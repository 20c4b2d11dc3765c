"""Where the activations lie: large tensors first, each in the first gap its lifetime leaves.

Step 0 is before the first operator, step i + 1 is operator i. A state input keeps its place throughout, because the
state output is copied into it after the last step.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from kwsq.targets.accel.format import aligned


@dataclass(frozen=True, slots=True)
class Buffer:
    """An activation and the steps during which it must keep its contents."""

    tensor: int
    size_bytes: int
    first: int
    last: int

    def meets(self, other: Buffer) -> bool:
        """Returns whether both are needed at the same step."""
        return self.first <= other.last and other.first <= self.last


def lifetimes(
    operators: Sequence[tuple[Collection[int], Collection[int]]],
    inputs: Collection[int],
    outputs: Collection[int],
    pinned: Collection[int],
) -> dict[int, tuple[int, int]]:
    """Returns tensor -> (first, last) step.

    Args:
        operators: (inputs, outputs) of each, activations only.
        inputs: tensors given by the caller.
        outputs: tensors read by the caller.
        pinned: tensors that keep their place throughout.
    """
    steps = {tensor: (0, 0) for tensor in inputs}
    for step, (used, made) in enumerate(operators, 1):
        for tensor in (*used, *made):
            steps[tensor] = (steps.get(tensor, (step, step))[0], step)
    end = len(operators)
    steps |= {tensor: (steps[tensor][0], end) for tensor in outputs if tensor in steps}
    return steps | dict.fromkeys(pinned, (0, end))


def place(buffers: Sequence[Buffer]) -> tuple[Mapping[int, int], int]:
    """Returns tensor -> offset, and the size of the arena.

    >>> place([Buffer(0, 100, 0, 1), Buffer(1, 40, 1, 2), Buffer(2, 90, 2, 2)])
    ({0: 0, 2: 0, 1: 112}, 160)
    """
    placed: list[tuple[int, Buffer]] = []
    for buffer in sorted(buffers, key=lambda b: (-b.size_bytes, b.tensor)):
        offset = 0
        meeting = ((start, start + aligned(b.size_bytes)) for start, b in placed if b.meets(buffer))
        for start, end in sorted(meeting):
            if start - offset >= aligned(buffer.size_bytes):
                break
            offset = max(offset, end)
        placed.append((offset, buffer))
    offsets = {buffer.tensor: offset for offset, buffer in placed}
    return offsets, max((offset + aligned(b.size_bytes) for offset, b in placed), default=0)
