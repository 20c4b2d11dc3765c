"""The committed results are those of the shipped protocol, and the page was made from them and it."""

from pathlib import Path

import pytest

from kwsq.models.table.protocol import Protocol, read_protocol
from kwsq.models.table.report import introduction
from kwsq.models.table.rows import Results, read_results
from kwsq.models.table.statistics import Clips, cells

ROOT = Path(__file__).resolve().parents[3]
NAME = "models/kws_ff/table.toml"


@pytest.fixture(scope="module")
def shipped() -> tuple[Protocol, Results]:
    return read_protocol(ROOT / NAME), read_results(ROOT / "docs" / "results.jsonl")


def test_the_page_begins_as_protocol_rows_and_report_say(shipped: tuple[Protocol, Results]) -> None:
    protocol, results = shipped
    expected = introduction(protocol, cells(protocol, results), Clips.of(results), NAME)
    page = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    assert page[: len(expected)] == expected


def test_every_committed_row_is_of_the_protocol(shipped: tuple[Protocol, Results]) -> None:
    protocol, results = shipped
    assert set(results.rows) <= set(protocol.rows())
