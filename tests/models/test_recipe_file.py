"""Whatever stands in a recipe file, it is read or refused by its place, never answered with a traceback."""

from pathlib import Path

import pytest

from kwsq.ir.errors import Problem, UsageError
from kwsq.models.allowed import MOST_NAME_BYTES, is_file_part, noted, shown
from kwsq.models.recipe import (
    OTHER_RECIPE_KEYS,
    OTHER_VARIANT_KEYS,
    RECIPE_KEYS,
    VARIANT_KEYS,
    Distillation,
    Start,
    read_recipe,
)

RECIPE = """architecture = "kws_ff"
dataset = "gsc12"
train_split = "train"
report_split = "val"
batch_size = 64
calibration_clips = 512
[float]
epochs = 2
learning_rate = 2e-3
weight_decay = 1e-4
[augmentation]
max_shift_frames = 10
max_gain_db = 6.0
noise_share = 0.5
lowest_snr_db = 5.0
highest_snr_db = 30.0
time_mask_frames = 12
band_mask_bands = 8
masks = 2
[[variant]]
name = "w4"
weights = "two_stage"
bits = 4
activation_percentile = 100.0
stage1 = { epochs = 1, learning_rate = 1e-3, weight_decay = 0.0 }
stage2 = { epochs = 1, learning_rate = 1e-3, weight_decay = 0.0 }
"""
HASH = "0a1B" * 16
STAGE = "{ epochs = 1, learning_rate = 1e-3, weight_decay = 0.0 }"
HEAD, VARIANT = RECIPE[: RECIPE.index("[[variant]]")], RECIPE[RECIPE.index("[[variant]]") :]
WITHOUT_AUGMENTATION = HEAD[: HEAD.index("[augmentation]")]


def written(tmp_path: Path, content: str | bytes) -> Path:
    path = tmp_path / "recipe.toml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def problems(tmp_path: Path, content: str | bytes) -> tuple[Problem, ...]:
    path = written(tmp_path, content)
    with pytest.raises(UsageError) as caught:
        read_recipe(path)
    assert "recipe.toml" in str(caught.value)
    return caught.value.problems


def found_at(tmp_path: Path, content: str) -> dict[str, str]:
    return {problem.where.removeprefix("recipe: "): problem.found for problem in problems(tmp_path, content)}


def with_line(line: str) -> str:
    """The recipe with a further line of its own."""
    return f"{line}\n{RECIPE}"


def with_words(*words: str) -> str:
    return with_line(f"keywords = [{', '.join(words)}]")


@pytest.mark.parametrize(
    ("content", "where"),
    [
        (HEAD + VARIANT.replace("[[variant]]", "[variant]"), "variant"),
        (f"variant = 3\n{HEAD}", "variant"),
        (f"variant = [3, []]\n{HEAD}", "variant number 1, variant number 2"),
        (f"{RECIPE}layer_bits = 8", "variant w4.layer_bits"),
        (f"{RECIPE}layer_bits = [8]", "variant w4.layer_bits"),
        (f"{RECIPE}options = [8]", "variant w4.options"),
        (f"{RECIPE}options = {{ name = 3, bits = 4 }}", "variant w4.options.name, variant w4.options.bits"),
        (f"{RECIPE}distillation = 3", "variant w4.distillation"),
        (f"augmentation = 3\n{WITHOUT_AUGMENTATION}{VARIANT}", "augmentation"),
        (f"augmentation = []\n{WITHOUT_AUGMENTATION}{VARIANT}", "augmentation"),
        (with_line("start = 3"), "start"),
        (with_line("start = { model = 1, sha256 = [] }"), "start.model, start.sha256"),
        (with_line('features = ["lfbe"]'), "features"),
        (with_line('features = "magic"'), "features"),
        (with_line("keywords = {}"), "keywords"),
        (RECIPE.replace('"kws_ff"', '["kws_ff"]'), "architecture"),
        (RECIPE.replace('"gsc12"', "3").replace('"train"', '["train"]'), "dataset, train_split"),
        (RECIPE.replace('"two_stage"', '["two_stage"]'), "variant w4.weights"),
        (RECIPE.replace('"w4"', '["w4"]'), "variant.name"),
        (RECIPE.replace(f"stage1 = {STAGE}", "stage1 = 3"), "variant w4.stage1"),
        (RECIPE.replace("max_shift_frames = 10", "max_shift_frames = 1e20"), "augmentation.max_shift_frames"),
        (RECIPE.replace("max_gain_db = 6.0", "max_gain_db = 1e300"), "augmentation.max_gain_db"),
        (RECIPE.replace("masks = 2", "masks = 1000000000000"), "augmentation.masks"),
        (RECIPE.replace("epochs = 2", "epochs = 9000000000000000000"), "float.epochs"),
        (RECIPE.replace("weight_decay = 1e-4", "weight_decay = 1e30"), "float.weight_decay"),
        (with_line("distillation = { weight = 0.5, temperature = 1e-300 }"), "distillation.temperature"),
        (f"{RECIPE}options = {{ cosine = 1e300 }}", "variant w4.options.cosine"),
        (f"{RECIPE}options = {{ ramp_steps = 10000000000 }}", "variant w4.options.ramp_steps"),
    ],
)  # fmt: skip
def test_what_has_another_form_is_refused_at_its_place(tmp_path: Path, content: str, where: str) -> None:
    assert ", ".join(found_at(tmp_path, content)) == where


