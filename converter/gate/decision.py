"""The gate: is the candidate as good a detector as the reference?"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from kwsq.converter.det import Saturation, saturation
from kwsq.converter.gate.checks import (
    Classified,
    accuracy_checks,
    frozen_accepts_check,
    frozen_frr_check,
    latency_check,
    matched_checks,
    skipped,
)
from kwsq.converter.gate.comparison import Comparison
from kwsq.converter.gate.config import GateConfig
from kwsq.converter.gate.pairs import PairedTrials
from kwsq.converter.gate.streams import StreamPair
from kwsq.converter.gate.verdict import Check, Status, overall

EXIT_CODES = {Status.PASS: 0, Status.FAIL: 1, Status.INCONCLUSIVE: 3}
EXACT = "exact"
IDENTICAL = "identical scores: every difference is exactly zero"
INDEPENDENT = "no group column: trials are treated as independent, which is optimistic for repeated speakers"


@dataclass(frozen=True, slots=True, eq=False)
class Decision:
    """Verdict of the gate with everything it rests on.

    Args:
        comparison: both models at the operating point.
        checks: P1 to P5.
        notes: what a reader must know besides.
    """

    comparison: Comparison
    checks: tuple[Check, ...]
    notes: tuple[str, ...]

    @property
    def status(self) -> Status:
        """Verdict over all checks."""
        return overall(self.checks)

    @property
    def exit_code(self) -> int:
        """0 pass, 1 fail, 3 inconclusive (0 where the settings let that pass)."""
        return exit_code(self.status, self.comparison.config.on_inconclusive)


def exit_code(status: Status, on_inconclusive: str) -> int:
    """Returns the process's exit code for a verdict."""
    if status is Status.INCONCLUSIVE and on_inconclusive == "warn":
        return 0
    return EXIT_CODES[status]


def decide(
    pairs: PairedTrials, config: GateConfig, classified: Classified | None = None, streams: StreamPair | None = None
) -> Decision:
    """Returns the verdict.

    Args:
        pairs: trials scored by both models.
        config: settings.
        classified: which samples each model classifies rightly, None where there are no classes.
        streams: scores along recordings, None where there are clips only.

    Raises:
        UsageError: a setting is out of range.
    """
    comparison = Comparison.of(pairs, config)
    checks = [*matched_checks(comparison), frozen_frr_check(comparison), frozen_accepts_check(comparison)]
    if classified is None:
        checks.append(skipped("P4.top1", "loss of top-1 accuracy", "needs a model pair and labelled data"))
    else:
        checks += accuracy_checks(comparison, classified)
    if streams is None:
        needed = "needs a model pair and --data with recording and hop_seconds"
        checks.append(skipped("P5.latency", "shift of the detection latency", needed))
    else:
        before, after, group = streams.latencies(comparison.threshold)
        checks.append(latency_check(before, after, streams.detector.hop_seconds, config, group))
    if pairs.is_identical:
        same_classes = classified is not None and np.array_equal(classified.reference, classified.candidate)
        exact = {"P1.fa_ratio", "P1.relative_fdr", "P2.frr", "P3.fa_ratio"} | ({"P4.top1"} if same_classes else set())
        exact |= {"P5.latency"} if streams is not None and streams.is_identical else set()
        checks = [_degenerate(check) if check.id in exact else check for check in checks]
    return Decision(comparison, tuple(checks), tuple(_notes(pairs)))


def _degenerate(check: Check) -> Check:
    if check.status is Status.SKIPPED:
        return check
    return replace(
        check, point=0.0, lower=0.0, upper=0.0, status=Status.PASS, method=EXACT, reason=IDENTICAL, needed=None
    )


def _notes(pairs: PairedTrials) -> list[str]:
    notes = [IDENTICAL] if pairs.is_identical else []
    if not pairs.is_clustered:
        notes.append(INDEPENDENT)
    found: list[tuple[str, Saturation | None]] = [
        ("reference", saturation(pairs.reference)),
        ("candidate", saturation(pairs.candidate)),
    ]
    return notes + [f"{name}: {lint}" for name, lint in found if lint is not None]
