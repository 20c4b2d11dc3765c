"""Events of continuous audio: smoothing, lock-out, windows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kwsq.converter.det import Detector, Track, block_trials, count, score_stream
from kwsq.ir.errors import UsageError

HOP = 0.02


def test_a_crossing_fires_once_per_lockout() -> None:
    score = np.zeros(200)
    score[10:15] = 1.0  # one event
    score[40] = 1.0  # within 1 s of the first: ignored
    score[60] = 1.0  # exactly 50 frames later: a new event
    assert Detector(HOP).fire(score, 0.5).tolist() == [10, 60]


def test_a_score_that_stays_high_fires_once_per_period() -> None:
    assert Detector(HOP, lockout_seconds=1.0).fire(np.ones(150), 0.5).tolist() == [0, 50, 100]


def test_smoothing_averages_the_past_only() -> None:
    smoothed = Detector(HOP, smoothing_frames=4).smooth(np.array([4.0, 0.0, 0.0, 0.0, 8.0]))
    assert smoothed.tolist() == [4.0, 2.0, 4 / 3, 1.0, 2.0]
    assert Detector(HOP, smoothing_frames=3).fire(smoothed, 2.0).tolist() == [0]


def test_windows_make_hits_and_the_rest_false_accepts() -> None:
    score = np.zeros(500)  # 10 s
    score[[50, 110]] = 1.0  # 1.0 s and 2.2 s, one window
    score[300] = 1.0  # 6.0 s, outside
    track = Track.of(score, [(0.9, 2.5), (7.0, 8.0)])
    found = score_stream([track], Detector(HOP), 0.5)
    assert (found.counts.true_accepts, found.counts.false_rejects, found.counts.false_accepts) == (1, 1, 1)
    assert found.counts.negatives is None
    assert found.counts.false_accept_rate is None
    # 10 s less 2.6 s of windows, in hours; sums of a few terms.
    assert found.counts.negative_hours == pytest.approx(7.4 / 3600, rel=1e-12)
    assert found.latency_seconds[0] == pytest.approx(0.1, abs=1e-12)
    assert np.isnan(found.latency_seconds[1])


def oracle(score: list[float], windows: list[tuple[float, float]], threshold: float, lockout: int) -> tuple[int, int]:
    """Frame by frame, as a device does it."""
    hit, false, free_at = set(), 0, 0
    for frame, value in enumerate(score):
        if value < threshold or frame < free_at:
            continue
        free_at = frame + lockout
        inside = [i for i, (start, end) in enumerate(windows) if start <= frame * 0.5 <= end]
        if inside:
            hit.add(inside[0])
        else:
            false += 1
    return len(hit), false


@given(st.lists(st.integers(0, 3), min_size=1, max_size=60), st.integers(1, 6), st.integers(0, 3))
def test_events_equal_a_frame_by_frame_device(score: list[int], lockout: int, threshold: int) -> None:
    windows = [(1.0, 3.0), (8.0, 11.5)]
    detector = Detector(0.5, lockout_seconds=lockout * 0.5)
    found = score_stream([Track.of(score, windows)], detector, threshold).counts
    assert (found.true_accepts, found.false_accepts) == oracle(score, windows, threshold, lockout)


@given(st.lists(st.integers(0, 3), min_size=20, max_size=60), st.integers(1, 6))
def test_blocks_cover_the_audio_and_keep_the_peaks(score: list[int], lockout: int) -> None:
    detector = Detector(0.5, lockout_seconds=lockout * 0.5)
    track = Track.of(score, [(1.0, 3.0)])
    trials = block_trials([track, track], detector)
    assert trials.duration_seconds.sum() == len(score)  # 2 tracks of half-second hops
    assert trials.score.max() == max(score)
    assert trials.group is not None
    assert set(trials.group.tolist()) == {0, 1}
    stream = score_stream([track, track], detector, 2.0).counts
    blocks = count(trials, 2.0)
    # A device fires at most twice in a block of one lock-out, and every block that holds a peak is near an event.
    assert stream.false_accepts <= 2 * blocks.false_accepts
    assert blocks.false_accepts <= 2 * (stream.false_accepts + stream.true_accepts) + 2


@pytest.mark.parametrize("windows", [[(1.0, 1.0)], [(2.0, 1.0)], [(0.0, 2.0), (1.0, 3.0)], [(5.0, 6.0), (1.0, 2.0)]])
def test_windows_that_overlap_or_are_empty_are_refused(windows: list[tuple[float, float]]) -> None:
    with pytest.raises(UsageError, match="disjoint"):
        Track.of([0.0], windows)


def test_meaningless_settings_are_refused() -> None:
    with pytest.raises(UsageError, match="hop_seconds"):
        Detector(0.0)
    with pytest.raises(UsageError, match="finite"):
        Track.of([np.inf])
