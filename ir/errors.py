"""Errors of kwsq. Every message says where, what was found, what was expected and what to do.

KwsqError
├── UsageError               wrong flags, files, folders or settings        (exit 2)
├── ModelError
│   ├── UnsupportedModelError   a valid model with something kwsq cannot express  (exit 4)
│   └── InvalidModelError       a broken or unsafe model                    (exit 5)
├── ParityError              the artefact does not compute what the model says  (exit 1)
└── InternalError            a defect of kwsq itself                        (exit 70)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class Problem:
    """One defect with its place and its remedy.

    Args:
        where: node, tensor, file or option concerned, by name.
        found: what is there.
        expected: what would have been accepted.
        remedy: what the user can do about it.
        op: operator type, with its domain when it is not the default one; empty when no node is concerned.
        opset: opset version of the operator's domain, None when no node is concerned.
    """

    where: str
    found: str
    expected: str
    remedy: str
    op: str = ""
    opset: int | None = None

    def __str__(self) -> str:
        version = "" if self.opset is None else f", opset {self.opset}"
        op = f" ({self.op}{version})" if self.op else ""
        return f"{self.where}{op}: found {self.found}; expected {self.expected}; {self.remedy}"

    def to_json(self) -> dict[str, object]:
        """Returns the fields as a JSON-ready dictionary."""
        return asdict(self)


class KwsqError(Exception):
    """Root of every error kwsq raises on purpose.

    Args:
        problems: what went wrong, all of it at once.
        summary: one line put before the problems; a class default is used when empty.
    """

    exit_code: ClassVar[int] = 70
    headline: ClassVar[str] = "kwsq failed"

    def __init__(self, problems: Problem | Sequence[Problem], summary: str = "") -> None:
        self.problems: tuple[Problem, ...] = (problems,) if isinstance(problems, Problem) else tuple(problems)
        self.summary = summary or self.headline
        super().__init__(self.message())

    def message(self) -> str:
        """Returns the summary followed by one line per problem."""
        lines = [str(problem) for problem in self.problems]
        if len(lines) == 1:
            return f"{self.summary}: {lines[0]}"
        return "\n".join([f"{self.summary} ({len(lines)} problems):", *(f"  - {line}" for line in lines)])


class UsageError(KwsqError):
    """Wrong flags, files or folders."""

    exit_code = 2
    headline = "usage error"


class ModelError(KwsqError):
    """The input model cannot be converted."""


class UnsupportedModelError(ModelError):
    """A valid model that uses something kwsq or the target cannot express."""

    exit_code = 4
    headline = "unsupported model"


class InvalidModelError(ModelError):
    """A broken or unsafe model file."""

    exit_code = 5
    headline = "invalid model"


class ParityError(KwsqError):
    """The artefact does not compute what the model says."""

    exit_code = 1
    headline = "parity failed"


class InternalError(KwsqError):
    """A defect of kwsq itself."""

    exit_code = 70
    headline = "internal error"
