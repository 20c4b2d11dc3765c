"""What each option changes in a conversion, and what the stages are given."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from cli_runs import Outcome, kwsq_convert, left, quantized_dense, samples, save
from qdq_models import Scheme, float_model, quantized, random_feeds, run_onnx

from kwsq.converter.config import ConvertOptions
from kwsq.converter.driver import run_conversion
from kwsq.converter.parity import Mismatch, ParityReport
from kwsq.converter.report import MICRO, RuntimeVerdict
from kwsq.converter.vectors import boundary_of, real_samples, with_states
from kwsq.passes.dialects import normalize
from kwsq.passes.load import load_file

STREAM = """(float[1,4] x, float[1,6] s, float[10,6] w1, float[6,3] w2) => (float[1,3] y, float[1,6] n)
{ c = Concat<axis=-1>(x, s) h = MatMul(c, w1) n = Relu(h) y = MatMul(n, w2) }"""
PROBABILITIES = """(float[1,12] x, float[12,5] w) => (float[1,5] y) { h = MatMul(x, w) y = Softmax<axis=-1>(h) }"""


def report(outcome: Outcome) -> dict[str, Any]:
    assert outcome.code == 0, outcome.stderr
    result: dict[str, Any] = json.loads(outcome.stdout)["result"]
    return result


def annotated(text: str, path: Path) -> Path:
    model = float_model(text)
    return save(quantized(model, random_feeds(model, 64), Scheme(weight_bits=4)), path)


def test_float_inputs_and_outputs(tmp_path: Path) -> None:
    model = quantized_dense(tmp_path)
    result = report(kwsq_convert(model, "--target", "neon", "--io", "float32", "-o", tmp_path / "out", "--json"))
    assert [t["dtype"] for t in (*result["inputs"], *result["outputs"])] == ["float32", "float32"]
    assert {"QUANTIZE", "DEQUANTIZE"} <= set(result["artefact"]["operators"])


def test_the_report_knows_both_containers_whichever_is_written(tmp_path: Path) -> None:
    model, found = quantized_dense(tmp_path), {}
    for container in ("int8", "int4"):
        out = tmp_path / container
        result = report(kwsq_convert(model, "--target", "neon", "--container", container, "-o", out, "--json"))
        assert result["artefact"]["bytes"] == (out / "model.tflite").stat().st_size
        found[container] = {c["container"]: c["file_bytes"] for c in result["containers"]}
        assert found[container][container] == result["artefact"]["bytes"]
    assert found["int8"] == found["int4"]


def test_a_container_nothing_fits_is_a_usage_error(tmp_path: Path) -> None:
    model = quantized_dense(tmp_path, bits=8)
    result = report(kwsq_convert(model, "--target", "neon", "-o", tmp_path / "a", "--json"))
    assert [(c["container"], c["available"]) for c in result["containers"]] == [
        ("int8", True),
        ("int4", False),
        ("lut", False),
    ]
    outcome = kwsq_convert(model, "--target", "neon", "--container", "int4", "-o", tmp_path / "b")
    assert outcome.code == 2
    assert "no weight tensor fits int4" in outcome.stderr
    assert "b" not in left(tmp_path)


def test_a_network_without_weights_converts(tmp_path: Path) -> None:
    model = annotated("(float[1,8] x) => (float[1,8] y) { y = Relu(x) }", tmp_path / "relu.onnx")
    result = report(kwsq_convert(model, "--target", "neon", "-o", tmp_path / "a", "--json"))
    reasons = {c["container"]: c["reason"] for c in result["containers"]}
    assert "no layer with weights" in reasons["int4"]
    outcome = kwsq_convert(model, "--target", "neon", "--container", "int4", "-o", tmp_path / "b")
    assert outcome.code == 2
    assert "no layer with weights" in outcome.stderr


def test_stripped_names_and_dropped_softmax(tmp_path: Path) -> None:
    model = annotated(PROBABILITIES, tmp_path / "p.onnx")
    plain = report(kwsq_convert(model, "--target", "neon", "-o", tmp_path / "a", "--json"))
    options = ["--strip-names", "--drop-softmax", "-o", tmp_path / "b", "--json"]
    other = report(kwsq_convert(model, "--target", "neon", *options))
    assert other["footprint"]["flash"]["names_bytes"] < plain["footprint"]["flash"]["names_bytes"]
    assert "SOFTMAX" in plain["artefact"]["operators"]
    assert "SOFTMAX" not in other["artefact"]["operators"]
    assert any(note["source"] == "drop_softmax" for note in other["notes"])
    assert other["parity"]["passed"] is True


def test_the_width_defaults_to_the_models_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert kwsq_convert(quantized_dense(tmp_path), "--target", "neon").code == 0
    assert "dense_w4.neon-w4" in left(tmp_path)


def test_streaming_models_carry_their_states(tmp_path: Path) -> None:
    path = annotated(STREAM, tmp_path / "stream.onnx")
    rng = np.random.default_rng(2)
    chunks = rng.normal(0.25, 1, (7, 4)).astype(np.float32)
    np.savez(tmp_path / "chunks.npz", x=chunks)
    options = ConvertOptions(path, "neon", calibration=tmp_path / "chunks.npz")
    source = load_file(path)
    normalized = normalize(source)
    boundary = boundary_of(source, normalized, options)
    assert boundary.states == {"s"}
    states = with_states(boundary, real_samples(boundary, tmp_path / "chunks.npz", "--calibration"))["s"]
    state, model = np.zeros((1, 6), np.float32), onnx.load(path)
    for step in range(7):
        # Both compute the same quantised model in float32; a tie may round the other way, one step apart.
        assert np.abs(states[step] - state).max() <= 0.05
        state = run_onnx(model, {"x": chunks[step : step + 1], "s": state})["n"]
    result = report(
        kwsq_convert(
            path, "--target", "neon", "--calibration", tmp_path / "chunks.npz", "--json", "-o", tmp_path / "out"
        )
    )
    assert result["model"]["states"] == [{"input": "s", "output": "n"}]
    assert result["parity"]["vectors"] == 7


def test_a_model_may_be_said_to_have_no_states(tmp_path: Path) -> None:
    path = annotated(STREAM, tmp_path / "stream.onnx")
    guessed = report(kwsq_convert(path, "--target", "neon", "--json", "-o", tmp_path / "a"))
    stated = report(kwsq_convert(path, "--target", "neon", "--state", "s=n", "--json", "-o", tmp_path / "b"))
    denied = report(kwsq_convert(path, "--target", "neon", "--state", "none", "--json", "-o", tmp_path / "c"))
    notes = [
        [note["text"] for note in result["notes"] if "streaming state" in note["text"]]
        for result in (guessed, stated, denied)
    ]
    assert [len(texts) for texts in notes] == [1, 1, 0]
    assert "--state none" in notes[0][0]
    assert "--state none" not in notes[1][0]
    assert denied["model"]["states"] == []
    assert guessed["model"]["states"] == stated["model"]["states"] == [{"input": "s", "output": "n"}]


ORDINARY = """(float[1,8] x, float[1,8] second, float[16,6] w1, float[6,8] w2) => (float[1,6] logits, float[1,8] mask)
{ c = Concat<axis=-1>(x, second) logits = MatMul(c, w1) g = MatMul(logits, w2) mask = Sigmoid(g) }"""


def test_values_that_no_output_gives_are_of_no_state(tmp_path: Path) -> None:
    """Two inputs, of which the second has the shape of the last output, on whose grid it would be cut to [0, 1]."""
    model, data = float_model(ORDINARY), tmp_path / "data.npz"
    path = save(model, tmp_path / "ordinary.onnx")
    inputs = {name: np.random.default_rng(4).uniform(-2, 2, (64, 8)).astype(np.float32) for name in ("x", "second")}
    np.savez(data, **inputs)
    convert = (path, "--target", "neon", "--calibration", data, "--json", "-o")
    refused = kwsq_convert(*convert, tmp_path / "a")
    assert (refused.code, (tmp_path / "a").exists()) == (2, False)
    assert "graph input 'second': found values from -" in refused.stderr
    assert "pass --state none where it is no state, or --state second=mask" in refused.stderr
    stated = report(kwsq_convert(*convert, tmp_path / "b", "--state", "none"))
    grids = {tensor["name"]: tensor for tensor in stated["inputs"]}
    assert grids["second"]["scale"] == pytest.approx(4 / 255, rel=0.05)
    steps = ({name: each[i : i + 1] for name, each in inputs.items()} for i in range(64))
    mask = np.concatenate([run_onnx(model, step)["mask"] for step in steps])
    np.savez(data, x=inputs["x"], second=np.concatenate([np.zeros((1, 8), np.float32), mask[:-1]]))
    streaming = report(kwsq_convert(*convert, tmp_path / "c"))
    assert streaming["model"]["states"] == [{"input": "second", "output": "mask"}]


def test_a_state_that_its_grid_cuts_is_warned_of(tmp_path: Path) -> None:
    """The square of an input, with no quantizer of its own and the input's shape."""
    text = """<ir_version: 8, opset_import: ["": 13]>
    agraph (float[1,4] x, float[1,4] r) => (float[1,4] y, float[1,4] p) <float s = {0.05}, int8 zero = {0}>
    {
      q = QuantizeLinear(x, s, zero)
      a = DequantizeLinear(q, s, zero)
      v = QuantizeLinear(r, s, zero)
      b = DequantizeLinear(v, s, zero)
      c = Add(a, b)
      w = QuantizeLinear(c, s, zero)
      y = DequantizeLinear(w, s, zero)
      p = Mul(b, b)
    }"""
    np.savez(tmp_path / "data.npz", x=np.full((8, 4), 3, np.float32), r=np.full((8, 4), 6, np.float32))
    path = save(onnx.parser.parse_model(text), tmp_path / "square.onnx")
    convert = (path, "--target", "neon", "--calibration", tmp_path / "data.npz", "--json", "-o")
    found = report(kwsq_convert(*convert, tmp_path / "a", "--state", "r=p"))
    texts = [note["text"] for note in found["notes"] if note["level"] == "warning" and note["where"] == "p"]
    assert texts == ["[36, 36] is cut to the grid of 'r', the state it feeds (or --state none)"]
    found = report(kwsq_convert(*convert, tmp_path / "b", "--state", "none"))
    assert [tensor["scale"] for tensor in found["outputs"] if tensor["name"] == "p"] == [pytest.approx(36 / 255)]


