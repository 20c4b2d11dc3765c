"""The checks P1 to P5: docs/gate.md, section 4."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from kwsq.converter.det.trials import BoolArray, FloatArray, IntArray
from kwsq.converter.gate.bootstrap import (
    MatchedResamples,
    generator,
    matched_resamples,
    percentile_bounds,
    resampled_totals,
)
from kwsq.converter.gate.comparison import GROUPS_MIN, Comparison
from kwsq.converter.gate.config import PERCENT, GateConfig, band_targets
from kwsq.converter.gate.few_groups import ACCEPTS_LEAST, failing, matched_changes, without_each
from kwsq.converter.gate.intervals import (
    EDWARDS,
    Interval,
    difference_interval,
    mcnemar_mid_p,
    normal_quantile,
    ratio_interval,
)
from kwsq.converter.gate.verdict import Check, Status, judged

P1_STREAM, P2_STREAM, P3_STREAM, P4_STREAM, P5_STREAM = range(1, 6)
LATENCY_QUANTILE = 0.95
DETECTIONS_MIN = 100
"""Fewer shared detections leave fewer than five beyond the 95th percentile."""


def matched_checks(comparison: Comparison) -> tuple[Check, Check]:
    """Returns P1: false accepts and false discovery rate where both models reject equally many keywords."""
    config, target = comparison.config, comparison.target_frr
    accepts = _blank("P1.fa_ratio", "false accepts at matched false reject rate", "ratio", "fa_ratio_margin", config)
    share = _blank("P1.relative_fdr", "false discovery rate at matched FRR", "ratio", "relative_fdr_margin", config)
    reason, needed = comparison.matched_obstacle()
    if reason:
        found = replace(accepts, reason=reason, needed=needed), replace(share, reason=reason, needed=needed)
        # The obstacles come in order: this one means that the others are out of the way.
        return _few_matched(comparison, found) if reason == comparison.few_groups() else found
    targets = band_targets(target, config.frr_band)
    drawn = matched_resamples(comparison.pairs, targets, config.replicates, config.seed, stream=P1_STREAM)
    hits = comparison.positives * (1.0 - target)
    shares = [fa / (fa + hits) for fa in comparison.accepts]
    method = _bootstrap_method(comparison) + ", thresholds estimated again in each"
    floor = normal_quantile(config.confidence) ** 2 / comparison.accepts[0]
    return (
        _ratio(
            replace(accepts, method=method), comparison, comparison.accepts, (drawn.reference, drawn.candidate), floor
        ),
        _ratio(replace(share, method=method), comparison, (shares[0], shares[1]), _discovery(drawn), floor),
    )


def _few_matched(comparison: Comparison, checks: tuple[Check, Check]) -> tuple[Check, Check]:
    """Returns P1 of few groups: FAIL or open."""
    pairs, config = comparison.pairs, comparison.config
    changes = matched_changes(pairs, comparison.target_frr, config.frr_band)
    points = changes(np.ones(pairs.label.size, np.bool_))
    values = np.array([changes(pairs.cluster != group) for group in np.unique(pairs.cluster)])
    first, second = (
        failing(_counted(check, comparison), points[i], values[:, i], config.confidence, ratio=True)
        for i, check in enumerate(checks)
    )
    return first, second


def _discovery(drawn: MatchedResamples) -> tuple[FloatArray, FloatArray]:
    with np.errstate(invalid="ignore"):
        reference = drawn.reference / (drawn.reference + drawn.true_accepts)
        return reference, drawn.candidate / (drawn.candidate + drawn.true_accepts)


def _ratio(
    check: Check,
    comparison: Comparison,
    measured: tuple[float, float],
    drawn: tuple[FloatArray, FloatArray],
    floor: float,
) -> Check:
    """Returns the verdict on a ratio, with bounds no nearer than events without any disagreement would allow (15)."""
    point = measured[1] / measured[0] - 1.0
    lower, upper = _ratio_bounds(*drawn, comparison.config.confidence)
    lower, upper = min(lower, point - floor), max(upper, (1.0 + point) * (1.0 + floor) - 1.0)
    found = replace(check, point=point, lower=_finite(lower), upper=_finite(upper))
    return _settled(found, comparison)


def _ratio_bounds(reference: FloatArray, candidate: FloatArray, confidence: float) -> tuple[float, float]:
    with np.errstate(divide="ignore", invalid="ignore"):
        change = candidate / reference - 1.0
    undefined = np.isnan(change)
    return percentile_bounds(np.where(undefined, -1.0, change), np.where(undefined, np.inf, change), confidence)


def frozen_frr_check(comparison: Comparison) -> Check:
    """Returns P2: the false reject rate when the candidate runs at the reference's threshold."""
    config, label = comparison.config, comparison.pairs.label
    check = _blank("P2.frr", "false reject rate at the reference's threshold", "fraction", "frr_margin_pp", config)
    before, after = (score[label] < comparison.threshold for score in comparison.pairs.scores())
    group = comparison.pairs.reference.group
    return _difference(check, comparison, before, after, None if group is None else group[label], P2_STREAM)


