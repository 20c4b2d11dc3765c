"""Recipes are read strictly, and the command line reports what went wrong instead of a traceback."""

import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from cli_runs import kwsq
from typer.testing import CliRunner

from kwsq.ir.errors import UsageError
from kwsq.models import cli
from kwsq.models.recipe import Distillation, read_recipe
from kwsq.models.schemes import Compressed, FixedPoint, LearnedStep, LloydMax, TwoStage, weight_scheme

SHIPPED = Path(__file__).resolve().parents[2] / "models" / "kws_ff" / "recipe.toml"


def invoke(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(cli.app, list(arguments))
    return result.exit_code, result.output


def test_the_shipped_recipe_is_complete() -> None:
    recipe = read_recipe(SHIPPED)
    assert [(variant.name, variant.scheme) for variant in recipe.variants] == [
        *((f"w{bits}", TwoStage(bits)) for bits in (8, 5, 4, 3)),
        *((f"w{bits}", LearnedStep(bits)) for bits in (2, 1)),
        ("w5_codebook", LloydMax(5)),
        ("w4_all", TwoStage(4, parameter_bits=8, power_of_two=True)),
        ("w8_fxp", FixedPoint(8, accumulator_bits=32)),
        ("w4_fxp", FixedPoint(4)),
    ]
    own = Distillation(weight=0.5, temperature=2.0)
    taught = {variant.name: variant.distillation for variant in recipe.variants if variant.distillation}
    assert taught == dict.fromkeys(("w2", "w1", "w8_fxp", "w4_fxp"), own)


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        ('dataset = "gsc12"', "", "dataset"),
        ('dataset = "gsc12"', 'dataset = "gsc12"\ncolour = 3', "colour"),
        ("masks = 2", "", "augmentation.masks"),
        ("{ weight = 0.5,", "{ weight = 1.5,", r"weight: found 1\.5; expected a number from 0 to 1"),
        ("{ weight = 0.5, temperature", "{ temperature", "weight"),
        ("bits = 4", "bits = 9", "1..8 for two_stage"),
        ('"lloyd_max"\nbits = 5', '"lloyd_max"\nbits = 8', "1..7 for lloyd_max"),
        ('weights = "two_stage"', 'weights = "magic"', "'magic'"),
        ("batch_size = 64", "batch_size = ", "Invalid value"),
        ("bits = 4", 'bits = 4\nnorm_clips = "loud"', r"variant w4\.norm_clips.*'loud'.*as_trained, clean, mixed"),
        ("bits = 4", 'bits = 4\nactivation_ranges = "loud"', r"variant w4\.activation_ranges.*'loud'"),
        ('name = "w5_codebook"', 'name = "w4"', "'w4' 2 times"),
        ('name = "w4"', 'name = "float"', "'float'.*another name"),
        ('name = "w4"', 'name = ".w4"', r"'\.w4'.*part of a file name"),
        ('name = "w4"', 'name = "../w4"', r"'\.\./w4'.*part of a file name"),
        ('name = "w4"', 'name = ""', "found ''"),
        ('name = "w4"', "name = 4", "found 4; expected part of a file name"),
    ],
)
def test_a_wrong_recipe_is_refused_by_what_is_wrong(tmp_path: Path, old: str, new: str, found: str) -> None:
    text = SHIPPED.read_text(encoding="utf-8")
    assert old in text
    path = tmp_path / "recipe.toml"
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(UsageError, match=found):
        read_recipe(path)


def test_a_width_below_the_grid_is_refused() -> None:
    with pytest.raises(UsageError, match=r"1\.\.8"):
        weight_scheme("learned_step", 0)


