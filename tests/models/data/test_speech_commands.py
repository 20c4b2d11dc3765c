"""The Speech Commands layout, written here with generated noise in place of speech."""

import wave
from pathlib import Path

import numpy as np
import pytest

from kwsq.ir.errors import UsageError
from kwsq.models.data.clips import LABELS, SILENCE, UNKNOWN, load_split, read_clips
from kwsq.models.data.speech_commands import background_clips, read_recordings

SPEAKERS = {"train": ("a1", "b2", "c3"), "val": ("d4",), "test": ("e5",)}
WORDS = (*LABELS[:10], "bed", "cat", "dog")


def write_wav(path: Path, samples: int, rng: np.random.Generator) -> None:
    path.parent.mkdir(exist_ok=True)
    with wave.open(str(path), "wb") as stream:
        stream.setparams((1, 2, 16_000, 0, "NONE", ""))
        stream.writeframes(rng.integers(-3000, 3000, size=samples).astype("<i2").tobytes())


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    folder, rng = tmp_path / "data", np.random.default_rng(3)
    folder.mkdir()
    listed: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for split, speakers in SPEAKERS.items():
        for name in [f"{word}/{speaker}_nohash_0.wav" for speaker in speakers for word in WORDS]:
            write_wav(folder / name, 12_000, rng)
            listed[split].append(name)
    write_wav(folder / "_background_noise_" / "hum.wav", 200_000, rng)
    (folder / "validation_list.txt").write_text("\n".join(listed["val"]) + "\n", encoding="utf-8")
    (folder / "testing_list.txt").write_text("\n".join(listed["test"]) + "\n", encoding="utf-8")
    return folder


def test_the_lists_decide_the_split_and_the_name_the_speaker(layout: Path) -> None:
    found = {(recording.split, recording.speaker) for recording in read_recordings(layout)}
    assert found == {(split, speaker) for split, speakers in SPEAKERS.items() for speaker in speakers}


@pytest.mark.parametrize(("split", "words", "extras"), [("train", 30, 3), ("val", 10, 1), ("test", 10, 1)])
def test_unknown_words_and_silence_are_a_tenth_of_the_keywords(
    layout: Path, split: str, words: int, extras: int
) -> None:
    labels = [clip.label for clip in read_clips(layout, dataset="any") if clip.split == split]
    assert (labels.count(UNKNOWN), labels.count(SILENCE), len(labels)) == (extras, extras, words + 2 * extras)


def test_no_sample_of_the_background_is_in_two_splits(layout: Path) -> None:
    seen = {
        split: {
            sample
            for clip in background_clips(layout, split, 5, 16_000)
            for sample in range(clip.start_sample, clip.start_sample + 16_000)
        }
        for split in SPEAKERS
    }
    assert all(len(samples) >= 16_000 for samples in seen.values())
    assert not seen["train"] & seen["val"]
    assert not seen["val"] & seen["test"]


def test_the_layout_becomes_features_once(layout: Path, tmp_path: Path) -> None:
    split = load_split(layout, tmp_path / "cache", dataset="own", split="val")
    assert split.features.shape == (12, 98, 64)
    cepstra = load_split(layout, tmp_path / "cache", dataset="own", split="val", features="mfcc")
    assert cepstra.features.shape == (12, 49, 10)
    assert cepstra.labels.tolist() == split.labels.tolist()
    assert len(list((tmp_path / "cache").glob("*.npy"))) == 2


def test_another_draw_of_unknown_words_does_not_come_from_order(layout: Path) -> None:
    drawn = {clip.file for clip in read_clips(layout, dataset="any") if clip.label == UNKNOWN}
    (layout / "bed" / "zz_nohash_0.wav").write_bytes((layout / "bed" / "a1_nohash_0.wav").read_bytes())
    again = {clip.file for clip in read_clips(layout, dataset="any") if clip.label == UNKNOWN}
    assert len(drawn - again) <= 1


def test_a_listed_file_that_is_missing_is_named(layout: Path) -> None:
    (layout / "yes" / "d4_nohash_0.wav").unlink()
    with pytest.raises(UsageError, match=r"no file yes/d4_nohash_0\.wav"):
        read_recordings(layout)


def test_a_speaker_in_two_lists_is_refused(layout: Path) -> None:
    (layout / "validation_list.txt").write_text("yes/a1_nohash_0.wav\n", encoding="utf-8")
    with pytest.raises(UsageError, match=r"speaker 'a1' in splits 'train' and 'val'"):
        read_clips(layout, dataset="any")


def test_an_unknown_front_end_is_refused(layout: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"features: found 'plp'"):
        load_split(layout, tmp_path / "cache", dataset="own", split="val", features="plp")