UNBATCHED = {
    "vector": "(float[6] x, float[6,5] w) => (float[5] y) { h = MatMul(x, w) y = Softmax<axis=-1>(h) }",
    "attention": "(float[7,6] x, float[6,1] w) => (float[7,1] y) { h = MatMul(x, w) y = Softmax<axis=0>(h) }",
    "scores too": "(float[1,3,8] x, float[8,7] w) => (float[1,3,7] y, float[1,3,7] h)"
    " { h = MatMul(x, w) y = Softmax<axis=1>(h) }",
}


@pytest.mark.parametrize("name", UNBATCHED)
def test_float_models_need_no_batch_and_may_show_their_scores(name: str, tmp_path: Path) -> None:
    model = float_model(UNBATCHED[name])
    shape = tuple(each.dim_value for each in model.graph.input[0].type.tensor_type.shape.dim)
    clips = np.random.default_rng(3).normal(0, 1, (64, *shape[shape[0] == 1 :])).astype(np.float32)
    np.savez(tmp_path / "clips.npz", x=clips)
    convert = (save(model, tmp_path / "m.onnx"), "--target", "neon", "--calibration", tmp_path / "clips.npz", "--json")
    losses = []
    for bits in (8, 2):
        result = report(kwsq_convert(*convert, "--wbits", bits, "-o", tmp_path / f"w{bits}"))
        (text,) = (note["text"] for note in result["notes"] if "mean output loss" in note["text"])
        losses.append(float(text.partition("mean output loss ")[2].split()[0].rstrip(",;")))
    assert 0 < losses[0] < losses[1]


