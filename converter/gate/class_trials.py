"""Trials from the class scores of two models: log odds of the keyword class, clip by clip or along recordings."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kwsq.converter.det.saturation import BYTE_LEVELS, is_probability
from kwsq.converter.det.trials import BoolArray, FloatArray, IntArray
from kwsq.converter.gate.checks import Classified
from kwsq.converter.gate.columns import Columns
from kwsq.converter.gate.config import GateConfig
from kwsq.converter.gate.pairs import PairedTrials
from kwsq.converter.gate.streams import StreamPair, detector_of, stream_pair
from kwsq.ir.errors import Problem, UsageError


@dataclass(frozen=True, slots=True, eq=False)
class ClassTrials:
    """What the gate is asked about two models of classes.

    Args:
        pairs: their trials.
        classified: which samples each classifies rightly.
        streams: their scores along recordings, None for clips.
    """

    pairs: PairedTrials
    classified: Classified
    streams: StreamPair | None = None


def class_trials(
    scores: tuple[FloatArray, FloatArray],
    right: tuple[BoolArray, BoolArray],
    labels: IntArray,
    columns: Columns,
    config: GateConfig,
) -> ClassTrials:
    """Returns the trials of reference and candidate.

    Args:
        scores: (n, classes) logits, or probabilities of a softmax, of each model.
        right: (n,) whether each model's class is the labelled one.
        labels: (n,) classes.
        columns: speaker, length and recording of each sample.
        config: for the keyword classes and the detector.

    Raises:
        UsageError: the models' classes differ or do not fit the labels, or a class is empty.
    """
    check_classes(scores, labels, config.keywords)
    classes = config.keywords or tuple(sorted(set(labels.tolist())))
    odds = ([log_odds(scores[0], c) for c in classes], [log_odds(scores[1], c) for c in classes])
    if columns.recording is not None and columns.hop_seconds is not None:
        detector = detector_of(columns.hop_seconds, config.smoothing_frames, config.lockout_seconds)
        group = columns.recording if columns.group is None else columns.group
        marked = [labels == c for c in classes]
        streams = stream_pair(odds, marked, columns.recording, columns.group, detector)
        return ClassTrials(streams.trials(), Classified(*right, group), streams)
    pairs = _pooled(odds, labels, classes, columns)
    return ClassTrials(pairs, Classified(*right, columns.group))


def check_classes(scores: tuple[FloatArray, FloatArray], labels: IntArray, keywords: tuple[int, ...]) -> None:
    """Checks that both models and the labels speak of the same classes.

    Raises:
        UsageError: they do not.
    """
    counts = [each.shape[1] for each in scores]
    if counts[0] != counts[1] or counts[0] < 2:
        found = f"{counts[0]} and {counts[1]} outputs"
        raise UsageError(Problem("models", found, "the same classes, at least two", "name two models of one task"))
    if labels.max(initial=0) >= counts[0]:
        found = f"labels up to {int(labels.max())} for {counts[0]} classes"
        raise UsageError(Problem("--data, labels 'y'", found, "one class per output", "check the labels"))
    wrong = [keyword for keyword in keywords if not 0 <= keyword < counts[0]]
    if wrong:
        raise UsageError(Problem("--keyword", str(wrong[0]), f"0 to {counts[0] - 1}", "correct the class"))


def log_odds(outputs: FloatArray, keyword: int) -> FloatArray:
    """Returns the log odds of a class against all others; docs/gate.md (11).

    Args:
        outputs: (n, classes) logits, or the probabilities of a softmax: both give the same odds.
        keyword: the class.
    """
    others = np.delete(outputs, keyword, axis=1)
    if is_probability(outputs):
        # 0 has no logarithm; half the smallest share seen keeps the order.
        least = 0.5 * float(outputs[outputs > 0].min())
        odds = np.log(np.maximum(outputs[:, keyword], least)) - np.log(np.maximum(others.sum(axis=1), least))
        return np.asarray(odds, np.float64)
    top = others.max(axis=1)
    return np.asarray(outputs[:, keyword] - top - np.log(np.exp(others - top[:, None]).sum(axis=1)))


def softmax_lint(outputs: FloatArray) -> str | None:
    """Returns what is wrong with scores that are probabilities in byte steps, None if nothing."""
    levels = int(np.unique(outputs).size)
    if not is_probability(outputs) or levels > BYTE_LEVELS:
        return None
    return f"its softmax has {levels} levels: scores saturate; gate a model that emits logits (--drop-softmax)"


def _pooled(
    odds: tuple[list[FloatArray], list[FloatArray]], labels: IntArray, classes: tuple[int, ...], columns: Columns
) -> PairedTrials:
    """Returns a trial per sample and keyword; those of one sample are never independent, so they form a group."""
    label = np.concatenate([labels == keyword for keyword in classes])
    group = columns.group
    if group is None and len(classes) > 1:
        group = np.arange(labels.size)
    groups = None if group is None else np.tile(group, len(classes))
    durations = np.tile(columns.duration_seconds, len(classes))
    return PairedTrials.of(label, np.concatenate(odds[0]), np.concatenate(odds[1]), durations, groups)
