"""What finished rows say: accuracy over folds and seeds, differences and keyword detection, with intervals.

With x[s, i] = 1 where the model of seed s (and of the fold that holds clip i) names clip i rightly:

  (1) accuracy of a seed   mean over all clips, each scored by the model that never heard its speaker
  (2) loss                 mean over s, i of control x - method x, over the seeds complete in both
  (3) its interval         speakers drawn again with Poisson(1) weights, seeds drawn again with replacement,
                           both the same for the two methods; 95 % two-sided, order statistics

Detection pools keywords, folds and seeds: a trial is a clip and a keyword, its score the log odds of that
keyword. phi is the false reject rate of the float control where log odds are at least 0; FRR and FDR are those at
the threshold that gives phi, relative FDR and its interval are those of `kwsq gate` (docs/gate.md, 4, 7 to 10),
speakers drawn again and both thresholds found anew.

Source: (1) to (3) our choice of estimator; the paired cluster bootstrap is common practice.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kwsq.converter.det import count, matched_point
from kwsq.converter.gate.bootstrap import generator, matched_resamples, percentile_bounds
from kwsq.converter.gate.config import band_targets
from kwsq.converter.gate.pairs import PairedTrials
from kwsq.models.table.protocol import Protocol
from kwsq.models.table.rows import KEYWORDS, STEPS_PER_LOG_ODD, FinishedRow, FoldClips, Results

REPLICATES, FEWER_REPLICATES = 2_000, 500
BOUND_CONFIDENCE = 0.975
FRR_BAND = 0.2
DIFFERENCE_STREAM, SEED_STREAM, DETECTION_STREAM = 11, 12, 13
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Cell:
    """All finished rows of a method at one width.

    Args:
        method: name.
        bits: width.
        rows: by seed, then by fold.
        wanted: number of rows the protocol asks for.
        folds: number of folds.
    """

    method: str
    bits: int
    rows: dict[int, dict[int, FinishedRow]]
    wanted: int
    folds: int

    @property
    def finished(self) -> int:
        """Number of finished rows."""
        return sum(len(folds) for folds in self.rows.values())

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds of which every fold is finished, ascending."""
        return tuple(sorted(seed for seed, folds in self.rows.items() if len(folds) == self.folds))

    def all_rows(self) -> list[FinishedRow]:
        """Return every finished row, also those of incomplete seeds."""
        return [row for folds in self.rows.values() for row in folds.values()]


@dataclass(frozen=True, slots=True)
class Difference:
    """A difference with its 95 % interval, and the number of seeds it rests on."""

    value: float
    low: float
    high: float
    seeds: int


@dataclass(frozen=True, slots=True)
class Detection:
    """Pooled keyword detection at the control's false reject rate.

    Args:
        target_frr: phi, that of the float control at log odds 0.
        frr: false reject rate at the threshold found for phi.
        fdr: false discovery rate where FRR is phi.
        relative_fdr: FDR / FDR of the control - 1; None where the control makes no false accept.
    """

    target_frr: float
    frr: float
    fdr: float
    relative_fdr: Difference | None


def cells(protocol: Protocol, results: Results) -> dict[tuple[str, int], Cell]:
    """Return the table's cells, method by method, wide first; rows of other settings are not among them."""
    found = {
        (method.name, bits): Cell(
            method.name, bits, {}, protocol.folds * len(protocol.seeds_of(method, bits)), protocol.folds
        )
        for method in protocol.methods
        for bits in sorted(method.widths, reverse=True)
    }
    for row in protocol.rows():
        if row in results.rows:
            found[row.method, row.bits].rows.setdefault(row.seed, {})[row.fold] = results.rows[row]
    return found


@dataclass(frozen=True, slots=True, eq=False)
class Clips:
    """The clips of all folds, fold after fold: labels and group numbers."""

    folds: tuple[FoldClips, ...]

    @property
    def labels(self) -> NDArray[np.int64]:
        """(n,) classes."""
        return np.concatenate([fold.labels for fold in self.folds])

    @property
    def groups(self) -> NDArray[np.int64]:
        """(n,) numbers of speakers."""
        return np.concatenate([fold.groups for fold in self.folds])

    @classmethod
    def of(cls, results: Results) -> "Clips":
        """Return the clips that a results file states."""
        return cls(tuple(results.folds[fold] for fold in sorted(results.folds)))

    def correct(self, cell: Cell, seed: int) -> Bools:
        """Return (n,) True where the models of a complete seed are right."""
        predicted = [cell.rows[seed][fold.fold].predicted for fold in self.folds]
        return np.asarray(np.concatenate(predicted) == self.labels)


