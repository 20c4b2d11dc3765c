"""The release gate: non-inferiority of a candidate to a reference, with bounds. Definitions: docs/gate.md."""

from kwsq.converter.gate.config import GateConfig
from kwsq.converter.gate.decision import Decision, decide
from kwsq.converter.gate.pairs import PairedTrials
from kwsq.converter.gate.verdict import Check, Status, judge

__all__ = ["Check", "Decision", "GateConfig", "PairedTrials", "Status", "decide", "judge"]
