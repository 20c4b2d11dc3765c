"""Features in sharded TFRecord files, for corpora that no machine holds in memory.

    FOLDER/clips-00000-of-00008.tfrecord      tf.train.Example: features (bytes), label, noise (int64), speaker (bytes)
    FOLDER/clips.json                         shape of one clip's features, clips per shard and per class, their digest,
                                              and what they are: task, data set, features

Clip i goes to shard i mod S, so that every shard is a sample of the whole. An epoch reads the shards in an order
drawn from its seed, `CYCLE` at a time in turn, and shuffles through a buffer seeded alike: the same seed gives the same
batches on any machine, for any number of reading threads. (TensorFlow's global seed, which training sets from that of
the run, takes part in the shuffling.) Several workers read the same sequence of global batches, and train each on its
own rows of every batch. A shard that gives another number of clips than the index states ends the epoch with an error:
one that was cut between two clips reads as any other does.

Source: the container is TensorFlow's TFRecord; the layout is ours.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from kwsq.ir.errors import Problem, UsageError
from kwsq.models.data.clips import LabelledFeatures
from kwsq.models.data.whole_file import whole_file

INDEX = "clips.json"
CYCLE = 4
HELD_CLIPS = 8192
LabelledClip = tuple[NDArray[np.float32], int, str, bool]
Origin = Mapping[str, str | list[str]]


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


def write_shards(
    clips: Iterable[LabelledClip], folder: Path, *, shards: int, origin: Origin = MappingProxyType({})
) -> int:
    """Write clips one after another into `shards` files; only one clip is held in memory.

    Args:
        clips: features (frames, bands) float32 of one shape, label, speaker, whether nothing is said.
        folder: created; must not hold an index already.
        shards: number of files.
        origin: what the clips are, kept in the index.

    Returns:
        The number of clips.

    Raises:
        UsageError: the folder holds shards, features differ in shape, or there is no clip.
    """
    if (folder / INDEX).exists():
        raise UsageError(Problem(str(folder), "shards already", "an empty folder", "name another folder"))
    folder.mkdir(parents=True, exist_ok=True)
    writers = [tf.io.TFRecordWriter(str(folder / _shard_name(number, shards))) for number in range(shards)]
    counts, classes, content, shape = [0] * shards, Counter[int](), hashlib.blake2b(digest_size=8), None
    for number, (features, label, speaker, is_noise) in enumerate(clips):
        shape = shape or features.shape
        if features.shape != shape:
            raise UsageError(Problem(f"clip {number}", str(features.shape), str(shape), "use one feature format"))
        record = _example(features, label, speaker, is_noise)
        writers[number % shards].write(record)
        content.update(record)
        counts[number % shards] += 1
        classes[label] += 1
    for writer in writers:
        writer.close()
    if shape is None:
        raise UsageError(Problem(str(folder), "no clip", "at least one clip", "check what is written"))
    # Last, and whole: a killed run leaves no index, and a folder without one is not read.
    with whole_file(folder / INDEX) as stream:
        labels = [classes[label] for label in range(max(classes) + 1)]
        index = {"shape": list(shape), "clips": counts, "labels": labels, "digest": content.hexdigest()}
        stream.write((json.dumps(index | {"origin": dict(origin)}) + "\n").encode())
    return sum(counts)


def _shard_name(number: int, shards: int) -> str:
    return f"clips-{number:05}-of-{shards:05}.tfrecord"


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
        UsageError: there is no index, or a shard is missing.
    """
    index = _index(folder)
    counts = index["clips"]
    _check_presence(folder, len(counts))
    files = [str(folder / _shard_name(number, len(counts))) for number in range(len(counts))]
    data = tf.data.Dataset.from_tensor_slices(files).interleave(tf.data.TFRecordDataset, cycle_length=len(files))
    fields = _FIELDS | {"noise": tf.io.FixedLenFeature([], tf.int64), "speaker": tf.io.FixedLenFeature([], tf.string)}
    (found,) = data.take(held).batch(held).map(lambda batch: tf.io.parse_example(batch, fields)).as_numpy_iterator()
    features = np.stack([np.frombuffer(content, "<f4") for content in found["features"]])
    return ShardedFeatures(
        features.reshape(-1, *index["shape"]).astype(np.float32),
        found["label"],
        tuple(speaker.decode() for speaker in found["speaker"]),
        found["noise"].astype(bool),
        folder=folder,
        counts=np.array(index["labels"], np.int64),
        origin=index["origin"],
        content=index["digest"],
    )


