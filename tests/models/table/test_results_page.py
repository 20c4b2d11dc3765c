"""The committed results are those of the shipped protocol, and the page was made from them and it.

Detection is left out: drawing speakers again for every cell takes minutes.
"""

from pathlib import Path

import pytest

from kwsq.models.table.gains import gains, paper_lines
from kwsq.models.table.goals import findings, goal_lines
from kwsq.models.table.protocol import Protocol
from kwsq.models.table.read_protocol import read_protocol
from kwsq.models.table.report import cell_start, groups, introduction
from kwsq.models.table.rows import Results, read_results
from kwsq.models.table.statistics import Clips, cells

ROOT = Path(__file__).resolve().parents[3]
NAME = "models/kws_ff/table.toml"


@pytest.fixture(scope="module")
def shipped() -> tuple[Protocol, Results]:
    return read_protocol(ROOT / NAME), read_results(ROOT / "docs" / "results.jsonl")


@pytest.fixture(scope="module")
def page() -> str:
    return (ROOT / "docs" / "results.md").read_text(encoding="utf-8")


def test_the_page_begins_as_protocol_rows_and_report_say(shipped: tuple[Protocol, Results], page: str) -> None:
    protocol, results = shipped
    expected = introduction(protocol, cells(protocol, results), Clips.of(results), NAME)
    assert page[: len(expected)] == expected


def test_every_line_of_the_page_states_rows_accuracy_and_loss_as_the_rows_do(
    shipped: tuple[Protocol, Results], page: str
) -> None:
    protocol, results = shipped
    table, clips = cells(protocol, results), Clips.of(results)
    tables = page.split("\n## Weights quantized")[1].split("\n## Against")[0]
    stated = [line for line in tables.splitlines() if line.startswith("| ") and line.count("|") == 9][1:]
    named = {tuple(line.split(" | ")[:2]) for line in stated}
    for line in stated:
        name, bits = line.split(" | ")[0][2:], line.split(" | ")[1]
        if name != "method":
            assert line.startswith(cell_start(protocol, table, clips, (name, int(bits))))
    assert {(f"| {name}", str(bits)) for name, bits in table} <= named


def test_the_page_states_the_goals_and_changes_of_the_protocol(shipped: tuple[Protocol, Results], page: str) -> None:
    protocol, results = shipped
    found = findings(protocol, cells(protocol, results), Clips.of(results))
    assert len(found) == len(protocol.goals) > 0
    assert "\n".join(goal_lines(found)) in page
    assert protocol.changes.strip() in page


def test_the_page_says_where_the_papers_methods_beat_plain_ones(shipped: tuple[Protocol, Results], page: str) -> None:
    protocol, results = shipped
    clips = Clips.of(results)
    tables = groups(protocol, cells(protocol, results))
    found = tuple(gain for table in tables for gain in gains(protocol, table, clips))
    lines = paper_lines(protocol.papers, found)
    assert "\n".join(lines) in page
    # The widths: two-stage 8, 5, 4, 1, S8BQAT 5, 4, fixed point 8, 4, and the general quantizer.
    named = {tuple(line.split(" | ")[1:3]) for line in lines[2:]}
    two_stage = {(name, bits) for name in ("two_stage_fast", "two_stage_all_fast") for bits in "8541"}
    assert named >= two_stage | {("s8bqat", "5"), ("s8bqat", "4"), ("fxp", "8"), ("fxp", "4"), ("gq", "4"), ("gq", "2")}


def test_every_committed_row_is_of_the_protocol(shipped: tuple[Protocol, Results]) -> None:
    protocol, results = shipped
    assert set(results.rows) <= set(protocol.rows())
