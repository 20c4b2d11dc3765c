"""Merged parts give the file, the operating point and the curve that one evaluation gives."""

import csv
import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from keyword_cases import noise_recordings
from typer.testing import CliRunner

from kwsq.converter.det.operating_point import matched_point
from kwsq.converter.det.trials import Trials
from kwsq.converter.gate.class_trials import log_odds
from kwsq.converter.gate.score_files import join, read_scores
from kwsq.ir.errors import UsageError
from kwsq.models.cli import app
from kwsq.models.data.clips import LABELS, load_split
from kwsq.models.scoring.accuracy import logits
from kwsq.models.scoring.score_shards import merge_scores, write_scores
from kwsq.models.synthetic.dataset import load_synthetic

MODEL = Path(__file__).resolve().parents[3] / "models" / "kws_ff" / "kws_ff_w4.onnx"
KEYWORD = LABELS.index("yes")


def write_part(path: Path, rows: np.ndarray, *, keyword: int = KEYWORD, model: Path = MODEL) -> Path:
    examples = load_synthetic("val")
    scores = log_odds(logits(model, examples.features[rows]).astype(np.float64), keyword)
    speakers, trials = [examples.speakers[row] for row in rows], [f"clip{row:03}" for row in rows]
    write_scores(path, trials, speakers, examples.labels[rows], scores, keyword=keyword, model=model)
    return path


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_part(tmp_path_factory.mktemp("scores") / "whole.csv", np.arange(78))


def trials(path: Path) -> Trials:
    columns = read_scores(path, "scores").columns
    return Trials.of(columns["label"], columns["score"], columns["duration"], columns["group"])


def test_merged_parts_are_the_whole(whole: Path, tmp_path: Path) -> None:
    rows = np.random.default_rng(4).permutation(78)
    parts = [write_part(tmp_path / f"{number}.csv", part) for number, part in enumerate(np.array_split(rows, 3))]
    assert merge_scores(parts, tmp_path / "merged.csv") == 78
    assert (tmp_path / "merged.csv").read_bytes() == whole.read_bytes()
    assert matched_point(trials(tmp_path / "merged.csv"), 0.2) == matched_point(trials(whole), 0.2)


def test_a_merged_file_names_its_keyword_and_model_and_the_gate_reads_it(whole: Path, tmp_path: Path) -> None:
    parts = [write_part(tmp_path / f"{number}.csv", rows) for number, rows in enumerate(np.split(np.arange(78), 2))]
    merge_scores(parts, tmp_path / "merged.csv")
    with (tmp_path / "merged.csv").open(encoding="utf-8") as stream:
        sources = {(row["keyword"], row["model"]) for row in csv.DictReader(stream)}
    assert sources == {("yes", hashlib.sha256(MODEL.read_bytes()).hexdigest())}
    pairs = join(read_scores(whole, "reference"), read_scores(tmp_path / "merged.csv", "candidate"))
    np.testing.assert_array_equal(pairs.reference.score, pairs.candidate.score)


def test_parts_of_other_keywords_and_models_are_refused_all_at_once(tmp_path: Path) -> None:
    yes, down, float_model = (
        write_part(tmp_path / "yes.csv", np.arange(20)),
        write_part(tmp_path / "down.csv", np.arange(20, 40), keyword=LABELS.index("down")),
        write_part(tmp_path / "float.csv", np.arange(40, 60), model=MODEL.with_name("kws_ff_float.onnx")),
    )
    with pytest.raises(UsageError) as refusal:
        merge_scores([yes, down, float_model], tmp_path / "merged.csv")
    keyword, model = refusal.value.problems
    assert keyword.where == "down.csv"
    assert keyword.found == "keyword 'down'"
    assert keyword.expected == "keyword 'yes', as in yes.csv"
    assert model.where == "float.csv"
    assert "as in yes.csv" in model.expected
    assert not (tmp_path / "merged.csv").exists()


def test_parts_that_by_their_names_are_not_all_are_refused(tmp_path: Path) -> None:
    """The gate reads what is merged, and cannot tell that trials are missing."""
    names = [f"m.onnx.yes.{number}of3.csv" for number in (1, 2, 3)]
    rows = np.array_split(np.arange(78), 3)
    first, second, third = (write_part(tmp_path / name, part) for name, part in zip(names, rows, strict=True))
    merged, other = tmp_path / "merged.csv", tmp_path / "any name.csv"
    other.write_bytes(second.read_bytes())
    for parts in ([first, third], [first, other, third]):
        with pytest.raises(UsageError, match=r"found parts 1, 3 of 3; expected all 3; name part 2 as well"):
            merge_scores(parts, merged)
    again = tmp_path / "m.onnx.yes.2of2.csv"
    again.write_bytes(third.read_bytes())
    with pytest.raises(UsageError) as refusal:
        merge_scores([first, second, again], merged)
    assert [problem.found for problem in refusal.value.problems] == ["part 2 of 2", "parts 1, 2 of 3"]
    assert not merged.exists()
    assert merge_scores([third, first, second], merged) == 78


def test_a_trial_in_two_parts_is_refused(tmp_path: Path) -> None:
    parts = [write_part(tmp_path / f"{number}.csv", np.arange(40)) for number in range(2)]
    with pytest.raises(UsageError, match=r"trial 'clip000' again, as in 0\.csv"):
        merge_scores(parts, tmp_path / "merged.csv")


