"""One conversion, from options to files: the order of the stages, and what each is given."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kwsq.converter.accuracy import Accuracy, Scored, assess
from kwsq.converter.config import ConvertOptions, check_options
from kwsq.converter.data import Samples
from kwsq.converter.evidence import float_distance, measure_containers
from kwsq.converter.footprint import MemoryReport
from kwsq.converter.html import render_html
from kwsq.converter.input_file import read_file
from kwsq.converter.layer_noise import layer_noise
from kwsq.converter.manifest import json_bytes, manifest, versions
from kwsq.converter.output import MANIFEST, REPORT_HTML, REPORT_JSON, OutputDirectory
from kwsq.converter.proof import Beside, load_proof
from kwsq.converter.references import quantized_reference, source_reference
from kwsq.converter.report import Conversion, build_report
from kwsq.converter.vectors import Boundary, artefact_inputs, boundary_of, parity_inputs, real_samples, with_states
from kwsq.passes.base import Level, Note
from kwsq.passes.dialects import Normalized, normalize
from kwsq.passes.load import Source, read_model
from kwsq.passes.pipeline import DEFAULT_WEIGHT_BITS, PipelineOptions, PipelineResult, run_pipeline
from kwsq.passes.refusals import load_or_list
from kwsq.targets.base import Artefact, TargetOptions, load_target

if TYPE_CHECKING:
    from kwsq.converter.budget import Limit
    from kwsq.converter.budget_stage import Budget
    from kwsq.converter.gate.config import GateConfig
    from kwsq.converter.gate_stage import GateOutcome

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True, eq=False)
class ConversionResult:
    """What a conversion left.

    Args:
        report: the contents of report.json.
        directory: where it was written.
        exit_code: 0; 1 when parity, a budget or a gate failed or 3 when a gate stayed inconclusive, and only the
            reports were written.
    """

    report: Mapping[str, Any]
    directory: Path
    exit_code: int


def convert(options: ConvertOptions, progress: Progress = lambda stage: None) -> ConversionResult:
    """Converts a model, proves the artefact and writes the output directory.

    Args:
        options: what to do.
        progress: called with the name of each stage as it begins.

    Raises:
        UsageError: wrong options, unusable files, or an output directory that is not free; nothing was written.
        UnsupportedModelError, InvalidModelError: the model cannot be converted; nothing was written.
    """
    check_options(options)
    claimed = None
    if options.output is not None or options.weight_bits is not None:
        # Before any work: a full directory is not worth a conversion.
        claimed = _claim(options, options.weight_bits or DEFAULT_WEIGHT_BITS)
    conversion = run_conversion(options, progress)
    if options.bisect:
        from kwsq.converter.bisect_command import bisection

        found = bisection(conversion.source, conversion.normalized, conversion.pipeline, options, progress)
        conversion = replace(conversion, bisection=found)
    directory = claimed or _claim(options, conversion.pipeline.weight_bits)
    progress("write")
    report = build_report(conversion)
    directory.publish(_files(conversion, report))
    if options.update_baseline and conversion.exit_code == 0 and conversion.budget is not None:
        from kwsq.converter.budget_stage import renew

        renew(options, conversion.budget)
    return ConversionResult(report, directory.path, conversion.exit_code)


def _claim(options: ConvertOptions, weight_bits: int) -> OutputDirectory:
    return OutputDirectory.claim(options.output_directory(weight_bits), force=options.force)


def run_conversion(options: ConvertOptions, progress: Progress = lambda stage: None) -> Conversion:
    """Runs every stage and writes nothing; see `convert`."""
    progress("load")
    sections = _sections(options) if options.judged else None
    limits, gate_asked = _limits(sections), _gate_asked(options, sections)
    source = _load(options)
    normalized = normalize(source)
    boundary = boundary_of(source, normalized, options)
    calibration = _samples(boundary, options.calibration, "--calibration")
    data = _samples(boundary, options.data, "--data", labelled=True)
    progress("passes")
    result = _pipeline(source, normalized, boundary, calibration, options)
    progress("emit")
    target, target_options = load_target(options.target), _target_options(source, result, options)
    graph = target.legalize(result.lowered, target_options)
    artefact = target.emit(graph, target_options)
    model = artefact.proven_bytes
    progress("parity")
    whole = options.encodings is None
    reference = quantized_reference(source, result, whole=whole)
    real = parity_inputs(graph, result.annotated, calibration, options)
    inputs = artefact_inputs(graph, real)
    proof = load_proof(options.target)
    parity = proof.check(graph, model, reference, inputs, all_tensors=options.intermediates)
    beside = proof.beside(result.lowered, target_options, inputs)
    original = source_reference(source, result, whole=whole) if result.is_ptq else reference
    progress("measure")
    scored: Scored | None = None
    gate: GateOutcome | None = None
    gate_notes: tuple[Note, ...] = ()
    if data is not None and parity.vectors:  # 0 where its runtime would not run it
        codes = artefact_inputs(graph, data.inputs)
        scored = assess(graph, result.annotated, proof.runner(graph, model), original, data, codes)
        hashes = source.sha256, hashlib.sha256(model).hexdigest()
        gate, gate_notes = _gate(options, gate_asked, scored, data, hashes, artefact.proven_name)
    elif gate_asked is not None:
        gate_notes = (Note("gate", "--data", "the settings ask for a gate, which needs --data", Level.WARNING),)
    accuracy = None if scored is None else scored.accuracy
    footprint = proof.footprint(model, artefact.proven_name)
    return Conversion(
        options=options,
        source=source,
        normalized=normalized,
        pipeline=replace(result, notes=(*result.notes, *beside.notes, *gate_notes)),
        graph=graph,
        artefact=_with_files(artefact, beside),
        parity=replace(parity, checks=(*parity.checks, *beside.checks)),
        float_distance=float_distance(graph, original, real, inputs) if result.is_ptq else None,
        accuracy=accuracy,
        containers=measure_containers(target, proof, result.lowered, target_options, artefact),
        runtimes=proof.runtimes(graph, model, parity, inputs),
        footprint=footprint,
        layer_noise=tuple(layer_noise(graph, result.annotated, inputs)) if parity.vectors else (),
        budget=None if limits is None else _budget(options, limits, source, artefact, footprint, accuracy, gate),
        gate=gate,
        dropped_samples=sum(samples.dropped for samples in (calibration, data) if samples is not None),
    )


def _sections(options: ConvertOptions) -> Mapping[str, Mapping[str, Any]] | None:
    """Returns the settings; None, at no cost, where nothing speaks of any."""
    project = Path("pyproject.toml")
    named = options.config is not None or options.baseline is not None or options.update_baseline
    # Dotted keys and inline tables name the section in other words than [tool.kwsq]; a dependency speaks of kwsq too.
    if not (named or Path("kwsq.toml").is_file() or (project.is_file() and b"kwsq" in read_file(project, "settings"))):
        return None
    from kwsq.converter.settings import read_settings

    return read_settings(options.config) or ({} if named else None)


def _limits(sections: Mapping[str, Mapping[str, Any]] | None) -> tuple[Limit, ...] | None:
    if sections is None:
        return None
    from kwsq.converter.budget import read_budget

    return read_budget(sections.get("budget", {}))


def _gate_asked(
    options: ConvertOptions, sections: Mapping[str, Mapping[str, Any]] | None
) -> tuple[GateConfig, bool] | None:
    """Returns the gate's settings, checked before any work; None without labelled data."""
    if options.data is None and "gate" not in (sections or {}):
        return None
    from kwsq.converter.gate_stage import settings_of

    return settings_of(sections)


