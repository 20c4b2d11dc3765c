"""A gate's report as evidence in attestations: only of the very file that is attested, and never of a failed gate."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kwsq.converter.gate.report import amount
from kwsq.converter.input_file import read_file
from kwsq.converter.markdown import markdown_table, shown
from kwsq.converter.output import REPORT_JSON
from kwsq.converter.saved_report import is_gate, read_saved
from kwsq.ir.errors import Problem, UsageError

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class GateEvidence:
    """A passed or inconclusive gate on an artefact.

    Args:
        file: name of its report.
        sha256: of its report; "" for the gate that a conversion ran itself, whose report is a subject already.
        result: the report's `result`.
    """

    file: str
    sha256: str
    result: Json

    def tests(self, *statuses: str) -> list[str]:
        """Returns the checks that ended with one of the statuses, such as "PASS"."""
        return [f"gate: {check['id']}" for check in self.result["checks"] if check["status"] in statuses]

    def resources(self) -> list[Json]:
        """Returns the report and the evaluation set as in-toto resource descriptors."""
        evalset = self.result["sources"]["evalset"]
        named = ((self.file, self.sha256), (evalset["file"] or "evaluation set", evalset["sha256"]))
        return [{"name": name, "digest": {"sha256": digest}} for name, digest in named if digest]

    def metrics(self) -> list[Json]:
        """Returns what was measured as CycloneDX performance metrics: worsenings with their one-sided bounds."""
        return [
            {
                "type": f"{check['id']}, worse in {check['question']}",
                "value": _text(check["point"]),
                "slice": f"{check['positives']} keyword and {check['negatives']} other trials",
                "confidenceInterval": {"lowerBound": _text(check["lower"]), "upperBound": _text(check["upper"])},
            }
            for check in self.result["checks"]
            if check["point"] is not None
        ]

    def card_lines(self) -> list[str]:
        """Returns the section of the model card."""
        sources, trials = self.result["sources"], self.result["trials"]
        rows = [
            (check["status"], check["question"], *(amount(check[key], check["unit"]) for key in _SHOWN))
            for check in self.result["checks"]
            if check["point"] is not None
        ]
        against = f"Against {shown(sources['reference']['file'])}, on {trials['positives']:,} keyword and "
        return [
            "## Detection",
            "",
            f"{self.result['verdict']['status']}. {against}{trials['negatives']:,} other trials; one-sided bounds.",
            "",
            *markdown_table(("", "worse in", "measured", "lower", "upper", "margin"), rows, left=2),
        ]


_SHOWN = ("point", "lower", "upper", "margin")


def _text(value: float | None) -> str:
    return "unbounded" if value is None else f"{value:.9g}"


def own_gate(report: Json) -> GateEvidence | None:
    """Returns the gate that a conversion ran on its own data; None where it had none."""
    result = report["result"]["gate"]
    return None if result is None else GateEvidence(REPORT_JSON, "", result)


def gate_evidence(path: Path, accepted: Collection[str]) -> GateEvidence:
    """Returns a gate's report as evidence.

    Args:
        path: the report.
        accepted: SHA-256 of the files it may be about.

    Raises:
        UsageError: no gate's report, one about another file, or a failed gate.
    """
    report, where = read_saved(path), f"--gate {path.name!r}"
    if not is_gate(report):
        raise UsageError(Problem(where, "another report", "a report of kwsq gate", "name what kwsq gate -o wrote"))
    result = report["result"]
    candidate = result["sources"]["candidate"]
    if candidate["sha256"] not in accepted:
        found = f"a gate on {candidate['file']!r}, SHA-256 {candidate['sha256']}"
        expected, remedy = f"a gate on the artefact, {' or '.join(accepted)}", "run kwsq gate --candidate on this file"
        raise UsageError(Problem(where, found, expected, remedy))
    if result["verdict"]["status"] == "FAIL":
        raise UsageError(Problem(where, "FAIL", "PASS or INCONCLUSIVE", "release another candidate"))
    return GateEvidence(path.name, hashlib.sha256(read_file(path, "--gate")).hexdigest(), result)
