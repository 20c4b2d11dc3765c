"""The Speech Commands layout, written here with generated noise in place of speech."""

import os
import shutil
import wave
from pathlib import Path

import numpy as np
import pytest
import soundfile

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


def test_a_file_in_both_lists_is_named(layout: Path) -> None:
    with (layout / "testing_list.txt").open("a", encoding="utf-8") as stream:
        stream.write("yes/d4_nohash_0.wav\nno/d4_nohash_0.wav\n")
    with pytest.raises(UsageError, match=r"found no/d4_nohash_0\.wav, yes/d4_nohash_0\.wav; expected no file in both"):
        read_recordings(layout)


def test_lists_may_begin_with_a_byte_order_mark_and_must_be_utf_8(layout: Path) -> None:
    expected, path = read_recordings(layout), layout / "testing_list.txt"
    whole = path.read_bytes()
    path.write_bytes(b"\xef\xbb\xbf" + whole)
    assert read_recordings(layout) == expected
    path.write_bytes(whole + b"s\xed/a1_nohash_0.wav\n")
    with pytest.raises(UsageError, match=r"testing_list\.txt, line 14: found byte 0xed; expected UTF-8"):
        read_recordings(layout)


def test_wav_files_count_in_any_case(layout: Path) -> None:
    before = {recording.file for recording in read_recordings(layout)}
    (layout / "yes" / "a1_nohash_0.wav").rename(layout / "yes" / "a1_nohash_0.WAV")
    (layout / "_background_noise_" / "hum.wav").rename(layout / "_background_noise_" / "hum.Wav")
    after = {recording.file for recording in read_recordings(layout)}
    assert after - before == {"yes/a1_nohash_0.WAV"}
    assert len(after) == len(before)
    assert background_clips(layout, "train", 1, 16_000)


@pytest.mark.parametrize("names", [("no/b.MP3", "yes/a.flac"), ("_background_noise_/c.ogg",)])
def test_audio_of_other_formats_is_refused(layout: Path, names: tuple[str, ...]) -> None:
    for name in names:
        (layout / name).write_bytes(b"")
    with pytest.raises(UsageError, match=rf"found {', '.join(names)}; expected \.wav files only"):
        read_clips(layout, dataset="any")


def test_other_files_and_folders_set_aside_do_no_harm(layout: Path) -> None:
    expected = read_clips(layout, dataset="any")
    (layout / "_set_aside").mkdir()
    for name in ("yes/notes.txt", "_background_noise_/README.md", "_set_aside/a.mp3"):
        (layout / name).write_bytes(b"")
    assert read_clips(layout, dataset="any") == expected


def test_names_that_are_not_utf_8_are_refused(layout: Path) -> None:
    source = layout / "yes" / "a1_nohash_0.wav"
    for word in (b"yes", b"s\xed"):
        folder = os.path.join(os.fsencode(layout), word)
        os.makedirs(folder, exist_ok=True)
        shutil.copy(source, os.path.join(folder, b"\xff_nohash_0.wav"))
    with pytest.raises(UsageError) as caught:
        read_clips(layout, dataset="any")
    (problem,) = caught.value.problems
    assert problem.found == r"s\udced/\udcff_nohash_0.wav, yes/\udcff_nohash_0.wav"
    str(caught.value).encode()


@pytest.mark.parametrize(("keywords", "found"), [((), "'Yes'"), (("cat ",), "'cat'"), (("bed",), None)])
def test_a_folder_that_is_a_word_of_the_task_in_another_case_is_refused(
    layout: Path, keywords: tuple[str, ...], found: str | None
) -> None:
    (layout / "Yes").mkdir()
    (layout / "Yes" / "a1_nohash_0.wav").write_bytes((layout / "yes" / "a1_nohash_0.wav").read_bytes())
    if found is None:
        assert read_clips(layout, dataset="any", keywords=keywords)
        return
    with pytest.raises(UsageError, match=rf"folders: found {found}; expected .* as written here"):
        read_clips(layout, dataset="any", keywords=keywords)


def test_noise_without_room_for_all_silence_clips_gives_each_place_once(layout: Path) -> None:
    """128,000 samples leave the last tenth no second at all, 160,000 one place."""
    rng = np.random.default_rng(5)
    for samples, places in ((128_000, 0), (160_000, 1), (160_020, 3)):
        write_wav(layout / "_background_noise_" / "hum.wav", samples, rng)
        clips = background_clips(layout, "test", 50, 16_000)
        assert len({clip.start_sample for clip in clips}) == len(clips) == places
    clips = read_clips(layout, dataset="any")
    assert len({clip.name for clip in clips}) == len(clips)


def test_an_unknown_front_end_is_refused(layout: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"features: found 'plp'"):
        load_split(layout, tmp_path / "cache", dataset="own", split="val", features="plp")


def test_all_that_is_said_beside_a_keyword_is_everything_else(layout: Path, tmp_path: Path) -> None:
    split = load_split(layout, tmp_path / "cache", dataset="any", split="train", keywords=("bed",))
    said = len(SPEAKERS["train"]) * len(WORDS)
    silence = -(-said // 10)
    assert np.bincount(split.labels).tolist() == [said - 3 + silence, 3]
    assert split.is_noise.sum() == silence


def test_words_of_ones_own_need_to_be_named(layout: Path) -> None:
    for word in LABELS[:10]:
        (layout / word).rename(layout / f"_{word}")
    for name in ("validation_list.txt", "testing_list.txt"):
        kept = [line for line in (layout / name).read_text("utf-8").split("\n") if line.split("/")[0] not in LABELS]
        (layout / name).write_text("\n".join(kept), encoding="utf-8")
    with pytest.raises(UsageError, match=r"none of the ten words.*keywords in the recipe"):
        read_clips(layout, dataset="any")
    assert {clip.word for clip in read_clips(layout, dataset="any", keywords=("cat",))} == {
        "bed",
        "cat",
        "dog",
        "_silence_",
    }


def test_names_that_tell_no_speaker_do_not_share_one(layout: Path) -> None:
    rng = np.random.default_rng(4)
    for name in ("yes/001.wav", "no/001.wav"):
        write_wav(layout / name, 12_000, rng)
    with (layout / "testing_list.txt").open("a", encoding="utf-8") as stream:
        stream.write("no/001.wav\n")
    found = {recording.file: recording.speaker for recording in read_recordings(layout)}
    assert found["yes/001.wav"] != found["no/001.wav"]
    assert read_clips(layout, dataset="any")


def test_a_layout_that_lacks_a_list_is_told_so(layout: Path) -> None:
    (layout / "testing_list.txt").unlink()
    with pytest.raises(UsageError, match=r"validation_list\.txt and testing_list\.txt of the Speech Commands layout"):
        read_clips(layout, dataset="any")


def test_background_noise_of_any_encoding_is_cut_and_other_files_are_refused(layout: Path) -> None:
    soundfile.write(layout / "_background_noise_" / "hum.wav", np.zeros(200_000), 16_000, subtype="FLOAT")
    assert len(background_clips(layout, "train", 4, 16_000)) == 4
    (layout / "_background_noise_" / "hum.wav").write_bytes(b"RIFF")
    with pytest.raises(UsageError, match=r"hum\.wav.*expected an audio file"):
        background_clips(layout, "train", 4, 16_000)
