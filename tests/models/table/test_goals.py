"""Goals are kept by all rows or not at all, and what decided nothing is told apart."""

from dataclasses import replace

import pytest
from table_cases import RATES, protocol, results

from kwsq.models.table.goals import Finding, findings, goal_lines
from kwsq.models.table.protocol import FLOAT, Goal, Protocol
from kwsq.models.table.report import render
from kwsq.models.table.rows import Results
from kwsq.models.table.statistics import Clips, Difference, cells


def found_of(plan: Protocol, outcome: Results) -> tuple[Finding, ...]:
    return findings(plan, cells(plan, outcome), Clips.of(outcome))


def asking(*goals: Goal, seen: tuple[int, ...] = ()) -> Protocol:
    return replace(protocol(), goals=goals, seen_seeds=seen)


@pytest.mark.parametrize(
    ("goal", "kept"),
    [
        (Goal("good", 4, most_loss=2.0), True),  # no loss was put in, standard error some 0.6 points
        (Goal("poor", 4, most_loss=2.0), False),  # 10 points were
        (Goal("good", 4, most_loss=2.0, most_upper=4.0), True),
        (Goal("good", 4, most_loss=2.0, most_upper=-4.0), False),
        (Goal(FLOAT, 32, least_accuracy=88.0), True),  # 90 % were
        (Goal(FLOAT, 32, least_accuracy=92.0), False),
    ],
)
def test_a_goal_is_kept_where_every_bound_is(goal: Goal, kept: bool) -> None:
    plan = asking(goal)
    (finding,) = found_of(plan, results(plan, RATES))
    assert finding.kept is kept
    assert finding.verdict == ("kept" if kept else "**missed**")


def test_a_goal_is_open_until_its_rows_and_those_of_its_control_are_there() -> None:
    plan = asking(Goal("good", 4, most_loss=2.0), Goal("poor", 4, most_loss=100.0))
    whole = results(plan, RATES)
    without_one_row = results(plan, RATES, leave_out=6)  # 5 of poor w2 and 1 of poor w4
    good, poor = found_of(plan, without_one_row)
    assert good.kept
    assert not poor.kept
    assert poor.verdict == "open: 14 of 15 rows"
    no_control = {
        row: done for row, done in whole.rows.items() if (row.method, row.seed, row.fold) != ("control", 2, 4)
    }
    good, _ = found_of(plan, Results(whole.folds, no_control))
    assert not good.kept
    assert good.verdict.startswith("open")


def test_seeds_that_were_seen_are_left_out_of_the_last_loss() -> None:
    plan = asking(Goal("good", 4, most_loss=2.0), seen=(0, 1))
    outcome = results(plan, RATES)
    spoiled = dict(outcome.rows)
    for row, done in outcome.rows.items():
        if (row.method, row.seed) == ("good", 2):
            spoiled[row] = replace(done, predicted=(done.predicted + 1) % 12)
    (finding,) = found_of(plan, Results(outcome.folds, spoiled))
    assert finding.loss is not None
    assert finding.unseen is not None
    assert (finding.loss.seeds, finding.unseen.seeds) == (3, 1)
    # All that was right of one seed in three is wrong, and a twelfth of a tenth the other way round: 80 points of it.
    assert finding.unseen.value == pytest.approx(0.8, abs=0.12)
    assert finding.loss.value == pytest.approx(finding.unseen.value / 3, abs=0.02)


def test_a_goal_has_seen_seeds_of_its_own() -> None:
    plan = asking(Goal("good", 4, most_loss=2.0, seen_seeds=(2,)), Goal("good", 4, most_loss=2.0), seen=(0, 1))
    outcome = results(plan, RATES)
    own, common = found_of(plan, outcome)
    assert own.unseen is not None
    assert common.unseen is not None
    assert (own.unseen.seeds, common.unseen.seeds) == (2, 1)
    assert "(0, 1; for good at 4 bits 2)." in render(plan, outcome, "table.toml")


def test_the_page_states_every_goal_and_what_was_changed() -> None:
    plan = replace(asking(Goal("poor", 4, most_loss=2.0, most_upper=3.0), seen=(0,)), changes="\nNothing.\n")
    outcome = results(plan, RATES)
    page = render(plan, outcome, "table.toml")
    asked = page.split("\n## What is asked")[1].split("\n## ")[0]
    for line in goal_lines(found_of(plan, outcome)):
        assert line in asked
    assert "| loss <= 2, upper bound < 3 |" in asked
    assert "\n## Changed after rows were seen\n\nNothing.\n\n## Weights quantized" in page
    plain = render(protocol(), outcome, "table.toml")
    assert "What is asked" not in plain
    assert "Changed after" not in plain


def test_a_bound_is_not_kept_by_an_unknown_number() -> None:
    nothing = Finding(Goal("good", 4, most_loss=2.0), 0, 0, complete=True, accuracy=None, loss=None, unseen=None)
    assert not nothing.kept
    exact = Difference(0.02, 0.0, 0.03, 3)
    assert replace(nothing, loss=exact).kept
    assert not replace(nothing, loss=replace(exact, value=0.0201)).kept
