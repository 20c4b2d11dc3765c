"""An epoch of training clips, batch by batch: of clips held in memory, or of shards that are read as they are needed.

Shards: the run's generator draws a seed per epoch, which decides the order and the augmentation of all its batches, so
that an epoch begun again is the same epoch. Noise is drawn of the clips that are held.

Source: our choice.
"""

from collections.abc import Iterator

import numpy as np

from kwsq.models.data.augmentation import Augmentation, augmented, augmented_batches
from kwsq.models.data.clips import Features, LabelledFeatures, Labels
from kwsq.models.data.record_shards import ShardedFeatures, read_epoch

SEEDS = 2**31


def epoch_batches(
    examples: LabelledFeatures, settings: Augmentation, batch_size: int, rng: np.random.Generator
) -> Iterator[tuple[Features, Labels]]:
    """Give the whole batches of one freshly shuffled and augmented epoch.

    Args:
        examples: training clips.
        settings: strengths of augmentation.
        batch_size: clips of a batch; a rest that does not fill one is dropped.
        rng: the only source of randomness.

    Returns:
        (batch_size, frames, bands) float32 and (batch_size,) int64, batch by batch.
    """
    if isinstance(examples, ShardedFeatures):
        yield from _streamed(examples, settings, batch_size, int(rng.integers(SEEDS)))
        return
    for features, labels in augmented_batches(examples, settings, batch_size, rng):
        if len(labels) == batch_size:
            yield features, labels


def _streamed(
    examples: ShardedFeatures, settings: Augmentation, batch_size: int, seed: int
) -> Iterator[tuple[Features, Labels]]:
    rng = np.random.default_rng(seed)
    noise = examples.features[examples.is_noise] if examples.is_noise.any() else examples.features
    for features, labels in read_epoch(examples.folder, seed=seed, batch_size=batch_size):
        yield augmented(features, noise, settings, rng), labels
