"""One split of a data folder as shards: features computed clip by clip, so that none but one is in memory.

Source: our choice.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np

from kwsq.ir.errors import Problem, UsageError
from kwsq.models.data.clips import Clip, Show, clip_features, front_end, split_clips, tell_cut
from kwsq.models.data.record_shards import LabelledClip, ShardedFeatures, of_part, open_shards, write_shards
from kwsq.models.data.shard_index import Origin, Part
from kwsq.models.progress import Told, counted, ignore_count

ORDER_SEED = 0
"""Of the order in which clips are written: that of their names would put a class, or a speaker, into one place."""


def origin_of(*, dataset: str, split: str, features: str, keywords: tuple[str, ...]) -> Origin:
    """Return what shards of a split are: the task, the data set, and the constants of their features."""
    constants = json.dumps(asdict(front_end(features)[1]), sort_keys=True)
    return {
        "dataset": dataset, "split": split, "features": features, "keywords": list(keywords), "constants": constants,
    }  # fmt: skip


def shard_split(
    data: Path,
    folder: Path,
    *,
    dataset: str,
    split: str,
    features: str,
    keywords: tuple[str, ...],
    shards: int,
    part: Part = (1, 1),
    show: Show | None = None,
    told: Told = ignore_count,
) -> int:
    """Write the clips of a split, or of a part of its shards; arguments as in `load_split` and `write_shards`.

    Returns:
        The number of clips.

    Raises:
        UsageError: the split is empty, audio files cannot be used, or the folder holds the part.
    """
    compute, _ = front_end(features)
    listed = split_clips(data, dataset=dataset, split=split, keywords=keywords)
    clips = of_part([listed[i] for i in np.random.default_rng(ORDER_SEED).permutation(len(listed))], shards, part)

    tell_cut(data, clips, show)

    def labelled() -> Iterator[LabelledClip]:
        for clip, found in clip_features(data, counted(clips, f"writing {split} clips", told), compute):
            yield found, clip.label, clip.speaker, clip.is_noise

    facts = origin_of(dataset=dataset, split=split, features=features, keywords=keywords)
    origin = {**facts, "clips": _digest(listed)}  # machines that list other clips do not write parts of one corpus
    return write_shards(labelled(), folder, shards=shards, origin=origin, part=part)


def _digest(clips: list[Clip]) -> str:
    content = json.dumps([(clip.name, clip.label, clip.speaker) for clip in clips])
    return f"{len(clips)}, digest {hashlib.blake2b(content.encode(), digest_size=8).hexdigest()}"


def open_split(folder: Path, *, dataset: str, split: str, features: str, keywords: tuple[str, ...]) -> ShardedFeatures:
    """Return the clips of shards that hold just this split, as these features, for this task.

    Raises:
        UsageError: the folder holds others, or none.
    """
    found, wanted = (
        open_shards(folder),
        origin_of(dataset=dataset, split=split, features=features, keywords=keywords),
    )
    different = [name for name in wanted if found.origin.get(name) != wanted[name]]
    if different:
        stated = ", ".join(f"{name} {found.origin.get(name)!r}" for name in different)
        expected = ", ".join(f"{name} {wanted[name]!r}" for name in different)
        remedy = "write shards with this recipe: kwsq shard RECIPE --data DIR --out FOLDER"
        raise UsageError(Problem(str(folder), f"shards of {stated}", expected, remedy))
    return found
