"""Features in sharded TFRecord files, for corpora that no machine holds in memory.

    FOLDER/clips-00000-of-00008.tfrecord      tf.train.Example: features (bytes), label, noise (int64), speaker (bytes)
    FOLDER/index-00001-of-00001.json          see `kwsq.models.data.shard_index`

Clip i goes to shard i mod S. Shards are read in L lanes, L the greatest common divisor of S and the clips of a batch
that is at most `MOST_LANES`: lane l holds the shards s = l (mod L), reads them in an order drawn from the epoch's seed,
`CYCLE` at a time in turn, and shuffles through a buffer seeded alike; batches take one clip of each lane in turn. That
mixes little where clips are written in an order of their own, so `split_shards` draws one.

So row j of any batch comes from lane j mod L, and where R replicas divide L, each reads only the lanes of its own rows
(`kwsq.models.data.share`): R machines read the corpus once between them, and still train on the batches that one alone
would. Otherwise each reads all of it and takes its rows.

The seed alone decides the batches, on any machine, for any number of reading threads or replicas. (TensorFlow's global
seed, which training sets from that of the run, takes part in the shuffling.)

Source: the container is TensorFlow's TFRecord; the layout is ours.
"""

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from kwsq.ir.errors import Problem, UsageError
from kwsq.models.data.clips import LabelledFeatures
from kwsq.models.data.shard_index import (
    AGAIN,
    MOST_SHARDS,
    Origin,
    Part,
    Shard,
    ShardIndex,
    changed_files,
    read_index,
    require_room,
    shard_path,
    write_part,
)
from kwsq.models.data.share import WHOLE, Share

CYCLE = 4
MOST_LANES = 32
"""Each costs some 20 ms an epoch, and CYCLE open files."""
HELD_CLIPS = 8192
LabelledClip = tuple[NDArray[np.float32], int, str, bool]
Item = TypeVar("Item")


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardedFeatures(LabelledFeatures):
    """The clips of a folder of shards; features, labels and the like are of a sample that is held.

    Calibration, the statistics of batch norms and noise come from the sample.

    Args:
        folder: what `write_shards` wrote.
        counts: (classes,) clips of each class in the shards.
        origin: what the clips are.
        content: sixteen hexadecimal digits that all clips decide.
    """

    folder: Path
    counts: NDArray[np.int64]
    origin: Origin
    content: str

    @property
    def clips(self) -> int:
        """How many clips the shards hold."""
        return int(self.counts.sum())

    def class_counts(self, classes: int) -> NDArray[np.int64]:
        """Return how many clips each class has in the shards, (classes,)."""
        return np.pad(self.counts, (0, max(classes - self.counts.size, 0)))

    @property
    def digest(self) -> str:
        """Sixteen hexadecimal digits that all clips decide."""
        return self.content


def of_part(clips: Sequence[Item], shards: int, part: Part) -> list[Item]:
    """Return those of all clips that a part writes.

    Args:
        clips: all, in the same order for every part.
        shards: to write in all.
        part: (i, n), every n-th shard from the i-th on, for n machines that write them together.

    Raises:
        UsageError: there is no such part, or it would have no shard or no clip.
    """
    number, parts = part
    if shards > MOST_SHARDS:
        raise UsageError(Problem("--shards", str(shards), f"at most {MOST_SHARDS}", "write fewer, longer ones"))
    if not 1 <= number <= parts <= max(min(shards, len(clips)), 1):
        found, expected = f"{number}/{parts}", f"one of at most {min(shards, len(clips))} parts of {shards} shards"
        raise UsageError(Problem("--part", found, expected, "write more shards, or on fewer machines"))
    return [clip for position, clip in enumerate(clips) if position % shards % parts == number - 1]


def write_shards(
    clips: Iterable[LabelledClip],
    folder: Path,
    *,
    shards: int,
    origin: Origin = MappingProxyType({}),
    part: Part = (1, 1),
) -> int:
    """Write clips one after another into their shards; only one clip is held in memory.

    Args:
        clips: those `of_part`, in their order: features (frames, bands) float32 of one shape, label, speaker, whether
            nothing is said.
        folder: created; must not hold this part already.
        shards: number of files in all.
        origin: what the clips are, kept in the index.
        part: (i, n), see `of_part`.

    Returns:
        The number of clips.

    Raises:
        UsageError: the folder holds the part or cannot be written, features differ in shape, or there is no clip.
    """
    try:
        return _written(clips, folder, shards, origin, part)
    except (OSError, tf.errors.OpError) as error:
        found = (str(error) or type(error).__name__).splitlines()[0]
        remedy = "name another folder, or make room; fewer shards need fewer open files"
        raise UsageError(Problem(str(folder), found, "a folder that can be written", remedy)) from error


