"""How an artefact is proven and measured: one class per target, so that the driver knows none of them.

Adding a target: a class with the members of `Proof` and one row in `PROOFS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, Protocol

import numpy.typing as npt

from kwsq.converter.footprint import MemoryReport
from kwsq.converter.parity import ParityReport, SourceReference
from kwsq.converter.report import RuntimeVerdict
from kwsq.ir.lowered import LoweredGraph

Arrays = Mapping[str, npt.NDArray[Any]]
Runner = Callable[[Arrays], Arrays]


class Proof(Protocol):
    """Checks and measurements of one target's artefacts."""

    def check(
        self, graph: LoweredGraph, data: bytes, source: SourceReference, inputs: Arrays, *, all_tensors: bool
    ) -> ParityReport:
        """Returns whether the artefact computes what the model says.

        Args:
            graph: legalised graph.
            data: the artefact.
            source: the quantised model.
            inputs: as the artefact takes them.
            all_tensors: compare every intermediate.
        """
        ...

    def runner(self, graph: LoweredGraph, data: bytes) -> Runner:
        """Returns what runs the artefact as an application would: stacked inputs by name -> outputs by name."""
        ...

    def runtimes(
        self, graph: LoweredGraph, data: bytes, parity: ParityReport, inputs: Arrays
    ) -> tuple[RuntimeVerdict, ...]:
        """Returns which runtimes ran the artefact."""
        ...

    def weight_bytes(self, data: bytes) -> int:
        """Returns the bytes of the weights in the artefact, padding between them included."""
        ...

    def footprint(self, data: bytes, name: str) -> MemoryReport:
        """Returns what the artefact costs."""
        ...


PROOFS: Mapping[str, str] = {
    "neon": "kwsq.converter.neon_proof:NeonProof",
    "accel": "kwsq.converter.accel_proof:AccelProof",
}
"""Target name -> "module:Class"; resolved on demand so that a target's runtimes cost only its users."""


def load_proof(target: str) -> Proof:
    """Returns the proof of a target."""
    module, attribute = PROOFS[target].split(":")
    proof: Proof = getattr(import_module(module), attribute)()
    return proof
