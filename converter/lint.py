"""What keeps an `.onnx` file from being converted, without running it: the check of a pre-commit hook.

Everything a conversion does short of calibration, writing and running; no runtime is imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_graphsurgeon as gs

from kwsq.converter.config import CONTAINERS
from kwsq.converter.input_file import read_file
from kwsq.ir.errors import KwsqError, Problem, UsageError
from kwsq.passes.base import Level, Note
from kwsq.passes.dialects import normalize
from kwsq.passes.load import Source
from kwsq.passes.pipeline import PipelineOptions, run_pipeline
from kwsq.passes.refusals import load_or_list
from kwsq.targets.base import TargetOptions, load_target

LFS_POINTER = b"version https://git-lfs.github.com/spec/"
_LOOK_THROUGH = ("QuantizeLinear", "DequantizeLinear", "Quant", "Identity", "Reshape", "Flatten", "Squeeze")
"""Operators between a softmax and the output that leave its values probabilities."""


@dataclass(frozen=True, slots=True)
class LintReport:
    """What was found in one file.

    Args:
        file: as the user named it.
        exit_code: 0 when a conversion would take it, else the code that conversion would end with.
        problems: what stands in the way.
        warnings: what the user should know all the same.
        needs_calibration: a float model, which becomes integer only with data.
    """

    file: str
    exit_code: int
    problems: tuple[Problem, ...] = ()
    warnings: tuple[str, ...] = ()
    needs_calibration: bool = False

    def lines(self) -> list[str]:
        """Returns one line per problem and per warning; for a clean file one that says so."""
        found = [f"{self.file}: error: {problem}" for problem in self.problems]
        found += [f"{self.file}: warning: {text}" for text in self.warnings]
        needs = " (a float model: converting it needs --calibration)" if self.needs_calibration else ""
        return found or [f"{self.file}: ok{needs}"]

    def to_json(self) -> dict[str, Any]:
        """Returns the fields as a JSON-ready dictionary."""
        return {
            "file": self.file,
            "exit_code": self.exit_code,
            "problems": [problem.to_json() for problem in self.problems],
            "warnings": list(self.warnings),
            "needs_calibration": self.needs_calibration,
        }


def lint_file(path: Path, target: str, batch: int | None, shapes: Mapping[str, tuple[int, ...]]) -> LintReport:
    """Returns what a conversion of a file would be refused for.

    Args:
        path: the model.
        target: name in `kwsq.targets.base.TARGETS`.
        batch: size of a symbolic batch dimension.
        shapes: full shapes of inputs with other symbolic dimensions.
    """
    try:
        data = read_file(path, "model")
        if data.startswith(LFS_POINTER):
            found = "a Git LFS pointer, not the model"
            raise UsageError(Problem(f"model {path.name!r}", found, "an ONNX model", "fetch it with: git lfs pull"))
        return _lint_model(data, path, target, batch, shapes)
    except KwsqError as error:
        return LintReport(str(path), error.exit_code, error.problems)


def _lint_model(
    data: bytes, path: Path, target: str, batch: int | None, shapes: Mapping[str, tuple[int, ...]]
) -> LintReport:
    source = load_or_list(data, path.name, batch=batch, shapes=shapes)
    warnings = _probability_outputs(source)
    normalized = normalize(source)
    try:
        result = run_pipeline(normalized, source.opsets[""], PipelineOptions())
        load_target(target).legalize(result.lowered, TargetOptions(container=CONTAINERS[target][0]))
    except UsageError as error:
        if all(problem.where == "--calibration" for problem in error.problems):
            # Asked for after every check that needs no data.
            return LintReport(str(path), 0, (), warnings, needs_calibration=True)
        raise
    return LintReport(str(path), 0, (), (*warnings, *_warnings(result.notes)))


def _warnings(notes: tuple[Note, ...]) -> tuple[str, ...]:
    return tuple(f"{note.where}: {note.text}" for note in notes if note.level is Level.WARNING)


def _probability_outputs(source: Source) -> tuple[str, ...]:
    return tuple(
        f"{tensor.name}: 8-bit probabilities saturate, and a threshold cannot be set between equal scores; "
        "convert with --drop-softmax and judge logits"
        for tensor in source.graph.outputs
        if _ends_in_softmax(tensor)
    )


def _ends_in_softmax(tensor: gs.Tensor) -> bool:
    node = tensor.inputs[0] if tensor.inputs else None
    while node is not None and node.op in _LOOK_THROUGH:
        tensor = node.inputs[0]
        node = tensor.inputs[0] if tensor.inputs else None
    return node is not None and node.op == "Softmax"
