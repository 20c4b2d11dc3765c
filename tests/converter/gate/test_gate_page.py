"""The gate's page: verdict first, nothing fetched, names stay text, and the plot shows the numbers of the report."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_runs import kwsq

from kwsq.converter.gate_html import deviate, gate_page

HOSTILE = "c\"'><script>alert(1)</script>&\x1b.csv"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    here = tmp_path_factory.mktemp("page")
    rng = np.random.default_rng(0)
    label = np.repeat([1, 0], [1500, 60_000])
    score = rng.normal(4.6 * label, 1.0)
    for name, scores in (("ref.csv", score), ("cand.csv", score + rng.normal(0, 0.1, label.size))):
        rows = (f"{i},{y},{s!r}" for i, (y, s) in enumerate(zip(label.tolist(), scores.tolist(), strict=True)))
        (here / name).write_text("\n".join(["trial_id,label,score", *rows]))
    pair = ("--reference", here / "ref.csv", "--candidate", here / "cand.csv")
    kwsq("gate", *pair, "-o", here / "r.json", "-q")
    document: dict[str, Any] = json.loads((here / "r.json").read_text("utf-8"))
    return document


class Elements(HTMLParser):
    """Tags with their attributes, in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_the_verdict_comes_first_and_nothing_is_fetched(report: dict[str, Any]) -> None:
    page = gate_page(report)
    body = page[page.index("<body>") :]
    verdict = report["result"]["verdict"]["status"]
    assert body.index(f">{verdict}</p>") < body.index("<h2>")
    tags = {tag for tag, _ in Elements(page).found}
    assert not tags & {"script", "img", "link", "iframe", "object"}
    assert not re.search(r"(src|href|url\()\s*=?", page.replace("</figure>", ""))
    assert all(check["id"] in page for check in report["result"]["checks"])
    assert gate_page(report) == page


def test_names_stay_text(report: dict[str, Any]) -> None:
    hostile = json.loads(json.dumps(report))
    hostile["result"]["sources"]["candidate"]["file"] = HOSTILE
    hostile["result"]["notes"] = ["<img src=x>"]
    page = gate_page(hostile)
    assert "<script" not in page
    assert "<img" not in page
    assert "\x1b" not in page
    assert "&lt;script&gt;" in page


def test_the_interval_is_that_of_p1(report: dict[str, Any]) -> None:
    drawn = [attributes for tag, attributes in Elements(gate_page(report)).found if tag == "line"]
    bar = next(a for a in drawn if a["class"] == "det-bound" and a["y1"] == a["y2"])
    check = next(c for c in report["result"]["checks"] if c["id"] == "P1.fa_ratio")
    rate = report["result"]["operating_point"]["reference"]["matched"]["false_accept_rate"]
    for end, bound in (("x1", "lower"), ("x2", "upper")):
        # Printed with two decimals.
        assert float(bar[end] or "") == pytest.approx(deviate(rate * (1 + check[bound])), abs=0.0051)
    assert float(bar["x1"] or "") < float(bar["x2"] or "")


def test_the_command_prints_the_page(report: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text(json.dumps(report), "utf-8")
    outcome = kwsq("report", tmp_path / "r.json", "--to", "html")
    assert (outcome.code, outcome.stdout) == (0, gate_page(report))