@dataclass(frozen=True, slots=True, eq=False)
class Classified:
    """Which samples were classified rightly.

    Args:
        reference: (n,) by the reference.
        candidate: (n,) by the candidate.
        group: (n,) speaker or recording of each sample, None when samples are independent.
    """

    reference: BoolArray
    candidate: BoolArray
    group: IntArray | None = None


def accuracy_checks(comparison: Comparison, classified: Classified) -> list[Check]:
    """Returns P4: loss of top-1 accuracy, and the floor where one is set."""
    config, reference, candidate = comparison.config, classified.reference, classified.candidate
    check = _blank("P4.top1", "loss of top-1 accuracy", "fraction", "accuracy_margin_pp", config)
    lost = _difference(check, comparison, ~reference, ~candidate, classified.group, P4_STREAM)
    p = mcnemar_mid_p(int((reference & ~candidate).sum()), int((candidate & ~reference).sum()))
    found = [replace(lost, method=f"{lost.method}; for information, McNemar mid-p {p:.3g}")]
    if config.min_accuracy is not None:
        found.append(accuracy_floor(float(candidate.mean()), config))
    return found


def accuracy_floor(accuracy: float, config: GateConfig) -> Check:
    """Returns whether the candidate's top-1 accuracy reaches the floor; counted, not estimated."""
    shortfall = (config.min_accuracy or 0.0) - accuracy
    floor = _blank("P4.min_accuracy", "top-1 accuracy below the floor", "fraction", "min_accuracy", config)
    status = Status.FAIL if shortfall > 0 else Status.PASS
    return replace(
        floor, margin=0.0, point=shortfall, lower=shortfall, upper=shortfall, status=status, method="counted"
    )


def _difference(
    check: Check, comparison: Comparison, before: BoolArray, after: BoolArray, group: IntArray | None, stream: int
) -> Check:
    """Returns the verdict on the increase of a proportion of paired trials."""
    config = comparison.config
    gained, lost = int((after & ~before).sum()), int((before & ~after).sum())
    check = replace(check, point=(gained - lost) / before.size, method="Tango score interval")
    bounds = difference_interval(gained, lost, before.size, config.confidence, EDWARDS)
    if group is not None:
        change = after.astype(np.int64) - before.astype(np.int64)
        if np.unique(group).size < GROUPS_MIN:
            reason = f"{np.unique(group).size} groups; resampling needs {GROUPS_MIN}"
            values = without_each(group, lambda kept: float(change[kept].mean()))
            point, check = float(change.mean()), replace(check, reason=reason, positives=before.size)
            return failing(check, point, values, config.confidence, ratio=False)
        rows = np.stack([change, np.ones_like(change)], axis=1)
        drawn = resampled_totals(rows, group, config.replicates, config.seed, stream=stream)
        rates = drawn[:, 0] / np.maximum(drawn[:, 1], 1.0)
        bounds = bounds.widened(Interval(*percentile_bounds(rates, rates, config.confidence)))
        check = replace(check, method=f"{_bootstrap_method(comparison)}, no narrower than the {check.method}")
    found = replace(check, lower=bounds.lower, upper=bounds.upper)
    return judged(replace(found, positives=before.size), config.confidence)


def frozen_accepts_check(comparison: Comparison) -> Check:
    """Returns P3: false accepts when the candidate runs at the reference's threshold."""
    config, chosen = comparison.config, ~comparison.pairs.label
    question = "false accepts at the reference's threshold"
    check = _blank("P3.fa_ratio", question, "ratio", "fa_ratio_margin", config)
    before, after = (score[chosen] >= comparison.threshold for score in comparison.pairs.scores())
    common, gained, lost = int((before & after).sum()), int((after & ~before).sum()), int((before & ~after).sum())
    reason = comparison.few_groups()
    if common + lost == 0 or reason:
        empty = "the reference makes no false accept here: a ratio has no meaning"
        if common + lost == 0:
            return replace(check, reason=empty, needed=comparison.for_false_accepts())
        cluster = comparison.pairs.cluster[chosen]
        values = without_each(cluster, lambda kept: _frozen_change(before[kept], after[kept]))
        check = _counted(replace(check, reason=reason), comparison)
        return failing(check, _frozen_change(before, after), values, config.confidence, ratio=True)
    score = ratio_interval(common, gained, lost, config.confidence, EDWARDS)
    rows = np.stack([before, after], axis=1).astype(np.int64)
    drawn = resampled_totals(rows, comparison.pairs.cluster[chosen], config.replicates, config.seed, stream=P3_STREAM)
    lower, upper = _ratio_bounds(drawn[:, 0], drawn[:, 1], config.confidence)
    bounds = Interval(lower, upper).widened(Interval(score.lower - 1.0, score.upper - 1.0))
    found = replace(
        check,
        point=(common + gained) / (common + lost) - 1.0,
        lower=_finite(bounds.lower),
        upper=_finite(bounds.upper),
        method=f"{_bootstrap_method(comparison)}, no narrower than the Tang score interval",
    )
    settled = _settled(found, comparison)
    if settled.status is Status.INCONCLUSIVE and settled.needed is None:
        return replace(settled, needed=comparison.for_false_accepts())
    return settled


