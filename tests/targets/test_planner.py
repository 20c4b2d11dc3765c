"""The greedy planner keeps its contract, and finds what TensorFlow Lite Micro records."""

from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kwsq.targets.planner import Lifetime, MemoryPlan, Placement, plan

STEPS = 6


@st.composite
def lifetimes(draw: st.DrawFn, most: int) -> list[Lifetime]:
    count = draw(st.integers(0, most))
    spans = [sorted(draw(st.tuples(st.integers(0, STEPS - 1), st.integers(0, STEPS - 1)))) for _ in range(count)]
    return [Lifetime(f"t{i}", draw(st.integers(0, 90)), first, last) for i, (first, last) in enumerate(spans)]


def overlaps(arena: MemoryPlan) -> bool:
    found = False
    for i, a in enumerate(arena.placements):
        for b in arena.placements[:i]:
            alive = a.lifetime.first <= b.lifetime.last and b.lifetime.first <= a.lifetime.last
            apart = (
                a.offset_bytes + a.lifetime.aligned_bytes <= b.offset_bytes
                or b.offset_bytes + b.lifetime.aligned_bytes <= a.offset_bytes
            )
            found |= alive and not apart
    return found


@given(lifetimes(12))
def test_buffers_alive_together_never_overlap(buffers: list[Lifetime]) -> None:
    arena = plan(buffers, STEPS)
    assert not overlaps(arena)
    assert all(p.offset_bytes % 16 == 0 for p in arena.placements)
    assert arena.lower_bound_bytes <= arena.high_water_bytes <= sum(b.aligned_bytes for b in buffers)
    assert arena.lower_bound_bytes == max(
        (sum(b.aligned_bytes for b in buffers if b.first <= t <= b.last) for t in range(STEPS)), default=0
    )


def test_the_overlap_check_can_fail() -> None:
    arena = plan([Lifetime("a", 32, 0, 1), Lifetime("b", 16, 1, 2)], 3)
    moved = MemoryPlan((arena.placements[0], Placement(arena.placements[1].lifetime, 16)), 0, 0, ())
    assert overlaps(moved)


def first_fit(order: tuple[Lifetime, ...]) -> int:
    """High water of placing in this order at the lowest free offset; over all orders this is the optimum."""
    placed: list[tuple[int, Lifetime]] = []
    for buffer in order:
        rivals = sorted(
            (offset, offset + other.aligned_bytes)
            for offset, other in placed
            if other.first <= buffer.last and buffer.first <= other.last
        )
        at = 0
        for start, stop in rivals:
            if start - at >= buffer.aligned_bytes:
                break
            at = max(at, stop)
        placed.append((at, buffer))
    return max((offset + buffer.aligned_bytes for offset, buffer in placed), default=0)


@given(lifetimes(5))
def test_greedy_is_the_first_fit_of_falling_sizes_and_never_beats_brute_force(buffers: list[Lifetime]) -> None:
    found = plan(buffers, STEPS).high_water_bytes
    assert found == first_fit(tuple(sorted(buffers, key=lambda b: -b.aligned_bytes)))
    best = min(first_fit(order) for order in permutations(buffers))
    assert plan(buffers, STEPS).lower_bound_bytes <= best <= found


def test_greedy_misses_the_optimum_where_its_authors_say_it_may() -> None:
    spans = [(0, 0), (3, 4), (0, 2), (1, 3)]
    buffers = [Lifetime(f"t{i}", 32, first, last) for i, (first, last) in enumerate(spans)]
    assert plan(buffers, STEPS).high_water_bytes == 96
    assert min(first_fit(order) for order in permutations(buffers)) == 64


@pytest.mark.parametrize(("size", "aligned"), [(0, 0), (1, 16), (16, 16), (17, 32)])
def test_sizes_are_aligned(size: int, aligned: int) -> None:
    assert Lifetime("t", size, 0, 0).aligned_bytes == aligned
