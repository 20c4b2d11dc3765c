"""`kwsq train` on a terminal: how far it is can be seen, and nothing else is different."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import training_program
from keyword_cases import RECIPE, VARIANT, noise_recordings, synthetic_keywords
from pseudo_terminal import on_terminal

from kwsq.ir.errors import UsageError
from kwsq.models.data.clips import LABELS
from kwsq.models.progress import Count
from kwsq.models.training import train
from kwsq.models.training.fitting import Steps
from kwsq.models.training.watching import RunFolder, ignore_line

SCREEN = {"TERM": "xterm-256color", "CI": "", "NO_COLOR": ""}
MODEL = Path(__file__).resolve().parents[3] / "models" / "kws_ff" / "kws_ff_w4.onnx"
WIDE = 400
"""Columns that no line needs."""


def test_the_bar_of_a_stage_says_epoch_and_loss(tmp_path: Path) -> None:
    told: list[Count] = []
    clips = synthetic_keywords(12, seed=2)
    folder = RunFolder(tmp_path, training_program.PLAN, 1, "a", clips, ignore_line, told.append)
    folder.steps("w4-stage1", Steps(3, 20, 40, 400))
    folder.steps("w4-stage1", Steps(3, 20, 41, 400, 1.23456))
    assert told == [
        Count("w4-stage1", 40, 400, "epoch 3/20"),
        Count("w4-stage1", 41, 400, "epoch 3/20  loss 1.2346"),
    ]


def written(folder: Path, recipe: str = RECIPE + VARIANT) -> tuple[Path, Path]:
    """A recipe file, and its data."""
    path = folder / "recipe.toml"
    path.write_text(recipe, encoding="utf-8")
    clips = [(label, split) for label in LABELS for split in ("val", "train", "train")]
    return path, noise_recordings(folder / "data", "own", clips)


def command(recipe: Path, data: Path, out: Path) -> list[str]:
    options = ["--data", str(data), "--out", str(out)]
    return [sys.executable, "-m", "kwsq.models.cli", "train", str(recipe), *options]


def said(lines: list[str]) -> list[str]:
    """What is not TensorFlow's own, which it writes while it loads, with the time."""
    return [line for line in lines if not re.match(r"WARNING: All log|[IWE]\d{4} ", line)]


@pytest.mark.parametrize("speaks", [True, False])
def test_only_the_chief_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, speaks: bool) -> None:
    monkeypatch.setattr(train, "is_chief", lambda strategy: speaks)
    recipe, data = written(tmp_path)
    told: list[Count] = []
    with pytest.raises(UsageError, match="no index"):
        train.train(recipe, data, tmp_path / "out", 0, shards=tmp_path, told=told.append)
    assert bool(told) is speaks


def test_clips_that_are_scored_are_counted_too(tmp_path: Path) -> None:
    _, data = written(tmp_path)
    options = ["--data", str(data), "--dataset", "own", "--cache", str(tmp_path / "cache")]
    shown = on_terminal([sys.executable, "-m", "kwsq.models.cli", "eval", str(MODEL), *options], SCREEN)
    assert any(line.startswith("reading val clips ") for line in shown.screen.seen)
    (line,) = shown.screen.text
    assert re.fullmatch(r"kws_ff_w4\.onnx  accuracy [0-9.]+ % of 12 clips", line)


@pytest.mark.slow
def test_a_terminal_has_a_bar_and_in_the_end_the_lines_and_files_of_a_pipe(tmp_path: Path) -> None:
    where = written(tmp_path)
    shown = on_terminal(command(*where, tmp_path / "shown"), SCREEN, columns=WIDE)
    piped = subprocess.run(command(*where, tmp_path / "piped"), capture_output=True, text=True, check=True)
    assert shown.code == 0
    assert said(shown.screen.text) == said([*piped.stderr.splitlines(), *piped.stdout.splitlines()])
    assert len(said(shown.screen.text)) == 8
    assert "\x1b" not in piped.stderr + piped.stdout
    assert "\r" not in piped.stderr + piped.stdout
    for begin, end in (
        ("reading val clips ", "-:--:--"),
        ("reading train clips ", "-:--:--"),
        ("float ", "epoch 1/1  loss "),
        ("w4-stage1 ", "epoch 1/1  loss "),
        ("w4-stage2 ", "epoch 1/1  loss "),
    ):
        assert [line for line in shown.screen.seen if line.startswith(begin) and end in line], begin
    models = [sorted((tmp_path / out).rglob("*.onnx")) for out in ("shown", "piped")]
    assert len(models[0]) == 2
    assert [model.read_bytes() for model in models[0]] == [model.read_bytes() for model in models[1]]


@pytest.mark.slow
def test_ctrl_c_in_training_leaves_the_lines_of_epochs(tmp_path: Path) -> None:
    endless = RECIPE.replace("epochs = 1\n", "epochs = 100000\n", 1) + VARIANT
    train_endlessly = command(*written(tmp_path, endless), tmp_path / "out")
    shown = on_terminal(train_endlessly, SCREEN, columns=WIDE, interrupt_at="float: epoch 3 of")
    assert shown.code == 130
    assert shown.screen.has_cursor
    # Ctrl-C is typed when a line has been written: one that it meets before rich knows so is written again.
    *lines, last = dict.fromkeys(said(shown.screen.text))
    assert last == "kwsq: interrupted"
    assert len(lines) >= 3
    for epoch, line in enumerate(lines, start=1):
        assert line.startswith(f"float: epoch {epoch} of 100000, loss ")
