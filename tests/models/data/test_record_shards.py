"""Sharded features: everything comes back once, in an order that the seed alone decides."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from kwsq.ir.errors import UsageError
from kwsq.models.data.record_shards import LabelledClip, open_shards, read_epoch, write_shards

CLIPS = 50


def clip(number: int) -> LabelledClip:
    return np.full((3, 2), number, np.float32), number % 12, f"speaker{number % 5}", number % 12 == 10


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("records") / "train"
    assert write_shards(map(clip, range(CLIPS)), folder, shards=7) == CLIPS
    return folder


def order(folder: Path, *, seed: int = 1, batch: int = 5) -> list[list[int]]:
    batches = read_epoch(folder, seed=seed, batch_size=batch, buffer_clips=8)
    return [features[:, 0, 0].astype(int).tolist() for features, _ in batches]


def test_an_epoch_holds_every_clip_once_with_its_label(shards: Path) -> None:
    batches = list(read_epoch(shards, seed=1, batch_size=5))
    features = np.concatenate([batch[0] for batch in batches])
    labels = np.concatenate([batch[1] for batch in batches])
    assert sorted(features[:, 2, 1].astype(int)) == list(range(CLIPS)) == list(range(open_shards(shards).clips))
    np.testing.assert_array_equal(labels, features[:, 0, 0].astype(int) % 12)


def test_the_seed_decides_the_order(shards: Path) -> None:
    assert order(shards) == order(shards)
    assert order(shards) != order(shards, seed=2)


def test_a_folder_that_was_not_finished_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="3, 2"):
        write_shards([clip(0), (np.zeros((4, 2), np.float32), 0, "x", False)], tmp_path / "broken", shards=2)
    with pytest.raises(UsageError, match="no index"):
        order(tmp_path / "broken")


def cut(folder: Path, number: int, *, clips: float) -> None:
    """Leave the first clips of a shard of equally long ones."""
    path = folder / f"clips-{number:05}-of-00007.tfrecord"
    data = path.read_bytes()
    whole = json.loads((folder / "clips.json").read_text(encoding="utf-8"))["clips"][number]
    assert len(data) % whole == 0
    path.write_bytes(data[: int(len(data) / whole * clips)])


@pytest.fixture
def copied(shards: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(shards, tmp_path / "train"))


def test_shards_that_lost_clips_are_named(copied: Path) -> None:
    cut(copied, 2, clips=5)
    cut(copied, 4, clips=2.5)
    with pytest.raises(UsageError, match="clips") as refusal:
        order(copied)
    assert [(Path(problem.where).name, problem.found, problem.expected) for problem in refusal.value.problems] == [
        ("clips-00002-of-00007.tfrecord", "5 clips", "7 clips, as clips.json states"),
        ("clips-00004-of-00007.tfrecord", "2 clips and a damaged one", "7 clips, as clips.json states"),
    ]


def test_a_shard_with_more_clips_than_stated_is_refused(copied: Path) -> None:
    other = copied / "clips-00006-of-00007.tfrecord"
    other.write_bytes(other.read_bytes() * 2)
    with pytest.raises(UsageError, match=r"clips-00006-of-00007.*found 14 clips.*7 clips, as clips\.json states"):
        order(copied, batch=10)


def test_missing_shards_are_refused_before_any_is_read(copied: Path) -> None:
    for number in (1, 3):
        (copied / f"clips-{number:05}-of-00007.tfrecord").unlink()
    with pytest.raises(UsageError, match=r"clips-00001-of-00007.*no such file(.|\n)*clips-00003-of-00007"):
        read_epoch(copied, seed=1, batch_size=5)


def test_shards_may_be_empty(tmp_path: Path) -> None:
    write_shards(map(clip, range(3)), tmp_path / "few", shards=5)
    assert sorted(order(tmp_path / "few", batch=1)) == [[0], [1], [2]]


def test_an_index_is_whole_or_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(_: int) -> None:
        raise InterruptedError

    monkeypatch.setattr("os.fsync", killed)
    with pytest.raises(InterruptedError):
        write_shards(map(clip, range(3)), tmp_path / "killed", shards=2)
    assert not (tmp_path / "killed" / "clips.json").exists()


def test_finished_shards_are_not_written_over(shards: Path) -> None:
    with pytest.raises(UsageError, match="shards already"):
        write_shards([clip(0)], shards, shards=1)


def test_a_sample_of_all_shards_is_held_with_what_is_known_of_all_clips(shards: Path) -> None:
    held = open_shards(shards, held=14)
    numbers = held.features[:, 0, 0].astype(int)
    assert np.bincount(numbers % 7).tolist() == [2] * 7  # two of each shard
    np.testing.assert_array_equal(held.labels, numbers % 12)
    np.testing.assert_array_equal(held.is_noise, numbers % 12 == 10)
    assert held.speakers == tuple(f"speaker{number % 5}" for number in numbers)
    assert held.clips == CLIPS
    assert held.class_counts(13).tolist() == [*np.bincount(np.arange(CLIPS) % 12), 0]


def test_the_digest_follows_from_all_clips(shards: Path, tmp_path: Path) -> None:
    for name, last in (("same", CLIPS - 1), ("other", CLIPS)):
        write_shards(map(clip, [*range(CLIPS - 1), last]), tmp_path / name, shards=7)
    assert open_shards(tmp_path / "same").digest == open_shards(shards, held=3).digest
    assert open_shards(tmp_path / "other", held=3).digest != open_shards(shards, held=3).digest
