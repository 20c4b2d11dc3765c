"""`kwsq gate` from files to exit codes: score files, model pairs, judging again, rendering, settings."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_runs import Outcome, float_dense, kwsq, kwsq_convert

from kwsq.converter.gate.class_trials import log_odds
from kwsq.converter.gate.simulate import ScoreModel

HEADER = "trial_id,label,group,duration,score"


def rows_of(noise: float, positives: int = 1500, negatives: int = 75_000) -> list[list[Any]]:
    pairs = ScoreModel(4.6, noise, 0.05).draw(np.random.default_rng(1), positives, negatives)
    label = pairs.label.astype(int)
    return [[f"t{i}", label[i], f"g{i}", 1.5, a, b] for i, (a, b) in enumerate(zip(*pairs.scores(), strict=True))]


def write(path: Path, rows: list[list[Any]], column: int, header: str = HEADER) -> Path:
    lines = [",".join(map(str, [*row[:4], row[column]])) for row in rows]
    path.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def gated(here: Path, noise: float, *options: object, rows: list[list[Any]] | None = None) -> Outcome:
    rows = rows or rows_of(noise)
    reference, candidate = write(here / "ref.csv", rows, 4), write(here / "cand.csv", rows[::-1], 5)
    return kwsq("gate", "--reference", reference, "--candidate", candidate, *options)


@pytest.mark.parametrize(("noise", "code", "word"), [(0.0, 0, "PASS"), (0.5, 1, "FAIL"), (0.1, 3, "INCONCLUSIVE")])
def test_verdict_and_exit_code(here: Path, noise: float, code: int, word: str) -> None:
    outcome = gated(here, noise)
    assert (outcome.code, outcome.stderr) == (code, "")
    assert outcome.stdout.startswith(f"{word}  cand.csv against ref.csv")
    assert outcome.stdout.count("\n") > 10
    if code == 3:
        assert "would settle it" in outcome.stdout
        assert gated(here, noise, "--on-inconclusive", "warn").code == 0


def test_the_report_is_the_same_bit_for_bit(here: Path) -> None:
    first = gated(here, 0.1, "--json", "-o", "a.json")
    again = gated(here, 0.1, "--json", "-o", "b.json")
    assert first.stdout == again.stdout == (here / "a.json").read_text(encoding="utf-8")
    assert (here / "a.json").read_bytes() == (here / "b.json").read_bytes()
    result = json.loads(first.stdout)["result"]
    assert result["trials"]["negative_hours"] > 0
    assert "false_discovery_rate" in result["operating_point"]["reference"]["matched"]
    assert gated(here, 0.1, "-o", "a.json").code == 2
    assert gated(here, 0.1, "-o", "a.json", "--force").code == 3


def test_npz_and_csv_give_the_same_checks(here: Path) -> None:
    rows = rows_of(0.1)
    as_csv = json.loads(gated(here, 0.1, "--json", rows=rows).stdout)
    ids, labels, groups, durations, *scores = zip(*rows, strict=True)
    shared = {"trial_id": ids, "label": labels, "group": groups, "duration": durations}
    for name, score in zip(("r.npz", "c.npz"), scores, strict=True):
        np.savez(here / name, score=score, **shared)
    as_npz = json.loads(kwsq("gate", "--reference", "r.npz", "--candidate", "c.npz", "--json").stdout)
    assert as_npz["result"]["checks"] == as_csv["result"]["checks"]
    assert as_npz["result"]["notes"] == as_csv["result"]["notes"]


def small() -> list[list[Any]]:
    return rows_of(0.1, 30, 1000)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows[:-1], "1 trials missing"),
        (lambda rows: [*rows, rows[0]], "repeated: 't0'"),
        (lambda rows: [[r[0], 1 - r[1], *r[2:]] for r in rows[:1]] + rows[1:], "column label"),
        (lambda rows: [[*r[:3], 2.0, *r[4:]] for r in rows[:1]] + rows[1:], "column duration"),
        (lambda rows: [[*r[:5], "high"] for r in rows[:1]] + rows[1:], "column score"),
        (
            lambda rows: [[*r[:5], "nan"] for r in rows[:1]] + rows[1:],
            "cand.csv', column score: found 1 wrong, first nan in row 1, trial 't0'",
        ),
        (lambda rows: [["", *r[1:]] for r in rows[:1]] + rows[1:], "empty trial_id"),
        (lambda rows: [], "both classes|missing"),
    ],
)
def test_trials_that_do_not_match_end_with_2(here: Path, change: Any, message: str) -> None:
    import re

    reference = write(here / "ref.csv", small(), 4)
    candidate = write(here / "cand.csv", change(small()), 5)
    outcome = kwsq("gate", "--reference", reference, "--candidate", candidate)
    assert outcome.code == 2
    assert re.search(message, outcome.stderr), outcome.stderr


def test_a_wrong_value_is_named_by_file_row_and_trial(here: Path) -> None:
    rows = small()
    # Sorted by identifier, as trials are joined, the row has another place.
    rows[5] = ["u5", *rows[5][1:3], -1.0, rows[5][4], "nan"]
    rows[7][5] = "inf"
    reference, candidate = write(here / "ref.csv", rows, 4), write(here / "cand.csv", rows, 5)
    outcome = kwsq("gate", "--reference", candidate, "--candidate", reference)
    assert outcome.code == 2
    assert "--reference 'cand.csv', column score: found 2 wrong, first nan in row 6, trial 'u5'" in outcome.stderr
    assert "--reference 'cand.csv', column duration: found 1 wrong, first -1.0 in row 6" in outcome.stderr


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("x.csv", b"\xff\xfe", "UTF-8"),
        ("x.csv", b"a,b\n1,2\n", "no trial_id, label, score"),
        ("x.csv", b"trial_id,label,score\n1,2\n", "2 fields in row 1"),
        ("x.csv", b"", "no columns"),
        ("x.npz", b"PK nonsense", "npz"),
        ("x.parquet", b"nonsense", "Parquet|pyarrow"),
    ],
)
def test_files_that_are_no_scores_end_with_2(here: Path, name: str, data: bytes, message: str) -> None:
    import re

    (here / name).write_bytes(data)
    outcome = kwsq("gate", "--reference", name, "--candidate", name)
    assert outcome.code == 2
    assert re.search(message, outcome.stderr), outcome.stderr


def test_a_pickled_column_is_refused(here: Path) -> None:
    np.savez(here / "x.npz", trial_id=np.array(["a", None], object), label=[1, 0], score=[1.0, 0.0])
    outcome = kwsq("gate", "--reference", "x.npz", "--candidate", "x.npz")
    assert (outcome.code, "npz" in outcome.stderr) == (2, True)


@pytest.mark.parametrize("missing", [("--reference", "a.csv"), ("--candidate", "a.csv"), ()])
def test_both_sides_are_needed(here: Path, missing: tuple[str, ...]) -> None:
    assert kwsq("gate", *missing).code == 2


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (("-o", "."), "a directory"),
        (("-o", ".", "--force"), "a directory"),
        (("-o", "a" * 300), "File name too long"),
        (("-o", "a" * 300, "--force"), "File name too long"),
        (("-o", "none/gate.json"), "missing"),
        (("-o", "cand.csv"), "an existing file"),
    ],
)
def test_where_a_report_cannot_go_is_said_before_anything_is_compared(
    here: Path, output: tuple[str, ...], message: str
) -> None:
    (here / "cand.csv").write_text("not scores")
    files = sorted(here.iterdir())
    for arguments in (("--reference", "cand.csv", "--candidate", "cand.csv"), ("judge", "cand.csv")):
        outcome = kwsq("gate", *arguments, *output)
        assert (outcome.code, outcome.stdout) == (2, "")
        assert message in outcome.stderr
        assert "--output" in outcome.stderr
    assert sorted(here.iterdir()) == files


def test_an_empty_column_names_no_groups_and_a_cell_no_speaker(here: Path) -> None:
    """Taken as a name, the empty one would be that of one large speaker."""
    header, rows = "trial_id,label,score,duration,group", small()

    def scored(groups: list[str]) -> Outcome:
        for name, column in (("ref", 4), ("cand", 5)):
            lines = [f"{row[0]},{row[1]},{row[column]},1.0,{group}" for row, group in zip(rows, groups, strict=True)]
            (here / f"{name}.csv").write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
        return kwsq("gate", "--reference", "ref.csv", "--candidate", "cand.csv", "--json")

    unknown = scored([""] * len(rows))
    assert "needs 20" not in unknown.stdout
    assert json.loads(unknown.stdout)["result"]["checks"]
    partly = scored(["anna", *[""] * (len(rows) - 1)])
    assert (partly.code, f"column group: found {len(rows) - 1} empty of {len(rows)}" in partly.stderr) == (2, True)


def test_a_report_does_not_take_the_place_of_the_scores(here: Path) -> None:
    before = gated(here, 0.1) and (here / "ref.csv").read_bytes()
    refused = gated(here, 0.1, "-o", "ref.csv", "--force")
    assert (refused.code, "'ref.csv', which is read" in refused.stderr) == (2, True)
    assert (here / "ref.csv").read_bytes() == before


def test_a_report_is_judged_again_without_its_data(here: Path) -> None:
    assert gated(here, 0.1, "-o", "r.json").code == 3
    (here / "ref.csv").unlink()
    assert kwsq("gate", "judge", "r.json").code == 3
    assert kwsq("gate", "judge", "r.json", "--fa-margin", 2, "--frr-margin", 5).code == 0
    (here / "strict.toml").write_text("[gate]\nfa_ratio_margin = 0.001\n", encoding="utf-8")
    again = kwsq("gate", "judge", "r.json", "--config", "strict.toml", "--json")
    assert json.loads(again.stdout)["result"]["settings"]["fa_ratio_margin"] == 0.001
    before = json.loads((here / "r.json").read_text("utf-8"))["result"]["checks"]
    after = json.loads(again.stdout)["result"]["checks"]
    assert [c["upper"] for c in before] == [c["upper"] for c in after]
    (here / "other.toml").write_text("[gate]\ntarget_frr = 0.1\n", encoding="utf-8")
    refused = kwsq("gate", "judge", "r.json", "--config", "other.toml")
    assert (refused.code, "enters the bounds" in refused.stderr) == (2, True)


def test_judging_again_agrees_with_gating_anew(here: Path) -> None:
    gated(here, 0.1, "-o", "r.json")
    anew = json.loads(gated(here, 0.1, "--fa-margin", 0.5, "--json").stdout)["result"]
    again = json.loads(kwsq("gate", "judge", "r.json", "--fa-margin", 0.5, "--json").stdout)["result"]
    assert again == anew


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.clear(),
        lambda d: d.update(kind="other"),
        lambda d: d["result"].pop("checks"),
        lambda d: d["result"]["checks"][0].update(upper="0"),
        lambda d: d["result"]["checks"][0].update(status="GOOD"),
        lambda d: d["result"]["settings"].update(colour="red"),
        lambda d: d["result"]["settings"].update(seed=-1),
    ],
)
def test_a_damaged_report_ends_with_2(here: Path, change: Any) -> None:
    gated(here, 0.1, "-o", "r.json", rows=small())
    document = json.loads((here / "r.json").read_text("utf-8"))
    change(document)
    (here / "r.json").write_text(json.dumps(document), encoding="utf-8")
    for command in (("gate", "judge", "r.json"), ("report", "r.json")):
        assert kwsq(*command).code == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[gate]\nfa_ration_margin = 0.1", "did you mean fa_ratio_margin?"),
        ("[gates]\n", "did you mean gate?"),
        ("[gate]\nfa_ratio_margin = true", "float"),
        ("[gate]\non_inconclusive = 'maybe'", "fail or warn"),
        ("[gate]\nreplicates = 1.5", "int"),
        ("gate = 3", "a table"),
        ("[gate", "TOML"),
        ("[gate]\nconfidence = 0.2", "above 0.5"),
        ("[gate]\nkeyword_rate = inf", "utterances per hour above 0"),
        ("[gate]\nfa_ratio_margin = inf", "a fraction above 0"),
        ("[gate]\nrelative_fdr_margin = inf", "a fraction above 0"),
        ("[gate]\nlatency_margin_hops = inf", "hops above 0"),
    ],
)
def test_settings_are_checked(here: Path, text: str, message: str) -> None:
    (here / "kwsq.toml").write_text(text, encoding="utf-8")
    outcome = gated(here, 0.1, rows=small())
    assert outcome.code == 2
    assert message in outcome.stderr


@pytest.mark.parametrize(
    ("threshold", "message"), [("nan", "a finite number"), ("inf", "a finite number"), (100, "accepts no keyword")]
)
def test_a_threshold_that_cannot_be_in_use_is_refused_by_name(here: Path, threshold: object, message: str) -> None:
    outcome = gated(here, 0.1, "--threshold", threshold, rows=small())
    assert (outcome.code, outcome.stdout) == (2, "")
    assert "gate setting threshold" in outcome.stderr
    assert message in outcome.stderr
    assert "target_frr" not in outcome.stderr


def test_options_win_over_the_file_and_pyproject_is_read(here: Path) -> None:
    (here / "pyproject.toml").write_text("[tool.kwsq.gate]\nfrr_margin_pp = 2\ntarget_frr = 0.1\n", encoding="utf-8")
    result = json.loads(gated(here, 0.1, "--target-frr", 0.2, "--json", rows=small()).stdout)["result"]
    assert result["settings"]["frr_margin_pp"] == 2.0
    assert result["operating_point"]["target_frr"] == 0.2


def test_plan_names_numbers(here: Path) -> None:
    outcome = kwsq("gate", "plan", "--runs", 3, "--positives", 500, "--negatives", 20000)
    assert (outcome.code, outcome.stderr) == (0, "")
    assert "2,474" in outcome.stdout
    facts = json.loads(kwsq("gate", "plan", "--runs", 3, "--positives", 500, "--json").stdout)
    assert facts["formulas"]["false_accepts_by_overlap"] == {"0%": 1362, "80%": 273, "90%": 137, "95%": 69}
    assert kwsq("gate", "plan", "--noise", 0).code == 2


def test_rendered_reports_are_valid_and_harmless(here: Path) -> None:
    rows = rows_of(0.5)
    write(here / "ref.csv", rows, 4)
    hostile = here / "a|<img src=x>`[y](z)&\x1b.csv"
    write(hostile, rows, 5)
    kwsq("gate", "--reference", "ref.csv", "--candidate", hostile, "-o", "r.json")
    junit = ET.fromstring(kwsq("report", "r.json", "--to", "junit").stdout)
    suite = junit.find("testsuite")
    assert suite is not None
    assert suite.get("failures") == str(len(suite.findall("testcase/failure"))) != "0"
    assert len(suite.findall("testcase/skipped")) == 2
    page = kwsq("report", "r.json", "--to", "md").stdout
    assert page.startswith("### ❌ FAIL")
    assert "<img" not in page
    assert "a\\|" in page
    assert "\x1b" not in page
    assert kwsq("report", "r.json").stdout.startswith("FAIL")


def test_markdown_is_capped(here: Path) -> None:
    from kwsq.converter.gate_render import markdown
    from kwsq.converter.markdown import MARKDOWN_MAX_BYTES

    gated(here, 0.1, "-o", "r.json", rows=small())
    document = json.loads((here / "r.json").read_text("utf-8"))
    document["result"]["notes"] = ["n" * 290] * 1000
    page = markdown(document)
    assert len(page.encode()) < MARKDOWN_MAX_BYTES + 100
    assert page.endswith("(cut: the report is longer)\n")


def test_two_models_are_run_and_compared(here: Path) -> None:
    reference = float_dense(here)
    rng = np.random.default_rng(3)
    x = rng.normal(0.25, 1, (400, 12)).astype(np.float32)
    np.savez(here / "cal.npz", x=x)
    assert kwsq_convert(reference, "--target", "neon", "--calibration", "cal.npz", "-o", "out").code == 0
    from kwsq.converter.gate.model_pairs import load_runnable

    y = load_runnable(reference, "--reference").run(x).argmax(1)
    np.savez(here / "eval.npz", x=x, y=y, speaker=np.arange(400) // 4)
    pair = ("gate", "--reference", reference, "--data", "eval.npz", "--json", "--candidate")
    same = kwsq(*pair, reference)
    assert same.code == 0
    result = json.loads(same.stdout)["result"]
    assert result["verdict"]["status"] == "PASS"
    outcome = kwsq(*pair, here / "out" / "model.tflite")
    result = json.loads(outcome.stdout)["result"]
    assert outcome.code in (0, 1, 3)
    assert {c["id"]: c["status"] for c in result["checks"]}["P4.top1"] != "SKIPPED"
    assert result["trials"]["groups_with_keyword"] is not None
    one = json.loads(kwsq(*pair, reference, "--keyword", 1).stdout)["result"]
    assert one["trials"]["positives"] == int((y == 1).sum())
    assert kwsq(*pair, reference, "--keyword", 9).code == 2
    twice = kwsq(*pair, reference, "--keyword", 1, "--keyword", 1)  # would count its trials twice
    assert (twice.code, "classes from 0, each once" in twice.stderr) == (2, True)
    assert kwsq("gate", "--reference", reference, "--candidate", reference).code == 2


def test_packs_are_refused_by_name(here: Path) -> None:
    (here / "model.kwsq").write_bytes(b"KWSQPACK")
    (here / "renamed.onnx").write_bytes(b"KWSQPACK")
    np.savez(here / "eval.npz", x=np.zeros((4, 12), np.float32), y=np.arange(4))
    for name in ("model.kwsq", "renamed.onnx"):
        outcome = kwsq("gate", "--reference", name, "--candidate", name, "--data", "eval.npz")
        assert (outcome.code, outcome.stdout) == (4, "")
        assert f"--reference {name!r}: found a pack; expected an .onnx or .tflite file" in outcome.stderr


def test_log_odds_are_the_same_from_logits_and_probabilities() -> None:
    logits = np.random.default_rng(0).normal(0, 3, (50, 5))
    share = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    for keyword in range(5):
        # Differences of logarithms of order 10: 1e-12 is thousands of ulps.
        assert log_odds(logits, keyword) == pytest.approx(log_odds(share, keyword), abs=1e-10)
    codes = np.array([[1.0, 0.0], [255 / 256, 0.0], [0.0, 1.0]])
    assert np.isfinite(log_odds(codes, 0)).all()
    assert np.all(np.diff(log_odds(codes, 0)) < 0)


def test_large_logits_do_not_overflow() -> None:
    assert log_odds(np.array([[2000.0, 0.0, 1000.0]]), 0).tolist() == [1000.0]


def test_scores_are_not_held_against_a_model(here: Path) -> None:
    write(here / "scores.csv", small(), 2)
    reference = float_dense(here)
    np.savez(here / "eval.npz", x=np.zeros((4, 12), np.float32), y=np.arange(4))
    for pair in (("scores.csv", reference), (reference, "scores.csv")):
        outcome = kwsq("gate", "--reference", pair[0], "--candidate", pair[1], "--data", "eval.npz")
        assert (outcome.code, outcome.stdout) == (2, "")
        assert f"found scores 'scores.csv' and a model {reference.name!r}; expected two of a kind" in outcome.stderr


def test_judging_again_says_that_margins_stay_the_reports() -> None:
    shown = " ".join(kwsq("gate", "judge", "--help").stdout.split())
    assert shown.count("[default: (the report's)]") == 3
