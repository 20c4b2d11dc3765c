"""report.json keeps its schema, report.html stands alone, and names from models stay text."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import onnx
import pytest
from cli_runs import TEXT, Outcome, float_dense, kwsq, kwsq_convert, samples, save
from qdq_models import Scheme, float_model, quantized, random_feeds

from kwsq.converter.html import render_html
from kwsq.converter.json_schema import violations
from kwsq.converter.plots import Bar, Part, bar_chart, timeline
from kwsq.converter.safe_text import printable

SCHEMA = json.loads((Path(__file__).resolve().parents[2] / "converter" / "report.schema.json").read_text("utf-8"))
HOSTILE = {
    "x": "x<script>alert(1)</script>",
    "r": "r\"onmouseover='alert(1)",
    "y": "y\x1b[2J\u202e&lt;",
    "w1_dq": "</title></style><img src=http://example.org/a>",
}


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> tuple[Outcome, Path]:
    """A conversion of a model whose names try to break out of every renderer."""
    folder = tmp_path_factory.mktemp("hostile")
    model = float_model(TEXT)
    annotated = quantized(model, random_feeds(model, 64), Scheme(weight_bits=4))
    path = save(renamed(annotated), folder / "m<b>.onnx")
    return kwsq_convert(path, "--target", "neon", "--wbits", 4, "-o", folder / "out"), folder / "out"


def renamed(model: onnx.ModelProto) -> onnx.ModelProto:
    for value in (*model.graph.input, *model.graph.output):
        value.name = HOSTILE.get(value.name, value.name)
    for node in model.graph.node:
        node.input[:] = [HOSTILE.get(name, name) for name in node.input]
        node.output[:] = [HOSTILE.get(name, name) for name in node.output]
    return model


@pytest.fixture(scope="module")
def report(hostile: tuple[Outcome, Path]) -> dict[str, Any]:
    outcome, folder = hostile
    assert outcome.code == 0, outcome.stderr
    loaded: dict[str, Any] = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    return loaded


# ---- schema ----


def test_a_report_keeps_the_schema(report: dict[str, Any]) -> None:
    assert violations(report, SCHEMA) == []


def test_a_failed_report_keeps_the_schema_too(hostile: tuple[Outcome, Path], tmp_path: Path) -> None:
    _, folder = hostile
    gate = ["--data", samples(tmp_path), "--min-accuracy", "0.99", "-o", tmp_path / "out", "--json"]
    outcome = kwsq_convert(folder.parent / "m<b>.onnx", "--target", "neon", *gate)
    assert outcome.code == 1
    assert violations(json.loads(outcome.stdout), SCHEMA) == []


def remove_verdict(report: dict[str, Any]) -> None:
    del report["result"]["verdict"]


def add_time(report: dict[str, Any]) -> None:
    report["result"]["time"] = "now"


def negative_bytes(report: dict[str, Any]) -> None:
    report["result"]["footprint"]["layers"][0]["flash"]["weights_bytes"] = -1


def text_for_number(report: dict[str, Any]) -> None:
    report["result"]["weights"][0]["bits"] = "4"


def short_hash(report: dict[str, Any]) -> None:
    report["result"]["artefact"]["sha256"] = "abc"


def true_for_number(report: dict[str, Any]) -> None:
    report["result"]["footprint"]["macs"] = True


def other_version(report: dict[str, Any]) -> None:
    report["schema_version"] = 2


BREAKS = [remove_verdict, add_time, negative_bytes, text_for_number, short_hash, true_for_number, other_version]


@pytest.mark.parametrize("broken", BREAKS)
def test_the_schema_notices(report: dict[str, Any], broken: Callable[[dict[str, Any]], None]) -> None:
    damaged = copy.deepcopy(report)
    broken(damaged)
    assert violations(damaged, SCHEMA)


# ---- html ----


class Page(HTMLParser):
    """Tags in order, checked for balance."""

    VOID = frozenset({"meta", "br", "rect", "line"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag in self.VOID:
            return  # a <rect> with a <title> inside
        assert self.open.pop() == tag


def rendered(hostile: tuple[Outcome, Path]) -> str:
    return (hostile[1] / "report.html").read_text(encoding="utf-8")


def test_the_page_stands_alone(hostile: tuple[Outcome, Path]) -> None:
    page = Page(rendered(hostile))
    names = {tag for tag, _ in page.tags}
    assert names.isdisjoint({"script", "link", "img", "iframe", "object", "base", "form"})
    attributes = {name for _, attrs in page.tags for name in attrs}
    assert attributes.isdisjoint({"src", "href", "onmouseover", "onclick", "style"})
    (css,) = re.findall(r"<style>(.*?)</style>", rendered(hostile), flags=re.DOTALL)
    assert "url(" not in css
    assert "@import" not in css
    assert "svg" in names


def test_the_verdict_comes_first(hostile: tuple[Outcome, Path]) -> None:
    page = rendered(hostile)
    places = [page.index(mark) for mark in ("Parity proven", "<h2>Parity", "<h2>Flash", "<h2>Activation memory")]
    assert places == sorted(places)


def test_names_from_the_model_stay_text(hostile: tuple[Outcome, Path], report: dict[str, Any]) -> None:
    names = {tensor["name"] for tensor in report["result"]["activations"]}
    assert HOSTILE["x"] in names, "the report itself keeps the source's names"
    page = rendered(hostile)
    for raw in ("<script", "<img", "\x1b", "\u202e"):
        assert raw not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "m&lt;b&gt;.onnx" in page
    for text in (hostile[0].stdout, kwsq("inspect", hostile[1] / "model.tflite").stdout):
        assert "\x1b" not in text
        assert "\u202e" not in text


def test_a_failure_is_told_at_the_top(report: dict[str, Any]) -> None:
    failed = copy.deepcopy(report)
    verdict = failed["result"]["verdict"]
    verdict.update(passed=False, status="fail", reasons=["w1[3]: code 5, expected <4>"])
    page = render_html(failed)
    assert "Parity proven" not in page
    assert page.index("w1[3]: code 5, expected &lt;4&gt;") < page.index("<h2>Parity")


def test_the_page_follows_from_the_report_alone(hostile: tuple[Outcome, Path], report: dict[str, Any]) -> None:
    assert render_html(report) == rendered(hostile)


# ---- pieces ----


def test_bars_share_one_scale_and_survive_nothing_to_draw() -> None:
    drawn = bar_chart([Bar("a", (Part(1, "weights", "w"), Part(1, "biases", "b")), "2"), Bar("b", (), "0")])
    assert 'x="0.000" width="50.000"' in drawn
    assert 'x="50.000" width="50.000"' in drawn
    assert "rect" not in bar_chart([])
    assert timeline([], 0, []).count("<rect") == 0
    assert timeline([5, 10], 20, ["a", "b"]).count("<rect") == 2


@pytest.mark.parametrize("text", ["plain name", "ü/ö:0", "模型"])
def test_ordinary_names_are_left_alone(text: str) -> None:
    assert printable(text) == text


def test_float_models_report_their_choices(tmp_path: Path) -> None:
    command = [float_dense(tmp_path), "--target", "neon", "--wbits", 4, "--calibration", samples(tmp_path)]
    outcome = kwsq_convert(*command, "-o", tmp_path / "out", "--json")
    assert outcome.code == 0, outcome.stderr
    result = json.loads(outcome.stdout)["result"]
    assert violations(json.loads(outcome.stdout), SCHEMA) == []
    assert result["model"]["quantization"] == "ptq"
    assert {record["kind"] for record in result["ptq"]} >= {"activation", "weight"}
    assert {row["annotated_scale"] is None for row in result["weights"]} == {True}
    assert result["float_distance"]["outputs"]["y"]["top1_agreement"] > 0.8
    assert "Post-training choices" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