SWAPPED = """(float[1,4] x, float[1,6] s1, float[1,6] s2, float[10,6] w1, float[12,6] w2, float[12,3] w3)
=> (float[1,3] y, float[1,6] n2, float[1,6] n1)
{ c1 = Concat<axis=-1>(x, s1) h1 = MatMul(c1, w1) n1 = Tanh(h1)
  c2 = Concat<axis=-1>(n1, s2) h2 = MatMul(c2, w2) n2 = Tanh(h2)
  c3 = Concat<axis=-1>(n1, n2) y = MatMul(c3, w3) }"""


def test_a_failure_names_the_states_that_were_guessed_or_given(tmp_path: Path) -> None:
    path = annotated(SWAPPED, tmp_path / "swapped.onnx")
    stated = ["--state", "s1=n1", "--state", "s2=n2"]
    assert kwsq_convert(path, "--target", "neon", *stated, "-o", tmp_path / "a").code == 0
    conversion = run_conversion(ConvertOptions(path, "neon"))
    broken = replace(conversion.parity["source"], mismatches=(Mismatch("y", "output", "1", "2"),))
    failed = replace(conversion, parity=ParityReport((broken,), 1))
    (reason,) = failed.failures()
    assert "paired by order and shape, as --state s1=n2 --state s2=n1 does" in reason
    options = replace(conversion.options, states={"s1": "n1", "s2": "n2"})
    (reason,) = replace(failed, options=options).failures()
    assert "paired as given, --state s1=n2 --state s2=n1; check" in reason


