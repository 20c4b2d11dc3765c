"""A recipe's keywords make the task: who says what, how classes weigh, and a network that comes of it."""

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import tf_keras
from keyword_cases import BANDS, FRAMES, synthetic_keywords
from onnx_models import unstated
from typer.testing import CliRunner

from kwsq.ir.errors import UsageError
from kwsq.models import cli
from kwsq.models.architectures import architecture
from kwsq.models.data.augmentation import Augmentation, augment
from kwsq.models.data.clips import LABELS, OTHER, SILENCE, class_names, load_split, read_clips
from kwsq.models.data.folds import clip_groups, subset
from kwsq.models.export_onnx import export_onnx
from kwsq.models.layers.sequential import layer_records
from kwsq.models.recipe import NO_DISTILLATION, Distillation, Phase, Recipe, Variant, read_recipe
from kwsq.models.schemes import FixedPoint, TwoStage
from kwsq.models.scoring.artefact import scored_artefact
from kwsq.models.scoring.detection import keyword_trials, miss_rate
from kwsq.models.synthetic.dataset import WAKE_WORD, load_synthetic, synthetic_words
from kwsq.models.table.read_protocol import read_protocol
from kwsq.models.training.fitting import class_weights, training_step
from kwsq.models.training.train import train, trained_models

MODELS = Path(__file__).resolve().parents[2] / "models"
SHIPPED = MODELS / "wake_word" / "recipe.toml"
ROWS = [
    (f"{split}/{who}_{word}.flac", "own", word, label, who, split)
    for split, speakers in (("train", ("anna", "bert")), ("val", ("cleo", "dora")))
    for who in speakers
    for word, label in (("yes", "yes"), ("go", "go"), ("marvin", "_unknown_"), ("bed", "_unknown_"))
]
NOISE = [(f"{split}/hum.flac", "own", "hum", "_silence_", "noise", split) for split in ("train", "val")]


def write_data(folder: Path, rows: list[tuple[str, ...]]) -> Path:
    """A manifest with what is said in each clip, and a second of seeded noise for each."""
    rng = np.random.default_rng(12)
    for row in rows:
        (folder / row[0]).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / row[0], 0.1 * rng.standard_normal(16_000), 16_000)
    with (folder / "manifest.csv").open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([("file", "set", "word", "label12", "speaker", "split"), *rows])
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"), [*ROWS, *NOISE])


@pytest.mark.parametrize("keywords", [("yes",), ("marvin",), ("bed", "yes")])
def test_keywords_are_classes_and_all_else_is_one(data: Path, keywords: tuple[str, ...]) -> None:
    """Also words that are no class of the twelve."""
    clips = read_clips(data, dataset="own", keywords=keywords)
    names = class_names(keywords)
    assert names == (OTHER, *keywords)
    expected = {row[0]: row[2] if row[2] in keywords else OTHER for row in [*ROWS, *NOISE]}
    assert {clip.file: names[clip.label] for clip in clips} == expected


def test_without_keywords_there_are_twelve_classes(data: Path) -> None:
    labels = {clip.file: LABELS[clip.label] for clip in read_clips(data, dataset="own")}
    assert labels == {row[0]: row[3] for row in [*ROWS, *NOISE]}
    assert class_names() == LABELS


def test_a_word_that_nobody_says_is_refused(data: Path) -> None:
    with pytest.raises(UsageError, match="no clip that says 'computer'"):
        read_clips(data, dataset="own", keywords=("yes", "computer"))


def test_splits_stay_disjoint_by_speaker_and_noise_has_none(data: Path, tmp_path: Path) -> None:
    parts = [load_split(data, tmp_path, dataset="own", split=split, keywords=("marvin",)) for split in ("train", "val")]
    voices = [set(np.array(part.speakers)[~part.is_noise]) for part in parts]
    assert voices == [{"anna", "bert"}, {"cleo", "dora"}]
    assert [part.is_noise.sum() for part in parts] == [1, 1]
    whole = write_data(tmp_path / "crossed", [*ROWS, ("val/again.flac", "own", "yes", "yes", "anna", "val")])
    with pytest.raises(UsageError, match="speaker 'anna' in splits"):
        read_clips(whole, dataset="own", keywords=("marvin",))


