"""Training on shards: every clip once per epoch, resumable to the bit, and as good as from memory."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import training_program
from keyword_cases import RECIPE, VARIANT, noise_recordings, synthetic_keywords
from typer.testing import CliRunner

from kwsq.ir.errors import UsageError
from kwsq.models.cli import app
from kwsq.models.data.augmentation import Augmentation
from kwsq.models.data.clips import LABELS, LabelledFeatures, load_split
from kwsq.models.data.epochs import epoch_batches
from kwsq.models.data.record_shards import ShardedFeatures, open_shards, write_shards
from kwsq.models.data.split_shards import open_split, require_other_clips, shard_split
from kwsq.models.progress import Count
from kwsq.models.training.watching import ignore_line

AS_THEY_ARE = Augmentation(0, 0.0, 0.0, 0.0, 0.0, 0, 0, 0)
SPLIT = {"dataset": "own", "split": "train", "features": "lfbe", "keywords": ()}


class KilledError(Exception):
    """Ends a run in the middle."""


def sharded(clips: LabelledFeatures, folder: Path, held: int = 40) -> ShardedFeatures:
    rows = zip(clips.features, clips.labels.tolist(), clips.speakers, clips.is_noise.tolist(), strict=True)
    write_shards(rows, folder, shards=5)
    return open_shards(folder, held=held)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> ShardedFeatures:
    return sharded(synthetic_keywords(96, seed=1), tmp_path_factory.mktemp("clips") / "shards")


def test_an_epoch_gives_every_clip_once(clips: ShardedFeatures) -> None:
    whole = synthetic_keywords(96, seed=1)
    batches = list(epoch_batches(clips, AS_THEY_ARE, 16, np.random.default_rng(0)))
    features, labels = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    assert len(batches) == 6
    found, wanted = (np.lexsort(each.reshape(96, -1).T) for each in (features, whole.features))
    np.testing.assert_array_equal(features[found], whole.features[wanted])
    np.testing.assert_array_equal(labels[found], whole.labels[wanted])


def test_epochs_differ_in_order_and_augmentation_and_repeat(clips: ShardedFeatures) -> None:
    rng = np.random.default_rng(3)
    first, second = (next(epoch_batches(clips, training_program.PLAN.augmentation, 16, rng)) for _ in range(2))
    again = next(epoch_batches(clips, training_program.PLAN.augmentation, 16, np.random.default_rng(3)))
    assert (first[0] != second[0]).any()
    np.testing.assert_array_equal(first[0], again[0])


@pytest.mark.slow
def test_a_killed_run_ends_in_the_same_bits(clips: ShardedFeatures, tmp_path: Path) -> None:
    def show(line: str) -> None:
        if line.startswith("w4-stage2: epoch 1 "):
            raise KilledError

    training_program.main(tmp_path / "whole", ignore_line, clips=clips)
    with pytest.raises(KilledError):
        training_program.main(tmp_path / "killed", show, clips=clips)
    training_program.main(tmp_path / "killed", ignore_line, clips=clips)
    with np.load(tmp_path / "whole" / "final.npz") as whole, np.load(tmp_path / "killed" / "final.npz") as killed:
        for name in whole.files:
            np.testing.assert_array_equal(whole[name], killed[name])


def test_the_sample_that_is_held_does_not_decide_what_is_trained_on(clips: ShardedFeatures) -> None:
    few = replace(clips, features=clips.features[:8], labels=clips.labels[:8], noise=clips.is_noise[:8])
    batches = [list(epoch_batches(each, AS_THEY_ARE, 16, np.random.default_rng(0))) for each in (clips, few)]
    for one, other in zip(*batches, strict=True):
        np.testing.assert_array_equal(one[0], other[0])


def data_folder(folder: Path) -> Path:
    return noise_recordings(folder, "own", [(label, split) for label in LABELS for split in ("val", "train", "train")])


def test_shards_of_another_split_or_task_are_refused(tmp_path: Path) -> None:
    told: list[Count] = []
    clips = shard_split(data_folder(tmp_path / "data"), tmp_path / "shards", shards=3, told=told.append, **SPLIT)
    assert told == [Count("writing train clips", done, clips) for done in range(25)]
    assert open_split(tmp_path / "shards", **SPLIT).clips == 24
    with pytest.raises(UsageError, match=r"shards of split 'train', keywords \[\].*kwsq shard RECIPE"):
        open_split(tmp_path / "shards", **{**SPLIT, "split": "val", "keywords": ("yes",)})


def test_clips_are_written_in_a_drawn_order(tmp_path: Path) -> None:
    """Files are listed by their names, which begin with the class in the Speech Commands layout."""
    clips = [(label, split) for label in LABELS for split in ("train",) * 8]
    shard_split(noise_recordings(tmp_path / "data", "own", clips), tmp_path / "shards", shards=8, **SPLIT)
    held = open_shards(tmp_path / "shards", held=48)
    batches = list(epoch_batches(held, AS_THEY_ARE, 16, np.random.default_rng(0)))
    assert np.unique(held.labels).size == 12
    assert min(np.unique(labels).size for _, labels in batches) >= 6


def test_machines_that_list_other_clips_do_not_write_parts_of_one_corpus(tmp_path: Path) -> None:
    data = data_folder(tmp_path / "data")
    shard_split(data, tmp_path / "shards", shards=3, part=(1, 2), **SPLIT)
    listed = (data / "manifest.csv").read_text(encoding="utf-8").splitlines()
    (data / "manifest.csv").write_text("\n".join(listed[:-1]), encoding="utf-8")
    shard_split(data, tmp_path / "shards", shards=3, part=(2, 2), **SPLIT)
    with pytest.raises(UsageError, match="shards of something else"):
        open_split(tmp_path / "shards", **SPLIT)


def test_parts_of_the_shards_are_written_by_machines_of_their_own(tmp_path: Path) -> None:
    data, recipe, shards = data_folder(tmp_path / "data"), tmp_path / "recipe.toml", tmp_path / "shards"
    recipe.write_text(RECIPE + VARIANT, encoding="utf-8")
    where = ["shard", str(recipe), "--data", str(data), "--out", str(shards), "--shards", "3", "--part"]
    first = CliRunner().invoke(app, [*where, "1/2"])
    assert "16 clips in 2 shards" in first.output
    with pytest.raises(UsageError, match=r"no index of part 2/2"):
        open_split(shards, **SPLIT)
    assert "8 clips in 1 shards" in CliRunner().invoke(app, [*where, "2/2"]).output
    assert open_split(shards, **SPLIT).clips == 24
    for part, message in (
        ("2/2", "shards already"),
        ("1/4", "found 1/4"),
        ("0/2", "found '0/2'"),
        (f"1/{'9' * 5000}", "expected I/N"),
    ):
        again = CliRunner().invoke(app, [*where, part])
        assert again.exit_code == 2
        assert message in again.output


@pytest.mark.slow
def test_the_commands_write_shards_and_train_on_them(tmp_path: Path) -> None:
    data, recipe = data_folder(tmp_path / "data"), tmp_path / "recipe.toml"
    recipe.write_text(RECIPE + VARIANT, encoding="utf-8")
    shards, where = tmp_path / "shards", ["--data", str(data)]
    written = CliRunner().invoke(app, ["shard", str(recipe), *where, "--out", str(shards), "--shards", "3"])
    assert written.exit_code == 0, written.output
    assert "24 clips in 3 shards" in written.output
    options = [*where, "--shards", str(shards), "--out", str(tmp_path / "out")]
    trained = CliRunner().invoke(app, ["train", str(recipe), *options])
    assert trained.exit_code == 0, (trained.output, trained.exc_info[1])
    assert {path.suffix for path in (tmp_path / "out").rglob("kws_ff_*")} == {".onnx"}
    assert len(list((tmp_path / "out").rglob("*.npy"))) == 1  # of the report split: training clips are never held


def test_a_voice_in_the_shards_is_not_reported_on(tmp_path: Path) -> None:
    """A speaker who moved to the other split after the shards were written."""
    data, shards, lines = data_folder(tmp_path / "data"), tmp_path / "shards", list[str]()
    shard_split(data, shards, shards=3, **SPLIT)
    train, manifest = open_split(shards, **SPLIT), data / "manifest.csv"
    own = {**SPLIT, "data": data, "show": lines.append}
    require_other_clips(train, load_split(data, tmp_path, dataset="own", split="val"), **own)
    assert not lines
    moved = manifest.read_text(encoding="utf-8").replace("1.wav,own,down,s1,train", "1.wav,own,down,s1,val")
    manifest.write_text(moved, encoding="utf-8")
    with pytest.raises(UsageError, match=r"found speaker 's1'; .*kwsq shard"):
        require_other_clips(train, load_split(data, tmp_path, dataset="own", split="val"), **own)
    manifest.write_text("\n".join(moved.splitlines()[:1] + moved.splitlines()[3:]), encoding="utf-8")
    require_other_clips(train, load_split(data, tmp_path, dataset="own", split="val"), **own)
    (line,) = lines
    assert "holds 24, digest" in line
    assert "lists 23, digest" in line
    only_val = [line for line in moved.splitlines() if not line.endswith(",train") and ",s1," not in line]
    manifest.write_text("\n".join(only_val), encoding="utf-8")
    require_other_clips(train, load_split(data, tmp_path, dataset="own", split="val"), **own)
    assert len(lines) == 1


def test_noise_may_be_of_one_recording_in_both(tmp_path: Path) -> None:
    data, manifest = data_folder(tmp_path / "data"), tmp_path / "data" / "manifest.csv"
    text = manifest.read_text(encoding="utf-8")
    number = LABELS.index("_silence_") * 3
    for clip in range(number, number + 3):
        text = text.replace(f",s{clip},", ",hum,")
    manifest.write_text(text, encoding="utf-8")
    shard_split(data, tmp_path / "shards", shards=3, **SPLIT)
    report = load_split(data, tmp_path, dataset="own", split="val")
    require_other_clips(open_split(tmp_path / "shards", **SPLIT), report, data, show=pytest.fail, **SPLIT)
