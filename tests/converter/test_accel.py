"""`--target accel` from the command line to the file, and what else takes a pack: inspect, footprint, run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from accel_packs import packed, resealed
from checkout import ROOT
from cli_runs import float_dense, kwsq, kwsq_convert, left, quantized_dense, samples
from lowered_cases import build
from lowered_models import LoweredModel, random_inputs

from kwsq.converter.accel_proof import AccelProof
from kwsq.converter.config import CONTAINERS
from kwsq.converter.json_schema import violations
from kwsq.converter.pack_footprint import measure_pack
from kwsq.converter.parity import SourceReference
from kwsq.converter.parity.pack_structure import check_pack_structure
from kwsq.converter.projection import project
from kwsq.converter.proof import PROOFS, load_proof
from kwsq.ir import lowered as ir
from kwsq.ir import numerics
from kwsq.ir.execute import run_integer
from kwsq.ir.graph import StatePair
from kwsq.ir.lowered import LoweredGraph
from kwsq.targets.accel.bits import Layout
from kwsq.targets.accel.build import build_contents
from kwsq.targets.accel.format import Section
from kwsq.targets.accel.reader import read
from kwsq.targets.accel.target import CONTAINERS as ACCEL_CONTAINERS
from kwsq.targets.accel.writer import write_pack
from kwsq.targets.base import TARGETS

SCHEMA = json.loads((ROOT / "converter" / "report.schema.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("accel")
    model, data = quantized_dense(folder, bits=5), samples(folder)
    outcome = kwsq_convert(model, "--target", "accel", "--wbits", 5, "--data", data, "-o", folder / "out")
    assert outcome.code == 0, outcome.stderr
    assert "parity PASSED" in outcome.stdout
    assert "Weight widths, projected and packed" in outcome.stdout
    return folder


def report_of(folder: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((folder / "out" / "report.json").read_text(encoding="utf-8"))
    return loaded


def test_every_target_has_a_proof_and_containers() -> None:
    assert set(PROOFS) == set(TARGETS) == set(CONTAINERS)
    assert CONTAINERS["accel"] == ACCEL_CONTAINERS
    for name in PROOFS:
        load_proof(name)


def test_a_conversion_leaves_the_pack_and_its_reports(converted: Path) -> None:
    assert left(converted / "out") == ["manifest.json", "model.kwsq", "report.html", "report.json"]
    report = report_of(converted)
    assert violations(report, SCHEMA) == []
    result = report["result"]
    assert [check["name"] for check in result["parity"]["checks"]] == ["structure", "executor", "source"]
    assert result["parity"]["passed"]
    assert result["accuracy"]["assessed"]
    assert {container["container"] for container in result["containers"]} == {"stream", "planes"}
    assert {weight["container"] for weight in result["weights"]} == {"stream"}
    assert "Other weight widths" in (converted / "out" / "report.html").read_text(encoding="utf-8")


def test_the_projection_has_its_lines_and_is_real_at_the_packs_own_width(converted: Path) -> None:
    rows = report_of(converted)["result"]["footprint"]["projection"]
    assert [row["bits"] for row in rows] == [None, 8, 5, 4, 2, 1]
    here, five = rows[0], rows[2]
    assert {**five, "bits": None} == here
    assert here["file_bytes"] == (converted / "out" / "model.kwsq").stat().st_size
    # 12 * 16 + 16 * 4 weights of five bits.
    assert here["projected_bytes"] == 256 * 5 // 8
    assert here["packed_bytes"] == here["projected_bytes"] + here["padding_bytes"]
    assert all(a["packed_bytes"] > b["packed_bytes"] for a, b in pairwise(rows[1:]))


def test_equal_conversions_give_equal_packs(converted: Path, tmp_path: Path) -> None:
    again = kwsq_convert(converted / "dense_w5.onnx", "--target", "accel", "-o", tmp_path / "out")
    assert again.code == 0
    assert (tmp_path / "out" / "model.kwsq").read_bytes() == (converted / "out" / "model.kwsq").read_bytes()


def test_planes_are_an_option(converted: Path, tmp_path: Path) -> None:
    model = converted / "dense_w5.onnx"
    outcome = kwsq_convert(model, "--target", "accel", "--container", "planes", "-o", tmp_path / "out", "--json")
    assert outcome.code == 0
    assert json.loads(outcome.stdout)["result"]["artefact"]["container"] == "planes"
    assert read((tmp_path / "out" / "model.kwsq").read_bytes()).manifest["packing"]["layout"] == "planes"


@pytest.mark.parametrize("align", [1, 64, 512])
def test_rows_are_aligned_as_asked(converted: Path, align: int, tmp_path: Path) -> None:
    model = converted / "dense_w5.onnx"
    outcome = kwsq_convert(model, "--target", "accel", "--row-align", align, "-o", tmp_path / "out", "--json")
    assert outcome.code == 0, outcome.stderr
    pack = read((tmp_path / "out" / "model.kwsq").read_bytes())
    assert {layer.layout.row_align_bits for layer in pack.graph.layers} == {align}
    here, *widths = json.loads(outcome.stdout)["result"]["footprint"]["projection"]
    assert {**widths[1], "bits": None} == here
    # 16 rows of 12 weights and 4 of 16, five bits each; the second tensor starts at a multiple of 16 bytes.
    stored = [rows * -(-columns * 5 // align) * align for rows, columns in ((16, 12), (4, 16))]
    assert here["packed_bytes"] == -(-stored[0] // 128) * 16 + -(-stored[1] // 8)
    assert (tmp_path / "out" / "report.json").is_file()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--target", "accel", "--row-align", 48), "one of 1, 8, 16"),
        (("--target", "neon", "--row-align", 64), "--target accel"),
    ],
)
def test_other_alignments_are_refused(
    converted: Path, arguments: tuple[object, ...], complaint: str, tmp_path: Path
) -> None:
    outcome = kwsq_convert(converted / "dense_w5.onnx", *arguments, "-o", tmp_path / "out")
    assert outcome.code == 2
    assert complaint in outcome.stderr


def test_inspect_and_footprint_take_a_pack(converted: Path) -> None:
    path = converted / "out" / "model.kwsq"
    inspected = json.loads(kwsq("inspect", path, "--json").stdout)
    assert inspected["format"] == "kwsq"
    assert [tensor["bits"] for tensor in inspected["tensors"]] == [5, 5]
    assert all(tensor["bit_order"] == "lsb_first" for tensor in inspected["tensors"])
    assert "digests verified" in kwsq("inspect", path).stdout
    measured = json.loads(kwsq("footprint", path, "--json").stdout)
    assert measured["file_bytes"] == measured["flash"]["total_bytes"] == path.stat().st_size
    assert measured["macs"] == 256
    assert measured["projection"]
    assert "float32/file" in kwsq("footprint", path).stdout


def test_a_damaged_pack_ends_every_command_with_five(converted: Path, tmp_path: Path) -> None:
    data = bytearray((converted / "out" / "model.kwsq").read_bytes())
    data[-1] ^= 1
    path = tmp_path / "damaged.kwsq"
    path.write_bytes(bytes(data))
    for arguments in (["inspect", path], ["footprint", path], ["run", path, "--input", path, "--output", path]):
        outcome = kwsq(*arguments)
        assert outcome.code == 5
        assert "damaged.kwsq" in outcome.stderr


# ---- run ----


def run_model(model: Path, arrays: dict[str, Any], folder: Path) -> dict[str, Any]:
    given, found = folder / "x.npz", folder / "y.npz"
    np.savez(given, **arrays)
    outcome = kwsq("run", model, "--input", given, "--output", found)
    assert outcome.code == 0, outcome.stderr
    with np.load(found) as results:
        return dict(results)


def test_run_gives_equal_codes_for_a_pack_and_a_tflite(converted: Path, tmp_path: Path) -> None:
    model = converted / "dense_w5.onnx"
    assert kwsq_convert(model, "--target", "neon", "-o", tmp_path / "neon").code == 0
    real = np.random.default_rng(2).normal(size=(30, 12)).astype(np.float32)
    pack = run_model(converted / "out" / "model.kwsq", {"x": real}, tmp_path)
    tflite = run_model(tmp_path / "neon" / "model.tflite", {"x": real}, tmp_path)
    assert pack["y"].dtype == np.int8
    assert pack["y"].shape == (30, 4)
    # The default kernels may round a product differently: one step.
    assert np.abs(pack["y"].astype(int) - tflite["y"]).max() <= 1
    source = run_model(model, {"x": real}, tmp_path)
    entry = json.loads(kwsq("inspect", converted / "out" / "model.kwsq", "--json").stdout)["outputs"][0]
    decoded = (pack["y"].astype(float) - entry["zero_point"]) * entry["scale"]
    # Two roundings of one number, each within half a step, and the input's own rounding, which the source does too.
    assert np.abs(decoded - source["y"]).max() <= 2.01 * entry["scale"]


def test_run_takes_codes_as_they_are(tmp_path: Path) -> None:
    graph, data = packed(build("dense codebook"))
    (tmp_path / "m.kwsq").write_bytes(data)
    inputs = random_inputs(graph, 7)
    found = run_model(tmp_path / "m.kwsq", inputs, tmp_path)
    expected = run_integer(graph, inputs)
    assert all(np.array_equal(found[name], expected[name]) for name in graph.outputs)


@pytest.mark.parametrize("name", ["a" * 300, ".", "none/y.npz"])
def test_run_says_where_its_outputs_cannot_go(tmp_path: Path, name: str) -> None:
    np.savez(tmp_path / "in.npz", x=np.zeros((1, 12), np.float32))
    outcome = kwsq("run", float_dense(tmp_path), "--input", tmp_path / "in.npz", "--output", tmp_path / name)
    assert (outcome.code, outcome.stdout) == (2, "")
    assert "--output" in outcome.stderr
    assert left(tmp_path) == ["float.onnx", "in.npz"]


def test_run_replaces_nothing_that_it_reads(tmp_path: Path) -> None:
    model, given = float_dense(tmp_path), tmp_path / "in.npz"
    np.savez(given, x=np.zeros((1, 12), np.float32))
    (tmp_path / "link.npz").symlink_to(given)
    before = given.read_bytes(), model.read_bytes()
    for name in ("in.npz", "link.npz", model.name):
        outcome = kwsq("run", model, "--input", given, "--output", tmp_path / name)
        assert (outcome.code, outcome.stdout) == (2, "")
        assert f"{model.name if name == model.name else 'in.npz'!r}, which is read" in outcome.stderr
    assert (given.read_bytes(), model.read_bytes()) == before


def test_run_steps_a_streaming_pack_from_state_to_state(tmp_path: Path) -> None:
    model = LoweredModel(seed=5)
    frame, state = model.input("x", (1, 1, 6)), model.input("s", (1, 2, 6))
    window = model.node(ir.Concat(1), [state, frame], (1, 3, 6), (0.05, -3))
    crop = ir.StridedSlice((0, 1, 0), (1, 3, 6), (1, 1, 1))
    following = model.node(crop, [window], (1, 2, 6), (0.05, -3))
    y = model.dense(model.reshape(window, (1, 18)), 4, bits=3)
    graph, data = packed(model.graph(y, following, states=(StatePair("s", following),)))
    (tmp_path / "m.kwsq").write_bytes(data)
    chunks = np.random.default_rng(1).integers(-128, 128, (9, 1, 6)).astype(np.int8)
    found = run_model(tmp_path / "m.kwsq", {"x": chunks}, tmp_path)
    np.savez(tmp_path / "with_state.npz", x=chunks, s=np.zeros((1, 2, 6), np.int8))
    refused = kwsq("run", tmp_path / "m.kwsq", "--input", tmp_path / "with_state.npz", "--output", tmp_path / "no.npz")
    assert (refused.code, (tmp_path / "no.npz").exists()) == (2, False)
    assert "array 's': found values of a state" in refused.stderr
    held, rows = np.full((1, 2, 6), -3, np.int8), []
    for chunk in chunks:
        outputs = run_integer(graph, {"x": chunk[None], "s": held})
        held = outputs[following]
        rows.append(outputs[y])
    np.testing.assert_array_equal(found[y], np.concatenate(rows))


def test_run_takes_a_float_model_and_refuses_what_does_not_fit(tmp_path: Path) -> None:
    model = float_dense(tmp_path)
    real = np.ones((3, 12), np.float32)
    assert run_model(model, {"x": real}, tmp_path)["y"].shape == (3, 4)
    np.savez(tmp_path / "wrong.npz", x=np.ones((3, 11), np.float32))
    outcome = kwsq("run", model, "--input", tmp_path / "wrong.npz", "--output", tmp_path / "no.npz")
    assert outcome.code == 2
    assert "[1, 12]" in outcome.stderr
    assert not (tmp_path / "no.npz").exists()
    np.savez(tmp_path / "right.npz", x=real)
    outcome = kwsq("run", model, "--input", tmp_path / "right.npz", "--output", tmp_path / "none" / "no.npz")
    assert outcome.code == 2
    assert "--output" in outcome.stderr


# ---- the checks can fail ----


def layered() -> LoweredGraph:
    model = LoweredModel(seed=3)
    x = model.conv(model.input("x", (1, 4, 5, 2)), 3, (2, 2), bits=5)
    return model.graph(model.dense(model.reshape(x, (1, 36)), 4, levels=(-1, 1), bits=1))


def itself(graph: LoweredGraph) -> SourceReference:
    """The integer reference in the place of a source: real numbers in, real numbers out."""

    def run(arrays: Mapping[str, Any]) -> dict[str, Any]:
        grids = {name: (float(tensor.scale[0]), tensor.zero_point) for name, tensor in graph.tensors.items()}
        codes = {n: numerics.quantize(a, scale=grids[n][0], zero_point=grids[n][1]) for n, a in arrays.items()}
        outputs = run_integer(graph, codes)
        return {n: numerics.dequantize(a, scale=grids[n][0], zero_point=grids[n][1]) for n, a in outputs.items()}

    return SourceReference("itself", run)


def test_every_check_of_a_pack_can_fail() -> None:
    graph, data = packed(layered())
    changes = {
        Section.WEIGHTS: "code",
        Section.BIASES: "bias",
        Section.REQUANTIZATION: "scale",
    }
    pack = read(data)
    assert check_pack_structure(graph, pack).passed
    for section, what in changes.items():
        start = data.index(bytes(pack.sections[section]))
        damaged = bytearray(data)
        damaged[start + 1] ^= 1
        (first, *_) = check_pack_structure(graph, read(resealed(bytes(damaged)))).mismatches
        assert first.what == what
    renamed = bytearray(data)
    renamed[data.index(b"fullyconnected")] ^= 1
    assert check_pack_structure(graph, read(resealed(bytes(renamed)))).mismatches[0].what == "outputs"


def test_a_pack_that_computes_something_else_fails_parity() -> None:
    graph, _ = packed(layered())
    contents = build_contents(graph, Layout.STREAM)
    first, *rest = contents.graph.operators
    clamped = type(first)(first.code, first.inputs, first.outputs, (first.attributes[0], -1, 1, *first.attributes[3:]))
    object.__setattr__(contents.graph, "operators", (clamped, *rest))
    data = write_pack(contents, {})
    inputs = random_inputs(graph, 8)
    source = itself(graph)
    whole = AccelProof().check(graph, packed(graph)[1], source, inputs, all_tensors=False)
    assert whole.passed
    report = AccelProof().check(graph, data, source, inputs, all_tensors=False)
    assert [check.name for check in report.checks if not check.passed] == ["executor"]
    assert report["executor"].mismatches[0].tensor == graph.outputs[0]


def test_intermediates_name_the_first_tensor_that_differs() -> None:
    """Mutation: the first layer's clamp. Without intermediates only the output speaks."""
    graph, _ = packed(layered())
    contents = build_contents(graph, Layout.STREAM)
    first, *rest = contents.graph.operators
    clamped = type(first)(first.code, first.inputs, first.outputs, (first.attributes[0], -1, 1, *first.attributes[3:]))
    object.__setattr__(contents.graph, "operators", (clamped, *rest))
    data, inputs, source = write_pack(contents, {}), random_inputs(graph, 8), itself(graph)
    plain = AccelProof().check(graph, data, source, inputs, all_tensors=False)["executor"]
    every = AccelProof().check(graph, data, source, inputs, all_tensors=True)["executor"]
    assert [mismatch.tensor for mismatch in plain.mismatches] == [graph.outputs[0]]
    inner = graph.nodes[0].outputs[0]
    assert inner != graph.outputs[0]
    assert every.mismatches[0].tensor == inner
    assert every.figures["all_tensors"] is True
    whole = AccelProof().check(graph, packed(graph)[1], source, inputs, all_tensors=True)
    assert whole.passed


