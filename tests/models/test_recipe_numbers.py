"""Numbers that recipes and protocols may not have are refused while they are read, by the place they stand at."""

import math
from pathlib import Path

import pytest

from kwsq.ir.errors import UsageError
from kwsq.models.allowed import TEXT, Limit, named, number, one_of, whole
from kwsq.models.data.augmentation import Augmentation
from kwsq.models.recipe import Phase, read_recipe
from kwsq.models.schemes import SoftToHard, weight_scheme
from kwsq.models.table.read_protocol import read_protocol

MODELS = Path(__file__).resolve().parents[2] / "models"
RECIPES = sorted(path for path in MODELS.glob("*/*.toml") if "table" not in path.stem)
PROTOCOLS = sorted(path for path in MODELS.glob("*/*.toml") if "table" in path.stem)


def changed(tmp_path: Path, old: str, new: str) -> Path:
    text = (MODELS / "kws_ff" / "recipe.toml").read_text(encoding="utf-8")
    assert old in text
    path = tmp_path / "recipe.toml"
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        ("epochs = 200", "epochs = 2.5", r"recipe: float\.epochs: found 2\.5; expected a whole number from 0"),
        ("epochs = 200", "epochs = -3", r"float\.epochs: found -3"),
        ("epochs = 200", "epochs = true", r"float\.epochs: found True"),
        ("learning_rate = 2e-3", 'learning_rate = "5e-4"', r"float\.learning_rate: found '5e-4'"),
        ("learning_rate = 2e-3", "learning_rate = nan", r"float\.learning_rate: found nan"),
        ("weight_decay = 1e-4", "weight_decay = -1e-4", r"float\.weight_decay: found -0\.0001"),
        ("epochs = 10,", "epochs = 10.0,", r"recipe: variant w8\.stage1\.epochs: found 10\.0"),
        ("epochs = 20,", "epochs = -1,", r"recipe: variant w8\.stage2\.epochs: found -1"),
        ("batch_size = 64", "batch_size = 0", r"recipe: batch_size: found 0; expected a whole number from 1"),
        ("calibration_clips = 512", "calibration_clips = 0", r"recipe: calibration_clips: found 0"),
        (
            "activation_percentile = 100.0",
            "activation_percentile = 0.999",
            r"recipe: variant w8\.activation_percentile: found 0\.999; expected a number above 50, up to 100",
        ),
        ("activation_percentile = 100.0", "activation_percentile = 101", "found 101; expected a number above 50"),
        ("activation_percentile = 100.0", "activation_percentile = 50", "found 50; expected a number above 50"),
        ("noise_share = 0.5", "noise_share = 50", r"recipe: augmentation\.noise_share: found 50"),
        (
            "max_gain_db = 6.0",
            "max_gain_db = inf",
            r"augmentation\.max_gain_db: found inf; expected a number from 0 to 100",
        ),
        ("lowest_snr_db = 5.0", "lowest_snr_db = 31.0", r"augmentation\.highest_snr_db: .* at least lowest_snr_db"),
        ("masks = 2", "masks = -1", r"augmentation\.masks: found -1"),
        ("temperature = 2.0", 'temperature = "2"', r"recipe: distillation\.temperature: found '2'"),
        ("bits = 8", "bits = 8.0", r"recipe: variant w8\.bits: found 8\.0; expected 1\.\.8 for two_stage"),
        ("bits = 8", "bits = 8\noptions = { parameter_bits = 1 }", r"variant w8\.options\.parameter_bits: found 1"),
        ("bits = 8", "bits = 8\noptions = { power_of_two = 1 }", r"options\.power_of_two: found 1; .* true or false"),
        ("bits = 8", "bits = 8\noptions = { cosine = -1 }", r"variant w8\.options\.cosine: found -1"),
        ("bits = 8", "bits = 8\nlayer_bits = { splice1 = 9 }", r"variant w8\.layer_bits\.splice1\.bits: found 9"),
        (
            'weights = "two_stage"\nbits = 8',
            'weights = "fxp"\nbits = 8\nlayer_bits = { splice1 = 4 }',
            r"variant w8\.layer_bits: found splice1; expected none with fxp",
        ),
    ],
)
def test_a_number_without_meaning_is_refused_at_its_place(tmp_path: Path, old: str, new: str, found: str) -> None:
    with pytest.raises(UsageError, match=found):
        read_recipe(changed(tmp_path, old, new))


