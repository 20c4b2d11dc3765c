"""Speaker-disjoint folds: every clip is scored once, by a model that never heard its speaker."""

import numpy as np
from numpy.typing import NDArray

from kwsq.ir.errors import Problem, UsageError
from kwsq.models.data.clips import LabelledFeatures


def clip_groups(examples: LabelledFeatures) -> tuple[str, ...]:
    """Return the group of each clip: its speaker; background noise has no voice, each clip is its own group."""
    pairs = zip(examples.speakers, examples.is_noise, strict=True)
    return tuple(f"{who}/{clip}" if is_noise else who for clip, (who, is_noise) in enumerate(pairs))


def speaker_folds(groups: tuple[str, ...], folds: int, seed: int) -> NDArray[np.int64]:
    """Return the fold of each clip; groups are never divided and folds get about the same number of clips.

    Largest group first, each to the fold that has the fewest clips so far; groups of equal size in a seeded order.
    No fold exceeds another by more clips than the smallest group that was added last has.

    Args:
        groups: (n,) group of each clip.
        folds: number of folds.
        seed: decides the order of groups of equal size.

    Raises:
        UsageError: fewer groups than folds, or fewer than two folds.
    """
    names, code, sizes = np.unique(np.array(groups), return_inverse=True, return_counts=True)
    if not 2 <= folds <= len(names):
        found = f"{folds} folds for {len(names)} speakers"
        raise UsageError(
            Problem("protocol: folds", found, "2 folds or more, a speaker for each", "correct the protocol")
        )
    shuffled = np.random.default_rng(seed).permutation(len(names))
    order = shuffled[np.argsort(-sizes[shuffled], kind="stable")]
    fold_of, load = np.empty(len(names), dtype=np.int64), np.zeros(folds, dtype=np.int64)
    for group in order:
        fold_of[group] = load.argmin()
        load[fold_of[group]] += sizes[group]
    return np.asarray(fold_of[code])


def subset(examples: LabelledFeatures, chosen: NDArray[np.bool_]) -> LabelledFeatures:
    """Return the chosen clips, in their order."""
    kept = np.flatnonzero(chosen)
    speakers = tuple(examples.speakers[clip] for clip in kept)
    names = tuple(examples.names[clip] for clip in kept) if examples.names else ()
    noise = examples.is_noise[chosen]
    return LabelledFeatures(examples.features[chosen], examples.labels[chosen], speakers, noise, names)