@pytest.mark.parametrize(
    ("content", "found", "expected"),
    [
        (RECIPE.encode("utf-16"), "byte 0xff", "UTF-8"),
        (RECIPE.replace('"w4"', '"w4" # é').encode("latin-1"), "byte 0xe9", "UTF-8"),
        (with_line("a = " + "[" * 3000 + "]" * 3000), "nested too deeply", "TOML"),
        (with_line(".".join("a" * 3000) + " = 1"), "nested too deeply", "TOML"),
        (with_line("a = " + "1" * 5000), "digits", "TOML"),
        (with_line("a = 0x" + "1" * 5000), "more than 64 bits", "a 64-bit number"),
        (with_line("a = 1979-99-99"), "(at line 1", "TOML"),
        (RECIPE.encode() + b"\0", "Invalid", "TOML"),
    ],
)
def test_what_is_no_toml_is_said_of_the_file(tmp_path: Path, content: str | bytes, found: str, expected: str) -> None:
    (problem,) = problems(tmp_path, content)
    assert "recipe.toml" in problem.where
    assert found in problem.found
    assert problem.expected == expected


@pytest.mark.parametrize(
    "content", [b"\xef\xbb\xbf" + RECIPE.encode(), RECIPE.replace("\n", "\r\n").encode(), RECIPE.encode()]
)
def test_marks_and_ends_of_lines_of_other_editors_are_read(tmp_path: Path, content: bytes) -> None:
    assert read_recipe(written(tmp_path, content)) == read_recipe(written(tmp_path, RECIPE))


def test_an_unknown_key_is_named_with_its_variant_its_stage_and_the_known_ones(tmp_path: Path) -> None:
    again = RECIPE.replace("batch_size", "batchsize").replace(f"stage2 = {STAGE}", f"stage2 = {STAGE[:-1]}, foo = 3 }}")
    size, unknown, stage = problems(tmp_path, again)
    assert (size.where, size.found, size.remedy) == ("recipe: batch_size", "nothing", "state batch_size")
    assert (unknown.where, unknown.found) == ("recipe: batchsize", "an unknown key")
    assert unknown.expected.startswith("one of architecture, dataset, ")
    assert unknown.remedy == "write batch_size, if that is meant"
    assert (stage.where, stage.found) == ("recipe: variant w4.stage2.foo", "an unknown key")
    assert (stage.expected, stage.remedy) == ("one of epochs, learning_rate, weight_decay", "take it out")


def test_a_missing_key_is_named_with_its_variant(tmp_path: Path) -> None:
    assert found_at(tmp_path, RECIPE.replace("bits = 4\n", "")) == {"variant w4.bits": "nothing"}
    nameless = RECIPE.replace('name = "w4"\n', "")
    assert found_at(tmp_path, nameless) == {"variant number 1.name": "nothing"}
    everything = {key: "nothing" for key in RECIPE_KEYS}
    assert found_at(tmp_path, "") == everything


def test_everything_wrong_in_a_file_is_said_at_once(tmp_path: Path) -> None:
    wrong = with_words("3", '"a/b"').replace("batch_size = 64", "batch_size = 0").replace("epochs = 2", "epochs = -1")
    wrong = wrong.replace("masks = 2", "masks = -2").replace("bits = 4", "bits = 9")
    wrong = wrong.replace("epochs = 1,", "epochs = -1,") + VARIANT.replace('"two_stage"', '"magic"')
    assert list(found_at(tmp_path, wrong + "norm_clips = 3\n")) == [
        "batch_size", "float.epochs", "augmentation.masks", "keywords", "variant w4.bits", "variant w4.stage1.epochs",
        "variant w4.stage2.epochs", "variant w4.weights", "variant w4.norm_clips",
    ]  # fmt: skip


def test_the_stated_keys_are_those_that_are_read(tmp_path: Path) -> None:
    """No key is refused that the lists name: each is read with a value that another test has, or here."""
    values = {
        "features": '"lfbe"', "keywords": '["yes"]', "distillation": "{ weight = 0.5, temperature = 2 }",
        "start": f'{{ model = "m", sha256 = "{HASH}" }}', "options": "{ cosine = 1e-4 }",
        "layer_bits": "{ classifier = 8 }", "activation_ranges": '"learned"', "norm_clips": '"clean"',
    }  # fmt: skip
    top = "".join(f"{key} = {values[key]}\n" for key in OTHER_RECIPE_KEYS)
    own = "".join(f"{key} = {values[key]}\n" for key in OTHER_VARIANT_KEYS)
    plan = read_recipe(written(tmp_path, top + RECIPE + own))
    assert (plan.start, plan.distillation, plan.keywords) == (Start("m", HASH), Distillation(0.5, 2), ("yes",))
    assert plan.variants[0].distillation == Distillation(0.5, 2)
    assert all(f"{key} = " in RECIPE or f"[{key}]" in RECIPE for key in (*RECIPE_KEYS, *VARIANT_KEYS))


