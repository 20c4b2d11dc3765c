"""Lines of results come back as they were, also after a kill in the middle of one."""

import json
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from numpy.typing import NDArray

from kwsq.ir.errors import UsageError
from kwsq.models.table.protocol import Row
from kwsq.models.table.rows import (
    HIGHEST_CODE,
    KEYWORDS,
    STEPS_PER_LOG_ODD,
    FinishedRow,
    FoldClips,
    append_line,
    fingerprint,
    read_results,
    score_codes,
)


def finished(fold: int, *, clips: int = 30) -> FinishedRow:
    rng = np.random.default_rng(fold)
    scores = score_codes(rng.normal(0, 4, (clips, len(KEYWORDS))))
    facts = {"runtime": "litert", "cpu_seconds": 7}
    return FinishedRow(Row("two_stage", 4, 0, fold, "abc"), 1000, rng.integers(0, 12, clips), scores, facts)


def written(path: Path, folds: int) -> list[FinishedRow]:
    rows = [finished(fold) for fold in range(folds)]
    for row in rows:
        append_line(path, row.to_json())
    return rows


def test_rows_and_folds_come_back(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    clips = FoldClips(3, np.arange(12), np.arange(12) * 400, (1.0, 0.5))
    append_line(path, clips.to_json())
    rows = written(path, 2)
    found = read_results(path)
    for row in rows:
        again = found.rows[row.row]
        assert np.array_equal(again.predicted, row.predicted)
        assert np.array_equal(again.scores, row.scores)
        assert (again.model_bytes, again.facts) == (row.model_bytes, row.facts)
    assert np.array_equal(found.folds[3].labels, clips.labels)
    assert np.array_equal(found.folds[3].groups, clips.groups)


def test_clips_are_told_by_labels_groups_and_features_as_another_processor_computes_them() -> None:
    rng = np.random.default_rng(5)
    features = rng.normal(2.0, 3.0, (740, 49, 10)).astype(np.float32)
    labels, groups = np.arange(740) % 12, np.arange(740)

    def clips(values: NDArray[np.float32]) -> FoldClips:
        return FoldClips(0, labels, groups, fingerprint(values))

    stated = clips(features)
    # Another order of sums: single precision, and some hundred rounding errors of 6e-8.
    assert stated.are(clips((features * (1 + rng.normal(0, 1e-5, features.shape))).astype(np.float32)))
    assert stated.are(_read_back(stated))
    replaced, swapped = features.copy(), features.copy()
    replaced[300] = rng.normal(2.0, 3.0, (49, 10))
    swapped[[300, 301]] = swapped[[301, 300]]
    for other in (replaced, swapped, features * np.float32(1.01), features[:, ::-1]):
        assert not stated.are(clips(other))
    assert not stated.are(FoldClips(0, np.roll(labels, 1), groups, stated.features))
    assert not stated.are(FoldClips(0, labels, np.roll(groups, 1), stated.features))
    assert not stated.are(FoldClips(0, labels, groups, stated.features[:2]))


def _read_back(clips: FoldClips) -> FoldClips:
    with TemporaryDirectory() as folder:
        append_line(Path(folder) / "rows.jsonl", clips.to_json())
        return read_results(Path(folder) / "rows.jsonl").folds[clips.fold]


def test_a_torn_last_line_is_not_counted_and_is_cut_off_by_the_next(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    rows = written(path, 3)
    whole = path.read_bytes()
    second = whole.index(b"\n", whole.index(b"\n") + 1) + 1
    for length in range(second, len(whole)):  # killed after any byte of the third line, its end included
        path.write_bytes(whole[:length])
        assert list(read_results(path).rows) == [row.row for row in rows[:2]]
    append_line(path, rows[2].to_json())
    assert path.read_bytes() == whole


def test_a_broken_line_elsewhere_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    written(path, 2)
    path.write_bytes(path.read_bytes().replace(b'"method"', b'"methods"', 1))
    with pytest.raises(UsageError, match="line 1"):
        read_results(path)


def test_no_file_is_no_results(tmp_path: Path) -> None:
    assert read_results(tmp_path / "none.jsonl").rows == {}


def test_scores_keep_their_order_to_a_step() -> None:
    odds = np.random.default_rng(0).normal(0, 2, 1000)
    codes = score_codes(odds)
    inside = np.abs(odds) < HIGHEST_CODE / STEPS_PER_LOG_ODD
    assert np.abs(codes[inside] / STEPS_PER_LOG_ODD - odds[inside]).max() <= 0.5 / STEPS_PER_LOG_ODD
    assert set(np.abs(codes[~inside]).tolist()) <= {HIGHEST_CODE, HIGHEST_CODE + 1}


def test_another_digest_is_another_row(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    row = finished(0)
    append_line(path, row.to_json())
    assert replace(row.row, digest="other") not in read_results(path).rows


def test_a_line_stays_short() -> None:
    line = json.dumps(finished(0, clips=740).to_json())
    # Not even scores without any order take more than their bytes in base64.
    assert len(line) < 740 + 740 * len(KEYWORDS) * 8 / 8 * 4 / 3 + 500


@pytest.mark.parametrize("line", ["[]", "1", "null", '"row"'])
def test_a_line_that_is_no_table_is_an_error(tmp_path: Path, line: str) -> None:
    (tmp_path / "results.jsonl").write_text(line + "\n", encoding="utf-8")
    with pytest.raises(UsageError, match="line 1"):
        read_results(tmp_path / "results.jsonl")
