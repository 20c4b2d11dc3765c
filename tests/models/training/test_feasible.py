"""What data or architecture would stop on the way is refused before anything is trained, all of it at once."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import tf_keras
from keyword_cases import synthetic_keywords
from typer.testing import CliRunner

from kwsq.ir.errors import UsageError
from kwsq.models import cli
from kwsq.models.architectures import Build, architecture
from kwsq.models.data.clips import LABELS, SILENCE, LabelledFeatures
from kwsq.models.data.folds import subset
from kwsq.models.recipe import Phase, Recipe, read_recipe
from kwsq.models.schemes import (
    Compressed,
    FixedPoint,
    FloatWeights,
    LearnedStep,
    SoftToHard,
    TwoStage,
    WeightScheme,
    schedules,
)
from kwsq.models.training.feasible import require_feasible

MODELS = Path(__file__).resolve().parents[3] / "models"
CLIPS = synthetic_keywords(48, seed=1)


NO_NOISE = {
    "recipe: augmentation.noise_share": "0.5, and no clip of noise; clips labelled _noise_ in train_split 'train', or 0"
}


@pytest.fixture(scope="module")
def plan() -> Recipe:
    """A recipe with one variant, which fits the clips."""
    recipe = read_recipe(MODELS / "kws_ff" / "recipe.toml")
    recipe = replace(recipe, variants=recipe.variants[:1])
    require_feasible(recipe, architecture("kws_ff"), CLIPS)
    return recipe


def build_small(_: WeightScheme) -> Any:
    """A network whose layer has the name that Keras gives it."""
    return tf_keras.Sequential([tf_keras.Input(CLIPS.features.shape[1:]), tf_keras.layers.Dense(2)])


def problems(plan: Recipe, build: Build | None = None, clips: LabelledFeatures = CLIPS) -> dict[str, str]:
    with pytest.raises(UsageError) as caught:
        require_feasible(plan, build or architecture(plan.architecture), clips)
    return {problem.where: f"{problem.found}; {problem.expected}" for problem in caught.value.problems}


def test_features_that_the_network_does_not_take_are_refused(plan: Recipe) -> None:
    assert problems(replace(plan, architecture="ds_cnn")) == {
        "recipe: features": "'lfbe', of shape (98, 64); features of shape (49, 10), which ds_cnn takes"
    }


def test_classes_without_a_clip_are_all_named(plan: Recipe) -> None:
    some = subset(CLIPS, ~np.isin(CLIPS.labels, (LABELS.index("go"), SILENCE)))
    assert problems(plan, clips=some) == {
        "recipe: train_split 'train' of 'gsc12'": "no clip of go, _silence_; clips of all 12 classes",
        **NO_NOISE,
    }
    words = replace(plan, keywords=("hey", "ho"))
    none = replace(CLIPS, labels=np.zeros_like(CLIPS.labels))
    assert problems(words, architecture(plan.architecture, 3), none) == {
        "recipe: train_split 'train' of 'gsc12'": "no clip of hey, ho; clips of all 3 classes",
        **NO_NOISE,
    }


def test_noise_is_taken_from_noise_never_from_words(plan: Recipe) -> None:
    """A clip that says the keyword, mixed into one that does not, would be trained as none."""
    words = replace(plan, keywords=("yes",))
    spoken = replace(CLIPS, labels=CLIPS.labels % 2, noise=np.zeros(CLIPS.labels.size, bool))
    network = architecture(plan.architecture, 2)
    assert problems(words, network, spoken) == NO_NOISE
    require_feasible(replace(words, augmentation=replace(plan.augmentation, noise_share=0)), network, spoken)
    require_feasible(words, network, replace(spoken, noise=np.arange(CLIPS.labels.size) == 3))


def test_a_report_on_the_clips_that_train_is_refused(plan: Recipe) -> None:
    assert problems(replace(plan, report_split=plan.train_split)) == {
        "recipe: report_split": "'train', the train split; clips that are not trained on"
    }


def test_masks_longer_than_the_features_are_refused_where_there_are_masks(plan: Recipe) -> None:
    long = replace(plan.augmentation, time_mask_frames=99, band_mask_bands=65)
    assert problems(replace(plan, augmentation=long)) == {
        "recipe: augmentation.time_mask_frames": "99; at most 98, all there are",
        "recipe: augmentation.band_mask_bands": "65; at most 64, all there are",
    }
    for settings in (replace(long, masks=0), replace(plan.augmentation, time_mask_frames=98, band_mask_bands=64)):
        require_feasible(replace(plan, augmentation=settings), architecture("kws_ff"), CLIPS)


def test_every_variant_that_cannot_be_built_is_named(plan: Recipe) -> None:
    (first,) = plan.variants
    wrong = replace(first, name="wrong", layers=(("splice9", TwoStage(8)),))
    fixed = replace(first, name="fixed", scheme=FixedPoint(4))
    found = problems(replace(plan, variants=(first, wrong, fixed)))
    assert list(found) == ["recipe: variant wrong.layer_bits"]
    assert "'splice9'; one of splice1, " in found["recipe: variant wrong.layer_bits"]
    found = problems(replace(plan, architecture="ds_cnn", variants=(first, wrong, fixed)))
    assert list(found) == ["recipe: features", "recipe: variant wrong.layer_bits", "recipe: variant fixed.weights"]


@pytest.mark.parametrize(
    ("scheme", "enough", "unfinished"),
    [
        (SoftToHard(4, anneal_steps=7), 7, ["anneal_steps"]),
        (Compressed(4, ramp_steps=5, snap_steps=7), 7, ["snap_steps"]),
        (Compressed(4, ramp_steps=7, snap_steps=7), 7, ["ramp_steps", "snap_steps"]),
        (Compressed(4, cosine=0.0, snap_steps=6), 6, ["snap_steps"]),
        (TwoStage(4, cosine=1e-4, ramp_steps=8), 8, ["ramp_steps"]),
        (LearnedStep(2, cosine=1e-4, ramp_steps=8), 8, ["ramp_steps"]),
        (FixedPoint(4, cosine=1e-4, ramp_steps=8), 8, ["ramp_steps"]),
    ],
    ids=str,
)
def test_a_schedule_longer_than_both_stages_is_refused(
    plan: Recipe, scheme: WeightScheme, enough: int, unfinished: list[str]
) -> None:
    """As many epochs as steps: a batch holds all clips, or all but less than half of them."""
    (first,) = plan.variants
    for batch_size in (CLIPS.labels.size, 1000, CLIPS.labels.size // 2 + 1):
        stages = {"stage1": Phase(enough - 2, 1e-3, 0.0), "stage2": Phase(1, 1e-3, 0.0)}
        short = replace(plan, batch_size=batch_size, variants=(replace(first, scheme=scheme, **stages),))
        assert list(problems(short, build_small)) == [
            f"recipe: variant {first.name}.options.{option}" for option in unfinished
        ]
        assert f"{enough} of {enough - 1} steps" in problems(short, build_small).popitem()[1]
        stages["stage2"] = Phase(2, 1e-3, 0.0)
        whole = replace(short, variants=(replace(first, scheme=scheme, **stages),))
        require_feasible(whole, build_small, CLIPS)


def test_a_penalty_that_is_off_has_no_schedule() -> None:
    assert schedules(TwoStage(4, ramp_steps=10**6)) == schedules(LearnedStep(4)) == schedules(FloatWeights()) == {}
    assert schedules(FixedPoint(4, ramp_steps=10**6)) == {}


def test_names_and_weights_of_what_is_trained_afterwards_stay_as_they_are(plan: Recipe) -> None:
    def number(model: Any) -> int:
        return int(model.layers[0].name.rpartition("_")[2])

    build_small(FloatWeights())
    before = build_small(FloatWeights())
    require_feasible(plan, build_small, CLIPS)
    tf_keras.utils.set_random_seed(5)
    after = build_small(FloatWeights())
    tf_keras.utils.set_random_seed(5)
    again = build_small(FloatWeights())
    assert [number(model) - number(before) for model in (after, again)] == [1, 2]
    for one, other in zip(after.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def write_data(folder: Path) -> None:
    """Two seconds of seeded noise, one of either split."""
    rng, lines = np.random.default_rng(5), ["file,set,label12,speaker,split"]
    for split in ("train", "val"):
        soundfile.write(folder / f"{split}.wav", 0.1 * rng.standard_normal(16_000), 16_000)
        lines.append(f"{split}.wav,gsc12,yes,of {split},{split}")
    (folder / "manifest.csv").write_text("\n".join(lines), encoding="utf-8")


def test_the_program_refuses_it_before_the_float_phase(tmp_path: Path) -> None:
    write_data(tmp_path)
    text = (MODELS / "kws_ff" / "recipe.toml").read_text(encoding="utf-8")
    text = text.replace("bits = 3\n", "bits = 3\nlayer_bits = { splice9 = 8 }\n")
    (tmp_path / "recipe.toml").write_text(text.replace("time_mask_frames = 12", "time_mask_frames = 200"))
    arguments = [str(tmp_path / "recipe.toml"), "--data", str(tmp_path), "--out", str(tmp_path / "out")]
    shown = CliRunner().invoke(cli.app, ["train", *arguments])
    assert shown.exit_code == 2
    assert "recipe: augmentation.time_mask_frames: found 200; expected at most 98" in shown.output
    assert "recipe: variant w3.layer_bits: found 'splice9'" in shown.output
    assert "no clip of down, go, left, no, off, on, right, stop, up, _silence_, _unknown_" in shown.output
    assert "epoch" not in shown.output
