"""All parity checks of one artefact."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy.typing as npt

from kwsq.converter.parity.kernels import (
    check_default_kernels,
    check_micro_kernels,
    check_reference_kernels,
    decoded_constants,
    integer_outputs,
)
from kwsq.converter.parity.report import Check, Mismatch, ParityReport
from kwsq.converter.parity.sequences import first_vectors, vector_count
from kwsq.converter.parity.source import SourceReference, check_source
from kwsq.converter.parity.structure import check_structure
from kwsq.converter.tflite_footprint import macs
from kwsq.ir.errors import InvalidModelError, ParityError
from kwsq.ir.lowered import LoweredGraph
from kwsq.targets.neon.reader import read

MAC_BUDGET = 250_000_000
"""Multiply-accumulates each kernel set is given for all vectors together."""


def check(
    graph: LoweredGraph,
    artefact: bytes,
    source: SourceReference | None,
    inputs: Mapping[str, npt.NDArray[Any]],
    *,
    all_tensors: bool = False,
    micro: bool = False,
) -> ParityReport:
    """Answers whether the artefact computes what the model says.

    1. structure: the file, read back, holds the graph's codes, scales, zero points, axes and options.
    2. reference_kernels: LiteRT's reference kernels = the integer reference, bit for bit.
    3. default_kernels: every default kernel within one rounding of the integer reference.
    4. micro_kernels, on request: every TensorFlow Lite Micro kernel likewise. A file with constants in lookup tables
       runs nowhere else: 2 and 3 are left out.
    5. source: the integer reference within the tolerance of the quantised source.

    Args:
        graph: legalised graph the artefact was written from.
        artefact: bytes of the `.tflite` file.
        source: the quantised source; None leaves that check out.
        inputs: arrays of the graph inputs' types by name, states left out; the first dimension is k times the declared
            one. A streaming model takes the k chunks as one sequence, states starting at real 0. Of a large model
            only the first vectors are run, see `affordable_vectors`; the report says how many.
        all_tensors: compare every intermediate of every vector, not only the outputs.
        micro: run TensorFlow Lite Micro too; needs its package.
    """
    try:
        checks = [check_structure(graph, artefact)]
    except InvalidModelError as error:
        damage = tuple(Mismatch(p.where, "file", p.expected, p.found) for p in error.problems)
        return ParityReport((Check("structure", "the file can be read back", damage),), 0)
    if not all_tensors:
        inputs = first_vectors(graph, inputs, affordable_vectors(artefact))
    expected = integer_outputs(graph, inputs)
    runs: dict[str, Callable[[], Check]] = {
        "reference_kernels": lambda: check_reference_kernels(graph, artefact, inputs, expected, everything=all_tensors),
        "default_kernels": lambda: check_default_kernels(graph, artefact, inputs, expected, everything=all_tensors),
    }
    decodes = bool(decoded_constants(graph, artefact))
    if decodes:
        runs = {}
    if micro or decodes:
        runs["micro_kernels"] = lambda: check_micro_kernels(graph, artefact, inputs, expected)
    checks += [_answered(name, run) for name, run in runs.items()]
    if source is not None:
        checks.append(check_source(graph, source, inputs, expected))
    return ParityReport(tuple(checks), vector_count(graph, inputs))


def affordable_vectors(artefact: bytes) -> int:
    """Returns how many vectors the numeric checks run: few of a model that takes long, at least 16.

    LiteRT's reference kernels and ours do some 10^9 multiply-accumulates a second; the budget keeps each below half
    a second. Larger models are larger because they have more elements per vector, which are compared as well.
    """
    graph = read(artefact, "model.tflite").main
    total = sum(macs(graph, operator) for operator in graph.operators)
    return max(16, MAC_BUDGET // max(total, 1))


def _answered(name: str, run: Callable[[], Check]) -> Check:
    """Returns the check, failed where the runtime refuses the artefact."""
    try:
        return run()
    except ParityError as error:
        refused = tuple(Mismatch(p.where, "run", p.expected, p.found) for p in error.problems)
        return Check(name, "the runtime accepts the artefact", refused)
