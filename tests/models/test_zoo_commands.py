"""The commands of the zoo end as all others do: with figures on stdout, and an exit code that says what went wrong."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from cli_runs import kwsq
from keyword_cases import noise_recordings

from kwsq.converter.cli_commands import ZOO_COMMANDS
from kwsq.models import cli
from kwsq.models.data.clips import LABELS
from kwsq.models.scoring import score_shards, task

MODELS = Path(__file__).resolve().parents[2] / "models"
RECIPE = MODELS / "kws_ff" / "recipe.toml"
YES = MODELS / "wake_word" / "kws_ff_yes_w4.onnx"
FF = MODELS / "kws_ff" / "kws_ff_w4.onnx"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three clips per class, all in one split."""
    return noise_recordings(tmp_path_factory.mktemp("data"), "own", [(label, "val") for label in LABELS * 3])


def ending(monkeypatch: pytest.MonkeyPatch, command: str, data: Path, error: BaseException, *more: str) -> Any:
    """How a command ends in which an error is raised."""

    def fail(*_: object, **__: object) -> None:
        raise error

    work = SimpleNamespace(train=fail, shard=fail)
    monkeypatch.setattr(cli, "_training", lambda *_: work)
    monkeypatch.setattr(task, "task_of", fail)
    monkeypatch.setattr(score_shards, "merge_scores", fail)
    arguments = {
        "train": [RECIPE, "--data", data, "--out", data / "out"],
        "shard": [RECIPE, "--data", data, "--out", data / "out"],
        "eval": [FF, "--data", data, "--cache", data / "cache"],
        "merge-scores": ["a.csv", "-o", "b.csv"],
    }[command]
    return kwsq(command, *arguments, *more)


@pytest.mark.parametrize("command", ZOO_COMMANDS)
def test_a_defect_is_an_internal_error_and_not_a_failed_gate(
    monkeypatch: pytest.MonkeyPatch, data: Path, command: str
) -> None:
    found = ending(monkeypatch, command, data, ZeroDivisionError("by nothing"))
    assert found.code == 70
    assert "kwsq: internal error: ZeroDivisionError: by nothing" in found.stderr
    assert "please report it" in found.stderr
    assert "Traceback" not in found.stderr
    assert "Traceback" in ending(monkeypatch, command, data, ZeroDivisionError(), "-v").stderr


@pytest.mark.parametrize("command", ZOO_COMMANDS)
def test_a_file_that_cannot_be_written_is_none_of_its_defects(
    monkeypatch: pytest.MonkeyPatch, data: Path, command: str
) -> None:
    found = ending(monkeypatch, command, data, PermissionError(13, "Permission denied", "/some/file"))
    assert found.code == 2
    assert "/some/file: found Permission denied; expected files that can be read and written" in found.stderr


@pytest.mark.parametrize("command", ZOO_COMMANDS)
def test_what_is_interrupted_ends_as_everything_that_is(
    monkeypatch: pytest.MonkeyPatch, data: Path, command: str
) -> None:
    assert ending(monkeypatch, command, data, KeyboardInterrupt()).code == 130


# ---- train ----


