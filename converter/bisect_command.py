"""What `kwsq bisect` does, without printing: from a model and data to a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from kwsq.converter.bisect import Samples, bisect
from kwsq.converter.config import ConvertOptions, check_options
from kwsq.converter.manifest import versions
from kwsq.converter.safe_text import printable
from kwsq.converter.terminal import Block, Line, Table, name_cell
from kwsq.converter.vectors import boundary_of, real_samples, with_states
from kwsq.passes.dialects import normalize
from kwsq.passes.load import load_file
from kwsq.passes.observe import carry_states, spread_inputs
from kwsq.passes.pipeline import PipelineOptions, run_pipeline

Json = dict[str, Any]
KIND = "bisect"
SCHEMA_VERSION = 1


def bisect_model(options: ConvertOptions, progress: Callable[[str], None] = lambda stage: None) -> Json:
    """Returns the report on a model, quantised in training or after it.

    Args:
        options: model, width, calibration, data, number and seed of the inputs.
        progress: called with each stage.

    Raises:
        KwsqError: an option, a file or the model is unfit.
    """
    check_options(options)
    progress("load")
    source = load_file(options.model, batch=options.batch, shapes=options.shapes)
    normalized = normalize(source)
    boundary = boundary_of(source, normalized, options)
    calibration = data = None
    if options.calibration is not None:
        calibration = with_states(boundary, real_samples(boundary, options.calibration, "--calibration"))
    if options.data is not None:
        data = real_samples(boundary, options.data, "--data", labelled=True)
    progress("passes")
    chosen = PipelineOptions(weight_bits=options.weight_bits, calibration=calibration, seed=options.seed)
    result = run_pipeline(normalized, source.opsets[""], chosen)
    graph = result.annotated
    if data is not None:
        samples = Samples(carry_states(graph, with_states(boundary, data)), data.labels)
    else:
        states = {pair.input for pair in graph.states}
        given = calibration or {
            name: array
            for name, array in spread_inputs(graph, options.seed, options.parity_inputs).items()
            if name not in states
        }
        rows = {name: (graph[name].shape or (1,))[0] * options.parity_inputs for name in given}
        few = {name: np.asarray(array[: rows[name]], np.float32) for name, array in given.items()}
        samples = Samples(carry_states(graph, few))
    found = bisect(graph, result.unquantized, samples, progress)
    where = {"model": options.model.name, "source_sha256": source.sha256, "weight_bits": result.weight_bits}
    how = "labelled data" if data is not None else "calibration data" if calibration is not None else "seeded inputs"
    body = {**where, "quantization": "ptq" if result.is_ptq else "qat", "measured_on": how, **found}
    run = {"versions": versions()}
    return {"generator": "kwsq", "kind": KIND, "schema_version": SCHEMA_VERSION, "result": body, "run": run}


def bisect_blocks(report: Mapping[str, Any]) -> list[Block]:
    """Returns the table, the costliest layer first."""
    result = report["result"]
    judged = result["quantized"]["accuracy"] is not None
    lifted = "weights and activations" if result["weights_lifted"] else "activations; the weights are as trained"
    title = f"{printable(result['model'])}: output {name_cell(result['output'])}, {result['samples']:,} samples of "
    headers = (
        "layer",
        "alone dB",
        "all but it dB",
        *(("alone acc", "all but it acc", "all but it FDR") if judged else ()),
    )
    rows = tuple((name_cell(r["layer"]), *_cells(r["one_in"], r["one_out"], judged=judged)) for r in result["layers"])
    return [
        Line(f"{title}{result['measured_on']}", "title"),
        Line(f"lifted: {lifted}"),
        Line(_summary("all layers quantized", result["quantized"])),
        Line(_summary("none quantized", result["unquantized"])),
        Table("Layers, costliest alone first: SQNR of the output", headers, rows),
    ]


def _summary(name: str, figures: Mapping[str, Any]) -> str:
    text = f"{name}: SQNR {figures['sqnr_db']:.1f} dB"
    if figures["accuracy"] is None:
        return text
    return f"{text}, accuracy {figures['accuracy']:.2%}, FDR {_rate(figures['false_discovery_rate'])} at FRR 5 %"


def _cells(alone: Mapping[str, Any], without: Mapping[str, Any], *, judged: bool) -> tuple[str, ...]:
    cells: tuple[str, ...] = (f"{alone['sqnr_db']:.1f}", f"{without['sqnr_db']:.1f}")
    if not judged:
        return cells
    return (*cells, f"{alone['accuracy']:.2%}", f"{without['accuracy']:.2%}", _rate(without["false_discovery_rate"]))


def _rate(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4f}"
