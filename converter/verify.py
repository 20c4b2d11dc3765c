"""Proves an artefact that lies in a file: the bytes a team ships against the model they come from."""

from __future__ import annotations

import dataclasses
import json
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
from kwsq.converter.saved_report import is_gate, read_saved
from kwsq.converter.vectors import artefact_inputs, boundary_of, parity_inputs, real_samples
from kwsq.ir.errors import Problem, UsageError

_FILES = ("model", "calibration", "data", "encodings", "config", "baseline", "output")
"""Options that name files; a report keeps their names at most."""
_TARGETS = {".kwsq": "accel", ".tflite": "neon"}


def verify(source: Path, artefact: Path, **settings: Any) -> ParityReport:
    """Returns the parity of an artefact with its source model, as a conversion checks its own.

    Args:
        source: ONNX model.
        artefact: `.tflite` or `.kwsq` made from it.
        **settings: fields of `ConvertOptions` the artefact was made with; what is not given is read from the
            report.json beside the artefact, if there is one. A model quantised after training needs `calibration`.

    Raises:
        UsageError: files that cannot be read, unknown settings, or calibration data missing.
        UnsupportedModelError, InvalidModelError: the source cannot be converted.
    """
    options = _options(source, artefact, settings)
    check_options(options)
    data = read_file(artefact, "artefact")
    conversion = run_conversion(options)
    boundary = boundary_of(conversion.source, conversion.normalized, options)
    calibration = None
    if options.calibration is not None:
        calibration = real_samples(boundary, options.calibration, "calibration", labelled=False)
    real = parity_inputs(conversion.graph, conversion.pipeline.annotated, calibration, options)
    inputs = artefact_inputs(conversion.graph, real)
    reference = quantized_reference(conversion.source, conversion.pipeline, whole=options.encodings is None)
    proof = load_proof(options.target)
    return proof.check(conversion.graph, data, reference, inputs, all_tensors=options.intermediates)


def _options(source: Path, artefact: Path, settings: Mapping[str, Any]) -> ConvertOptions:
    known = {field.name for field in fields(ConvertOptions)}
    unknown = sorted(settings.keys() - known)
    if unknown:
        raise UsageError(Problem("settings", ", ".join(unknown), "fields of ConvertOptions", "correct the names"))
    recorded = _recorded(artefact.with_name(REPORT_JSON))
    if recorded.get("calibration") and settings.get("calibration") is None:
        found = f"an artefact calibrated on {recorded['calibration']!r}, and no calibration data"
        raise UsageError(Problem("calibration", found, "the same data", "pass calibration=PATH"))
    chosen = {name: value for name, value in recorded.items() if name in known and name not in _FILES}
    chosen.setdefault("target", _TARGETS.get(artefact.suffix, "neon"))
    return dataclasses.replace(ConvertOptions(model=source, target=chosen.pop("target")), **{**chosen, **settings})


def _recorded(report: Path) -> Mapping[str, Any]:
    if not report.is_file():
        return {}
    saved = read_saved(report)
    return {} if is_gate(saved) else dict(saved["result"]["options"])


def failure_text(report: ParityReport) -> str:
    """Returns why an artefact failed, a line per difference; "" when it passed."""
    lines = [f"{check.question}: {mismatch}" for check in report.checks for mismatch in check.mismatches]
    failed = [check.question for check in report.checks if not check.passed and not check.mismatches]
    return "\n".join([*lines, *failed])


def report_text(report: ParityReport) -> str:
    """Returns the report as JSON, for an assertion's details."""
    return json.dumps(report.to_json(), indent=1)
