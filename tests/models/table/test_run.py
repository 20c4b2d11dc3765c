"""The runner on a protocol of six rows: it trains, converts, scores, and goes on where it was stopped."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from keyword_cases import VARIANT, noise_recordings, synthetic_keywords

from kwsq.ir.errors import UsageError
from kwsq.models.data.clips import LABELS, SILENCE, LabelledFeatures
from kwsq.models.data.folds import clip_groups, speaker_folds
from kwsq.models.recipe import NO_DISTILLATION, Phase
from kwsq.models.schemes import NormClips
from kwsq.models.table.protocol import CONTROL, FLOAT, Method, Protocol
from kwsq.models.table.read_protocol import read_protocol
from kwsq.models.table.row_training import trained_row
from kwsq.models.table.rows import KEYWORDS, FinishedRow, append_line, read_results
from kwsq.models.table.run import START, Workplace, open_workplace, pending_rows, run

SHIPPED = Path(__file__).resolve().parents[3] / "models" / "kws_ff" / "table.toml"
ONE, NO_TRAINING = Phase(1, 1e-3, 0.0), Phase(0, 0.0, 0.0)


def workplace(folder: Path) -> Workplace:
    recipe = replace(read_protocol(SHIPPED).recipe, float_phase=ONE, batch_size=16, calibration_clips=16)
    methods = (
        Method(FLOAT, "float", (32,), NO_TRAINING, NO_TRAINING, NO_DISTILLATION),
        Method(CONTROL, "float", (32,), ONE, NO_TRAINING, NO_DISTILLATION),
        Method("two_stage", "two_stage", (4,), ONE, NO_TRAINING, NO_DISTILLATION),
    )
    control = {FLOAT: FLOAT, CONTROL: CONTROL, "two_stage": CONTROL}
    protocol = Protocol(recipe, 2, 0, (0,), (), control, methods)
    examples = synthetic_keywords(48, seed=1)
    fold_of = speaker_folds(clip_groups(examples), 2, 0)
    return Workplace(protocol, examples, fold_of, folder / "out", folder / "rows.jsonl")


def voices(clips: LabelledFeatures) -> set[str]:
    return {who for who, label in zip(clips.speakers, clips.labels, strict=True) if label != SILENCE}


def lines(path: Path) -> list[dict[str, object]]:
    """The rows without the one fact that differs from run to run."""
    entries = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [{key: value for key, value in entry.items() if key != "cpu_seconds"} for entry in entries]


@pytest.mark.slow
def test_a_run_that_is_stopped_goes_on_and_gives_the_same_rows(tmp_path: Path) -> None:
    place = workplace(tmp_path)
    shown: list[str] = []
    assert run(place, shown.append) == set()
    whole = lines(place.rows)
    assert [(row["method"], row["fold"]) for row in whole] == [
        (name, fold) for name in (FLOAT, CONTROL, "two_stage") for fold in (0, 1)
    ]
    assert len({row["float_weights"] for row in whole}) == 2  # one float model per fold
    assert [row["runtime"] for row in whole] == ["onnxruntime"] * 4 + ["litert"] * 2
    assert len(shown) == 6

    text = place.rows.read_text(encoding="utf-8")
    fourth = len("".join(text.splitlines(keepends=True)[:4]))
    place.rows.write_text(text[: fourth + 100], encoding="utf-8")  # killed while the fifth row was written
    shown.clear()
    run(place, shown.append)
    assert lines(place.rows) == whole
    assert len(shown) == 2  # the four finished rows were not trained again


PROTOCOL = """
recipe = "recipe.toml"
folds = 2
fold_seed = 0
seeds = [0]
baselines = []
[[method]]
name = "control"
weights = "float"
bits = [32]
stage1 = { epochs = 1, learning_rate = 1e-3, weight_decay = 0.0 }
stage2 = { epochs = 0, learning_rate = 1e-3, weight_decay = 0.0 }
"""
ONE_ROW_EACH = """
import sys
import typer
from kwsq.models.table import run
run.ROWS_PER_PROCESS = 1
print("started", flush=True)
typer.run(run.main)
"""


@pytest.mark.slow
def test_the_program_starts_itself_again_after_some_rows(tmp_path: Path) -> None:
    recipe = (SHIPPED.parent / "recipe.toml").read_text(encoding="utf-8").split("[[variant]]")[0]
    recipe = re.sub(r"(?m)^epochs = .*$", "epochs = 1", recipe) + VARIANT
    (tmp_path / "recipe.toml").write_text(recipe, encoding="utf-8")
    (tmp_path / "table.toml").write_text(PROTOCOL, encoding="utf-8")
    (tmp_path / "program.py").write_text(ONE_ROW_EACH, encoding="utf-8")
    noise_recordings(tmp_path, "gsc12", [(label, "train") for label in LABELS])
    options = ["--data", tmp_path, "--out", tmp_path / "out", "--rows", tmp_path / "rows.jsonl"]
    command = [sys.executable, str(tmp_path / "program.py"), str(tmp_path / "table.toml"), *map(str, options)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("started") == 4
    assert len(read_results(tmp_path / "rows.jsonl").rows) == 4


@pytest.mark.slow
def test_a_row_that_fails_is_reported_and_every_other_is_finished(tmp_path: Path) -> None:
    place, diverging = workplace(tmp_path), Phase(1, float("inf"), 0.0)
    broken = Method("broken", "two_stage", (4,), diverging, NO_TRAINING, NO_DISTILLATION)
    control = {**place.protocol.control, "broken": CONTROL}
    methods = (broken, *place.protocol.methods)
    place = replace(place, protocol=replace(place.protocol, control=control, methods=methods))
    shown: list[str] = []
    assert {(row.method, row.fold) for row in run(place, shown.append)} == {("broken", 0), ("broken", 1)}
    assert {row.method for row in read_results(place.rows).rows} == {FLOAT, CONTROL, "two_stage"}
    assert [line.split("-")[0] for line in shown if "not finite" in line] == ["broken"] * 2
    assert len(shown) == 8


@pytest.mark.slow
def test_rows_do_not_wait_for_a_float_model_that_failed(tmp_path: Path) -> None:
    place = workplace(tmp_path)
    recipe = replace(place.protocol.recipe, float_phase=Phase(1, float("inf"), 0.0))
    place = replace(place, protocol=replace(place.protocol, recipe=recipe))
    shown: list[str] = []
    assert {row.method for row in run(place, shown.append)} == {FLOAT}
    assert read_results(place.rows).rows == {}
    assert len(shown) == 2


def moved_workplace(folder: Path) -> Workplace:
    """One whose float rows are finished, and whose float weights are not those that the rows name."""
    place = workplace(folder)
    codes = np.zeros((24, len(KEYWORDS)), np.int8)
    for row in place.protocol.rows():
        if row.method == FLOAT:
            append_line(place.rows, FinishedRow(row, 1, np.zeros(24, np.int64), codes, {START: "0123"}).to_json())
            place.float_weights(row).parent.mkdir(parents=True, exist_ok=True)
            place.float_weights(row).write_bytes(b"of another processor")
    return place


def test_rows_of_a_seed_and_fold_go_on_from_one_float_model(tmp_path: Path) -> None:
    place, shown = moved_workplace(tmp_path), list[str]()
    assert {row.method for row in run(place, shown.append)} == {CONTROL, "two_stage"}
    assert len(shown) == 4
    assert all("expected 0123, as finished rows" in line for line in shown)
    assert {row.method for row in read_results(place.rows).rows} == {FLOAT}


def test_rows_that_are_refused_are_none_of_those_after_which_a_process_ends(tmp_path: Path) -> None:
    """The next process would begin with them again, and so would every one after it."""
    place, tried = moved_workplace(tmp_path), list[str]()
    assert len(run(place, tried.append, most=2)) == len(tried) == 4


def test_a_float_model_whose_weights_are_gone_is_trained_again_where_it_is_needed(tmp_path: Path) -> None:
    place = workplace(tmp_path)
    first = next(place.protocol.rows())
    clips, codes = 24, np.zeros((24, len(KEYWORDS)), np.int8)
    finished = FinishedRow(first, 1, np.zeros(clips, np.int64), codes, {})
    append_line(place.rows, finished.to_json())
    assert first in pending_rows(place)
    place.float_weights(first).parent.mkdir(parents=True)
    place.float_weights(first).touch()
    assert first not in pending_rows(place)
    for row in place.protocol.rows():
        append_line(place.rows, replace(finished, row=row).to_json())
    place.float_weights(first).unlink()
    assert pending_rows(place) == []


@pytest.mark.slow
def test_float_weights_that_come_back_otherwise_are_not_gone_on_from(tmp_path: Path) -> None:
    place, shown = workplace(tmp_path), list[str]()
    for row in place.protocol.rows():
        if row.method == FLOAT:
            codes = np.full((24, len(KEYWORDS)), 7, np.int8)
            append_line(place.rows, FinishedRow(row, 1, np.zeros(24, np.int64), codes, {}).to_json())
    assert {row.method for row in run(place, shown.append)} == {FLOAT}
    assert len(shown) == 2
    assert all("trained again, score otherwise" in line for line in shown)
    assert {row.method for row in read_results(place.rows).rows} == {FLOAT}
    assert list((place.out / "float").glob("float-*-????????????.npz")) == []


def test_rows_of_other_data_are_not_added(tmp_path: Path) -> None:
    rows, data = tmp_path / "rows.jsonl", noise_recordings(tmp_path / "data", "gsc12", [("yes", "train")] * 6)
    for _ in range(2):
        open_workplace(SHIPPED, data, tmp_path / "out", rows)
    stated = rows.read_text(encoding="utf-8")
    assert stated.count("\n") == 5
    soundfile.write(data / "3.wav", np.full(16_000, 0.1), 16_000)
    with pytest.raises(UsageError, match="other clips or features in fold"):
        open_workplace(SHIPPED, data, tmp_path / "out", rows)
    assert rows.read_text(encoding="utf-8") == stated


def controls(folder: Path) -> tuple[Path, Callable[[str], Any]]:
    """Two controls of one training, with an epoch in each stage; their norms take clean clips, and mixed ones.

    Returns the weights of the float model, which is trained, and what trains one of the two by name.
    """
    place = workplace(folder)
    first, second = (
        Method(name, "float", (32,), ONE, ONE, NO_DISTILLATION, norm_clips=kind)
        for name, kind in (("first", NormClips.CLEAN), ("second", NormClips.MIXED))
    )
    methods = (place.protocol.methods[0], first, second)
    protocol = replace(place.protocol, control={FLOAT: FLOAT, "first": "first", "second": "first"}, methods=methods)
    rows = {row.method: row for row in protocol.rows() if row.fold == 0}
    weights = place.float_weights(rows[FLOAT])

    def trained(name: str) -> Any:
        return trained_row(protocol, rows[name], place.train_clips(0), weights)

    trained(FLOAT)
    return weights, trained


@pytest.mark.slow
def test_controls_that_differ_in_the_statistics_of_their_norms_train_once(tmp_path: Path) -> None:
    weights, trained = controls(tmp_path)

    def kept() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in weights.parent.glob("control-*")}

    second_alone = trained("second").get_weights()
    (path,) = kept()
    path.unlink()
    first, times = trained("first"), kept()
    second = trained("second")
    assert kept() == times
    for alone, after in zip(second_alone, second.get_weights(), strict=True):
        np.testing.assert_array_equal(alone, after)
    for one, other in zip(first.trainable_variables, second.trainable_variables, strict=True):
        np.testing.assert_array_equal(one, other)
    pairs = zip(first.non_trainable_variables, second.non_trainable_variables, strict=True)
    moved = [np.abs(one - other).max() > 0 for one, other in pairs if "moving" in one.name]
    assert len(moved) >= 10
    assert all(moved)


@pytest.mark.slow
def test_a_control_goes_on_from_its_own_float_weights_only(tmp_path: Path) -> None:
    weights, trained = controls(tmp_path)
    before = trained("first").get_weights()
    with np.load(weights) as arrays:
        other = {name: values * np.float32(1.01) for name, values in arrays.items()}
    np.savez(weights, **other)
    after = trained("first").get_weights()
    assert any((one != two).any() for one, two in zip(before, after, strict=True))
    assert len(list(weights.parent.glob("control-*"))) == 2


def test_a_model_is_not_scored_on_clips_it_was_trained_on(tmp_path: Path) -> None:
    place = workplace(tmp_path)
    for fold in (0, 1):
        heard, scored = place.train_clips(fold), place.score_clips(fold)
        assert len(heard.labels) + len(scored.labels) == 48
        assert voices(heard).isdisjoint(voices(scored))
    every = np.concatenate([place.score_clips(fold).features for fold in (0, 1)])
    assert len(np.unique(every.reshape(48, -1), axis=0)) == 48
    assert read_results(place.rows).rows == {}