def _gate(
    options: ConvertOptions,
    asked: tuple[GateConfig, bool] | None,
    scored: Scored,
    data: Samples,
    hashes: tuple[str, str],
    artefact_name: str,
) -> tuple[GateOutcome | None, tuple[Note, ...]]:
    from kwsq.converter.gate_stage import gate_of

    assert asked is not None, "there are labelled data"
    return gate_of(options, asked, scored, data, hashes, artefact_name)


def _budget(
    options: ConvertOptions,
    limits: tuple[Limit, ...],
    source: Source,
    artefact: Artefact,
    footprint: MemoryReport,
    accuracy: Accuracy | None,
    gate: GateOutcome | None,
) -> Budget:
    from kwsq.converter.budget_stage import budget_of

    shipped = artefact.files[artefact.name]  # what parity is about may be another file
    metrics: dict[str, float] = {"flash_total": len(shipped), "macs": footprint.macs}
    if footprint.plan is not None:
        metrics["ram_peak"] = footprint.plan.high_water_bytes
    if accuracy is not None:
        metrics["accuracy"] = accuracy.artefact_top1
    if gate is not None and gate.false_discovery_rate is not None:
        metrics["fdr"] = gate.false_discovery_rate
    return budget_of(options, source.sha256, shipped, metrics, limits)