def accuracies(clips: Clips, cell: Cell) -> NDArray[np.float64]:
    """Return the accuracy of each complete seed, equation (1)."""
    return np.array([clips.correct(cell, seed).mean() for seed in cell.seeds], dtype=np.float64)


def loss(
    clips: Clips, reference: Cell, cell: Cell, *, seed: int = 0, without: tuple[int, ...] = ()
) -> Difference | None:
    """Return how much less accurate `cell` is than `reference`, equations (2) and (3); None without a common seed.

    Args:
        clips: that were scored.
        reference: cell that is subtracted from.
        cell: cell that is subtracted.
        seed: of the resampling.
        without: seeds of training to leave out.
    """
    seeds = sorted((set(reference.seeds) & set(cell.seeds)).difference(without))
    if not seeds:
        return None
    worse = np.stack([clips.correct(reference, s).astype(int) - clips.correct(cell, s) for s in seeds])
    code = np.unique(clips.groups, return_inverse=True)[1]
    per_group = np.stack([np.bincount(code, row) for row in worse], axis=1)
    sizes = np.bincount(code)
    weights = generator(seed, DIFFERENCE_STREAM).poisson(1.0, (REPLICATES, sizes.size))
    shares = np.full(len(seeds), 1.0 / len(seeds))
    drawn = generator(seed, SEED_STREAM).multinomial(len(seeds), shares, REPLICATES) / len(seeds)
    resampled = ((weights @ per_group) * drawn).sum(axis=1) / (weights @ sizes)
    low, high = percentile_bounds(resampled, resampled, BOUND_CONFIDENCE)
    return Difference(float(worse.mean()), low, high, len(seeds))


def detection(
    clips: Clips, control: Cell, cell: Cell, *, seed: int = 0, replicates: int = REPLICATES
) -> Detection | None:
    """Return pooled keyword detection of `cell` beside its control; None without a common complete seed.

    Args:
        clips: that were scored.
        control: whose false reject rate at log odds 0 is the target.
        cell: what is held against it.
        seed: of the resampling.
        replicates: drawings of speakers for the interval.
    """
    seeds = sorted(set(control.seeds) & set(cell.seeds))
    if not seeds:
        return None
    pairs = _pairs(clips, control, cell, seeds)
    target = count(pairs.reference, 0.0).false_reject_rate
    assert target is not None, "Trials hold keyword trials"
    point = matched_point(pairs.candidate, target)
    fdr = point.matched.false_discovery_rate
    relative = _relative_fdr(pairs, target, len(seeds), seed, replicates)
    return Detection(target, point.achieved_frr, 0.0 if fdr is None else fdr, relative)


def _pairs(clips: Clips, control: Cell, cell: Cell, seeds: list[int]) -> PairedTrials:
    label = clips.labels[:, None] == np.array(KEYWORDS)
    group = np.repeat(clips.groups[:, None], len(KEYWORDS), axis=1)
    scores = [_scores(clips, each, seeds) for each in (control, cell)]
    repeated = [np.tile(array.reshape(-1), len(seeds)) for array in (label, group)]
    return PairedTrials.of(repeated[0], scores[0], scores[1], 1.0, repeated[1])


def _scores(clips: Clips, cell: Cell, seeds: list[int]) -> NDArray[np.float64]:
    codes = [cell.rows[seed][fold.fold].scores for seed in seeds for fold in clips.folds]
    return np.concatenate(codes).reshape(-1) / STEPS_PER_LOG_ODD


def _relative_fdr(pairs: PairedTrials, target: float, seeds: int, seed: int, replicates: int) -> Difference | None:
    targets = band_targets(target, FRR_BAND)
    trials = (pairs.reference, pairs.candidate)
    accepts = [np.mean([matched_point(side, rate).matched.false_accepts for rate in targets]) for side in trials]
    hits = float(pairs.label.sum()) * (1.0 - float(np.mean(targets)))
    if accepts[0] == 0:
        return None
    drawn = matched_resamples(pairs, targets, replicates, seed, stream=DETECTION_STREAM)
    ratio = _fdr_ratio(drawn.candidate, drawn.reference, drawn.true_accepts)
    low, high = percentile_bounds(
        np.nan_to_num(ratio, nan=-1.0, posinf=np.inf), np.nan_to_num(ratio, nan=np.inf, posinf=np.inf), BOUND_CONFIDENCE
    )
    value = _fdr_ratio(np.array(accepts[1]), np.array(accepts[0]), np.array(hits))
    return Difference(float(value), low, high, seeds)


def _fdr_ratio(
    candidate: NDArray[np.float64], reference: NDArray[np.float64], hits: NDArray[np.float64]
) -> NDArray[np.float64]:
    """FDR / FDR of the reference - 1, at the same true accepts."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray((candidate / (candidate + hits)) / (reference / (reference + hits)) - 1.0)
