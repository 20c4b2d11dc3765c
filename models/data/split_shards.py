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
from kwsq.models.data.clips import Clip, LabelledFeatures, Show, clip_features, front_end, split_clips, tell_cut
from kwsq.models.data.record_shards import LabelledClip, ShardedFeatures, of_part, open_shards, write_shards
from kwsq.models.data.shard_index import Origin, Part
from kwsq.models.data.text_files import capped
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


def require_other_clips(
    train: ShardedFeatures,
    report: LabelledFeatures,
    data: Path,
    *,
    dataset: str,
    split: str,
    features: str,
    keywords: tuple[str, ...],
    show: Show,
) -> None:
    """Refuse shards whose clips that are held have a speaker of the clips reported on; tell where clips moved since.

    Args:
        train: opened shards.
        report: clips of another split.
        data: folder that lists the report clips, and may list those of the shards.
        dataset: of the shards, like `split`, `features` and `keywords`.
        split: see `open_split`.
        features: see `open_split`.
        keywords: see `open_split`.
        show: told, in one line, where the folder lists other clips of that split than the shards hold.

    Raises:
        UsageError: a voice is in both.
    """
    heard, judged = ({s for s, noise in zip(x.speakers, x.is_noise, strict=True) if not noise} for x in (train, report))
    if found := [f"speaker {speaker!r}" for speaker in sorted(heard & judged)]:
        expected, remedy = "speakers that are reported on in none of the shards", "write the shards anew: kwsq shard"
        raise UsageError(Problem(str(train.folder), capped(found), expected, remedy))
    try:
        listed = split_clips(data, dataset=dataset, split=split, keywords=keywords)
    except UsageError:  # a folder of report clips alone
        return
    if (here := _digest(listed)) != (there := train.origin.get("clips", here)):
        show(f"{train.folder} holds {there} of split {split}, {data} lists {here}: speakers may have moved since")


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
