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
from kwsq.converter.vectors import Boundary, boundary_of, real_samples, with_states
from kwsq.ir.graph import Graph
from kwsq.ir.quant import FloatArray
from kwsq.passes.dialects import Normalized, normalize
from kwsq.passes.load import Source, load_file
from kwsq.passes.observe import carry_states, spread_inputs
from kwsq.passes.pipeline import PipelineOptions, PipelineResult, run_pipeline

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
    calibration = None
    if options.calibration is not None:
        boundary = boundary_of(source, normalized, options)
        calibration = with_states(boundary, real_samples(boundary, options.calibration, "--calibration"))
    progress("passes")
    chosen = PipelineOptions(weight_bits=options.weight_bits, calibration=calibration, seed=options.seed)
    result = run_pipeline(normalized, source.opsets[""], chosen)
    found = bisection(source, normalized, result, options, progress)
    body = {
        "model": options.model.name,
        "source_sha256": source.sha256,
        "weight_bits": result.weight_bits,
        "quantization": "ptq" if result.is_ptq else "qat",
        **found,
    }
    run = {"versions": versions()}
    return {"generator": "kwsq", "kind": KIND, "schema_version": SCHEMA_VERSION, "result": body, "run": run}


def bisection(
    source: Source,
    normalized: Normalized,
    result: PipelineResult,
    options: ConvertOptions,
    progress: Callable[[str], None] = lambda stage: None,
) -> Json:
    """Returns what each layer's quantisation costs, and what that was measured on.

    Args:
        source: the model as read.
        normalized: its dialects.
        result: of the passes.
        options: calibration, data, number and seed of the inputs.
        progress: called with each stage.

    Raises:
        UsageError: nothing is quantised, or the data do not fit.
    """
    boundary, graph = boundary_of(source, normalized, options), result.annotated
    if options.data is not None:
        data = real_samples(boundary, options.data, "--data", labelled=True)
        samples = Samples(carry_states(graph, with_states(boundary, data)), data.labels)
        how = "labelled data"
    else:
        given, how = _unlabelled(boundary, graph, options)
        rows = {name: (graph[name].shape or (1,))[0] * options.parity_inputs for name in given}
        few = {name: np.asarray(array[: rows[name]], np.float32) for name, array in given.items()}
        samples = Samples(carry_states(graph, few))
    return {"measured_on": how, **bisect(graph, result.unquantized, samples, progress)}


def _unlabelled(boundary: Boundary, graph: Graph, options: ConvertOptions) -> tuple[Mapping[str, FloatArray], str]:
    if options.calibration is not None:
        return with_states(boundary, real_samples(boundary, options.calibration, "--calibration")), "calibration data"
    states = {pair.input for pair in graph.states}
    drawn = spread_inputs(graph, options.seed, options.parity_inputs)
    return {name: array for name, array in drawn.items() if name not in states}, "seeded inputs"


def bisect_blocks(report: Mapping[str, Any]) -> list[Block]:
    """Returns the table, the costliest layer first."""
    result = report["result"]
    return [Line(f"{printable(result['model'])}:", "title"), *bisection_blocks(result)]


def bisection_blocks(found: Mapping[str, Any]) -> list[Block]:
    """Returns what `bisection` found, the costliest layer first."""
    lines = [Line(fact) for fact in bisection_facts(found)]
    headers, rows = bisection_table(found)
    return [*lines, Table("Layers, costliest alone first: SQNR of the output", headers, rows)]


def bisection_facts(found: Mapping[str, Any]) -> list[str]:
    """Returns what was measured on what, and the two ends of the scale, a sentence each."""
    lifted = "weights and activations" if found["weights_lifted"] else "activations; the weights are as trained"
    return [
        f"output {name_cell(found['output'])}, {found['samples']:,} samples of {printable(found['measured_on'])}",
        f"lifted: {lifted}",
        _summary("all layers quantized", found["quantized"]),
        _summary("none quantized", found["unquantized"]),
    ]


def bisection_table(found: Mapping[str, Any]) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """Returns headers and rows, a row per layer."""
    judged = found["quantized"]["accuracy"] is not None
    scores = ("alone acc", "all but it acc", "all but it FDR") if judged else ()
    rows = tuple((name_cell(r["layer"]), *_cells(r["one_in"], r["one_out"], judged=judged)) for r in found["layers"])
    return ("layer", "alone dB", "all but it dB", *scores), rows


def _summary(name: str, figures: Mapping[str, Any]) -> str:
    text = f"{name}: SQNR {figures['sqnr_db']:.1f} dB"
    if figures["accuracy"] is None:
        return text
    return f"{text}, accuracy {_share(figures['accuracy'])}, FDR {_rate(figures['false_discovery_rate'])} at FRR 5 %"


def _cells(alone: Mapping[str, Any], without: Mapping[str, Any], *, judged: bool) -> tuple[str, ...]:
    cells: tuple[str, ...] = (f"{alone['sqnr_db']:.1f}", f"{without['sqnr_db']:.1f}")
    if not judged:
        return cells
    return (*cells, _share(alone["accuracy"]), _share(without["accuracy"]), _rate(without["false_discovery_rate"]))


def _share(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.2%}"


def _rate(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4f}"
