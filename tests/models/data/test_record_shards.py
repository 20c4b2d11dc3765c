"""Sharded features: everything comes back once, in an order that the seed alone decides."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from kwsq.ir.errors import UsageError
from kwsq.models.data.record_shards import LabelledClip, lane_count, of_part, open_shards, read_epoch, write_shards
from kwsq.models.data.share import WHOLE, Share

CLIPS = 50


def clip(number: int) -> LabelledClip:
    return np.full((3, 2), number, np.float32), number % 12, f"speaker{number % 5}", number % 12 == 10


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("records") / "train"
    assert write_shards(map(clip, range(CLIPS)), folder, shards=7) == CLIPS
    return folder


def order(folder: Path, *, seed: int = 1, batch: int = 5, share: Share = WHOLE) -> list[list[int]]:
    batches = read_epoch(folder, seed=seed, batch_size=batch, share=share, buffer_clips=8)
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


@pytest.mark.parametrize("replicas", [2, 3, 4, 6, 12])
def test_shares_put_together_are_the_batches_that_one_reads(tmp_path: Path, replicas: int) -> None:
    """Batches of 24 in twelve lanes, of which one holds clips for five; four replicas are on two machines."""
    write_shards(map(clip, range(4 * 24 + 13)), tmp_path / "many", shards=12)
    whole = order(tmp_path / "many", batch=24)
    assert [len(batch) for batch in whole] == [24] * 4
    machines = [(0, 2), (1, 3)] if replicas == 4 else [(replica,) for replica in range(replicas)]
    for mine in machines:
        rows = [row for row in range(24) if row % replicas in mine]
        share = order(tmp_path / "many", batch=24, share=Share(replicas, mine))
        assert share == [[batch[row] for row in rows] for batch in whole]


def test_replicas_that_do_not_divide_the_lanes_take_their_rows_too(shards: Path) -> None:
    """Seven shards, batches of 14: seven lanes for two replicas."""
    whole = order(shards, batch=14)
    for replica in range(2):
        assert order(shards, batch=14, share=Share(2, (replica,))) == [batch[replica::2] for batch in whole]


def test_a_share_reads_its_own_lanes_only(tmp_path: Path) -> None:
    write_shards(map(clip, range(48)), tmp_path / "many", shards=8)
    for number in (1, 5):  # lane 1 of 4
        damage(tmp_path / "many" / f"clips-{number:05}-of-00008.tfrecord")
    for replica in (0, 2, 3):
        assert len(order(tmp_path / "many", batch=4, share=Share(4, (replica,)))) == 12
    with pytest.raises(UsageError, match="clips-00001-of-00008") as refusal:
        order(tmp_path / "many", batch=4, share=Share(4, (1,)))
    assert [Path(problem.where).name[:11] for problem in refusal.value.problems] == ["clips-00001", "clips-00005"]


def damage(shard: Path) -> None:
    """Turn a bit of the last clip."""
    data = bytearray(shard.read_bytes())
    data[-10] ^= 1
    shard.write_bytes(data)


@pytest.fixture
def copied(shards: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(shards, tmp_path / "train"))


def test_shards_that_are_damaged_are_named(copied: Path) -> None:
    for number in (2, 4):
        damage(copied / f"clips-{number:05}-of-00007.tfrecord")
    for read in (order, open_shards):
        with pytest.raises(UsageError, match="clips") as refusal:
            read(copied)
        assert [(Path(problem.where).name, problem.found, problem.expected) for problem in refusal.value.problems] == [
            ("clips-00002-of-00007.tfrecord", "a damaged clip after 6", "7 clips as they were written"),
            ("clips-00004-of-00007.tfrecord", "a damaged clip after 6", "7 clips as they were written"),
        ]


def test_a_shard_that_goes_while_it_is_read_is_named(copied: Path) -> None:
    batches = read_epoch(copied, seed=1, batch_size=5)
    (copied / "clips-00003-of-00007.tfrecord").unlink()
    with pytest.raises(UsageError, match=r"clips-00003-of-00007.*no such file") as refusal:
        list(batches)
    assert len(refusal.value.problems) == 1


def test_an_index_that_states_another_shape_or_more_clips_is_refused(copied: Path) -> None:
    path = copied / "index-00001-of-00001.json"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace('"shape": [3, 2]', '"shape": [3, 3]'), encoding="utf-8")
    with pytest.raises(UsageError, match=r"cannot be read as the index states.*clips of shape \(3, 3\)"):
        order(copied)
    facts = json.loads(text)
    facts["written"]["0"][1][0] += 10
    path.write_text(json.dumps(facts), encoding="utf-8")
    with pytest.raises(UsageError, match=r"found clips of 10 batches; expected 12"):
        order(copied)


def test_lanes_are_few_and_divide_shards_and_batch() -> None:
    assert [lane_count(64, shards) for shards in (1, 7, 8, 96, 1024)] == [1, 1, 8, 32, 32]
    assert lane_count(51, 51) == 17


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "train" / "clips-00000-of-00001.tfrecord").mkdir(parents=True)
    for folder in (tmp_path / "file", tmp_path / "file" / "x", tmp_path / "train"):
        with pytest.raises(UsageError, match="expected a folder that can be written"):
            write_shards([clip(0)], folder, shards=1)


def test_missing_cut_and_longer_shards_are_refused_before_any_is_read(copied: Path) -> None:
    missing, cut, longer = (copied / f"clips-{number:05}-of-00007.tfrecord" for number in (1, 3, 6))
    missing.unlink()
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size * 4 // 7])  # between two clips
    longer.write_bytes(longer.read_bytes() * 2)
    with pytest.raises(UsageError, match="bytes, as the index states") as refusal:
        read_epoch(copied, seed=1, batch_size=5)
    assert [(Path(problem.where).name[:11], problem.found[-5:]) for problem in refusal.value.problems] == [
        ("clips-00001", " file"),
        ("clips-00003", "bytes"),
        ("clips-00006", "bytes"),
    ]


def test_shards_may_be_empty(tmp_path: Path) -> None:
    write_shards(map(clip, range(3)), tmp_path / "few", shards=5)
    assert sorted(order(tmp_path / "few", batch=1)) == [[0], [1], [2]]


def test_an_index_is_whole_or_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.fsync", killed)
    with pytest.raises(KeyboardInterrupt):
        write_shards(map(clip, range(3)), tmp_path / "killed", shards=2)
    assert not list((tmp_path / "killed").glob("*.json"))


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


def test_parts_written_apart_are_the_shards_written_at_once(shards: Path, tmp_path: Path) -> None:
    for number in (2, 3, 1):
        part = (number, 3)
        clips = map(clip, of_part(range(CLIPS), 7, part))
        assert write_shards(clips, tmp_path / "parts", shards=7, part=part) == len(of_part(range(CLIPS), 7, part))
    for path in shards.glob("*.tfrecord"):
        assert (tmp_path / "parts" / path.name).read_bytes() == path.read_bytes()
    assert open_shards(tmp_path / "parts").digest == open_shards(shards).digest
    assert order(tmp_path / "parts") == order(shards)


def test_parts_without_a_shard_or_a_clip_are_refused() -> None:
    with pytest.raises(UsageError, match=r"found 1/8; expected one of at most 7 parts of 7 shards"):
        of_part(range(CLIPS), 7, (1, 8))
    with pytest.raises(UsageError, match=r"found 2/4; expected one of at most 3 parts"):
        of_part(range(3), 7, (2, 4))
    for part in ((0, 2), (3, 2)):
        with pytest.raises(UsageError, match="expected one of"):
            of_part(range(CLIPS), 7, part)


@pytest.mark.parametrize("shape", [[3, 3], [1, 2], [2]])
def test_an_index_of_another_shape_is_refused(shards: Path, tmp_path: Path, shape: list[int]) -> None:
    shutil.copytree(shards, tmp_path / "copy")
    (index,) = (tmp_path / "copy").glob("index-*.json")
    stated = json.loads(index.read_text(encoding="utf-8")) | {"shape": shape}
    index.write_text(json.dumps(stated), encoding="utf-8")
    with pytest.raises(UsageError, match=r"clips of \[24\] bytes"):
        open_shards(tmp_path / "copy")
