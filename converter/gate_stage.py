"""The gate of one conversion: the source against the artefact on `--data`."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kwsq.converter.accuracy import Scored
from kwsq.converter.config import ConvertOptions
from kwsq.converter.data import Samples
from kwsq.converter.gate.class_trials import class_trials, softmax_lint
from kwsq.converter.gate.columns import read_columns
from kwsq.converter.gate.config import GateConfig
from kwsq.converter.gate.decision import Decision, decide
from kwsq.converter.gate.report import gate_report
from kwsq.converter.gate.verdict import Status
from kwsq.converter.input_file import read_file
from kwsq.converter.settings import gate_config
from kwsq.ir.errors import UsageError
from kwsq.passes.base import Level, Note

Json = dict[str, Any]
Sections = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, slots=True, eq=False)
class GateOutcome:
    """What the gate says of a conversion.

    Args:
        decision: the verdict.
        result: its report.
        enforced: whether the settings ask for a gate, so that the verdict decides the exit code.
    """

    decision: Decision
    result: Json
    enforced: bool

    @property
    def false_discovery_rate(self) -> float | None:
        """Of the artefact at the matched false reject rate; None where nothing is detected."""
        return self.decision.comparison.candidate.matched.false_discovery_rate

    def failures(self) -> list[str]:
        """Returns why an enforced gate fails."""
        return self._reasons(Status.FAIL)

    def doubts(self) -> list[str]:
        """Returns why an enforced gate that must not stay open is inconclusive."""
        return self._reasons(Status.INCONCLUSIVE) if self.decision.exit_code else []

    def _reasons(self, status: Status) -> list[str]:
        if not self.enforced or self.decision.status is not status:
            return []
        return [f"gate {reason}" for reason in self.result["verdict"]["reasons"]]

    def to_json(self) -> Json:
        """Returns the gate's result with whether it counted."""
        return {"enforced": self.enforced, **self.result}


def settings_of(sections: Sections | None) -> tuple[GateConfig, bool]:
    """Returns the gate's settings, and whether a `[gate]` section makes its verdict count.

    Raises:
        UsageError: a setting is unknown or out of range.
    """
    return gate_config(sections or {}, {}), "gate" in (sections or {})


def gate_of(
    options: ConvertOptions,
    asked: tuple[GateConfig, bool],
    scored: Scored,
    samples: Samples,
    hashes: tuple[str, str],
    artefact_name: str,
) -> tuple[GateOutcome | None, tuple[Note, ...]]:
    """Returns the gate's verdict, or a note that says why there is none.

    Args:
        options: of the conversion.
        asked: of `settings_of`.
        scored: what both models make of the samples.
        samples: with labels.
        hashes: SHA-256 of source and artefact.
        artefact_name: file name.

    Raises:
        UsageError: the settings ask for a gate and the data allow none.
    """
    config, enforced = asked
    try:
        decision = _decided(options, config, scored, samples)
    except UsageError as error:
        if enforced:
            raise
        text = f"no gate on --data: {'; '.join(map(str, error.problems))}"
        return None, (Note("gate", "--data", text, Level.INFO),)
    assert options.data is not None, "samples came from --data"
    sources = {
        "reference": _source(options.model.name, hashes[0], scored.source_runtime, scored.source),
        "candidate": _source(artefact_name, hashes[1], scored.artefact_runtime, scored.artefact),
        "evalset": {"file": options.data.name, "sha256": hashlib.sha256(read_file(options.data, "--data")).hexdigest()},
    }
    return GateOutcome(decision, gate_report(decision, sources)["result"], enforced), ()


def _decided(options: ConvertOptions, config: GateConfig, scored: Scored, samples: Samples) -> Decision:
    assert options.data is not None, "samples came from --data"
    assert samples.labels is not None, "samples have labels"
    columns = read_columns(options.data, samples.labels.size, samples.dropped)
    trials = class_trials((scored.source, scored.artefact), scored.right, samples.labels, columns, config)
    return decide(trials.pairs, config, trials.classified, trials.streams)


def _source(name: str, sha256: str, runtime: str, scores: Any) -> Json:
    return {"file": name, "sha256": sha256, "runtime": runtime, "lint": softmax_lint(scores)}