@pytest.mark.parametrize("digest", [HASH[:-1], HASH + "0", HASH.replace("a", "g"), f"{HASH[:-1]}\u0660"])
def test_a_hash_is_64_hexadecimal_digits(tmp_path: Path, digest: str) -> None:
    found = found_at(tmp_path, with_line(f'start = {{ model = "m", sha256 = "{digest}" }}'))
    assert list(found) == ["start.sha256"]


@pytest.mark.parametrize(
    ("weights", "line", "where"),
    [
        ("fxp", 'activation_ranges = "learned"', "activation_ranges"),
        ("fxp", 'norm_clips = "clean"', "norm_clips"),
        ("two_stage", 'norm_clips = "mixed"\noptions = { parameter_bits = 8 }', "norm_clips"),
        ("fxp", "layer_bits = { classifier = 8 }", "layer_bits"),
    ],
)
def test_a_key_without_effect_is_refused(tmp_path: Path, weights: str, line: str, where: str) -> None:
    other = RECIPE.replace('"two_stage"', f'"{weights}"')
    assert read_recipe(written(tmp_path, other)).variants
    assert list(found_at(tmp_path, f"{other}{line}\n")) == [f"variant w4.{where}"]


def test_a_percentile_has_no_effect_in_fixed_point(tmp_path: Path) -> None:
    fixed = RECIPE.replace('"two_stage"', '"fxp"')
    found = found_at(tmp_path, fixed.replace("percentile = 100.0", "percentile = 99.9"))
    assert found == {"variant w4.activation_percentile": "99.9"}


# ---- names that become those of files ----


@pytest.mark.parametrize(
    "word", ['"hey/siri"', '".."', '"."', '"a\\u0000b"', '"a\\nb"', '"\\u001b[2J"', '"a\\u2028b"', '""', '"_own"', "3"]
)
def test_a_word_that_makes_no_file_name_is_refused(tmp_path: Path, word: str) -> None:
    assert list(found_at(tmp_path, with_words('"yes"', word))) == ["keywords"]


def test_every_wrong_word_is_named(tmp_path: Path) -> None:
    found = [problem.found for problem in problems(tmp_path, with_words('"a/b"', '"yes"', '".."', '"yes"'))]
    assert found == ["'a/b'", "'..'", "'yes' 2 times"]


@pytest.mark.parametrize("word", ["hey siri", "öffne", "می‌خواهم", "...", "你好", "it's", 'a"b'])
def test_a_word_of_any_language_is_none_the_worse(word: str, tmp_path: Path) -> None:
    assert is_file_part(word)
    (tmp_path / f"{word}.csv").write_text("", encoding="utf-8")


def test_names_are_refused_whose_files_would_have_names_too_long(tmp_path: Path) -> None:
    """The longest is that of a score file, in bytes; the longest that is allowed is taken."""
    room = (MOST_NAME_BYTES - len("kws_ff__float.onnx..csv")) // 2
    word = "é" * 10 + "a" * (room - 20)
    assert read_recipe(written(tmp_path, with_words(f'"{word}"'))).keywords == (word,)
    (problem,) = problems(tmp_path, with_words(f'"{word}aa"'))
    assert (problem.where, problem.remedy) == ("recipe: keywords", "name fewer or shorter words")
    room = MOST_NAME_BYTES - len("kws_ff_.onnx._silence_.csv")
    read_recipe(written(tmp_path, RECIPE.replace('"w4"', f'"{"w" * room}"')))
    (problem,) = problems(tmp_path, RECIPE.replace('"w4"', f'"{"w" * (room + 1)}"'))
    assert (problem.where, problem.remedy) == ("recipe: variant.name", "shorten the name")
    assert problem.found.startswith(f"a file name of {MOST_NAME_BYTES + 1} bytes, kws_ff_ww")


# ---- what the parts do ----


def test_a_value_is_shown_short_and_harmless() -> None:
    assert len(shown([0] * 10**5)) <= 60
    assert shown("\x1b[2J") == "'\\x1b[2J'"


def test_what_is_noted_is_not_raised_until_the_end() -> None:
    seen: list[Problem] = []
    with noted(seen, "a."):
        raise UsageError([Problem("b", "", "", ""), Problem("c", "", "", "")])
    assert [problem.where for problem in seen] == ["a.b", "a.c"]
    with pytest.raises(ValueError, match="other"), noted(seen):
        raise ValueError("other")
