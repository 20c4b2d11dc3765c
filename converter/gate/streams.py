"""Continuous audio scored by two models: trials for the error rates, and detection times for the latency."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kwsq.converter.det import Detector, Track, block_trials, score_stream
from kwsq.converter.det.trials import BoolArray, FloatArray, IntArray
from kwsq.converter.gate.pairs import PairedTrials
from kwsq.ir.errors import Problem, UsageError


@dataclass(frozen=True, slots=True, eq=False)
class StreamPair:
    """The same recordings scored by both models, once per keyword.

    Args:
        reference: tracks with the reference's scores.
        candidate: the same tracks with the candidate's.
        group: (t,) number of the speaker or recording of each track.
        detector: smoothing and lock-out.
    """

    reference: tuple[Track, ...]
    candidate: tuple[Track, ...]
    group: IntArray
    detector: Detector

    @property
    def is_identical(self) -> bool:
        """Whether both models gave every hop the same score; equal trials, which are maxima, do not say so."""
        tracks = zip(self.reference, self.candidate, strict=True)
        return all(np.array_equal(first.score, second.score) for first, second in tracks)

    def trials(self) -> PairedTrials:
        """Returns a trial per keyword window and per lock-out period outside of them.

        Raises:
            UsageError: there is no keyword, or nothing else.
        """
        first, second = block_trials(self.reference, self.detector), block_trials(self.candidate, self.detector)
        assert first.group is not None, "block_trials names the tracks"
        assert second.group is not None, "block_trials names the tracks"
        group = self.group[first.group]
        return PairedTrials.of(first.label, first.score, second.score, first.duration_seconds, group)

    def latencies(self, threshold: float) -> tuple[FloatArray, FloatArray, IntArray]:
        """Returns the seconds each keyword takes to be found, NaN where missed, and its group.

        Args:
            threshold: the reference's, for both models.
        """
        found = [score_stream(tracks, self.detector, threshold) for tracks in (self.reference, self.candidate)]
        group = np.repeat(self.group, [len(track.windows) for track in self.reference])
        return found[0].latency_seconds, found[1].latency_seconds, group


def stream_pair(
    scores: tuple[list[FloatArray], list[FloatArray]],
    is_keyword: list[BoolArray],
    recording: IntArray,
    group: IntArray | None,
    detector: Detector,
) -> StreamPair:
    """Returns the tracks of every recording and keyword.

    Args:
        scores: for reference and candidate, (n,) scores per keyword.
        is_keyword: per keyword, (n,) whether each hop is one in which a detection counts.
        recording: (n,) recording of each hop, each in one piece.
        group: (n,) speaker of each hop, None to take recordings as independent.
        detector: smoothing, lock-out and hop.

    Raises:
        UsageError: a score is not finite.
    """
    starts = np.flatnonzero(np.diff(recording, prepend=recording[0] - 1))
    pieces = [slice(a, b) for a, b in zip(starts, [*starts[1:], recording.size], strict=True)]
    tracks: tuple[list[Track], list[Track]] = ([], [])
    groups = []
    for keyword, chosen in enumerate(is_keyword):
        for piece in pieces:
            windows = keyword_windows(chosen[piece], detector.hop_seconds)
            for model in range(2):
                tracks[model].append(Track.of(scores[model][keyword][piece], windows))
            groups.append((recording if group is None else group)[piece.start])
    return StreamPair(tuple(tracks[0]), tuple(tracks[1]), np.array(groups, np.int64), detector)


def keyword_windows(chosen: BoolArray, hop_seconds: float) -> list[tuple[float, float]]:
    """Returns start and end of each run of marked hops; the end is half a hop late, so that rounding loses none.

    >>> keyword_windows(np.array([False, True, True, False]), 0.5)
    [(0.5, 1.25)]
    """
    edges = np.flatnonzero(np.diff(np.concatenate([[False], chosen, [False]]).astype(np.int8)))
    return [(float(a * hop_seconds), float((b - 0.5) * hop_seconds)) for a, b in edges.reshape(-1, 2)]


def detector_of(hop_seconds: float, smoothing_frames: int, lockout_seconds: float) -> Detector:
    """Returns the detector of the settings.

    Raises:
        UsageError: the lock-out is shorter than a hop, so that every hop of a word would be a detection of its own.
    """
    if lockout_seconds < hop_seconds:
        found, expected = f"{lockout_seconds} s", f"at least a hop, {hop_seconds} s"
        raise UsageError(Problem("gate setting lockout_seconds", found, expected, "correct the value"))
    return Detector(hop_seconds, smoothing_frames, lockout_seconds)