def _written(clips: Iterable[LabelledClip], folder: Path, shards: int, origin: Origin, part: Part) -> int:
    require_room(folder, part)
    folder.mkdir(parents=True, exist_ok=True)
    own = range(part[0] - 1, shards, part[1])
    files = {number: tf.io.TFRecordWriter(str(shard_path(folder, number, shards))) for number in own}
    content = {number: hashlib.blake2b(digest_size=8) for number in own}
    classes: dict[int, Counter[int]] = {number: Counter() for number in own}
    shape: tuple[int, ...] | None = None
    for position, (features, label, speaker, is_noise) in enumerate(clips):
        shape = shape or features.shape
        if features.shape != shape:
            raise UsageError(Problem(f"clip {position}", str(features.shape), str(shape), "use one feature format"))
        record, number = _example(features, label, speaker, is_noise), own[position % len(own)]
        files[number].write(record)
        content[number].update(record)
        classes[number][label] += 1
    for file in files.values():
        file.close()
    if shape is None:
        raise UsageError(Problem(str(folder), "no clip", "at least one clip", "check what is written"))
    written = {
        number: Shard(
            shard_path(folder, number, shards).stat().st_size,
            tuple(classes[number][label] for label in range(max(classes[number], default=-1) + 1)),
            content[number].hexdigest(),
        )
        for number in own
    }
    write_part(folder, part, shape, origin, written, shards)
    return sum(count.total() for count in classes.values())


def _example(features: NDArray[np.float32], label: int, speaker: str, is_noise: bool) -> bytes:
    stored = {
        "features": tf.train.Feature(bytes_list=tf.train.BytesList(value=[features.astype("<f4").tobytes()])),
        "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[label])),
        "noise": tf.train.Feature(int64_list=tf.train.Int64List(value=[int(is_noise)])),
        "speaker": tf.train.Feature(bytes_list=tf.train.BytesList(value=[speaker.encode()])),
    }
    return bytes(tf.train.Example(features=tf.train.Features(feature=stored)).SerializeToString(deterministic=True))


def open_shards(folder: Path, *, held: int = HELD_CLIPS) -> ShardedFeatures:
    """Return the clips of a folder of shards.

    Args:
        folder: what `write_shards` wrote.
        held: clips to hold, taken from all shards in turn.

    Raises:
        UsageError: there is no index, a shard is missing, or damaged within the clips that are held.
    """
    index = read_index(folder)
    files = [str(shard_path(folder, number, len(index.shards))) for number in range(len(index.shards))]
    data = tf.data.Dataset.from_tensor_slices(files).interleave(tf.data.TFRecordDataset, cycle_length=len(files))
    fields = _FIELDS | {"noise": tf.io.FixedLenFeature([], tf.int64), "speaker": tf.io.FixedLenFeature([], tf.string)}
    data = data.take(held).batch(held).map(lambda batch: tf.io.parse_example(batch, fields))
    (found,) = _whole(data, folder, index, range(len(files)))
    sizes = {len(content) for content in found["features"]}
    if sizes != {4 * math.prod(index.shape)}:
        remedy = "bring back the index these shards were written with"
        stated = f"clips of {sorted(sizes)} bytes"
        raise UsageError(Problem(str(folder), stated, f"float32 of the index's shape {index.shape}", remedy))
    features = np.stack([np.frombuffer(content, "<f4") for content in found["features"]])
    return ShardedFeatures(
        features.reshape(-1, *index.shape).astype(np.float32),
        found["label"],
        tuple(speaker.decode() for speaker in found["speaker"]),
        found["noise"].astype(bool),
        folder=folder,
        counts=index.counts,
        origin=index.origin,
        content=index.digest,
    )