def test_intermediates_and_stripped_names_from_the_command_line(converted: Path, tmp_path: Path) -> None:
    options = ("--target", "accel", "--intermediates", "--strip-names", "-o", tmp_path / "out")
    assert kwsq_convert(converted / "dense_w5.onnx", *options).code == 0
    data = (tmp_path / "out" / "model.kwsq").read_bytes()
    whole = (converted / "out" / "model.kwsq").read_bytes()
    assert len(data) < len(whole)
    assert {tensor["name"] for tensor in read(data).manifest["tensors"]} == {""}
    assert [entry.name for entry in read(data).io] == [entry.name for entry in read(whole).io]
    result = json.loads((tmp_path / "out" / "report.json").read_text("utf-8"))["result"]
    assert result["parity"]["checks"][1]["figures"]["all_tensors"] is True
    assert [w["container"] for w in result["weights"]] == ["stream", "stream"]
    for command in ("inspect", "footprint"):
        assert kwsq(command, tmp_path / "out" / "model.kwsq").code == 0


def test_an_unreadable_pack_is_a_failed_check() -> None:
    graph, data = packed(layered())
    report = AccelProof().check(graph, data[:-1], SourceReference("none", lambda arrays: {}), {}, all_tensors=False)
    assert not report.passed
    assert report.vectors == 0


def test_shared_constants_are_counted_once() -> None:
    """Two one-bit layers share their two levels."""
    model = LoweredModel(seed=3)
    x = model.dense(model.input("x", (1, 8)), 8, levels=(-1, 1), bits=1)
    pack = read(packed(model.graph(model.dense(x, 8, levels=(-1, 1), bits=1)))[1])
    flash = measure_pack(pack).flash
    assert flash.codebooks_bytes == 2
    assert flash.total_bytes == len(pack.data)
    assert min(flash.to_json().values()) >= 0
    assert project(pack)[0].codebooks_bytes == 2


def test_a_pack_without_weights_has_no_projection() -> None:
    assert project(read(packed(build("softmax rows"))[1])) == ()
