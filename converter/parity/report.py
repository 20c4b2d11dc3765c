"""What a parity check found, ready for JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from kwsq.ir.errors import ParityError, Problem


@dataclass(frozen=True, slots=True)
class Mismatch:
    """The first place where something differs.

    Args:
        tensor: name of the tensor or node concerned.
        what: property that differs: "codes", "scale", "zero point", "output", ...
        expected: value the model asks for.
        found: value in the artefact or computed by it.
        index: element concerned; its first number counts stacked vectors. None for a property of the whole tensor.
    """

    tensor: str
    what: str
    expected: str
    found: str
    index: tuple[int, ...] | None = None

    def __str__(self) -> str:
        place = "" if self.index is None else f"[{', '.join(map(str, self.index))}]"
        return f"{self.tensor}{place}: {self.what} {self.found}, expected {self.expected}"

    def to_json(self) -> dict[str, object]:
        """Returns the fields as a JSON-ready dictionary."""
        index = None if self.index is None else list(self.index)
        return {
            "tensor": self.tensor,
            "what": self.what,
            "expected": self.expected,
            "found": self.found,
            "index": index,
        }


@dataclass(frozen=True, slots=True)
class Check:
    """One question and its answer.

    Args:
        name: "structure", "reference_kernels", "default_kernels" or "source".
        question: what was compared with what, and the limit.
        mismatches: what broke the limit, topological order; empty when it held.
        figures: measurements, JSON-ready.
    """

    name: str
    question: str
    mismatches: tuple[Mismatch, ...] = ()
    figures: Mapping[str, object] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether the limit held."""
        return not self.mismatches

    def to_json(self) -> dict[str, object]:
        """Returns a JSON-ready dictionary."""
        return {
            "name": self.name,
            "question": self.question,
            "passed": self.passed,
            "mismatches": [mismatch.to_json() for mismatch in self.mismatches],
            "figures": dict(self.figures),
        }


@dataclass(frozen=True, slots=True)
class ParityReport:
    """All checks of one artefact.

    Args:
        checks: in the order they were made.
        vectors: input vectors compared; steps of one sequence for a streaming model.
    """

    checks: tuple[Check, ...]
    vectors: int

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return all(check.passed for check in self.checks)

    def __getitem__(self, name: str) -> Check:
        return next(check for check in self.checks if check.name == name)

    def error(self) -> ParityError:
        """Returns the error of a failed report, naming the first mismatch of every failed check."""
        return ParityError([_problem(check) for check in self.checks if not check.passed])

    def to_json(self) -> dict[str, object]:
        """Returns a JSON-ready dictionary."""
        checks = [check.to_json() for check in self.checks]
        return {"passed": self.passed, "vectors": self.vectors, "checks": checks}


def _problem(check: Check) -> Problem:
    first = check.mismatches[0]
    return Problem(
        f"{first.tensor} ({check.name})",
        f"{first.what} {first.found}" + ("" if first.index is None else f" at {list(first.index)}"),
        first.expected,
        "the artefact was not kept; convert again, and report this as a defect of kwsq if it stays",
    )