def _index(folder: Path) -> dict[str, Any]:
    path = folder / INDEX
    if not path.is_file():
        remedy = "write the shards (again): an interrupted run leaves no index"
        raise UsageError(Problem(str(path), "no such file", "the index of a folder of shards", remedy))
    index: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return index


def read_epoch(
    folder: Path, *, seed: int, batch_size: int, buffer_clips: int = 4096
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.int64]]]:
    """Give one epoch's whole batches, in an order that the seed decides.

    Args:
        folder: what `write_shards` wrote.
        seed: of this epoch.
        batch_size: clips of a global batch; a rest that does not fill one is dropped.
        buffer_clips: clips held for shuffling.

    Returns:
        (batch_size, frames, bands) float32 and (batch_size,) int64, batch by batch.

    Raises:
        UsageError: there is no index, or a shard is missing; while reading, a shard does not hold as many clips as the
            index states.
    """
    index = _index(folder)
    counts = np.array(index["clips"], dtype=np.int64)
    _check_presence(folder, len(counts))
    order = np.random.default_rng(seed).permutation(len(counts))
    files = [str(folder / _shard_name(int(number), len(order))) for number in order]
    data = tf.data.Dataset.from_tensor_slices((files, counts[order]))
    data = data.interleave(_checked_shard, cycle_length=CYCLE, num_parallel_calls=2, deterministic=True)
    data = data.shuffle(buffer_clips, seed=_shuffle_seed(seed)).batch(batch_size, drop_remainder=True)
    data = data.map(lambda _, batch: _parsed(batch, index["shape"]))
    return _batches(data.prefetch(2), folder, counts.tolist())


def _check_presence(folder: Path, shards: int) -> None:
    names = [_shard_name(number, shards) for number in range(shards)]
    expected, remedy = f"{shards} shards, as {INDEX} states", "write the shards again"
    problems = [
        Problem(str(folder / name), "no such file", expected, remedy) for name in names if not (folder / name).is_file()
    ]
    if problems:
        raise UsageError(problems)


def _checked_shard(file: Any, clips: Any) -> Any:
    """Return a shard's clips with their numbers; their end fails unless there were so many."""

    def is_clip(number: Any, record: Any) -> Any:
        found = tf.not_equal(record, b"")  # no clip is stored as an empty record
        with tf.control_dependencies([tf.debugging.Assert(found | tf.equal(number, clips), [file, number])]):
            return tf.identity(found)

    records = tf.data.TFRecordDataset(file).concatenate(tf.data.Dataset.from_tensors(b""))
    return records.enumerate().take_while(is_clip)


def _batches(data: Any, folder: Path, counts: list[int]) -> Iterator[tuple[NDArray[np.float32], NDArray[np.int64]]]:
    """Give the batches; where a shard is damaged, name all that are."""
    try:
        yield from data.as_numpy_iterator()
    except (tf.errors.InvalidArgumentError, tf.errors.DataLossError) as error:
        problems = []
        for number, expected in enumerate(counts):
            path = folder / _shard_name(number, len(counts))
            found, stated = _content(path), f"{expected} clips"
            if found != stated:
                remedy = "write the shards again, or copy this one from where it is whole"
                problems.append(Problem(str(path), found, f"{stated}, as {INDEX} states", remedy))
        if not problems:
            raise
        raise UsageError(problems) from error


def _content(shard: Path) -> str:
    """Return, in words, what a shard gives before it ends."""
    clips = 0
    try:
        for _ in tf.data.TFRecordDataset(str(shard)):
            clips += 1
    except tf.errors.DataLossError:
        return f"{clips} clips and a damaged one"
    return f"{clips} clips"


def _shuffle_seed(seed: int) -> int:
    return int(np.random.default_rng([seed, 1]).integers(1, 2**31))


_FIELDS = {"features": tf.io.FixedLenFeature([], tf.string), "label": tf.io.FixedLenFeature([], tf.int64)}


def _parsed(batch: Any, shape: list[int]) -> tuple[Any, Any]:
    parsed = tf.io.parse_example(batch, _FIELDS)
    values = tf.io.decode_raw(parsed["features"], tf.float32, little_endian=True)
    return tf.reshape(values, [-1, *shape]), parsed["label"]
