"""`kwsq bisect`: what is lifted is lifted, the damaged layer comes first, and clamps of training stay."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_runs import float_dense, kwsq, kwsq_convert, quantized_dense, samples

from kwsq.converter.bisect import Samples, bisect, lift, units_of
from kwsq.converter.config import ConvertOptions
from kwsq.converter.driver import run_conversion
from kwsq.ir.errors import UsageError
from kwsq.ir.execute import run_float
from kwsq.ir.graph import Graph
from kwsq.ir.ops import FakeQuant
from kwsq.ir.quant import Affine, fake_quantize
from kwsq.passes.pipeline import PipelineResult

MODEL = Path(__file__).resolve().parents[2] / "models" / "kws_ff" / "kws_ff_w4.onnx"


@pytest.fixture(scope="module")
def trained() -> Graph:
    return run_conversion(ConvertOptions(MODEL, "neon", weight_bits=4, parity_inputs=4)).pipeline.annotated


@pytest.fixture(scope="module")
def after(tmp_path_factory: pytest.TempPathFactory) -> tuple[PipelineResult, Samples]:
    folder = tmp_path_factory.mktemp("ptq")
    calibration = samples(folder)
    options = ConvertOptions(float_dense(folder), "neon", weight_bits=4, calibration=calibration)
    with np.load(calibration) as arrays:
        found = Samples({"x": arrays["x"]}, arrays["y"].astype(np.int64))
    return run_conversion(options).pipeline, found


def features(graph: Graph, count: int = 8) -> Samples:
    (name,) = graph.inputs
    shape = graph[name].shape
    drawn = np.random.default_rng(3).normal(0, 1, (count * shape[0], *shape[1:]))
    return Samples({name: drawn.astype(np.float32)})


def test_all_layers_lifted_is_the_float_network(after: tuple[PipelineResult, Samples]) -> None:
    result, data = after
    assert result.unquantized is not None
    found = bisect(result.annotated, result.unquantized, data)
    assert found["unquantized"]["sqnr_db"] == 120.0
    assert found["weights_lifted"] is True
    source = run_float(result.source, data.inputs)["y"]
    # The same weights in the same order: equal up to the folding's rounding of float32.
    np.testing.assert_allclose(run_float(result.unquantized, data.inputs)["y"], source, rtol=1e-5, atol=1e-6)
    labels, classes = data.labels, source.shape[-1]
    assert labels is not None
    assert found["unquantized"]["accuracy"] == np.mean(source.reshape(-1, classes).argmax(-1) == labels)
    assert 0 < found["quantized"]["sqnr_db"] < 60


def test_every_quantizer_and_constant_belongs_to_one_layer(
    trained: Graph, after: tuple[PipelineResult, Samples]
) -> None:
    for graph, floats in ((trained, None), (after[0].annotated, after[0].unquantized)):
        units = units_of(graph, floats)
        named = [name for unit in units for name in unit.quantizers]
        assert sorted(named) == sorted(node.name for node in graph.nodes if isinstance(node.op, FakeQuant))
        assert len({unit.name for unit in units}) == len(units)
        assert any(unit.constants for unit in units) == (floats is not None)


def test_the_layer_with_damaged_codes_comes_first(after: tuple[PipelineResult, Samples]) -> None:
    result, data = after
    before = bisect(result.annotated, result.unquantized, data)
    cheapest = [row["layer"] for row in before["layers"] if row["constants"]][-1]
    node = next(n for n in result.annotated.nodes if n.name == cheapest)
    weight = result.annotated[node.inputs[1]]
    assert weight.data is not None
    shuffled = replace(weight, data=np.ascontiguousarray(weight.data[::-1]))
    damaged = replace(result.annotated, tensors={**result.annotated.tensors, weight.name: shuffled})
    found = bisect(damaged, result.unquantized, data)
    assert found["layers"][0]["layer"] == node.name
    assert found["layers"][0]["one_in"]["sqnr_db"] < 10
    # Without that layer the rest is as good as it was.
    assert found["layers"][0]["one_out"]["sqnr_db"] > found["quantized"]["sqnr_db"] + 10


def test_a_coarse_grid_of_training_comes_first(trained: Graph) -> None:
    data = features(trained)
    units = [unit for unit in units_of(trained, None) if "Conv" in unit.name]
    victim = units[len(units) // 2]
    nodes = tuple(_coarse(node) if node.name in victim.quantizers else node for node in trained.nodes)
    found = bisect(replace(trained, nodes=nodes), None, data)
    assert found["weights_lifted"] is False
    assert found["layers"][0]["layer"] == victim.name
    assert bisect(trained, None, data)["layers"][0]["layer"] != victim.name


def _coarse(node: Any) -> Any:
    """A quantiser with a sixteenth of its levels over the same range."""
    spec = node.op.spec
    low, high = spec.range.low // 16, spec.range.high // 16
    zero = np.asarray(spec.zero_point) // 16
    wide = replace(spec, scale=np.float32(16) * spec.scale, zero_point=zero, range=type(spec.range)(low, high))
    return replace(node, op=replace(node.op, spec=wide))


def test_the_clamp_of_a_lifted_quantizer_stays(trained: Graph) -> None:
    node = next(n for n in trained.nodes if isinstance(n.op, FakeQuant))
    assert isinstance(node.op, FakeQuant)
    spec: Affine = node.op.spec
    lifted = lift(node, keeps_clamp=True)
    far = np.array([-1e6, 1e6], np.float32)
    np.testing.assert_array_equal(lifted.op.evaluate(far)[0], fake_quantize(far, spec))


def test_a_float_graph_has_nothing_to_bisect(after: tuple[PipelineResult, Samples]) -> None:
    result, data = after
    assert result.unquantized is not None
    with pytest.raises(UsageError, match="no quantizers"):
        bisect(result.unquantized, result.unquantized, data)


def test_the_command_prints_a_table_and_json(tmp_path: Path) -> None:
    model = quantized_dense(tmp_path)
    table = kwsq("bisect", model, "--inputs", 8)
    assert table.code == 0, table.stderr
    assert "costliest alone first" in table.stdout
    again = kwsq("bisect", model, "--inputs", 8, "--json")
    report = json.loads(again.stdout)
    assert (report["kind"], report["result"]["samples"]) == ("bisect", 8)
    assert report == json.loads(kwsq("bisect", model, "--inputs", 8, "--json").stdout)
    costs = [row["one_in"]["sqnr_db"] for row in report["result"]["layers"]]
    assert costs == sorted(costs)


def test_labels_give_accuracy_and_false_discovery_rate(tmp_path: Path) -> None:
    options = ("--wbits", 4, "--calibration", samples(tmp_path), "--data", samples(tmp_path, count=60))
    outcome = kwsq("bisect", float_dense(tmp_path), *options, "-v")
    assert outcome.code == 0, outcome.stderr
    assert "all but it FDR" in outcome.stdout
    assert "layer 1 of" in outcome.stderr


def test_wrong_input_ends_as_everywhere(tmp_path: Path) -> None:
    assert kwsq("bisect", float_dense(tmp_path)).code == 2, "a float model without calibration data"
    assert kwsq("bisect", tmp_path / "none.onnx").code == 2
    (tmp_path / "broken.onnx").write_bytes(b"nonsense")
    assert kwsq("bisect", tmp_path / "broken.onnx").code == 5


@pytest.mark.parametrize("labelled", [True, False])
def test_the_report_of_a_conversion_holds_it(labelled: bool, tmp_path: Path) -> None:
    model, data, out = quantized_dense(tmp_path), samples(tmp_path), tmp_path / "out"
    flags = ["--data", data] if labelled else []
    outcome = kwsq_convert(model, "--target", "neon", "--wbits", 4, "--bisect", *flags, "-o", out)
    assert outcome.code == 0, outcome.stderr
    found = json.loads((out / "report.json").read_text("utf-8"))["result"]["bisection"]
    alone = json.loads(kwsq("bisect", model, "--wbits", 4, "--json", *flags).stdout)["result"]
    assert found == {name: alone[name] for name in found}
    assert (found["quantized"]["accuracy"] is not None) == labelled
    first = found["layers"][0]["layer"]
    assert "Layers, costliest alone first" in outcome.stdout
    for to in ("text", "md", "html", "junit"):
        rendered = kwsq("report", out / "report.json", "--to", to)
        assert rendered.code == 0, rendered.stderr
        assert (first in rendered.stdout.replace("\\", "")) or to == "junit"
    assert "Cost of each layer" in (out / "report.html").read_text("utf-8")


def test_without_being_asked_for_it_is_left_out(tmp_path: Path) -> None:
    model, out = quantized_dense(tmp_path), tmp_path / "out"
    assert kwsq_convert(model, "--target", "neon", "--wbits", 4, "-o", out).code == 0
    assert json.loads((out / "report.json").read_text("utf-8"))["result"]["bisection"] is None
    assert "Cost of each layer" not in (out / "report.html").read_text("utf-8")


def test_a_damaged_part_of_the_report_is_refused_or_rendered(tmp_path: Path) -> None:
    model, data, out = quantized_dense(tmp_path), samples(tmp_path), tmp_path / "out"
    outcome = kwsq_convert(model, "--target", "neon", "--wbits", 4, "--bisect", "--data", data, "-o", out)
    assert outcome.code == 0, outcome.stderr
    whole = (out / "report.json").read_text("utf-8")
    damage = [("accuracy", None, 0), ("sqnr_db", None, 2), ("accuracy", "x", 2), ("false_discovery_rate", None, 0)]
    for key, value, code in damage:
        report = json.loads(whole)
        report["result"]["bisection"]["layers"][0]["one_in"][key] = value
        (out / "report.json").write_text(json.dumps(report), encoding="utf-8")
        for to in ("text", "md", "html"):
            assert kwsq("report", out / "report.json", "--to", to).code == code, (key, value, to)
