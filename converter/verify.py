"""Proves an artefact that lies in a file: the bytes a team ships against the model they come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from kwsq.converter.config import ConvertOptions, check_options
from kwsq.converter.driver import run_conversion
from kwsq.converter.input_file import read_file
from kwsq.converter.output import REPORT_JSON
from kwsq.converter.parity import ParityReport
from kwsq.converter.proof import load_proof
from kwsq.converter.references import quantized_reference
from kwsq.converter.safe_text import printable
from kwsq.converter.saved_report import is_gate, read_saved
from kwsq.converter.vectors import artefact_inputs, boundary_of, parity_inputs, real_samples
from kwsq.ir.errors import Problem, UsageError

_GIVEN = ("calibration", "encodings")
"""Files that decide codes and scales; a report keeps their names only, so that the caller has to bring them."""
_NO_SETTINGS = frozenset("model data min_accuracy output force config baseline update_baseline judged".split())
"""Options of a conversion that do not bear on the bytes of its artefact."""
_TARGETS = {".kwsq": "accel", ".tflite": "neon"}


def verify(source: Path, artefact: Path, **settings: Any) -> ParityReport:
    """Returns the parity of an artefact with its source model, as a conversion checks its own.

    Args:
        source: ONNX model.
        artefact: `.tflite` or `.kwsq` made from it.
        **settings: fields of `ConvertOptions` the artefact was made with; what is not given is read from the
            report.json beside the artefact, if there is one. A model quantised after training needs `calibration`.
            Budgets and gates of the working directory do not apply.

    Raises:
        UsageError: files that cannot be read, unknown settings, or calibration data missing.
        UnsupportedModelError, InvalidModelError: the source cannot be converted.
    """
    options = _options(source, artefact, settings)
    check_options(options)
    data = read_file(artefact, "artefact")
    conversion = run_conversion(options)
    if artefact.name == conversion.artefact.name != conversion.artefact.proven_name:
        found, proven = "a file whose operators a vendor's compiler replaced", conversion.artefact.proven_name
        raise UsageError(Problem(f"artefact {artefact.name!r}", found, f"{proven}, beside it", f"name {proven}"))
    boundary = boundary_of(conversion.source, conversion.normalized, options)
    path = options.calibration
    calibration = None if path is None else real_samples(boundary, path, "calibration")
    real = parity_inputs(conversion.graph, conversion.pipeline.annotated, calibration, options)
    inputs = artefact_inputs(conversion.graph, real)
    reference = quantized_reference(conversion.source, conversion.pipeline, whole=options.encodings is None)
    proof = load_proof(options.target)
    return proof.check(conversion.graph, data, reference, inputs, all_tensors=options.intermediates)


def _options(source: Path, artefact: Path, settings: Mapping[str, Any]) -> ConvertOptions:
    known = {field.name for field in fields(ConvertOptions)} - _NO_SETTINGS
    unknown = sorted(settings.keys() - known)
    if unknown:
        raise UsageError(Problem("settings", ", ".join(unknown), ", ".join(sorted(known)), "correct the names"))
    recorded = _recorded(artefact.with_name(REPORT_JSON))
    missing = [
        Problem(
            name, f"an artefact made with {recorded[name]!r}, and no such file", "the same file", f"pass {name}=PATH"
        )
        for name in _GIVEN
        if recorded.get(name) and settings.get(name) is None
    ]
    if missing:
        raise UsageError(missing)
    chosen = {name: value for name, value in recorded.items() if name in known and name not in _GIVEN}
    chosen["shapes"] = {name: tuple(shape) for name, shape in chosen.get("shapes", {}).items()}
    chosen.setdefault("target", _TARGETS.get(artefact.suffix, "neon"))
    files = {name: Path(settings[name]) for name in _GIVEN if settings.get(name) is not None}
    return ConvertOptions(model=source, judged=False, **{**chosen, **settings, **files})


def _recorded(report: Path) -> Mapping[str, Any]:
    if not report.is_file():
        return {}
    saved = read_saved(report)
    return {} if is_gate(saved) else dict(saved["result"]["options"])


def failure_text(report: ParityReport) -> str:
    """Returns why an artefact failed: of each check that did, the first difference; "" when it passed."""
    lines = []
    for check in report.checks:
        if not check.passed:
            others = len(check.mismatches) - 1
            more = f" (and {others:,} more differences)" if others else ""
            lines.append(f"first difference: {check.mismatches[0]}{more}; asked was: {check.question}")
    return "\n".join(printable(line) for line in lines)
