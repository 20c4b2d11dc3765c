"""Per-layer SQNR: equal layers are 120 dB, and a damaged one shows where the damage is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from kwsq.converter.config import ConvertOptions
from kwsq.converter.driver import run_conversion
from kwsq.converter.layer_noise import layer_noise
from kwsq.converter.parity.source import MAX_SQNR_DB
from kwsq.converter.report import Conversion

MODEL = Path(__file__).resolve().parents[2] / "models" / "kws_ff" / "kws_ff_w4.onnx"


@pytest.fixture(scope="module")
def conversion() -> Conversion:
    return run_conversion(ConvertOptions(MODEL, "neon", weight_bits=4, parity_inputs=16))


def inputs_of(conversion: Conversion) -> dict[str, npt.NDArray[np.int8]]:
    (name,) = conversion.graph.inputs
    shape = conversion.graph[name].shape
    codes = np.random.default_rng(1).integers(-128, 128, (8 * shape[0], *shape[1:]))
    return {name: codes.astype(np.int8)}


def test_every_layer_is_within_a_rounding_of_the_source(conversion: Conversion) -> None:
    rows = conversion.layer_noise
    layers = {node.name for node in conversion.graph.nodes if "Conv" in node.op.name or node.op.name == "Mean"}
    assert layers <= {row["layer"] for row in rows}
    for row in rows:
        # Both round the same real number; where they differ it is by a step, and errors of few accumulate.
        assert row["rmse_steps"] < 1.0
        assert 20 < row["sqnr_db"] <= MAX_SQNR_DB


def test_shuffled_weights_drown_their_layer(conversion: Conversion) -> None:
    rows = {row["tensor"]: row for row in conversion.layer_noise}
    first = next(iter(rows.values()))
    damaged = _damaged(conversion, first["layer"])
    again = {r["tensor"]: r for r in layer_noise(damaged.graph, damaged.pipeline.annotated, inputs_of(conversion))}
    clean = {
        r["tensor"]: r for r in layer_noise(conversion.graph, conversion.pipeline.annotated, inputs_of(conversion))
    }
    assert again[first["tensor"]]["rmse_steps"] > 2 + clean[first["tensor"]]["rmse_steps"]
    assert again[first["tensor"]]["sqnr_db"] < clean[first["tensor"]]["sqnr_db"] - 10


def test_noise_begins_at_the_damaged_layer(conversion: Conversion) -> None:
    rows = [row["layer"] for row in conversion.layer_noise]
    middle = next(name for name in rows[2:] if "Conv" in name)
    damaged = _damaged(conversion, middle)
    clean = layer_noise(conversion.graph, conversion.pipeline.annotated, inputs_of(conversion))
    found = layer_noise(damaged.graph, damaged.pipeline.annotated, inputs_of(conversion))
    changed = [a["layer"] for a, b in zip(clean, found, strict=True) if a != b]
    assert changed[0] == middle


def _damaged(conversion: Conversion, layer: str) -> Conversion:
    """The conversion with the codes of one layer's weights in another order."""
    graph = conversion.graph
    node = next(n for n in graph.nodes if n.name == layer)
    weight = graph[node.inputs[1]]
    assert weight.data is not None
    shuffled = replace(weight, data=weight.data[::-1].copy())
    return replace(conversion, graph=replace(graph, tensors={**graph.tensors, weight.name: shuffled}))
