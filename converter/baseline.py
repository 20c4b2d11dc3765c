"""The committed baseline: what the last approved model measured, and on what."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kwsq.converter.budget import METRICS, ON_DATA
from kwsq.converter.input_file import read_file
from kwsq.converter.manifest import json_bytes
from kwsq.converter.output import write_file
from kwsq.ir.errors import Problem, UsageError

FILE_NAME, GATE_FILE_NAME = "kwsq-baseline.json", "kwsq-gate-baseline.json"
"""Where none is named, of conversions and of gates: one cannot be held against the other."""
SCHEMA_VERSION = 1
MOST = 2.0**63
"""Beyond any measurement; NaN, which JSON's reader lets through, is not below it."""


@dataclass(frozen=True, slots=True)
class Baseline:
    """Measurements of one model.

    Args:
        target: what it was converted for, with the container: "neon int8"; or what a gate compared.
        source_sha256, artefact_sha256: of the model and of what it became.
        evalset_sha256: of `--data`, None without.
        metrics: metric to value.

    For a conversion the source is what is released, so it may differ from the baseline's. For a gate it is the approved
    model everything is measured against, so it may not.
    """

    target: str
    source_sha256: str
    artefact_sha256: str
    evalset_sha256: str | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)

    @property
    def default_file(self) -> Path:
        """Where it is kept, in the working directory, if no file is named."""
        return Path(GATE_FILE_NAME if self.target.startswith("gate ") else FILE_NAME)

    @property
    def reference_sha256(self) -> str | None:
        """Hash of the model that must be the same in a later comparison, None for a conversion."""
        return self.source_sha256 if self.target.startswith("gate ") else None

    def to_json(self) -> dict[str, Any]:
        """Returns the file's contents."""
        return {
            "generator": "kwsq",
            "schema_version": SCHEMA_VERSION,
            "target": self.target,
            "source_sha256": self.source_sha256,
            "artefact_sha256": self.artefact_sha256,
            "evalset_sha256": self.evalset_sha256,
            "metrics": dict(self.metrics),
        }


def read_baseline(path: Path) -> Baseline:
    """Returns a baseline.

    Raises:
        UsageError: it cannot be read or is another document.
    """
    where = f"baseline {str(path)!r}"
    try:
        document = json.loads(read_file(path, "baseline"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise UsageError(Problem(where, str(error), "JSON", "write it with --update-baseline")) from error
    wrong = _wrong_part(document)
    if wrong:
        raise UsageError(Problem(where, wrong, "what --update-baseline writes", "write it again"))
    fields = {name: value for name, value in document.items() if name not in ("generator", "schema_version")}
    return Baseline(**fields)


def _wrong_part(document: Any) -> str:
    expected = Baseline("", "", "").to_json()
    if not isinstance(document, dict) or document.keys() != expected.keys():
        return "other keys"
    if document["generator"] != "kwsq" or document["schema_version"] != SCHEMA_VERSION:
        return "another generator or schema version"
    texts = [document[name] for name in ("target", "source_sha256", "artefact_sha256")]
    texts.append(document["evalset_sha256"] or "")
    metrics = document["metrics"]
    if not all(isinstance(text, str) for text in texts) or not isinstance(metrics, dict):
        return "a value of another type"
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) and -MOST < v < MOST for v in metrics.values())
    return "" if numbers and metrics.keys() <= METRICS.keys() else "unknown metrics or values that are no numbers"


def comparable(baseline: Baseline, now: Baseline, path: Path) -> Mapping[str, float]:
    """Returns the baseline's metrics after checking that they mean the same thing now.

    Raises:
        UsageError: another target or container, another evaluation set under a metric measured on it, or a gate
            against another reference.
    """
    where, remedy = f"baseline {str(path)!r}", "name another with --baseline, or renew it with --update-baseline"
    if baseline.target != now.target:
        raise UsageError(Problem(where, f"measured for {baseline.target}", now.target, remedy))
    on_data = [name for name in ON_DATA if name in baseline.metrics and name in now.metrics]
    if on_data and baseline.evalset_sha256 != now.evalset_sha256:
        found = f"{on_data[0]} measured on data with SHA-256 {baseline.evalset_sha256}"
        raise UsageError(Problem(where, found, f"the data of --data, {now.evalset_sha256}", remedy))
    if now.reference_sha256 != baseline.reference_sha256:
        found = f"measured against a reference with SHA-256 {baseline.reference_sha256}"
        raise UsageError(Problem(where, found, f"the reference of this gate, {now.reference_sha256}", remedy))
    return baseline.metrics


def write_baseline(baseline: Baseline, path: Path) -> None:
    """Writes a baseline, whole or not at all.

    Raises:
        UsageError: it cannot be written.
    """
    write_file(path, json_bytes(baseline.to_json()), f"baseline {str(path)!r}")
