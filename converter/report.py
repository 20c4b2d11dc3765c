"""The report: one JSON document from which the terminal summary and report.html are rendered.

`result` depends on input, options and versions only; `run` names the versions that produced it. The schema is
report.schema.json beside this file.
"""

from __future__ import annotations

import hashlib
import platform
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from kwsq.converter.accuracy import NOT_ASSESSED, Accuracy
from kwsq.converter.config import ConvertOptions
from kwsq.converter.footprint import MemoryReport
from kwsq.converter.manifest import versions
from kwsq.converter.parity import ParityReport
from kwsq.converter.report_sections import (
    activations_section,
    boundary_section,
    interface_section,
    model_section,
    weights_section,
)
from kwsq.converter.runtimes.tflm import Arena
from kwsq.ir.lowered import LoweredGraph
from kwsq.passes.dialects import Normalized
from kwsq.passes.load import Source
from kwsq.passes.pipeline import PipelineResult
from kwsq.targets.base import Artefact

if TYPE_CHECKING:
    from kwsq.converter.budget_stage import Budget
    from kwsq.converter.gate_stage import GateOutcome

SCHEMA_VERSION = 1
LITERT_REFERENCE, LITERT_DEFAULT = "LiteRT, reference kernels", "LiteRT, default kernels"
MICRO = "TensorFlow Lite Micro"
REQUESTED_RUNTIMES = {"litert": LITERT_DEFAULT, "tflm": MICRO}
"""Value of --runtime -> the runtime that must accept the artefact."""
Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Container:
    """What a container makes of the model.

    Args:
        name: e.g. "int8".
        written: whether it is the one in the output directory.
        file_bytes, weight_bytes: sizes; None when the model does not fit it.
        arena_bytes: arena of TensorFlow Lite Micro with it; None where that was not asked for.
        reason: why it does not fit, "" when it does.
    """

    name: str
    written: bool
    file_bytes: int | None
    weight_bytes: int | None
    arena_bytes: int | None = None
    reason: str = ""

    def to_json(self) -> Json:
        """Returns the fields as a JSON-ready dictionary."""
        return {
            "container": self.name,
            "written": self.written,
            "available": self.file_bytes is not None,
            "file_bytes": self.file_bytes,
            "weight_bytes": self.weight_bytes,
            "arena_bytes": self.arena_bytes,
            "reason": self.reason,
        }


@dataclass(frozen=True, slots=True)
class RuntimeVerdict:
    """Whether a runtime ran the artefact.

    Args:
        name: the runtime.
        accepted: None when it is not installed.
        detail: what it answered.
        arena: the memory it took, where it records that.
    """

    name: str
    accepted: bool | None
    detail: str
    arena: Arena | None = None

    def to_json(self) -> Json:
        """Returns the fields as a JSON-ready dictionary."""
        arena = None if self.arena is None else self.arena.to_json()
        return {"name": self.name, "accepted": self.accepted, "detail": self.detail, "arena": arena}


@dataclass(frozen=True, slots=True, eq=False)
class Conversion:
    """Everything one conversion found out.

    Args:
        options: what was asked for.
        source: the model read.
        normalized: its dialects.
        pipeline: every stage of the graph.
        graph: legalised integer graph.
        artefact: files of the target.
        parity: checks of the artefact.
        float_distance: distance of the artefact from a float source; None for a quantised one.
        accuracy: on `--data`, None without.
        containers: sizes in all containers.
        runtimes: which runtimes ran the artefact.
        footprint: of the artefact.
        budget: what became of the limits in the settings; None without settings.
        layer_noise: distance of every layer from the quantised source.
        bisection: what each layer's quantisation costs; None unless asked for.
        gate: what the gate says on `--data`; None without data, or where they allow no gate.
        dropped_samples: samples of `--calibration` and `--data` that did not fill a batch.
    """

    options: ConvertOptions
    source: Source
    normalized: Normalized
    pipeline: PipelineResult
    graph: LoweredGraph
    artefact: Artefact
    parity: ParityReport
    float_distance: Json | None
    accuracy: Accuracy | None
    containers: tuple[Container, ...]
    runtimes: tuple[RuntimeVerdict, ...]
    footprint: MemoryReport
    budget: Budget | None = None
    layer_noise: tuple[Json, ...] = ()
    bisection: Json | None = None
    gate: GateOutcome | None = None
    dropped_samples: int = 0

    def failures(self) -> list[str]:
        """Returns why the artefact must not be kept, most important first."""
        reasons = [
            str(check.mismatches[0]) + (self._pairing() if check.name == "source" else "")
            for check in self.parity.checks
            if not check.passed
        ]
        floor, accuracy = self.options.min_accuracy, self.accuracy
        if floor is not None and accuracy is not None and accuracy.artefact_top1 < floor:
            reasons.append(f"top-1 accuracy {accuracy.artefact_top1:.2%} is below --min-accuracy {floor:.2%}")
        if self.gate is not None:
            reasons += self.gate.failures()
        if self.budget is not None:
            reasons += self.budget.failures()
        refused = [
            r for r in self.runtimes if r.name == REQUESTED_RUNTIMES[self.options.runtime] and r.accepted is False
        ]
        return reasons + [f"{runtime.name} refused the artefact: {runtime.detail}" for runtime in refused]

    def _pairing(self) -> str:
        """Returns what of the source's states, guessed or given, would show in its outputs if wrong, "" for nothing."""
        if not self.graph.states:
            return ""
        pairs = " ".join(f"--state {pair.input}={pair.output}" for pair in self.graph.states)
        if self.options.states is None:
            return f" (states were paired by order and shape, as {pairs} does; name other pairs if that is wrong)"
        return f" (states were paired as given, {pairs}; check that each input is fed by its own output)"

    @property
    def exit_code(self) -> int:
        """0, or where the artefact must not be kept 1, or 3 for nothing but an inconclusive gate."""
        return 1 if self.failures() else 3 if self.doubts() else 0

    def doubts(self) -> list[str]:
        """Returns why the gate that the settings ask for is inconclusive."""
        return [] if self.gate is None else self.gate.doubts()


