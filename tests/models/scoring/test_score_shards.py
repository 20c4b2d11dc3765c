"""Merged parts give the file, the operating point and the curve that one evaluation gives."""

import csv
import hashlib
from pathlib import Path

import numpy as np
import pytest

from kwsq.converter.det.operating_point import matched_point
from kwsq.converter.det.trials import Trials
from kwsq.converter.gate.class_trials import log_odds
from kwsq.converter.gate.score_files import join, read_scores
from kwsq.ir.errors import UsageError
from kwsq.models.data.clips import LABELS
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


def test_a_trial_in_two_parts_is_refused(tmp_path: Path) -> None:
    parts = [write_part(tmp_path / f"{number}.csv", np.arange(40)) for number in range(2)]
    with pytest.raises(UsageError, match=r"trial 'clip000' again, as in 0\.csv"):
        merge_scores(parts, tmp_path / "merged.csv")


def test_other_columns_are_refused(tmp_path: Path) -> None:
    (tmp_path / "part.csv").write_text("trial_id,label,score\na,1,0.5\nb,0,0.1\n", encoding="utf-8")
    with pytest.raises(UsageError, match="columns trial_id, label, score"):
        merge_scores([tmp_path / "part.csv"], tmp_path / "merged.csv")
