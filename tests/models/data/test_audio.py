"""What is no second of audio is refused, all files of a data set at once; what is cut is said."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
from keyword_cases import noise_recordings
from numpy.typing import NDArray

from kwsq.ir.errors import UsageError
from kwsq.models.data.audio import MOST_PROBLEMS, read_clip
from kwsq.models.data.clips import Show, load_split
from kwsq.models.data.split_shards import shard_split

NOISE = 0.1 * np.random.default_rng(6).standard_normal(16_000)
SPLIT = {"dataset": "own", "split": "train", "features": "lfbe", "keywords": ()}


def write(path: Path, samples: NDArray[np.floating], subtype: str = "FLOAT") -> Path:
    soundfile.write(path, samples, 16_000, subtype=subtype)
    return path


def load(data: Path, out: Path, sharded: bool, show: Show | None = None) -> int:
    """Compute features as training does, from memory or into shards; return the number of clips."""
    if sharded:
        return shard_split(data, out, shards=2, show=show, **SPLIT)
    return load_split(data, out, show=show, **SPLIT).clips


def spoiled(value: float) -> NDArray[np.floating]:
    samples = NOISE.copy()
    samples[5000] = value
    return samples


@pytest.mark.parametrize(
    ("samples", "found"),
    [
        (NOISE[:0], "0 samples; expected at least 400"),
        (NOISE[:399], "399 samples; expected at least 400"),
        (spoiled(np.nan), "NaN or infinite samples"),
        (spoiled(-np.inf), "NaN or infinite samples"),
        (32768 * NOISE, r"samples up to 1[0-9.]+; expected samples in \[-1, 1\]; divide"),
        (spoiled(-8.1), r"samples up to 8\.1"),
        (np.stack([NOISE, NOISE], axis=1), "16000 Hz, 2 channels"),
    ],
)
def test_samples_that_are_no_speech_at_full_scale_are_refused(
    tmp_path: Path, samples: NDArray[np.floating], found: str
) -> None:
    with pytest.raises(UsageError, match=rf"clip\.wav: found {found}"):
        read_clip(write(tmp_path / "clip.wav", samples))


def test_short_and_loud_clips_within_reason_are_taken(tmp_path: Path) -> None:
    samples = read_clip(write(tmp_path / "clip.wav", 2 * NOISE[:400]))
    np.testing.assert_array_equal(samples[:400], (2 * NOISE[:400]).astype(np.float32))
    assert samples.shape == (16_000,)
    assert not samples[400:].any()


@pytest.mark.parametrize("name", ["clip.wav", "clip.flac"])
def test_a_file_cut_short_is_refused(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, NOISE, "PCM_16")
    path.write_bytes(path.read_bytes()[:9000])
    with pytest.raises(UsageError, match=rf"clip\.{name[5:]}: found .*(copy|replace) the file"):
        read_clip(path)


@pytest.mark.parametrize("kind", ["AIFF", "AU", "SVX", "RF64", "W64", "MP3", "OGG"])
def test_a_file_of_another_format_cut_short_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"clip.{kind.lower()}"
    soundfile.write(path, NOISE, 16_000, format=kind)
    assert read_clip(path).any()
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UsageError, match=rf"clip\.{kind.lower()}: found "):
        read_clip(path)


def test_a_file_whose_header_leaves_its_length_open_is_taken(tmp_path: Path) -> None:
    """As programs write it that write into a pipe."""
    path = write(tmp_path / "clip.wav", NOISE, "PCM_16")
    content = bytearray(path.read_bytes())
    expected = read_clip(path)
    content[40:44] = b"\xff" * 4
    path.write_bytes(content)
    np.testing.assert_array_equal(read_clip(path), expected)


def test_samples_without_a_header_are_refused(tmp_path: Path) -> None:
    (tmp_path / "clip.raw").write_bytes(bytes(32_000))
    with pytest.raises(UsageError, match=r"clip\.raw: found .*expected an audio file"):
        read_clip(tmp_path / "clip.raw")


@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize("bad", [2, MOST_PROBLEMS + 2])
def test_all_files_that_cannot_be_used_are_named_or_counted(tmp_path: Path, bad: int, sharded: bool) -> None:
    data = noise_recordings(tmp_path / "data", "own", [("yes", "train")] * (bad + 2))
    for number in range(1, bad + 1):
        write(data / f"{number}.wav", spoiled(np.nan))
    with pytest.raises(UsageError) as caught:
        load(data, tmp_path / "out", sharded)
    named = {each.where for each in caught.value.problems}
    assert len(named) == min(bad, MOST_PROBLEMS)
    assert named <= {str(data / f"{number}.wav") for number in range(1, bad + 1)}
    assert (f"{bad} files in all" in str(caught.value)) == (bad > MOST_PROBLEMS)
    assert not list(tmp_path.glob("out/*.npy"))
    assert not list(tmp_path.glob("out/*.json"))


@pytest.mark.parametrize("sharded", [False, True])
def test_recordings_longer_than_a_clip_are_said_once_and_noise_is_not(tmp_path: Path, sharded: bool) -> None:
    labels = [("yes", "train"), ("no", "train"), ("_silence_", "train"), ("up", "train"), ("go", "val")]
    data, lines = noise_recordings(tmp_path / "data", "own", labels), list[str]()
    for number in (0, 1, 2, 4):
        write(data / f"{number}.wav", np.tile(NOISE, 2)[: 16_001 + 1000 * number])
    assert load(data, tmp_path / "out", sharded, lines.append) == 4
    (line,) = lines
    assert "split train: 2 of 3 recordings are longer than a second, up to 1.06 s" in line
    for number in (0, 1):
        write(data / f"{number}.wav", NOISE)
    load(data, tmp_path / "again", sharded, lines.append)
    assert lines == [line]


def test_they_are_said_also_where_the_features_are_cached(tmp_path: Path) -> None:
    data, lines = noise_recordings(tmp_path / "data", "own", [("yes", "train")]), list[str]()
    write(data / "0.wav", np.tile(NOISE, 3))
    for _ in range(2):
        load(data, tmp_path / "out", sharded=False, show=lines.append)
    assert len(lines) == 2
    assert "1 of 1 recordings" in lines[1]
