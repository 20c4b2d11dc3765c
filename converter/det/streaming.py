"""Scoring continuous audio by events: smoothing, threshold, lock-out, and windows in which the keyword may be found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from kwsq.converter.det.rates import Counts
from kwsq.converter.det.trials import SECONDS_PER_HOUR, BoolArray, FloatArray, IntArray, Trials
from kwsq.ir.errors import Problem, UsageError

LOCKOUT_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Detector:
    """What turns frame scores into detections.

    Args:
        hop_seconds: time between two scores.
        smoothing_frames: length of the moving average over past scores, 1 for none.
        lockout_seconds: refractory period after a detection, during which nothing is detected.
    """

    hop_seconds: float
    smoothing_frames: int = 1
    lockout_seconds: float = LOCKOUT_SECONDS

    def __post_init__(self) -> None:
        """Refuses settings that have no meaning."""
        if not (self.hop_seconds > 0 and self.smoothing_frames >= 1 and self.lockout_seconds >= 0):
            expected = "hop_seconds above 0, smoothing_frames from 1, lockout_seconds from 0"
            raise UsageError(Problem("detector", str(self), expected, "correct the value"))

    def smooth(self, score: FloatArray) -> FloatArray:
        """Returns the mean of each score and those before it; the first ones average what there is."""
        total = np.concatenate([[0.0], np.cumsum(score)])
        end = np.arange(1, score.size + 1)
        start = np.maximum(end - self.smoothing_frames, 0)
        return (total[end] - total[start]) / (end - start) if self.smoothing_frames > 1 else score

    def fire(self, smoothed: FloatArray, threshold: float) -> IntArray:
        """Returns the frames of detections: the first frame >= threshold, and again once the lock-out is over.

        A score that stays high is detected once per lock-out period, as a device would.
        """
        candidates = np.flatnonzero(smoothed >= threshold)
        # Half a hop of slack: 1 s of 20 ms hops is 50 frames whatever the division's last bit says.
        locked = max(int(np.ceil(self.lockout_seconds / self.hop_seconds - 0.5)), 1)
        fired, at = [], 0
        while at < candidates.size:
            fired.append(int(candidates[at]))
            at = int(np.searchsorted(candidates, candidates[at] + locked))
        return np.array(fired, np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class Track:
    """Scores of one recording.

    Args:
        score: (n,) one score per hop.
        windows: (k, 2) start and end, in seconds, of the stretches in which a detection counts as the keyword's;
            disjoint and ascending.
    """

    score: FloatArray
    windows: FloatArray

    @classmethod
    def of(cls, score: Sequence[float] | FloatArray, windows: Sequence[tuple[float, float]] = ()) -> Track:
        """Returns a checked track.

        Raises:
            UsageError: a score is not finite, or windows overlap or are empty.
        """
        scores, spans = np.asarray(score, np.float64).reshape(-1), np.asarray(windows, np.float64).reshape(-1, 2)
        if not (scores.size and np.isfinite(scores).all()):
            raise UsageError(Problem("track", "no or not finite scores", "finite scores", "repair the track"))
        edges = spans.reshape(-1)
        if not np.isfinite(edges).all() or np.any(np.diff(spans, axis=1) <= 0) or np.any(np.diff(edges) < 0):
            expected = "disjoint windows with start < end, ascending"
            raise UsageError(Problem("track windows", str(spans.tolist()), expected, "merge overlapping windows"))
        return cls(scores, spans)


@dataclass(frozen=True, slots=True, eq=False)
class StreamScore:
    """Outcome on recordings.

    Args:
        counts: hits, misses, false events and hours outside all windows.
        latency_seconds: (k,) detection time after each window's start, NaN where the keyword was missed.
    """

    counts: Counts
    latency_seconds: FloatArray


def score_stream(tracks: Sequence[Track], detector: Detector, threshold: float) -> StreamScore:
    """Returns events of recordings at a threshold.

    The first detection in a window is its hit, further ones in it count for nothing; detections elsewhere are
    false accepts. The lock-out follows every detection, hit or not.

    Args:
        tracks: recordings.
        detector: smoothing and lock-out.
        threshold: on the smoothed score.
    """
    false_accepts, hours, latencies = 0, 0.0, []
    for track in tracks:
        times: FloatArray = detector.fire(detector.smooth(track.score), threshold) * np.float64(detector.hop_seconds)
        window = _window_of(times, track.windows)
        false_accepts += int((window < 0).sum())
        latencies.append(_latencies(times, window, track.windows))
        hours += _hours_outside(track, detector)
    latency = np.concatenate(latencies) if latencies else np.zeros(0)
    hits = int(np.isfinite(latency).sum())
    return StreamScore(Counts(latency.size - hits, hits, false_accepts, None, hours), latency)


def _window_of(times: FloatArray, windows: FloatArray) -> IntArray:
    """Returns the window each time lies in, both ends included, or -1."""
    index = np.searchsorted(windows[:, 0], times, "right") - 1
    inside = (index >= 0) & (times <= windows[index, 1]) if len(windows) else np.zeros(times.size, np.bool_)
    return np.where(inside, index, -1)


def _latencies(times: FloatArray, window: IntArray, windows: FloatArray) -> FloatArray:
    latency = np.full(len(windows), np.nan)
    found, first = np.unique(window, return_index=True)
    hit = found >= 0
    latency[found[hit]] = times[first[hit]] - windows[found[hit], 0]
    return latency


def _hours_outside(track: Track, detector: Detector) -> float:
    total = track.score.size * detector.hop_seconds
    inside = np.diff(np.clip(track.windows, 0.0, total), axis=1).sum()
    return float(total - inside) / SECONDS_PER_HOUR


def block_trials(tracks: Sequence[Track], detector: Detector) -> Trials:
    """Returns trials whose statistics can be resampled: the largest smoothed score of each window and each block.

    Audio outside the windows is cut into blocks of one lock-out period, so that a block can fire about once; the
    track is the group. False accepts per hour agree with `score_stream` up to events that straddle two blocks.

    Raises:
        UsageError: there is no window, or nothing outside the windows.
    """
    rows: list[tuple[bool, float, float, int]] = []
    block = max(round(detector.lockout_seconds / detector.hop_seconds), 1)
    for number, track in enumerate(tracks):
        smoothed = detector.smooth(track.score)
        times: FloatArray = np.arange(smoothed.size) * np.float64(detector.hop_seconds)
        window = _window_of(times, track.windows)
        for first, last in _runs(window, block):
            span = (last - first) * detector.hop_seconds
            rows.append((bool(window[first] >= 0), float(smoothed[first:last].max()), span, number))
    label, score, duration, group = zip(*rows, strict=True) if rows else ((), (), (), ())
    return Trials.of(label, score, duration, group)


def _runs(window: IntArray, block: int) -> list[tuple[int, int]]:
    """Returns frame ranges of constant window; those outside windows are cut to blocks."""
    changes: BoolArray = np.diff(window) != 0
    edges = [0, *(np.flatnonzero(changes) + 1).tolist(), window.size]
    runs = []
    for first, last in pairwise(edges):
        step = last - first if window[first] >= 0 else block
        runs += [(at, min(at + step, last)) for at in range(first, last, step)]
    return runs