def test_bits_of_single_layers_and_options_of_a_scheme_are_read(tmp_path: Path) -> None:
    text = SHIPPED.read_text(encoding="utf-8").replace(
        "bits = 4\n", "bits = 4\noptions = { cosine = 1e-4 }\nlayer_bits = { splice1 = 8, classifier = 8 }\n", 1
    )
    (tmp_path / "recipe.toml").write_text(text, encoding="utf-8")
    (variant,) = (each for each in read_recipe(tmp_path / "recipe.toml").variants if each.name == "w4")
    assert variant.scheme == TwoStage(4, cosine=1e-4)
    assert dict(variant.layers) == {name: TwoStage(8, cosine=1e-4) for name in ("splice1", "classifier")}


def test_the_program_passes_train_and_eval_on(tmp_path: Path) -> None:
    found = kwsq("train", tmp_path / "none.toml", "--data", tmp_path, "--out", tmp_path)
    assert found.code == 2
    assert "none.toml: found no such file" in found.stderr
    assert kwsq("eval", "any.onnx", "--data", tmp_path).code == 2
    shown = kwsq("train", "--help").stdout
    assert "--seed" in shown
    assert "models/*/recipe.toml" in shown
    assert "section start" in re.sub(r"[\s│]+", " ", shown)  # in brackets it would be rich's markup, and not be shown


def test_one_command_trains_the_whole_zoo_each_recipe_in_its_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folders: list[Path] = []

    def train(recipe: Path, data: Path, out: Path, seed: int, **options: object) -> list[SimpleNamespace]:
        folders.append(out)
        return [SimpleNamespace(file=f"{read_recipe(recipe).name}_float.onnx", accuracy=0.5, clips=2)]

    monkeypatch.setattr(cli, "_training", lambda command, threads: SimpleNamespace(train=train))
    recipes = sorted(str(path) for path in SHIPPED.parents[1].glob("*/recipe.toml"))
    code, output = invoke("train", *recipes, "--data", str(tmp_path), "--out", str(tmp_path))
    assert code == 0
    assert folders == [tmp_path / name for name in ("ds_cnn", "kws_cnn", "kws_ff", "wake_word")]
    assert [line.split()[0] for line in output.splitlines()] == [
        f"{name}_float.onnx" for name in ("ds_cnn", "kws_cnn", "kws_ff", "kws_ff_yes")
    ]


def test_a_missing_recipe_is_a_usage_error(tmp_path: Path) -> None:
    code, output = invoke("train", str(tmp_path / "none.toml"), "--data", str(tmp_path), "--out", str(tmp_path))
    assert code == 2
    assert "none.toml: found no such file" in output
    assert "Traceback" not in output


def test_missing_data_is_a_usage_error(tmp_path: Path) -> None:
    code, output = invoke("train", str(SHIPPED), "--data", str(tmp_path), "--out", str(tmp_path / "out"))
    assert code == 2
    assert "none of the files that list clips" in output


def test_without_tensorflow_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delitem(sys.modules, "kwsq.models.training.train", raising=False)
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    code, output = invoke("train", str(SHIPPED), "--data", str(tmp_path), "--out", str(tmp_path / "out"))
    assert code == 2
    assert "kwsq[train]" in output


def test_eval_of_missing_data_is_a_usage_error(tmp_path: Path) -> None:
    code, output = invoke("eval", "any.onnx", "--data", str(tmp_path))
    assert code == 2
    assert "none of the files that list clips" in output


def test_options_of_a_scheme_are_taken_and_unknown_ones_refused() -> None:
    assert weight_scheme("s8bqat", 4, snap_steps=50) == Compressed(4, snap_steps=50)
    with pytest.raises(UsageError, match="options of max_abs: parameter_bits"):
        weight_scheme("max_abs", 4, cosine=1.0)


@pytest.mark.parametrize(("architecture", "features"), [("kws_ff", "lfbe"), ("kws_cnn", "lfbe"), ("ds_cnn", "mfcc")])
def test_every_architecture_has_a_recipe(architecture: str, features: str) -> None:
    plan = read_recipe(Path(__file__).resolve().parents[2] / "models" / architecture / "recipe.toml")
    assert (plan.architecture, plan.features) == (architecture, features)
