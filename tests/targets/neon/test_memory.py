"""The memory plan: what TensorFlow Lite Micro records is what we plan, and a plan in the file is the one it uses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from cli_runs import kwsq, kwsq_convert

from kwsq.converter.runtimes.tflm import is_installed, record_arena
from kwsq.converter.tflite_footprint import measure
from kwsq.targets.neon.memory import OFFLINE_PLAN_ENTRY, activation_indices, memory_plan, offline_plan
from kwsq.targets.neon.reader import read

needs_micro = pytest.mark.skipif(not is_installed(), reason="needs tflite-micro: pip install 'kwsq[tflm]'")
MODELS = Path(__file__).resolve().parents[3] / "models" / "kws_ff"
BUNDLED = (("kws_ff_w4.onnx", 4, "int8"), ("kws_ff_w4.onnx", 4, "int4"), ("kws_ff_w5_codebook.onnx", 5, "int8"))


def converted(folder: Path, model: Path, bits: int, *more: object) -> bytes:
    options = ("--target", "neon", "--wbits", bits, "--runtime", "tflm", *more)
    outcome = kwsq_convert(model, *options, "-o", folder / "out", "--force", "-q")
    assert outcome.code == 0, outcome.stderr
    return (folder / "out" / "model.tflite").read_bytes()


def planned(data: bytes) -> int:
    plan = measure(read(data, "model.tflite")).plan
    assert plan is not None
    return plan.high_water_bytes


@needs_micro
@pytest.mark.parametrize(("name", "bits", "container"), BUNDLED)
def test_the_plan_is_what_micro_records(name: str, bits: int, container: str, tmp_path: Path) -> None:
    data = converted(tmp_path, MODELS / name, bits, "--container", container, "--hop-ms", 20)
    arena = record_arena(data)
    assert planned(data) == arena.head_bytes
    report = json.loads((tmp_path / "out" / "report.json").read_text("utf-8"))["result"]["footprint"]
    assert report["recorded_arena"] == arena.to_json()
    totals = report["totals"]
    assert totals["runtime_ram_bytes"] == arena.tail_bytes
    assert totals["total_ram_bytes"] == arena.total_bytes
    traffic = report["traffic"]
    assert traffic["bytes_per_second"] == 50 * traffic["total_bytes"]
    assert traffic["macs_per_second"] == 50 * report["macs"]


@pytest.mark.shared
@needs_micro
def test_the_plan_of_the_mlcommons_file_is_what_micro_records(shared_dir: Path) -> None:
    data = (shared_dir / "models/mlcommons_tiny/kws_ref_model.tflite").read_bytes()
    assert planned(data) == record_arena(data).head_bytes == 16_000


@needs_micro
@pytest.mark.parametrize("container", ["int8", "int4"])
def test_a_plan_in_the_file_is_used_and_a_worse_one_costs_what_it_says(container: str, tmp_path: Path) -> None:
    data = converted(tmp_path, MODELS / "kws_ff_w4.onnx", 4, "--container", container, "--offline-memory-plan")
    model = read(data, "model.tflite")
    entry = model.metadata[OFFLINE_PLAN_ENTRY]
    assert entry == offline_plan(model.main)
    assert record_arena(data).head_bytes == planned(data)
    # The entry moved up by 4 KiB: had Micro planned by itself, its arena would not have grown.
    numbers = np.frombuffer(entry, "<i4").copy()
    numbers[3:][numbers[3:] >= 0] += 4096
    assert data.count(entry) == 1
    moved = data.replace(entry, numbers.tobytes())
    grown = memory_plan(read(moved, "m")).high_water_bytes
    assert record_arena(moved).head_bytes == grown > planned(data)
    if container == "int8":  # without scratch memory, which fills the gap
        assert grown == planned(data) + 4096


def test_the_entry_places_activations_and_nothing_else(tmp_path: Path) -> None:
    data = converted(tmp_path, MODELS / "kws_ff_w4.onnx", 4, "--offline-memory-plan")
    graph = read(data, "model.tflite").main
    version, subgraph, count, *offsets = np.frombuffer(offline_plan(graph), "<i4").tolist()
    assert (version, subgraph, count) == (1, 0, len(graph.tensors))
    placed = {i for i, offset in enumerate(offsets) if offset >= 0}
    assert placed == set(activation_indices(graph))
    assert all(offset % 16 == 0 for offset in offsets if offset >= 0)


def test_without_the_option_there_is_no_plan_in_the_file(tmp_path: Path) -> None:
    assert OFFLINE_PLAN_ENTRY not in read(converted(tmp_path, MODELS / "kws_ff_w4.onnx", 4), "m").metadata


def test_wrong_options_are_refused(tmp_path: Path) -> None:
    model = MODELS / "kws_ff_w4.onnx"
    other = kwsq_convert(model, "--target", "accel", "--offline-memory-plan", "-o", tmp_path / "out")
    assert (other.code, "--offline-memory-plan" in other.stderr) == (2, True)
    for hop in (0, -1, "nan", "inf"):
        assert kwsq_convert(model, "--target", "neon", "--hop-ms", hop, "-o", tmp_path / "out").code == 2
        assert kwsq("footprint", model, "--hop-ms", hop).code == 2
