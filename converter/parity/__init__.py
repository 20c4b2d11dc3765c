"""Does the artefact compute what the model says? Compared bit by bit after every conversion; see docs/parity.md."""

from kwsq.converter.parity.check import check
from kwsq.converter.parity.report import Check, Mismatch, ParityReport
from kwsq.converter.parity.source import OutputError, SourceReference, Tolerance

__all__ = ["Check", "Mismatch", "OutputError", "ParityReport", "SourceReference", "Tolerance", "check"]
