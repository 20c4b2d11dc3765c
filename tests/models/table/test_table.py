"""The statistics of the table on rows whose truth is known, and the page made of them."""

from dataclasses import replace

import numpy as np
import pytest
from table_cases import FOLDS, NONE, RATES, STAGE, fold_clips, protocol, results

from kwsq.models.schemes import NormClips
from kwsq.models.table.protocol import CONTROL, FLOAT, Method
from kwsq.models.table.report import render
from kwsq.models.table.rows import FinishedRow, Results
from kwsq.models.table.statistics import Cell, Clips, accuracies, cells, detection, loss


@pytest.fixture(scope="module")
def found() -> tuple[dict[tuple[str, int], Cell], Clips]:
    plan = protocol()
    outcome = results(plan, RATES)
    return cells(plan, outcome), Clips.of(outcome)


def test_accuracy_is_that_of_all_folds(found: tuple[dict[tuple[str, int], Cell], Clips]) -> None:
    table, clips = found
    for key, rate in RATES.items():
        # 2,000 clips: one standard error is below 1.1 points; three seeds each within 4.5 of them.
        assert np.abs(accuracies(clips, table[key]) - (1 - rate)).max() < 4.5 * np.sqrt(rate * (1 - rate) / 2000)


def test_loss_finds_what_was_put_in(found: tuple[dict[tuple[str, int], Cell], Clips]) -> None:
    table, clips = found
    none = loss(clips, table[CONTROL, 32], table["good", 4])
    some = loss(clips, table[CONTROL, 32], table["poor", 4])
    assert none is not None
    assert some is not None
    assert none.low < 0.0 < none.high
    assert 0.0 < some.low < 0.1 < some.high
    assert none.seeds == 3
    # Independent errors at 10 % and 20 %: variance .09 + .16 per clip and seed, 6,000 of them. Resampling three seeds
    # adds between-seed variance of which speakers hold a part already; a factor of two covers both.
    expected = 2 * 1.96 * np.sqrt((0.09 + 0.16) / 6000)
    assert 0.5 * expected < some.high - some.low < 2.0 * expected


def test_loss_is_paired(found: tuple[dict[tuple[str, int], Cell], Clips]) -> None:
    table, clips = found
    same = loss(clips, table["poor", 2], table["poor", 2])
    assert same is not None
    assert (same.value, same.low, same.high) == (0.0, 0.0, 0.0)


def test_speakers_are_drawn_whole() -> None:
    """One speaker who is lost altogether widens the interval far more than as many clips of all speakers."""
    plan = protocol()
    outcome = results(plan, dict.fromkeys(RATES, 0.0))
    clips, table = Clips.of(outcome), cells(plan, outcome)
    lost = {speaker: clips.groups == speaker for speaker in range(5)}
    by_speaker = _with_errors(table["good", 4], clips, np.any(list(lost.values()), axis=0))
    spread = _with_errors(table["good", 4], clips, np.arange(clips.labels.size) % 20 == 0)
    wide, narrow = (loss(clips, table[CONTROL, 32], cell) for cell in (by_speaker, spread))
    assert wide is not None
    assert narrow is not None
    assert wide.value == pytest.approx(narrow.value)
    # 5 of 100 speakers against 1 of 20 clips of each: the variance is that of groups of 20 against almost none.
    assert wide.high - wide.low > 3 * (narrow.high - narrow.low)


def _with_errors(cell: Cell, clips: Clips, wrong: np.ndarray) -> Cell:
    ends = np.cumsum([fold.labels.size for fold in clips.folds])
    parts = np.split(wrong, ends[:-1])
    rows = {}
    for seed, by_fold in cell.rows.items():
        rows[seed] = {}
        for fold, row in by_fold.items():
            predicted = np.where(parts[fold], (row.predicted + 1) % 12, row.predicted)
            rows[seed][fold] = FinishedRow(row.row, row.model_bytes, predicted, row.scores, row.facts)
    return Cell(cell.method, cell.bits, rows, cell.wanted, cell.folds)


def test_detection_is_at_the_controls_false_reject_rate(found: tuple[dict[tuple[str, int], Cell], Clips]) -> None:
    table, clips = found
    good, poor = (detection(clips, table[CONTROL, 32], table[key]) for key in (("good", 4), ("poor", 4)))
    itself = detection(clips, table[CONTROL, 32], table[CONTROL, 32])
    assert good is not None
    assert poor is not None
    assert itself is not None
    assert itself.target_frr == good.target_frr == poor.target_frr
    assert itself.relative_fdr is not None
    assert (itself.relative_fdr.value, itself.relative_fdr.low, itself.relative_fdr.high) == (0.0, 0.0, 0.0)
    assert good.relative_fdr is not None
    assert good.relative_fdr.low < 0.0 < good.relative_fdr.high
    assert poor.relative_fdr is not None
    assert poor.relative_fdr.low > 0.0
    # tau is the largest threshold whose FRR is at most the target; ties of one step lie between.
    assert good.target_frr - 0.02 < good.frr <= good.target_frr