def read_epoch(
    folder: Path, *, seed: int, batch_size: int, share: Share = WHOLE, buffer_clips: int = 4096
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.int64]]]:
    """Give one epoch's whole batches, or the same rows of each, in an order that the seed decides.

    Args:
        folder: what `write_shards` wrote.
        seed: of this epoch.
        batch_size: clips of a global batch; a rest that does not fill one is dropped.
        share: the rows that are given.
        buffer_clips: clips that the lanes hold for shuffling, all together.

    Returns:
        (rows, frames, bands) float32 and (rows,) int64, batch by batch.

    Raises:
        UsageError: there is no index, or a shard is missing; while reading, a shard is damaged.
    """
    index = read_index(folder)
    shards = len(index.shards)
    lanes = lane_count(batch_size, shards)
    is_divided = lanes % share.replicas == 0
    mine = share.rows(lanes) if is_divided else np.arange(lanes)
    rng = np.random.default_rng([seed, 1])  # augmentation draws from the seed itself
    order = rng.permuted(np.arange(shards).reshape(-1, lanes).T, axis=1)[mine]
    seeds = rng.integers(1, 2**31, size=lanes)[mine]
    lanes_read = [
        _lane([str(shard_path(folder, number, shards)) for number in lane], int(lane_seed), buffer_clips // lanes)
        for lane, lane_seed in zip(order.tolist(), seeds, strict=True)
    ]
    turns = tf.data.Dataset.range(len(mine)).repeat()
    data = tf.data.Dataset.choose_from_datasets(lanes_read, turns, stop_on_empty_dataset=True)
    whole = int(index.counts.sum()) // batch_size  # lanes with a clip more could fill one batch more
    data = data.batch(batch_size * len(mine) // lanes, drop_remainder=True).take(whole)
    data = data.map(lambda batch: _parsed(batch, index.shape)).prefetch(2)
    rows = slice(None) if is_divided else share.rows(batch_size)
    batches = _counted(_whole(data, folder, index, order.flat), folder, whole)
    return ((features[rows], labels[rows]) for features, labels in batches)


def reads_all(folder: Path, batch_size: int, replicas: int) -> bool:
    """Return whether several replicas each read all shards, as they do not divide the lanes."""
    return lane_count(batch_size, len(read_index(folder).shards)) % replicas > 0


def lane_count(batch_size: int, shards: int) -> int:
    """Return L of the module."""
    common = math.gcd(batch_size, shards)
    return max(lanes for lanes in range(1, MOST_LANES + 1) if common % lanes == 0)


def _counted(batches: Iterator[Any], folder: Path, whole: int) -> Iterator[Any]:
    """Give the batches; refuse fewer than the schedule of the training counts on."""
    found = 0
    for batch in batches:
        found += 1
        yield batch
    if found < whole:
        raise UsageError(Problem(str(folder), f"clips of {found} batches", f"{whole}, as the index states", AGAIN))


def _lane(files: list[str], seed: int, buffer_clips: int) -> Any:
    """Return the shuffled clips of one lane's shards."""
    clips = tf.data.Dataset.from_tensor_slices(files).interleave(tf.data.TFRecordDataset, cycle_length=CYCLE)
    return clips.shuffle(max(buffer_clips, 1), seed=seed)


def _whole(data: Any, folder: Path, index: ShardIndex, read: Iterable[int]) -> Iterator[Any]:
    """Give what a data set gives; where it ends for a damaged shard, name all that are.

    Args:
        data: reads shards.
        folder: of them.
        index: what it states.
        read: numbers of the shards that `data` reads.
    """
    try:
        yield from data.as_numpy_iterator()
    except tf.errors.OpError as error:
        problems = list(changed_files(folder, index)) or list(_damaged(folder, index, read))
        if not problems:
            found = f"shards that cannot be read as the index states ({error.message.splitlines()[0]:.200})"
            problems = [Problem(str(folder), found, f"clips of shape {index.shape}", AGAIN)]
        raise UsageError(problems) from error


def _damaged(folder: Path, index: ShardIndex, read: Iterable[int]) -> Iterator[Problem]:
    """Give the shards whose clips are not those that were written."""
    for number in sorted(read):
        path = shard_path(folder, number, len(index.shards))
        content, clips = hashlib.blake2b(digest_size=8), 0
        try:
            for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
                content.update(record)
                clips += 1
        except tf.errors.OpError:
            found = f"a damaged clip after {clips}"
        else:
            found = "other clips"
        if content.hexdigest() != index.shards[number].digest:
            expected = f"{sum(index.shards[number].labels)} clips as they were written"
            yield Problem(
                str(path), found, expected, "copy this shard from where it is whole, or write the shards again"
            )


_FIELDS = {"features": tf.io.FixedLenFeature([], tf.string), "label": tf.io.FixedLenFeature([], tf.int64)}


def _parsed(batch: Any, shape: tuple[int, ...]) -> tuple[Any, Any]:
    parsed = tf.io.parse_example(batch, _FIELDS)
    values = tf.io.decode_raw(parsed["features"], tf.float32, little_endian=True)
    return tf.reshape(values, [-1, *shape]), parsed["label"]
