"""Proof of a file compiled by Vela: that of the int8 file it was compiled from, and of nothing more.

The NPU's own arithmetic is not run here; what Vela states is shown as Vela's.
"""

from __future__ import annotations

from dataclasses import replace

from kwsq.converter.footprint import MemoryReport
from kwsq.converter.neon_proof import NeonProof
from kwsq.converter.parity import ParityReport, SourceReference
from kwsq.converter.proof import Arrays
from kwsq.converter.report import RuntimeVerdict
from kwsq.ir.lowered import LoweredGraph
from kwsq.targets.neon.ethos_u import SOURCE_NAME

NPU = "Ethos-U"


class EthosUProof(NeonProof):
    """The ethos-u target's artefact, by the file before Vela."""

    def check(
        self, graph: LoweredGraph, data: bytes, source: SourceReference, inputs: Arrays, *, all_tensors: bool
    ) -> ParityReport:
        """Proves the int8 file; every question says so."""
        report = super().check(graph, data, source, inputs, all_tensors=all_tensors)
        checks = (replace(c, question=f"{SOURCE_NAME}, before Vela: {c.question}") for c in report.checks)
        return replace(report, checks=tuple(checks))

    def runtimes(
        self, graph: LoweredGraph, data: bytes, parity: ParityReport, inputs: Arrays
    ) -> tuple[RuntimeVerdict, ...]:
        """Returns what ran the int8 file; the compiled one runs on the NPU alone."""
        verdicts = super().runtimes(graph, data, parity, inputs)
        return (*verdicts, RuntimeVerdict(NPU, None, "not tried: the compiled file needs the NPU or its simulator"))

    def footprint(self, data: bytes, name: str) -> MemoryReport:
        """Returns the footprint of the int8 file, whose operators can be told apart."""
        note = f"of {name}, before Vela; what Vela estimates of the compiled file is listed apart"
        report = super().footprint(data, name)
        return replace(report, notes=(*report.notes, note))