@pytest.mark.parametrize(
    ("old", "new"), [("max_gain_db = 0.0", "max_gain_db = 6.0"), ("noise_share = 0.0", "noise_share = 0.5")]
)
def test_cepstra_are_not_augmented_as_if_they_were_energies(tmp_path: Path, old: str, new: str) -> None:
    text = (MODELS / "ds_cnn" / "recipe.toml").read_text(encoding="utf-8")
    assert old in text
    (tmp_path / "recipe.toml").write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(UsageError, match=r"recipe: augmentation: found max_gain_db .* expected 0 for both with mfcc"):
        read_recipe(tmp_path / "recipe.toml")


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [
        ("s8bqat", "snap_steps", 0),
        ("s8bqat", "ramp_steps", 1.5),
        ("gq", "mu", 0),
        ("gq", "first_sharpness", -1.0),
        ("gq", "last_sharpness", math.inf),
        ("gq", "anneal_steps", -1),
        ("fxp", "accumulator_bits", 24),
        ("fxp", "group", 0),
        ("fxp", "cosine", -1e-4),
        ("max_abs", "parameter_bits", 9),
        ("two_stage", "per_channel", 1),
        ("learned_step", "cosine", math.nan),
    ],
)
def test_an_option_without_meaning_is_refused(name: str, option: str, value: float) -> None:
    with pytest.raises(UsageError, match=rf"options\.{option}: found"):
        weight_scheme(name, 4, **{option: value})


def test_everything_wrong_in_a_record_is_said_at_once() -> None:
    with pytest.raises(UsageError) as caught:
        Phase(-1, math.nan, -1.0)
    assert [problem.where for problem in caught.value.problems] == ["epochs", "learning_rate", "weight_decay"]
    with pytest.raises(UsageError) as caught:
        Augmentation(max_shift_frames=-1, masks=1.5)  # type: ignore[arg-type]
    assert [problem.where for problem in caught.value.problems] == ["max_shift_frames", "masks"]
    with pytest.raises(UsageError) as caught:
        weight_scheme("gq", 4, mu=0, anneal_steps="soon")
    assert [problem.where for problem in caught.value.problems] == ["options.mu", "options.anneal_steps"]


def test_what_has_a_meaning_at_the_edge_is_allowed() -> None:
    Phase(0, 0.0, 0.0)
    Phase(1, math.inf, 0.0)
    assert weight_scheme("gq", 4, anneal_steps=0, mu=15) == SoftToHard(4, anneal_steps=0, mu=15)


@pytest.mark.parametrize(
    ("limit", "allowed", "refused"),
    [
        (whole(1), (1, 10**9), (0, 10**9 + 1, 10**400, 1.0, True, "1", None, [1], math.nan)),
        (whole(1, 3), (1, 3), (0, 4)),
        (one_of(0, 16), (0, 16), (False, 16.0, 8, [])),
        (number(), (-1e6, 0), (1e308, -1e308, math.inf, -math.inf, math.nan, 10**400, "1", True)),
        (number(0, 1), (0, 1.0), (-1e-9, 1.1)),
        (number(0, math.inf), (0, 1e308, math.inf), (-1, math.nan, 10**400)),
        (number(0, 1, above=True), (1e-6, 1), (0, 0.0, 1e-300)),
        (number(50, 100, above=True), (50.1, 100), (50, 101)),
        (named("lfbe", "mfcc"), ("lfbe",), ("LFBE", "", ["lfbe"], 1)),
        (TEXT, ("a",), ("", 1, ["a"], None)),
    ],
)
def test_a_limit_allows_what_its_words_say(limit: Limit, allowed: tuple[object], refused: tuple[object]) -> None:
    assert all(limit.allows(value) for value in allowed), limit.expected
    assert not any(limit.allows(value) for value in refused), limit.expected


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        ("{ epochs = 10,", "{ epochs = 1.5,", r"protocol: control\.stage1\.epochs: found 1\.5"),
        (
            'name = "ste"\n',
            'name = "ste"\nactivation_percentile = 1\n',
            r"protocol: ste\.activation_percentile: found 1;",
        ),
        ("cosine = 1e-4", "cosine = -1e-4", r"protocol: two_stage_acosr\.options\.cosine: found -0\.0001"),
    ],
)
def test_methods_of_a_protocol_are_held_to_the_same(tmp_path: Path, old: str, new: str, found: str) -> None:
    changed(tmp_path, "masks = 2", "masks = 2")
    text = (MODELS / "kws_ff" / "table.toml").read_text(encoding="utf-8")
    assert old in text
    (tmp_path / "table.toml").write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(UsageError, match=found):
        read_protocol(tmp_path / "table.toml")


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_every_committed_recipe_is_read(path: Path) -> None:
    assert read_recipe(path).variants


@pytest.mark.parametrize("path", PROTOCOLS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_every_committed_protocol_is_read(path: Path) -> None:
    assert list(read_protocol(path).rows())
