"""An epoch of training clips, batch by batch: of clips held in memory, or of shards that are read as they are needed.

Shards: the run's generator draws a seed per epoch, which decides the order and the augmentation of all its batches, so
that an epoch begun again is the same epoch. Noise is drawn of the clips that are held.

Source: our choice.
"""

from collections.abc import Iterator

import numpy as np

from kwsq.models.data.augmentation import Augmentation, augmented, augmented_batches, draw
from kwsq.models.data.clips import Features, LabelledFeatures, Labels
from kwsq.models.data.record_shards import ShardedFeatures, read_epoch
from kwsq.models.data.share import WHOLE, Share

SEEDS = 2**31


def epoch_batches(
    examples: LabelledFeatures,
    settings: Augmentation,
    batch_size: int,
    rng: np.random.Generator,
    share: Share = WHOLE,
) -> Iterator[tuple[Features, Labels]]:
    """Give the whole batches of one freshly shuffled and augmented epoch, or the same rows of each.

    Args:
        examples: training clips.
        settings: strengths of augmentation.
        batch_size: clips of a global batch; a rest that does not fill one is dropped.
        rng: the only source of randomness.
        share: the rows that are given.

    Returns:
        (rows, frames, bands) float32 and (rows,) int64, batch by batch.
    """
    if isinstance(examples, ShardedFeatures):
        yield from _streamed(examples, settings, batch_size, int(rng.integers(SEEDS)), share)
        return
    whole = examples.clips // batch_size
    for number, batch in enumerate(augmented_batches(examples, settings, batch_size, rng, share)):
        if number < whole:
            yield batch


def _streamed(
    examples: ShardedFeatures, settings: Augmentation, batch_size: int, seed: int, share: Share
) -> Iterator[tuple[Features, Labels]]:
    rng, rows = np.random.default_rng(seed), share.rows(batch_size)
    noise = examples.features[examples.is_noise] if examples.is_noise.any() else examples.features
    for features, labels in read_epoch(examples.folder, seed=seed, batch_size=batch_size, share=share):
        draws = draw(batch_size, noise.shape, settings, rng)
        yield augmented(features, noise, draws.of(rows), settings), labels