def test_a_state_without_a_grid_is_observed_as_it_is_carried(tmp_path: Path) -> None:
    """A leaky sum: its state settles near twenty times the input, far from any state drawn at random."""
    recurrence = np.concatenate([np.full((4, 6), 16), np.eye(6) * 121]).astype(np.int8)  # times 2**-7: 0.125 and 0.945
    text = """<ir_version: 8, opset_import: ["": 13]>
    agraph (float[1,4] x, float[1,6] s) => (float[1,3] y, float[1,6] n)
    <int8[10,6] w1, int8[6,3] w2, float s_w = {0.0078125}, float s_x = {0.05}, int8 zero = {0}>
    {
      q = QuantizeLinear(x, s_x, zero)
      d = DequantizeLinear(q, s_x, zero)
      a = Relu(d)
      h = Concat<axis=1>(a, s)
      v1 = DequantizeLinear(w1, s_w, zero)
      n = MatMul(h, v1)
      v2 = DequantizeLinear(w2, s_w, zero)
      y = MatMul(n, v2)
    }"""
    model = onnx.parser.parse_model(text)
    weights = {"w1": recurrence, "w2": np.arange(-9, 9, dtype=np.int8).reshape(6, 3)}
    model.graph.initializer.extend(onnx.numpy_helper.from_array(value, name) for name, value in weights.items())
    onnx.save(model, tmp_path / "leaky.onnx")
    result = report(kwsq_convert(tmp_path / "leaky.onnx", "--target", "neon", "--json", "-o", tmp_path / "out"))
    assert result["parity"]["passed"]
    (state,) = (tensor for tensor in result["inputs"] if tensor["name"] == "s")
    assert state["scale"] * 255 > 6


def test_a_runtime_that_was_asked_for_must_accept_the_artefact(tmp_path: Path) -> None:
    conversion = run_conversion(ConvertOptions(quantized_dense(tmp_path), "neon"))
    assert conversion.failures() == []
    refusal = (RuntimeVerdict(MICRO, False, "no kernel"),)
    wanted = replace(conversion, options=replace(conversion.options, runtime="tflm"), runtimes=refusal)
    assert wanted.failures() == ["TensorFlow Lite Micro refused the artefact: no kernel"]
    assert replace(conversion, runtimes=refusal).failures() == [], "nobody asked for it"


def test_parity_runs_on_the_calibration_samples(tmp_path: Path) -> None:
    calibration = samples(tmp_path, 10)
    options = [quantized_dense(tmp_path), "--target", "neon", "--calibration", calibration, "--json"]
    assert report(kwsq_convert(*options, "-o", tmp_path / "a"))["parity"]["vectors"] == 10
    assert report(kwsq_convert(*options, "--inputs", 3, "-o", tmp_path / "b"))["parity"]["vectors"] == 3


def test_forcing_a_scheme_on_a_quantized_model_is_remarked(tmp_path: Path) -> None:
    options = [quantized_dense(tmp_path), "--target", "neon", "--scheme", "per_tensor", "-o", tmp_path / "out"]
    outcome = kwsq_convert(*options)
    assert outcome.code == 0
    assert "--scheme and --ranges have no effect" in outcome.stdout