def test_other_columns_are_refused(tmp_path: Path) -> None:
    (tmp_path / "part.csv").write_text("trial_id,label,score\na,1,0.5\nb,0,0.1\n", encoding="utf-8")
    with pytest.raises(UsageError, match="columns trial_id, label, score"):
        merge_scores([tmp_path / "part.csv"], tmp_path / "merged.csv")


# ---- on the command line ----


def command(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, result.output


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return noise_recordings(tmp_path_factory.mktemp("data"), "gsc12", [(label, "val") for label in LABELS * 3])


def evaluation(data: Path, out: Path, *options: object) -> tuple[int, str]:
    return command("eval", MODEL, "--data", data, "--cache", data / "cache", "--scores", out, *options)


def test_parts_evaluated_one_by_one_and_merged_are_the_whole(data: Path, tmp_path: Path) -> None:
    code, output = evaluation(data, tmp_path / "whole")
    assert (code, output.splitlines()[0].split()[-3:]) == (0, ["of", "36", "clips"])
    for number in (1, 2, 3):
        code, output = evaluation(data, tmp_path / "parts", "--part", f"{number}/3")
        assert code == 0
        assert "of 12 clips" in output
    words = LABELS[:10]
    assert {path.name for path in (tmp_path / "whole").iterdir()} == {f"{MODEL.name}.{word}.csv" for word in words}
    for word in words:
        parts = sorted((tmp_path / "parts").glob(f"{MODEL.name}.{word}.*"))
        assert [path.name.split(".")[-2] for path in parts] == ["1of3", "2of3", "3of3"]
        merged = tmp_path / f"{word}.csv"
        assert command("merge-scores", *parts, "-o", merged) == (0, f"36 trials of 3 parts in {merged}\n")
        assert merged.read_bytes() == (tmp_path / "whole" / f"{MODEL.name}.{word}.csv").read_bytes()


def test_scores_are_the_log_odds_of_the_clips_named(data: Path, tmp_path: Path) -> None:
    assert evaluation(data, tmp_path)[0] == 0
    clips = load_split(data, data / "cache", dataset="gsc12", split="val")
    expected = log_odds(logits(MODEL, clips.features).astype(np.float64), KEYWORD)
    with (tmp_path / f"{MODEL.name}.yes.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["trial_id"] for row in rows] == list(clips.names)
    assert [float(row["score"]) for row in rows] == expected.tolist()
    assert [int(row["label"]) for row in rows] == (clips.labels == KEYWORD).astype(int).tolist()
    silent = [row["group"] == row["trial_id"] for row in rows]
    assert silent == clips.is_noise.tolist()


@pytest.mark.parametrize(
    ("options", "found"),
    [
        (("--part", "3/2"), "'3/2'"),
        (("--part", "0/2"), "'0/2'"),
        (("--part", "one"), "'one'"),
        (("--part", "1/37"), "at most 36 parts"),
        ((MODEL,), "kws_ff_w4.onnx 2 times"),
    ],
)
def test_parts_and_models_that_make_no_sense(data: Path, tmp_path: Path, options: tuple[object], found: str) -> None:
    code, output = evaluation(data, tmp_path / "out", *options)
    assert code == 2
    assert found in output
    assert not list(tmp_path.glob("out/*"))


def test_a_part_without_a_folder_for_its_scores(data: Path) -> None:
    code, output = command("eval", MODEL, "--data", data, "--cache", data / "cache", "--part", "1/2")
    assert code == 2
    assert "--scores as well" in output


def test_folders_and_files_that_cannot_be_written(data: Path, tmp_path: Path, whole: Path) -> None:
    (tmp_path / "file").write_text("kept", encoding="utf-8")
    code, output = evaluation(data, tmp_path / "file")
    assert (code, "a folder" in output) == (2, True)
    code, output = command("merge-scores", whole, "-o", tmp_path / "none" / "merged.csv")
    assert (code, "merged.csv" in output) == (2, True)
    code, output = command("merge-scores", tmp_path / "missing.csv", "-o", tmp_path / "merged.csv")
    assert (code, "missing.csv" in output) == (2, True)


@pytest.mark.parametrize("spoil", [lambda text: text + "\r\n", lambda text: "\ufeff" + text.replace("\n", "\n\n")])
def test_blank_lines_and_a_byte_order_mark_are_no_rows_as_for_the_gate(
    whole: Path, tmp_path: Path, spoil: Callable[[str], str]
) -> None:
    parts = [write_part(tmp_path / f"{number}.csv", rows) for number, rows in enumerate(np.split(np.arange(78), 2))]
    parts[1].write_text(spoil(parts[1].read_text(encoding="utf-8")), encoding="utf-8")
    assert merge_scores(parts, tmp_path / "merged.csv") == 78
    assert (tmp_path / "merged.csv").read_bytes() == whole.read_bytes()


def test_parts_without_trials_or_in_another_format_are_refused(whole: Path, tmp_path: Path) -> None:
    header = whole.read_text(encoding="utf-8").splitlines(keepends=True)[0]
    (tmp_path / "cut.csv").write_text(header, encoding="utf-8")
    with pytest.raises(UsageError, match=r"cut\.csv: found no trial"):
        merge_scores([whole, tmp_path / "cut.csv"], tmp_path / "merged.csv")
    scores = {"trial_id": np.array(["a", "b"]), "label": np.array([0, 1]), "score": np.array([0.5, 1.0])}
    np.savez(tmp_path / "part.npz", **scores)
    with pytest.raises(UsageError, match=r"part\.npz, line 1: found byte"):
        merge_scores([tmp_path / "part.npz"], tmp_path / "merged.csv")
    assert not (tmp_path / "merged.csv").exists()