def test_an_incomplete_seed_is_counted_and_not_used() -> None:
    plan = protocol()
    outcome = results(plan, RATES, leave_out=7)  # the last: 5 of poor w2 and 2 of poor w4, seed 2
    table = cells(plan, outcome)
    assert (table["poor", 2].finished, table["poor", 2].seeds) == (10, (0, 1))
    assert (table["poor", 4].finished, table["poor", 4].seeds) == (13, (0, 1))
    page = render(plan, outcome, "table.toml")
    assert "State: 68 of 75 rows are finished." in page
    assert "| poor | 4 | **13/15** |" in page
    assert "| good | 4 | 15/15 |" in page


def test_the_page_says_who_beats_whom() -> None:
    plan = protocol()
    page = render(plan, results(plan, RATES), "table.toml")
    line = next(line for line in page.splitlines() if line.startswith("| good | poor | 4 | 3 |"))
    gain, verdict, relative = line.split(" | ")[4:]
    assert verdict == "yes"
    # Ten points were put in. False accepts are clips named wrongly: half of those of the plain one, at one threshold.
    assert float(gain.split()[0]) == pytest.approx(10.0, abs=2.0)
    assert -80.0 < float(relative.split()[0]) < -20.0
    assert "State: 75 of 75" in page


def test_no_rows_give_a_page_of_empty_cells() -> None:
    plan = protocol()
    outcome = Results({fold: fold_clips(fold) for fold in range(FOLDS)}, {})
    assert "| good | 4 | **0/15** | - | - | - | - | - |" in render(plan, outcome, "table.toml")


def test_methods_that_quantize_everything_have_a_table_with_their_control() -> None:
    plan = protocol()
    whole = Method("whole", "max_abs", (4,), STAGE, STAGE, NONE, options=(("parameter_bits", 8),))
    like = Method("like", "float", (32,), STAGE, STAGE, NONE)
    grown = replace(
        plan,
        methods=(*plan.methods, like, whole),
        control=plan.control | {"whole": "like", "like": CONTROL},
        baselines=("poor", "whole"),
    )
    page = render(grown, results(grown, RATES | {("whole", 4): 0.1, ("like", 32): 0.2}), "table.toml")
    _, weights, everything, *_ = page.split("\n## ")
    assert weights.startswith("Weights quantized")
    assert everything.startswith("Everything quantized")
    tables = (weights, everything.split("clean clips at the end:")[0])
    rows = [[line for line in table.splitlines() if line.startswith("|")][2:] for table in tables]
    named = [[row.split(" | ")[0][2:] for row in table] for table in rows]
    assert named == [[FLOAT, CONTROL, "good", "poor", "poor"], ["like", "whole"]]
    # "like" differs from the control by its name alone: it takes over the control's training.
    lines = [line.split(" | ") for line in page.split("\n## Agreement")[1].splitlines() if line.startswith("| ")]
    costs = {line[0][2:]: line[5] for line in lines[1:]}
    assert costs["like"] == "-"
    assert float(costs["whole"]) == float(costs[CONTROL]) == 10
    # Ten points better than its own control, which loses ten to the control of the table above.
    points = [float(row.split(" | ")[4].split()[0]) for row in rows[1]]
    assert points == pytest.approx([10.0, -10.0], abs=2.0)
    # A method is compared with the plain ones of its own table: "whole" would beat "poor" at 4 bits.
    assert "| good | poor | 4 |" in page
    assert "| whole | poor |" not in page
    assert "Everything quantized" not in render(plan, results(plan, RATES), "table.toml").split("\n## ", 1)[1]


def test_everything_quantized_is_held_against_the_control_with_clean_norms_too() -> None:
    plan = protocol()
    whole = Method("whole", "max_abs", (4,), STAGE, STAGE, NONE, options=(("parameter_bits", 8),))
    kept = Method("kept", "float", (32,), STAGE, STAGE, NONE, norm_clips=NormClips.AS_TRAINED)
    grown = replace(
        plan, methods=(*plan.methods, kept, whole), control=plan.control | {"whole": "kept", "kept": "kept"}
    )
    page = render(grown, results(grown, RATES | {("whole", 4): 0.3, ("kept", 32): 0.2}), "table.toml")
    everything = page.split("\n## Everything quantized")[1].split("\n## ")[0]
    own, better = everything.split("clean clips at the end:")
    loss_to = [next(line for line in part.splitlines() if line.startswith("| whole | 4 |")) for part in (own, better)]
    points = [float(line.split(" | ")[column].split()[0]) for line, column in zip(loss_to, (4, 2), strict=True)]
    assert points == pytest.approx([10.0, 20.0], abs=2.0)  # "kept" is wrong on 20 %, CONTROL, its twin, on 10 %