def _frozen_change(before: BoolArray, after: BoolArray) -> float:
    accepts = int(before.sum())
    return int(after.sum()) / accepts - 1.0 if accepts >= ACCEPTS_LEAST else math.nan


def latency_check(
    reference_seconds: FloatArray,
    candidate_seconds: FloatArray,
    hop_seconds: float,
    config: GateConfig,
    group: IntArray | None = None,
) -> Check:
    """Returns P5: how much later the candidate detects the same keywords.

    Args:
        reference_seconds: (k,) latency of each keyword, NaN where missed.
        candidate_seconds: (k,) latency of each keyword, NaN where missed.
        hop_seconds: time between two scores.
        config: settings.
        group: (k,) recording of each keyword.
    """
    question = "95th percentile of the detection latency's shift"
    check = _blank("P5.latency", question, "seconds", "latency_margin_hops", config)
    check = replace(check, margin=config.latency_margin_hops * hop_seconds)
    both = np.isfinite(reference_seconds) & np.isfinite(candidate_seconds)
    shift = (candidate_seconds - reference_seconds)[both]
    cluster = np.flatnonzero(both) if group is None else group[both]
    groups, code = np.unique(cluster, return_inverse=True)
    if shift.size < DETECTIONS_MIN or groups.size < GROUPS_MIN:
        found = f"{shift.size} keywords found by both models in {groups.size} recordings"
        return replace(check, reason=f"{found}; {DETECTIONS_MIN} in {GROUPS_MIN} are needed")
    order = np.argsort(shift, kind="stable")
    weights = generator(config.seed, P5_STREAM).poisson(1.0, (config.replicates, groups.size))[:, code[order]]
    drawn = _weighted_quantile(shift[order], weights)
    lower, upper = percentile_bounds(drawn, drawn, config.confidence)
    point = float(_weighted_quantile(shift[order], np.ones((1, shift.size), np.int64))[0])
    method = f"bootstrap of {config.replicates} resamples"
    # Half a millionth of a hop: times are multiples of the hop that were added up.
    slack = 5e-7 * hop_seconds
    found_check = replace(check, point=point, lower=lower, upper=upper - slack, method=method)
    return judged(replace(found_check, positives=shift.size), config.confidence)


def _weighted_quantile(ascending: FloatArray, weights: IntArray) -> FloatArray:
    total = np.cumsum(weights, axis=1)
    at = (total < np.ceil(LATENCY_QUANTILE * total[:, -1:])).sum(axis=1)
    result: FloatArray = ascending[np.minimum(at, ascending.size - 1)]
    return result


def skipped(check_id: str, question: str, reason: str) -> Check:
    """Returns a check that was not asked."""
    return Check(check_id, question, "", 0.0, "", None, None, None, Status.SKIPPED, "", reason)


def _blank(check_id: str, question: str, unit: str, setting: str, config: GateConfig) -> Check:
    margin = margin_of(setting, config)
    return Check(check_id, question, unit, margin, setting, None, None, None, Status.INCONCLUSIVE, "")


def margin_of(setting: str, config: GateConfig) -> float:
    """Returns a margin in the unit of its check: percentage points become fractions."""
    value = float(getattr(config, setting) or 0.0)
    return value / PERCENT if setting.endswith("_pp") else value


def _counted(check: Check, comparison: Comparison) -> Check:
    return replace(check, positives=comparison.positives, negatives=comparison.negatives)


def _settled(check: Check, comparison: Comparison) -> Check:
    return judged(_counted(check, comparison), comparison.config.confidence)


def _bootstrap_method(comparison: Comparison) -> str:
    unit = "groups" if comparison.pairs.is_clustered else "trials"
    return f"paired bootstrap, {comparison.config.replicates} resamples of {unit}"


def _finite(bound: float) -> float | None:
    return bound if math.isfinite(bound) else None
