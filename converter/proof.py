"""How an artefact is proven and measured: one class per target, so that the driver knows none of them.

Adding a target: a class with the members of `Proof` and one row in `PROOFS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Protocol

import numpy.typing as npt

from kwsq.converter.footprint import MemoryReport
from kwsq.converter.parity import Check, ParityReport, SourceReference
from kwsq.converter.report import RuntimeVerdict
from kwsq.ir.lowered import LoweredGraph
from kwsq.passes.base import Note
from kwsq.targets.base import TargetOptions

Arrays = Mapping[str, npt.NDArray[Any]]
Runner = Callable[[Arrays], Arrays]


@dataclass(frozen=True, slots=True)
class Beside:
    """Further files of a conversion.

    Args:
        files: name -> contents.
        descriptions: name -> what it is.
        checks: of these files.
        notes: why there are none, for one.
    """

    files: Mapping[str, bytes] = field(default_factory=dict)
    descriptions: Mapping[str, str] = field(default_factory=dict)
    checks: tuple[Check, ...] = ()
    notes: tuple[Note, ...] = ()


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

    def beside(self, lowered: LoweredGraph, options: TargetOptions, inputs: Arrays) -> Beside:
        """Returns what goes into the output directory beside the artefact, proven like it.

        Args:
            lowered: integer graph before legalisation.
            options: of the artefact.
            inputs: as the artefact takes them.
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

    def arena_bytes(self, data: bytes) -> int | None:
        """Returns the arena a recording interpreter reports for the artefact, None without one."""
        ...

    def footprint(self, data: bytes, name: str) -> MemoryReport:
        """Returns what the artefact costs."""
        ...


PROOFS: Mapping[str, str] = {
    "neon": "kwsq.converter.neon_proof:NeonProof",
    "accel": "kwsq.converter.accel_proof:AccelProof",
    "ethos-u": "kwsq.converter.ethos_u_proof:EthosUProof",
}
"""Target name -> "module:Class"; resolved on demand so that a target's runtimes cost only its users."""


def load_proof(target: str) -> Proof:
    """Returns the proof of a target."""
    module, attribute = PROOFS[target].split(":")
    proof: Proof = getattr(import_module(module), attribute)()
    return proof
