"""How well a keyword is detected: the share missed at a stated rate of false accepts, with an interval by speaker.

A trial is a clip; its score the log odds of the keyword (docs/gate.md, 11), so that one threshold serves any number
of classes. Of P clips that say the keyword and N that do not,

  (1) FRR at FAR f = min over thresholds tau with #{others >= tau} <= f N of #{keywords < tau} / P

For the 95 % interval, speakers are drawn again with Poisson(1) weights, every clip of background noise on its own,
and the threshold is found anew in each resample; the bounds are order statistics.

Source: (1) our choice where equal scores or few clips give no threshold of exactly that rate; the cluster bootstrap
is that of docs/gate.md, 3.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kwsq.converter.det import Trials
from kwsq.converter.det.operating_point import COUNT_SLACK
from kwsq.converter.gate.bootstrap import CHUNK_ELEMENTS, generator, percentile_bounds
from kwsq.converter.gate.class_trials import log_odds
from kwsq.ir.errors import Problem, UsageError
from kwsq.models.data.clips import LabelledFeatures
from kwsq.models.data.folds import clip_groups

REPLICATES = 2_000
BOUND_CONFIDENCE = 0.975
MISS_STREAM = 21
Counts = NDArray[np.integer]


@dataclass(frozen=True, slots=True)
class MissRate:
    """FRR at a rate of false accepts, equation (1), with its 95 % interval.

    Args:
        false_accept_rate: f asked for, a fraction as FRR and its bounds are.
        value: FRR.
        low: lower bound.
        high: upper bound.
        keywords: P.
        others: N.
    """

    false_accept_rate: float
    value: float
    low: float
    high: float
    keywords: int
    others: int


def keyword_trials(logits: NDArray[np.floating], clips: LabelledFeatures, keyword: int) -> Trials:
    """Return the trials of one keyword, grouped by speaker.

    Args:
        logits: (N, classes).
        clips: N clips.
        keyword: its class.

    Returns:
        N trials, the score log odds in float64.

    Raises:
        UsageError: no clip says the keyword, or all do.
    """
    scores = log_odds(np.asarray(logits, dtype=np.float64), keyword)
    return Trials.of(clips.labels == keyword, scores, group=np.array(clip_groups(clips)))


def miss_rate(trials: Trials, false_accept_rate: float, *, seed: int = 0) -> MissRate:
    """Return FRR at a rate of false accepts, equation (1), with its interval.

    Args:
        trials: scores of one detector.
        false_accept_rate: f, a fraction.
        seed: of the resamples.

    Raises:
        UsageError: the rate is not from 0 to 1.
    """
    if not 0.0 <= false_accept_rate <= 1.0:
        expected, remedy = "a fraction from 0 to 1", "1 % is written 0.01"
        raise UsageError(Problem("false accept rate", repr(false_accept_rate), expected, remedy))
    order = np.argsort(-trials.score, kind="stable")
    falling = Trials.of(trials.label[order], trials.score[order])
    group = order if trials.group is None else trials.group[order]
    value = _miss_rates(falling, np.ones((1, order.size), np.int64), false_accept_rate)
    drawn = np.concatenate(
        [_miss_rates(falling, weights[:, group], false_accept_rate) for weights in _resamples(group, seed)]
    )
    # A resample without a keyword has no rate: at the lower end it counts as none missed, at the upper as all.
    low, high = percentile_bounds(np.nan_to_num(drawn, nan=0.0), np.nan_to_num(drawn, nan=1.0), BOUND_CONFIDENCE)
    sizes = int(trials.label.sum()), int((~trials.label).sum())
    return MissRate(false_accept_rate, float(value[0]), low, high, *sizes)


def _resamples(group: NDArray[np.int64], seed: int) -> Iterator[Counts]:
    """Draw (b, groups) weights, as many rows at a time as memory holds of their (b, n) trials."""
    rng, rows = generator(seed, MISS_STREAM), max(CHUNK_ELEMENTS // group.size, 1)
    for first in range(0, REPLICATES, rows):
        yield rng.poisson(1.0, (min(rows, REPLICATES - first), int(group.max()) + 1))


def _miss_rates(falling: Trials, weights: Counts, false_accept_rate: float) -> NDArray[np.float64]:
    """Equation (1) for each row of (b, n) weights of n trials, best scores first."""
    hits, accepts = np.cumsum(weights * falling.label, axis=1), np.cumsum(weights * ~falling.label, axis=1)
    # A threshold accepts every clip of its score, so that only the last of equal ones can be one.
    ends = np.append(falling.score[1:] != falling.score[:-1], True)
    is_allowed = ends & (accepts <= false_accept_rate * accepts[:, -1:] + COUNT_SLACK)
    found = np.where(is_allowed, hits, 0).max(axis=1)
    with np.errstate(invalid="ignore"):
        return np.asarray(1.0 - found / hits[:, -1])