def test_the_noise_of_augmentation_is_that_of_the_twelve_classes() -> None:
    """Class numbers of the task must not decide what is background noise."""
    twelve, two = load_synthetic("train"), load_synthetic("train", keywords=(WAKE_WORD,))
    assert (two.is_noise == (twelve.labels == SILENCE)).all()
    features = [augment(part, Augmentation(), np.random.default_rng(1))[0] for part in (twelve, two)]
    np.testing.assert_array_equal(*features)
    without = augment(replace(two, noise=None), Augmentation(), np.random.default_rng(1))[0]
    assert (without != features[0]).any()
    assert clip_groups(two) == clip_groups(twelve)
    assert subset(two, two.is_noise).is_noise.all()


def test_classes_weigh_alike_in_sum() -> None:
    labels = np.array([0] * 90 + [1] * 6 + [2] * 4)
    weights = class_weights(np.bincount(labels, minlength=3))
    np.testing.assert_allclose(weights * np.bincount(labels), 100 / 3, rtol=1e-6)  # float32
    with pytest.raises(UsageError, match="no training clip of class 2"):
        class_weights(np.bincount(labels[labels < 2], minlength=3))


@pytest.mark.parametrize(("weight", "heat"), [(0.0, 1.0), (0.5, 2.0)])
def test_the_weighed_loss_is_the_stated_one(weight: float, heat: float) -> None:
    examples = synthetic_keywords(48, seed=1)
    labels = (examples.labels == 3).astype(np.int64)
    rng = np.random.default_rng(2)
    models = []
    for _ in range(2):
        model = tf_keras.Sequential([tf_keras.Input((FRAMES, BANDS)), tf_keras.layers.GlobalAveragePooling1D()])
        model.add(tf_keras.layers.Dense(2))
        model.set_weights([rng.normal(size=array.shape).astype(np.float32) for array in model.get_weights()])
        models.append(model)
    student, teacher = models
    optimizer = tf_keras.optimizers.SGD(0.0)
    optimizer.build(student.trainable_variables)
    z, u = (model(examples.features).numpy().astype(np.float64) for model in models)
    truth = -log_softmax(z)[np.arange(48), labels]
    target = np.exp(log_softmax(u / heat))
    divergence = (target * (log_softmax(u / heat) - log_softmax(z / heat))).sum(axis=1)
    per_clip = (1 - weight) * truth + weight * heat**2 * divergence
    balance = class_weights(np.bincount(labels, minlength=2))
    expected = (balance[labels] * per_clip).mean()
    step = training_step(student, optimizer, Distillation(weight, heat), teacher if weight else None, balance)
    # float32 sums of 48 terms of a few units each: 1e-5 relative is a hundred roundings.
    assert float(step(examples.features, labels)) == pytest.approx(expected, rel=1e-5)
    assert per_clip.mean() != pytest.approx(expected, rel=1e-2)  # all clips alike is another loss


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))


def test_the_shipped_recipe_names_its_word() -> None:
    plan = read_recipe(SHIPPED)
    assert (plan.keywords, plan.name) == (("yes",), "kws_ff_yes")
    assert read_recipe(MODELS / "kws_ff" / "recipe.toml").name == "kws_ff"


@pytest.mark.parametrize("wrong", ['"yes"', '["yes", "yes"]', '["_unknown_"]', '[""]', "[3]"])
def test_keywords_that_are_no_different_words_are_refused(tmp_path: Path, wrong: str) -> None:
    text = SHIPPED.read_text(encoding="utf-8")
    (tmp_path / "recipe.toml").write_text(text.replace('["yes"]', wrong), encoding="utf-8")
    with pytest.raises(UsageError, match="recipe: keywords"):
        read_recipe(tmp_path / "recipe.toml")


def test_the_table_is_of_the_twelve_classes(tmp_path: Path) -> None:
    table = (MODELS / "kws_ff" / "table.toml").read_text(encoding="utf-8")
    (tmp_path / "table.toml").write_text(table, encoding="utf-8")
    (tmp_path / "recipe.toml").write_text(SHIPPED.read_text(encoding="utf-8"), encoding="utf-8")
    with pytest.raises(UsageError, match="a recipe with keywords"):
        read_protocol(tmp_path / "table.toml")


@pytest.mark.parametrize("name", ["kws_ff", "kws_cnn", "ds_cnn"])
def test_every_architecture_has_as_many_outputs_as_the_task(name: str) -> None:
    assert architecture(name, 2)(TwoStage(4)).output_shape == (None, 2)
    assert architecture(name)(TwoStage(4)).output_shape == (None, 12)