def build_report(conversion: Conversion) -> Json:
    """Returns the report as JSON-ready data."""
    result, graph = conversion.pipeline, conversion.graph
    accuracy = conversion.accuracy
    return {
        "generator": "kwsq",
        "schema_version": SCHEMA_VERSION,
        "result": {
            "verdict": _verdict(conversion),
            "model": model_section(conversion.source, conversion.normalized, result),
            "options": conversion.options.to_json(),
            "artefact": _artefact(conversion),
            "inputs": interface_section(graph, graph.inputs),
            "outputs": interface_section(graph, graph.outputs),
            "boundary_transposes": boundary_section(graph),
            "parity": conversion.parity.to_json(),
            "layer_noise": [dict(row) for row in conversion.layer_noise],
            "bisection": conversion.bisection,
            "float_distance": conversion.float_distance,
            "accuracy": dict(NOT_ASSESSED) if accuracy is None else accuracy.to_json(),
            "containers": [container.to_json() for container in conversion.containers],
            "runtimes": [runtime.to_json() for runtime in conversion.runtimes],
            "weights": weights_section(graph, result, conversion.artefact.header),
            "activations": activations_section(graph),
            "ptq": [record.to_json() for record in result.ptq_records],
            "footprint": _footprint(conversion).to_json(),
            "gate": None if conversion.gate is None else conversion.gate.to_json(),
            "budget": [] if conversion.budget is None else [line.to_json() for line in conversion.budget.lines],
            "notes": _notes(conversion),
        },
        "run": {"versions": versions(), "python": platform.python_version(), "machine": platform.machine()},
    }


def _footprint(conversion: Conversion) -> MemoryReport:
    recorded = next((runtime.arena for runtime in conversion.runtimes if runtime.arena is not None), None)
    return replace(conversion.footprint, recorded=recorded, hop_ms=conversion.options.hop_ms)


def _verdict(conversion: Conversion) -> Json:
    failures, options = conversion.failures(), conversion.options
    name, bits = options.model.name, conversion.pipeline.weight_bits
    code = conversion.exit_code
    return {
        "passed": not code,
        "status": {0: "pass", 1: "fail", 3: "inconclusive"}[code],
        "exit_code": code,
        "headline": f"{name} to {options.target} at {bits}-bit weights: {_outcome(code)}",
        "reasons": failures or conversion.doubts(),
    }


def _outcome(exit_code: int) -> str:
    return {0: "parity proven", 1: "no artefact is kept", 3: "the gate is inconclusive, no artefact is kept"}[exit_code]


def _artefact(conversion: Conversion) -> Json:
    artefact, header = conversion.artefact, conversion.artefact.header
    return {
        "kept": conversion.exit_code == 0,
        **_file(artefact.name, artefact.files[artefact.name]),
        "container": header["container"],
        "minimum_runtime": header["minimum_runtime"],
        "operators": header["operators"],
        "estimates": header.get("estimates"),
        "beside": [{**_file(n, artefact.files[n]), "what": what} for n, what in artefact.beside.items()],
    }


def _file(name: str, data: bytes) -> Json:
    return {"file": name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def _notes(conversion: Conversion) -> list[Json]:
    notes: list[Json] = [dict(note.to_json()) for note in conversion.pipeline.notes]
    if conversion.dropped_samples:
        text = f"{conversion.dropped_samples} samples did not fill a batch and were left out"
        notes.append({"source": "data", "where": "inputs", "text": text, "level": "warning"})
    exceeded = [] if conversion.budget is None else conversion.budget.warnings()
    return notes + [{"source": "budget", "where": "model", "text": text, "level": "warning"} for text in exceeded]
