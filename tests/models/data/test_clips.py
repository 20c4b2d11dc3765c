"""Manifest and cache on a few seconds of generated audio."""

import csv
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from kwsq.ir.errors import UsageError
from kwsq.models.data.clips import LABELS, SILENCE, load_split, read_manifest
from kwsq.models.data.feature_cache import cached
from kwsq.models.progress import Count

ROWS = [
    ("c.flac", "own", "yes", "anna", "train"),
    ("a.flac", "own", "go", "anna", "train"),
    ("b.flac", "own", "_silence_", "noise", "train"),
    ("d.flac", "own", "_silence_", "noise", "val"),
    ("e.flac", "own", "up", "bert", "val"),
    ("g.flac", "other", "up", "anna", "val"),
]
# Fills the cache, but gives no file its name before the other process has written its own.
FILL_BUT_NAME_LAST = """
import sys, time
from pathlib import Path
import numpy as np
from kwsq.models.data.clips import load_split

data, cache, mine, other = map(Path, sys.argv[1:])
save = np.save

def save_and_wait(*arguments):
    save(*arguments)
    mine.touch()
    while not other.exists():
        time.sleep(0.01)

np.save = save_and_wait
load_split(data, cache, dataset="own", split="train")
"""


def write_data(folder: Path, rows: list[tuple[str, ...]] = ROWS, rate_hz: int = 16_000) -> Path:
    folder.mkdir()
    rng = np.random.default_rng(8)
    with (folder / "manifest.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["file", "set", "label12", "speaker", "split"])
        writer.writerows(rows)
    for seconds, row in zip([1.0, 0.5, 1.0, 1.25, 1.0, 1.0], rows, strict=False):
        soundfile.write(folder / row[0], 0.1 * rng.standard_normal(int(rate_hz * seconds)), rate_hz)
    return folder


def test_the_manifest_gives_the_clips_of_one_set_in_file_order(tmp_path: Path) -> None:
    clips = read_manifest(write_data(tmp_path / "data"), dataset="own")
    assert [clip.file for clip in clips] == ["a.flac", "b.flac", "c.flac", "d.flac", "e.flac"]
    assert [LABELS[clip.label] for clip in clips] == ["go", "_silence_", "yes", "_silence_", "up"]


def test_a_split_holds_whole_seconds_of_features(tmp_path: Path) -> None:
    split = load_split(write_data(tmp_path / "data"), tmp_path / "cache", dataset="own", split="train")
    assert split.features.shape == (3, 98, 64)
    assert split.features.dtype == np.float32
    assert split.speakers == ("anna", "noise", "anna")
    assert split.labels.tolist() == [LABELS.index("go"), SILENCE, LABELS.index("yes")]
    # The half-second clip is padded with digital silence at its end.
    assert np.unique(split.features[0, -40:]).size == 1


def test_features_are_computed_once_and_ignored_by_git(tmp_path: Path) -> None:
    data, cache = write_data(tmp_path / "data"), tmp_path / "cache"
    first = load_split(data, cache, dataset="own", split="train")
    (file,) = cache.glob("*.npy")
    file.unlink()
    cached(file, 3, lambda: first.features + 1)
    again = load_split(data, cache, dataset="own", split="train")
    np.testing.assert_array_equal(again.features, first.features + 1)
    assert (cache / ".gitignore").read_text(encoding="utf-8") == "*\n"


def test_clips_are_counted_while_they_are_read_and_not_where_they_are_cached(tmp_path: Path) -> None:
    data, told = write_data(tmp_path / "data"), list[Count]()
    for _ in range(2):
        load_split(data, tmp_path / "cache", dataset="own", split="train", told=told.append)
    assert told == [Count("reading train clips", done, 3) for done in range(4)]


@pytest.mark.parametrize("keep", [0, 7, 60, 200, -1])
def test_cached_features_that_are_not_whole_are_computed_again(tmp_path: Path, keep: int) -> None:
    data, cache = write_data(tmp_path / "data"), tmp_path / "cache"
    first = load_split(data, cache, dataset="own", split="train")
    (file,) = cache.glob("*.npy")
    file.write_bytes(file.read_bytes()[:keep])
    again = load_split(data, cache, dataset="own", split="train")
    np.testing.assert_array_equal(again.features, first.features)
    np.testing.assert_array_equal(np.load(file), first.features)


@pytest.mark.parametrize("place", [*range(0, 128, 7), 200, -1, -17])
def test_cached_features_with_a_bit_that_flipped_are_computed_again(tmp_path: Path, place: int) -> None:
    data, cache = write_data(tmp_path / "data"), tmp_path / "cache"
    first = load_split(data, cache, dataset="own", split="train")
    (file,) = cache.glob("*.npy")
    content = bytearray(file.read_bytes())
    content[place] ^= 1 << (place % 8)
    file.write_bytes(content)
    again = load_split(data, cache, dataset="own", split="train")
    np.testing.assert_array_equal(again.features, first.features)


@pytest.mark.parametrize("name", ["../../escaped", "/absolute", "a\u2028b", "x" * 300])
def test_a_data_set_or_split_may_have_a_name_that_no_file_can(tmp_path: Path, name: str) -> None:
    rows = [("c.flac", name, "yes", "anna", name)]
    data, cache = write_data(tmp_path / "data", rows), tmp_path / "out" / "cache"
    load_split(data, cache, dataset=name, split=name)
    assert {path.name for path in tmp_path.iterdir()} == {"data", "out"}
    assert len(list(cache.glob("*.npy"))) == 1


def test_the_digest_tells_noise_that_labels_do_not(tmp_path: Path) -> None:
    twelve = load_split(write_data(tmp_path / "data"), tmp_path / "cache", dataset="own", split="train")
    assert twelve.digest == replace(twelve, noise=None).digest
    yes = load_split(tmp_path / "data", tmp_path / "cache", dataset="own", split="train", keywords=("yes",))
    assert yes.is_noise.tolist() == [False, True, False]
    assert yes.digest != replace(yes, noise=np.zeros(3, bool)).digest


def test_cached_features_of_another_number_of_clips_are_computed_again(tmp_path: Path) -> None:
    data, cache = write_data(tmp_path / "data"), tmp_path / "cache"
    first = load_split(data, cache, dataset="own", split="train")
    (file,) = cache.glob("*.npy")
    for other in (first.features[:2], first.features[[0, 1, 2, 2]]):
        file.unlink()
        cached(file, len(other), lambda other=other: other)
        np.testing.assert_array_equal(load_split(data, cache, dataset="own", split="train").features, first.features)


def test_two_processes_may_fill_one_cache_at_once(tmp_path: Path) -> None:
    data, cache = write_data(tmp_path / "data"), tmp_path / "cache"
    places = [str(place) for place in (data, cache, tmp_path / "first", tmp_path / "second")]
    processes = [
        subprocess.Popen([sys.executable, "-c", FILL_BUT_NAME_LAST, *places[:2], mine, other])
        for mine, other in (places[2:], places[:1:-1])
    ]
    try:
        assert [process.wait(timeout=60) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
    assert len(list(cache.glob("*.npy"))) == 1
    assert not list(cache.glob(".*.partial"))


def test_a_changed_file_is_read_again_though_its_size_and_date_stay(tmp_path: Path) -> None:
    rows = [("c.wav", "own", "yes", "anna", "train")]
    data, cache = write_data(tmp_path / "data", rows), tmp_path / "cache"
    before, first = (data / "c.wav").stat(), load_split(data, cache, dataset="own", split="train")
    soundfile.write(data / "c.wav", np.full(16_000, 0.1), 16_000)
    os.utime(data / "c.wav", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (data / "c.wav").stat().st_size == before.st_size
    assert (load_split(data, cache, dataset="own", split="train").features != first.features).any()


def test_files_that_are_missing_or_no_audio_are_named(tmp_path: Path) -> None:
    data = write_data(tmp_path / "data")
    (data / "c.flac").write_bytes(b"")
    with pytest.raises(UsageError, match=r"c\.flac.*expected an audio file"):
        load_split(data, tmp_path / "cache", dataset="own", split="train")
    for name in "abcd":
        (data / f"{name}.flac").unlink()
    with pytest.raises(UsageError, match=r"no file a\.flac, b\.flac, c\.flac; expected every file"):
        load_split(data, tmp_path / "cache", dataset="own", split="train")
    assert not list((tmp_path / "cache").glob("*"))


def test_a_manifest_that_lacks_columns_is_refused(tmp_path: Path) -> None:
    (tmp_path / "manifest.csv").write_text("file,label12\na.flac,yes\n", encoding="utf-8")
    with pytest.raises(UsageError, match="no column set, speaker, split"):
        read_manifest(tmp_path, dataset="own")


def test_a_speaker_in_two_splits_is_refused(tmp_path: Path) -> None:
    data = write_data(tmp_path / "data", [*ROWS[:5], ("h.flac", "own", "no", "anna", "val")])
    with pytest.raises(UsageError, match=r"speaker 'anna' in splits 'train' and 'val'.*one split"):
        read_manifest(data, dataset="own")


@pytest.mark.parametrize(
    ("dataset", "split", "message"),
    [("none", "train", "no clip of set 'none'"), ("own", "test", "no split 'test'")],
)
def test_what_the_manifest_does_not_hold_is_refused(tmp_path: Path, dataset: str, split: str, message: str) -> None:
    data = write_data(tmp_path / "data")
    with pytest.raises(UsageError, match=message):
        load_split(data, tmp_path / "cache", dataset=dataset, split=split)


def test_a_folder_without_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"expected manifest\.csv, or validation_list\.txt and testing_list\.txt"):
        read_manifest(tmp_path, dataset="own")


def test_another_sample_rate_is_refused(tmp_path: Path) -> None:
    data = write_data(tmp_path / "data", rate_hz=8_000)
    with pytest.raises(UsageError, match="found 8000 Hz"):
        load_split(data, tmp_path / "cache", dataset="own", split="train")