def test_the_fixed_point_network_has_too() -> None:
    assert architecture("kws_ff", 3)(FixedPoint(4)).output_shape == (None, 3)


PHASE = Phase(epochs=1, learning_rate=1e-3, weight_decay=0.0)
PLAN = Recipe(
    architecture="kws_ff",
    dataset="own",
    train_split="train",
    report_split="val",
    batch_size=32,
    calibration_clips=64,
    float_phase=Phase(epochs=16, learning_rate=2e-3, weight_decay=1e-4),
    augmentation=Augmentation(max_shift_frames=4, time_mask_frames=4, band_mask_bands=2, masks=1),
    variants=(Variant("w4", TwoStage(4), 100.0, PHASE, PHASE),),
    distillation=NO_DISTILLATION,
    keywords=(WAKE_WORD,),
)


@pytest.fixture(scope="module")
def spoken() -> dict[str, Any]:
    clips = load_synthetic("train", keywords=PLAN.keywords)
    return trained_models(PLAN, architecture("kws_ff", 2), clips, seed=1)


@pytest.mark.parametrize("name", ["float", "w4"])
def test_a_wake_word_is_learned_from_the_synthetic_set(spoken: dict[str, Any], name: str, tmp_path: Path) -> None:
    """Trained, exported, converted with parity and scored as the gate does, on voices that did not train."""
    clips = load_synthetic("val", keywords=PLAN.keywords)
    assert clips.labels.tolist() == [int(word == WAKE_WORD) for word in synthetic_words("val")]
    path = tmp_path / f"{name}.onnx"
    path.write_bytes(export_onnx(layer_records(spoken[name]), (FRAMES, BANDS), name=name))
    scored = scored_artefact(path, clips.features, weight_bits=None if name == "float" else 4)
    assert scored.logits.shape == (78, 2)
    missed = miss_rate(keyword_trials(scored.logits, clips, 1), 0.25)
    # Six keywords of six voices; by chance three quarters of them are missed, at most two with p = 0.04.
    assert missed.value <= 2 / 6
    assert (missed.keywords, missed.others) == (6, 72)
    shuffled = replace(clips, labels=np.roll(clips.labels, 30))
    assert miss_rate(keyword_trials(scored.logits, shuffled, 1), 0.25).value > missed.value


def test_train_and_eval_take_the_task_from_the_recipe(data: Path, tmp_path: Path) -> None:
    text = SHIPPED.read_text(encoding="utf-8").replace('"gsc12"', '"own"').replace("epochs = 100", "epochs = 1")
    text = text.replace("batch_size = 64", "batch_size = 4").replace('["yes"]', '["marvin"]')
    (tmp_path / "recipe.toml").write_text(text[: text.index("[[variant]]")] + "variant = []", encoding="utf-8")
    text = (tmp_path / "recipe.toml").read_text(encoding="utf-8").replace("variant = []", "")
    (tmp_path / "recipe.toml").write_text("variant = []\n" + text, encoding="utf-8")
    (model,) = train(tmp_path / "recipe.toml", data, tmp_path / "out", 1)
    assert model.file == "kws_ff_marvin_float.onnx"
    arguments = ["eval", str(tmp_path / "out" / model.file), "--data", str(data), "--dataset", "own"]
    cache = ["--cache", str(tmp_path / "cache")]
    shown = CliRunner().invoke(cli.app, [*arguments, *cache, "--keyword", "marvin", "--false-accept-rate", "0.5"])
    assert shown.exit_code == 0
    assert f"accuracy {100 * model.accuracy:.2f} % of 9 clips" in shown.output
    assert "marvin: FRR" in shown.output
    assert "of 2 at FAR 50 % of 7" in shown.output
    unasked = CliRunner().invoke(cli.app, [*arguments, *cache, "--false-accept-rate", "0.5"])
    assert (unasked.exit_code, unasked.output) == (0, shown.output)
    other = CliRunner().invoke(cli.app, [*arguments, *cache, "--keyword", "yes"])
    assert other.exit_code == 2
    assert "found classes _other_, marvin; expected classes _other_, yes, as --keyword says" in other.output
    old = unstated(SHIPPED.parent / "kws_ff_yes_w4.onnx", tmp_path)
    without = CliRunner().invoke(cli.app, ["eval", str(old), *arguments[2:], *cache])
    assert without.exit_code == 2
    assert "2 outputs" in without.output
