"""Node data for Model Explorer: values of every operator under the names of its output tensors in the file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_runs import kwsq, kwsq_convert, quantized_dense

from kwsq.targets.neon.reader import read


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    here = tmp_path_factory.mktemp("explorer")
    outcome = kwsq_convert(quantized_dense(here), "--target", "neon", "-o", here / "out", "-q")
    assert outcome.code == 0, outcome.stderr
    return here / "out"


@pytest.mark.parametrize("figure", ["sqnr", "flash", "macs", "memory"])
def test_each_figure_is_keyed_by_output_tensors(figure: str, folder: Path) -> None:
    outcome = kwsq("report", folder / "report.json", "--to", "model-explorer", "--figure", figure)
    assert outcome.code == 0, outcome.stderr
    data = json.loads(outcome.stdout)
    assert data.keys() == {"results", "gradient"}
    graph = read((folder / "model.tflite").read_bytes(), "m").main
    outputs = {graph.tensors[i].name for operator in graph.operators for i in operator.outputs}
    assert set(data["results"]) <= outputs
    if figure != "sqnr":
        assert set(data["results"]) == outputs
    assert [stop["stop"] for stop in data["gradient"]] == [0, 1]
    assert all(entry.keys() == {"value"} for entry in data["results"].values())
    if figure != "memory":  # two small layers hold the same memory
        assert len({entry["value"] for entry in data["results"].values()}) > 1


def test_the_values_are_those_of_the_report(folder: Path) -> None:
    report = json.loads((folder / "report.json").read_text("utf-8"))["result"]
    shown = json.loads(kwsq("report", folder / "report.json", "--to", "model-explorer", "--figure", "macs").stdout)
    assert sum(entry["value"] for entry in shown["results"].values()) == report["footprint"]["macs"] > 0


def test_a_pack_has_no_operators_to_lay_figures_over(tmp_path: Path) -> None:
    assert kwsq_convert(quantized_dense(tmp_path), "--target", "accel", "-o", tmp_path / "out", "-q").code == 0
    outcome = kwsq("report", tmp_path / "out" / "report.json", "--to", "model-explorer")
    assert (outcome.code, ".tflite" in outcome.stderr) == (2, True)
