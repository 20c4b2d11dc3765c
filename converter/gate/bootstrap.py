"""Paired cluster bootstrap: groups of trials are drawn again, the same ones for both models.

Every group gets a Poisson(1) weight per resample: independent groups then need no common total, so those that cannot
matter (keywords far above every threshold, other trials far below) are drawn as one sum per size, which is the same
distribution. What remains are the few trials near the thresholds; that makes 300,000 trials a matter of a second.
All sums are of integers, so they are exact and the same on every machine.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kwsq.converter.det.operating_point import COUNT_SLACK
from kwsq.converter.det.trials import FloatArray, IntArray
from kwsq.converter.gate.pairs import PairedTrials

CHUNK_ELEMENTS = 2**21
_SPREAD_SIGMAS = 5.0
_SPREAD_MIN = 5


def generator(seed: int, stream: int) -> np.random.Generator:
    """Returns the random numbers of one purpose: Philox, keyed by seed and purpose."""
    return np.random.Generator(np.random.Philox(key=np.array([seed, stream], np.uint64)))


@dataclass(frozen=True, slots=True, eq=False)
class MatchedResamples:
    """Errors of both models at the matched false reject rate, thresholds found anew in each resample.

    Args:
        reference: (b,) false accepts of the reference.
        candidate: (b,) false accepts of the candidate.
        true_accepts: (b,) true accepts, the same for both at equal false reject rate.
    """

    reference: FloatArray
    candidate: FloatArray
    true_accepts: FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class _Side:
    """One model near its threshold.

    Args:
        keywords: indices of the lowest-scored keyword trials, ascending by score.
        first: (m,) position of the first keyword with the same score.
        last: (m,) position of the last one.
        others: indices of the highest-scored other trials, descending by score.
        above: (m,) how many of `others` score above each keyword.
        from_tie: (m,) how many score above or equal.
        low: position of the lowest keyword for which `others` is complete.
    """

    keywords: IntArray
    first: IntArray
    last: IntArray
    others: IntArray
    above: IntArray
    from_tie: IntArray
    low: int


class _TooNarrowError(Exception):
    """A threshold left the trials that were kept."""


def matched_resamples(
    pairs: PairedTrials, targets: tuple[float, ...], replicates: int, seed: int, *, stream: int = 1
) -> MatchedResamples:
    """Returns bootstrap resamples with the thresholds of both models estimated again in each.

    Args:
        pairs: trials of both models.
        targets: false reject rates over which false accepts are averaged, ascending; one for none.
        replicates: number of resamples.
        seed: of the Philox generator.
        stream: second word of its key, one per purpose.
    """
    positives = int(pairs.label.sum())
    per_group = positives / max(np.unique(pairs.cluster[pairs.label]).size, 1)
    spread = math.ceil(_SPREAD_SIGMAS * math.sqrt(targets[-1] * positives * per_group)) + _SPREAD_MIN
    while True:
        kept = _Kept.around(pairs, targets, spread)
        try:
            return kept.bootstrap(generator(seed, stream), replicates)
        except _TooNarrowError:
            spread *= 2


@dataclass(frozen=True, slots=True, eq=False)
class _Kept:
    """The trials near the thresholds of either model.

    Args:
        sides: reference and candidate.
        targets: false reject rates averaged over.
        cluster: (n,) position of each trial's group among the kept groups, -1 elsewhere.
        keywords_of: (g,) keyword trials of each kept group.
        rest_sizes: distinct numbers of keyword trials of the other groups.
        rest_counts: how many groups there are of each size.
    """

    sides: tuple[_Side, _Side]
    targets: tuple[float, ...]
    cluster: IntArray
    keywords_of: IntArray
    rest_sizes: IntArray
    rest_counts: IntArray

    @classmethod
    def around(cls, pairs: PairedTrials, targets: tuple[float, ...], spread: int) -> _Kept:
        positives = int(pairs.label.sum())
        first, end = math.floor(targets[0] * positives) - spread, math.ceil(targets[-1] * positives) + spread
        sides = tuple(_side(scores, pairs.label, first, end) for scores in pairs.scores())
        clusters, code = np.unique(pairs.cluster, return_inverse=True)
        used = np.unique(code[np.concatenate([part for s in sides for part in (s.keywords, s.others)])])
        position = np.full(clusters.size, -1, np.int64)
        position[used] = np.arange(used.size)
        keywords_of = np.bincount(code[pairs.label], minlength=clusters.size).astype(np.int64)
        rest = np.flatnonzero(position < 0)
        sizes, counts = np.unique(keywords_of[rest], return_counts=True)
        return cls((sides[0], sides[1]), targets, position[code], keywords_of[used], sizes, counts)

    def bootstrap(self, rng: np.random.Generator, replicates: int) -> MatchedResamples:
        width = self.keywords_of.size + sum(side.keywords.size + side.others.size for side in self.sides)
        rows = max(CHUNK_ELEMENTS // max(width, 1), 1)
        parts = []
        for start in range(0, replicates, rows):
            count = min(rows, replicates - start)
            weights = rng.poisson(1.0, (count, self.keywords_of.size))
            rest = rng.poisson(np.broadcast_to(self.rest_counts, (count, self.rest_counts.size))) @ self.rest_sizes
            parts.append(self._resample(weights, rest))
        return _joined(parts)

    def _resample(self, weights: IntArray, rest: IntArray) -> MatchedResamples:
        keywords = weights @ self.keywords_of + rest
        accepts = [self._false_accepts(side, weights, keywords) for side in self.sides]
        return MatchedResamples(accepts[0], accepts[1], keywords * (1.0 - np.mean(self.targets)))

    def _false_accepts(self, side: _Side, weights: IntArray, keywords: IntArray) -> FloatArray:
        """Returns weighted false accepts of each resample, as `matched_point` defines them, averaged over targets."""
        rejected = np.cumsum(weights[:, self.cluster[side.keywords]], axis=1)
        accepted = np.zeros((keywords.size, side.others.size + 1), np.int64)
        np.cumsum(weights[:, self.cluster[side.others]], axis=1, out=accepted[:, 1:])
        parts = [_accepts_at(side, rejected, accepted, keywords, target) for target in self.targets]
        # A resample without a single keyword has no threshold.
        return np.where(keywords > 0, np.mean(parts, axis=0), np.nan)


def _accepts_at(side: _Side, rejected: IntArray, accepted: IntArray, keywords: IntArray, target: float) -> FloatArray:
    """Returns false accepts where a share `target` of the keywords is rejected.

    Args:
        side: the trials kept.
        rejected: (b, m) weight of the keywords up to each one.
        accepted: (b, k + 1) weight of the k highest other trials.
        keywords: (b,) weight of all keywords.
        target: false reject rate.
    """
    allowed = target * keywords
    at = (rejected <= allowed[:, None] + COUNT_SLACK).sum(axis=1)
    at[keywords == 0] = side.low
    if (at >= side.keywords.size).any() or (at < side.low).any():
        raise _TooNarrowError
    row = np.arange(at.size)
    upto = rejected[row, side.last[at]]
    before = np.where(side.first[at] > 0, rejected[row, side.first[at] - 1], 0)
    share = np.clip((allowed - before) / np.maximum(upto - before, 1), 0.0, 1.0)
    above, from_tie = accepted[row, side.above[at]], accepted[row, side.from_tie[at]]
    result: FloatArray = from_tie - share * (from_tie - above)
    return result


def _side(score: FloatArray, label: npt.NDArray[np.bool_], first: int, end: int) -> _Side:
    """Returns the trials around the keywords of rank `first` to `end`, whole ties."""
    keyword_index, other_index = np.flatnonzero(label), np.flatnonzero(~label)
    order = keyword_index[np.argsort(score[keyword_index], kind="stable")]
    ascending = score[order]
    end = int(np.searchsorted(ascending, ascending[min(end, order.size) - 1], "right"))
    low = int(np.searchsorted(ascending, ascending[max(first, 0)], "left"))
    levels, kept = ascending[:end], other_index[score[other_index] >= ascending[low]]
    others = kept[np.argsort(-score[kept], kind="stable")]
    rising = np.sort(score[others])
    return _Side(
        keywords=order[:end],
        first=np.searchsorted(levels, levels, "left"),
        last=np.searchsorted(levels, levels, "right") - 1,
        others=others,
        above=others.size - np.searchsorted(rising, levels, "right"),
        from_tie=others.size - np.searchsorted(rising, levels, "left"),
        low=low,
    )


def _joined(parts: list[MatchedResamples]) -> MatchedResamples:
    return MatchedResamples(
        np.concatenate([part.reference for part in parts]),
        np.concatenate([part.candidate for part in parts]),
        np.concatenate([part.true_accepts for part in parts]),
    )


def resampled_totals(rows: IntArray, cluster: IntArray, replicates: int, seed: int, *, stream: int) -> FloatArray:
    """Returns (b, k) totals of per-trial counts over resampled groups.

    Args:
        rows: (n, k) integer counts of each trial.
        cluster: (n,) group of each trial.
        replicates: number of resamples b.
        seed: of the Philox generator.
        stream: second word of its key.
    """
    _, code = np.unique(cluster, return_inverse=True)
    per_group = np.stack([np.bincount(code, column) for column in rows.T], axis=1).astype(np.int64)
    # Equal groups are drawn together: a sum of c Poisson(1) weights is Poisson(c). One number per row sorts fast.
    offset = per_group - per_group.min(axis=0)
    key = np.ravel_multi_index(tuple(offset.T), tuple(offset.max(axis=0) + 1))
    _, first, counts = np.unique(key, return_index=True, return_counts=True)
    kinds = per_group[first]
    drawn = generator(seed, stream).poisson(np.broadcast_to(counts, (replicates, counts.size)))
    totals: FloatArray = drawn.astype(np.float64) @ kinds
    return totals


def percentile_bounds(low: FloatArray, high: FloatArray, confidence: float) -> tuple[float, float]:
    """Returns one-sided bounds as order statistics: no interpolation, so infinite values do no harm.

    Args:
        low: resampled statistics, undefined ones at their smallest.
        high: the same, undefined ones at their largest.
        confidence: of each bound.
    """
    n = low.size
    rank = min(math.ceil(confidence * (n + 1)), n)
    return float(np.partition(low, n - rank)[n - rank]), float(np.partition(high, rank - 1)[rank - 1])
