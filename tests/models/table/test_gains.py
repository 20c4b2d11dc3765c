"""Who beats whom, on rows whose truth is known."""

from dataclasses import replace

import pytest
from table_cases import RATES, protocol, results

from kwsq.models.table.gains import gains, paper_lines
from kwsq.models.table.protocol import Paper, Protocol
from kwsq.models.table.statistics import Clips, cells

MINE = Paper("Mine", ("good",))


def _lines(plan: Protocol, rates: dict[tuple[str, int], float], *, leave_out: int = 0) -> list[str]:
    outcome = results(plan, rates, leave_out=leave_out)
    return paper_lines((MINE,), gains(plan, cells(plan, outcome), Clips.of(outcome)))[2:]


@pytest.mark.parametrize(("error_rate", "column", "sign"), [(0.1, 4, "+"), (0.3, 5, "-")])
def test_a_method_that_is_better_or_worse_is_said_to_be_by_how_much(error_rate: float, column: int, sign: str) -> None:
    (line,) = _lines(protocol(), RATES | {("good", 4): error_rate})
    columns = line.strip("| ").split(" | ")
    assert columns[:4] == ["Mine", "good", "4", "3"]
    assert columns[column].startswith(f"poor {sign}")
    assert float(columns[column].split()[1]) == pytest.approx(10.0 if sign == "+" else -10.0, abs=2.0)
    assert [columns[other] for other in (4, 5, 6) if other != column] == ["-", "-"]


def test_a_method_that_is_neither_is_not_separated() -> None:
    (line,) = _lines(protocol(), RATES | {("good", 4): 0.2})
    assert line.strip("| ").split(" | ")[4:] == ["-", "-", "poor"]


def test_seeds_that_one_of_two_lacks_do_not_count() -> None:
    (line,) = _lines(protocol(), RATES, leave_out=6)
    assert line.strip("| ").split(" | ")[3] == "2"


def test_methods_of_other_schedules_and_widths_are_not_compared() -> None:
    plan = protocol()
    assert _lines(replace(plan, control=plan.control | {"poor": "float"}), RATES) == []
    assert _lines(replace(plan, baselines=()), RATES) == []