def trained(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The output folders of what is trained, as it is called."""
    folders: list[Path] = []

    def train(recipe: Path, data: Path, out: Path, *_: object, **__: object) -> list[Any]:
        folders.append(out)
        return []

    monkeypatch.setattr(cli, "_training", lambda *_: SimpleNamespace(train=train))
    return folders


def copies(tmp_path: Path, *names: str) -> list[Path]:
    paths = [tmp_path / name for name in names]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(RECIPE.read_bytes())
    return paths


def test_recipes_that_would_share_a_folder_are_refused_before_any_is_trained(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folders, out = trained(monkeypatch), tmp_path / "out"
    recipes = copies(tmp_path, "A/m/recipe.toml", "B/m/recipe.toml", "A/m/other.toml", "B/n/recipe.toml")
    found = kwsq("train", *recipes, recipes[3], "--data", tmp_path, "--out", out)
    assert (found.code, folders) == (2, [])
    assert f"{out}/m: found the files of {recipes[0]} and {recipes[1]}; expected a folder for each" in found.stderr
    assert f"{out}/n: found the files of {recipes[3]} and {recipes[3]}; expected" in found.stderr
    assert kwsq("train", *recipes[1:], "--data", tmp_path, "--out", out).code == 0
    assert folders == [out / "m", out / "m" / "other", out / "n"]


def test_the_last_recipe_is_read_before_the_first_is_trained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folders = trained(monkeypatch)
    first, second = copies(tmp_path, "A/recipe.toml", "B/recipe.toml")
    second.write_text("batch_size = 3", encoding="utf-8")
    found = kwsq("train", first, second, "--data", tmp_path, "--out", tmp_path)
    assert (found.code, folders) == (2, [])
    assert f"usage error in {second}" in found.stderr


@pytest.mark.parametrize(("seed", "code"), [("-1", 2), (str(2**32), 2), ("0", 0), (str(2**32 - 1), 0), ("1.5", 2)])
def test_a_seed_is_one_that_numpy_takes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, seed: str, code: int) -> None:
    trained(monkeypatch)
    assert kwsq("train", RECIPE, "--data", tmp_path, "--out", tmp_path, "--seed", seed).code == code
    if code == 0:
        np.random.RandomState(int(seed))  # the one that Keras sets


def test_an_output_folder_that_is_a_file_is_named(data: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("kept", encoding="utf-8")
    found = kwsq("train", RECIPE, "--data", data, "--out", tmp_path / "out")
    assert found.code == 2
    assert f"{tmp_path}/out/kws_ff: found Not a directory; expected a folder that can be written" in found.stderr


def test_no_help_is_in_brackets_which_a_terminal_would_not_show() -> None:
    shown = [kwsq(command, "--help").stdout for command in ZOO_COMMANDS]
    assert all("--verbose" in text for text in shown)
    helps = [parameter.help or "" for info in cli.app.registered_commands for parameter in parameters(info.callback)]
    assert len(helps) > 20
    assert not [text for text in helps if "[" in text]


def parameters(command: Any) -> list[Any]:
    return [hint.__metadata__[0] for hint in command.__annotations__.values() if hasattr(hint, "__metadata__")]


# ---- eval ----


def evaluate(data: Path, *arguments: object) -> Any:
    return kwsq("eval", *arguments, "--data", data, "--dataset", "own", "--cache", data / "cache")


def test_eval_gives_its_figures_as_json_alone(data: Path, tmp_path: Path) -> None:
    options = (YES, "--keyword", "yes", "--false-accept-rate", "0.25", "--scores", tmp_path)
    text, found = evaluate(data, *options), evaluate(data, *options, "--json")
    assert (text.code, found.code) == (0, 0)
    facts = json.loads(found.stdout)
    assert {key: facts[key] for key in ("generator", "schema_version", "dataset", "split", "part", "features")} == {
        "generator": "kwsq", "schema_version": 1, "dataset": "own", "split": "val", "part": "1/1", "features": "lfbe",
    }  # fmt: skip
    (model,) = facts["models"]
    (missed,) = model["missed"]
    assert (facts["keywords"], missed["keyword"], missed["far"]) == (["yes"], "yes", 0.25)
    assert (model["file"], model["clips"], missed["keyword_clips"], missed["other_clips"]) == (YES.name, 36, 3, 33)
    assert model["score_files"] == [f"{tmp_path}/{YES.name}.yes.csv"]
    assert text.stdout == (
        f"{YES.name}  accuracy {100 * model['accuracy']:.2f} % of 36 clips\n"
        f"{YES.name}  yes: FRR {100 * missed['frr']:.2f} % [{100 * missed['frr_low']:.2f}, "
        f"{100 * missed['frr_high']:.2f}] of 3 at FAR 25 % of 33\n"
        f"{YES.name}  scores of 1 words in {tmp_path}\n"
    )


def test_eval_of_a_part_has_no_rates_and_of_twelve_classes_no_words(data: Path, tmp_path: Path) -> None:
    facts = json.loads(evaluate(data, FF, "--json", "--part", "1/2", "--scores", tmp_path).stdout)
    (model,) = facts["models"]
    assert (facts["keywords"], facts["part"], model["clips"], model["missed"]) == ([], "1/2", 18, [])
    assert len(model["score_files"]) == 10


def test_a_cache_that_is_a_file_is_said_before_clips_are_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept", encoding="utf-8")
    found = kwsq("eval", FF, "--data", tmp_path, "--cache", tmp_path / "file")
    assert found.code == 2
    assert f"--cache: found {tmp_path}/file: File exists; expected a folder" in found.stderr


def test_a_word_or_a_name_that_makes_no_score_file_is_refused_before_clips_are_read(tmp_path: Path) -> None:
    found = kwsq("eval", YES, "--keyword", "hey/siri", "--data", tmp_path, "--cache", tmp_path / "cache")
    assert (found.code, "--keyword: found 'hey/siri'" in found.stderr) == (2, True)
    long = tmp_path / f"{'m' * 190}.onnx"
    long.write_bytes(YES.read_bytes())
    options = ("--keyword", "yes", "--data", tmp_path, "--cache", tmp_path / "cache", "--scores", tmp_path / "out")
    found = kwsq("eval", long, *options)
    assert (found.code, "--scores: found a file name of 203 bytes" in found.stderr) == (2, True)
    assert not (tmp_path / "out").exists()


def test_a_rate_is_one(tmp_path: Path) -> None:
    assert kwsq("eval", YES, "--data", tmp_path, "--false-accept-rate", "1.5").code == 2


# ---- every command ----


def test_every_command_but_those_of_the_page_takes_json() -> None:
    """README says which do not; `kwsq report` renders what another command found."""
    commands = ("convert", "inspect", "footprint", "run", "bisect", "ops", "lint", "attest", "gate", "report")
    without = [name for name in (*commands, *ZOO_COMMANDS) if "--json" not in kwsq(name, "--help").stdout]
    assert without == ["report", "train", "shard", "merge-scores"]
    page = (MODELS.parent / "README.md").read_text(encoding="utf-8")
    assert "All but `kwsq report`, `train`, `shard` and `merge-scores` take `--json`" in page.replace("\n", " ")