def _with_files(artefact: Artefact, beside: Beside) -> Artefact:
    files, described = {**artefact.files, **beside.files}, {**artefact.beside, **beside.descriptions}
    return replace(artefact, files=files, beside=described)


def _load(options: ConvertOptions) -> Source:
    data = read_model(options.model)
    source = load_or_list(data, str(options.model), batch=options.batch, shapes=options.shapes)
    if options.encodings is None:
        return source
    from kwsq.passes.dialects.aimet import apply_encodings

    return apply_encodings(source, read_file(options.encodings, "--encodings"))


def _samples(boundary: Boundary, path: Path | None, flag: str, *, labelled: bool = False) -> Samples | None:
    return None if path is None else real_samples(boundary, path, flag, labelled=labelled)


def _pipeline(
    source: Source,
    normalized: Normalized,
    boundary: Boundary,
    calibration: Samples | None,
    options: ConvertOptions,
) -> PipelineResult:
    result = run_pipeline(
        normalized,
        source.opsets[""],
        PipelineOptions(
            weight_bits=options.weight_bits,
            calibration=None if calibration is None else with_states(boundary, calibration),
            requantize=options.requantize,
            ptq=_ptq_options(options),
            drop_softmax=options.drop_softmax,
            float_io=options.io == "float32",
            states=options.states,
            seed=options.seed,
        ),
    )
    if result.is_ptq or (options.scheme is None and options.ranges is None):
        return result
    text = "--scheme and --ranges have no effect: the model brings its own quantization"
    return replace(result, notes=(*result.notes, Note("cli", result.source.name, text, Level.WARNING)))


def _ptq_options(options: ConvertOptions) -> Any:
    packs_uniform_only = options.container == "int4"
    if options.scheme is None and options.ranges is None and not packs_uniform_only:
        return None
    from kwsq.passes.ptq import PtqOptions

    bits = options.weight_bits or DEFAULT_WEIGHT_BITS
    chosen = PtqOptions(weight_bits=bits, codebooks=not packs_uniform_only, seed=options.seed)
    if options.scheme is not None:
        chosen = replace(chosen, scheme=options.scheme)
    return chosen if options.ranges is None else replace(chosen, range_method=options.ranges)


def _target_options(source: Source, result: PipelineResult, options: ConvertOptions) -> TargetOptions:
    dropped = [note.where for note in result.notes if note.source == "drop_softmax"]
    return TargetOptions(
        container=options.chosen_container,
        runtime=options.runtime,
        row_align_bits=options.row_align_bits or 0,
        accelerator=options.accelerator or "",
        strip_names=options.strip_names,
        offline_memory_plan=options.offline_memory_plan,
        c_sources=options.emit == "c",
        name=options.model.stem,
        version=versions()["kwsq"],
        source_sha256=source.sha256,
        remarks={"dropped": dropped} if dropped else {},
    )


def _described_source(conversion: Conversion) -> dict[str, object]:
    """Name and SHA-256, and of its metadata what training states for kwsq: other exporters put anything there."""
    metadata = {key: value for key, value in sorted(conversion.source.metadata.items()) if key.startswith("kwsq.")}
    named = {"name": conversion.options.model.name, "sha256": conversion.source.sha256}
    return {**named, **({"metadata": metadata} if metadata else {})}


def _files(conversion: Conversion, report: Mapping[str, Any]) -> dict[str, bytes]:
    files = {REPORT_JSON: json_bytes(report), REPORT_HTML: render_html(report).encode()}
    if conversion.exit_code:
        return files
    files = {**conversion.artefact.files, **files}
    described = manifest(
        files,
        source=_described_source(conversion),
        options=conversion.options.to_json(),
        notes=report["result"]["notes"],
        compiler=(report["result"]["artefact"]["estimates"] or {}).get("compiler", ""),
    )
    return {**files, MANIFEST: described}
