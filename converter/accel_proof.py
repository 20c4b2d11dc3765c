"""Proof of a kwsq pack: its executor on the file's own bytes, bit for bit the integer reference."""

from __future__ import annotations

import numpy as np

from kwsq.converter.embedded import embedded_form
from kwsq.converter.footprint import MemoryReport
from kwsq.converter.pack_footprint import measure_pack
from kwsq.converter.parity import Check, Mismatch, ParityReport, SourceReference
from kwsq.converter.parity.kernels import first_difference, integer_outputs
from kwsq.converter.parity.pack_structure import check_pack_structure
from kwsq.converter.parity.sequences import first_vectors, run_vectors, vector_count, zero_states
from kwsq.converter.parity.source import check_source
from kwsq.converter.proof import Arrays, Beside, Runner
from kwsq.converter.report import RuntimeVerdict
from kwsq.ir.errors import InvalidModelError
from kwsq.ir.lowered import LoweredGraph
from kwsq.targets.accel.execute import run_pack, run_tensors
from kwsq.targets.accel.format import Role, Section
from kwsq.targets.accel.reader import read
from kwsq.targets.accel.records import Pack
from kwsq.targets.accel.validate import graph_work
from kwsq.targets.base import TargetOptions

WORK_BUDGET = 250_000_000
"""Element operations each executor is given for all vectors together."""
EXECUTOR, C_REFERENCE = "kwsq pack executor", "kwsq C99 reference"


class AccelProof:
    """The accel target's artefact."""

    def check(
        self, graph: LoweredGraph, data: bytes, source: SourceReference, inputs: Arrays, *, all_tensors: bool
    ) -> ParityReport:
        """Compares the file with the graph, its executor with the integer reference, and that with the source."""
        try:
            pack = read(data)
        except InvalidModelError as error:
            damage = tuple(Mismatch(p.where, "file", p.expected, p.found) for p in error.problems)
            return ParityReport((Check("structure", "the file can be read back", damage),), 0)
        if not all_tensors:
            inputs = first_vectors(graph, inputs, max(16, WORK_BUDGET // max(graph_work(pack.graph), 1)))
        expected = integer_outputs(graph, inputs, everything=all_tensors)
        structure = check_pack_structure(graph, pack)
        checks = (
            structure,
            # Tensors are matched by their operators, which must be the graph's own for that.
            _check_executor(graph, pack, inputs, expected, everything=all_tensors and structure.passed),
            check_source(graph, source, inputs, expected),
        )
        return ParityReport(checks, vector_count(graph, inputs))

    def beside(self, lowered: LoweredGraph, options: TargetOptions, inputs: Arrays) -> Beside:
        """Returns the same network as a `.tflite` with lookup tables, for engines that read no pack."""
        return embedded_form(lowered, options, inputs)

    def runner(self, graph: LoweredGraph, data: bytes) -> Runner:
        """Returns the executor of the pack."""
        pack = read(data)
        return lambda arrays: run_pack(pack, arrays)

    def runtimes(
        self, graph: LoweredGraph, data: bytes, parity: ParityReport, inputs: Arrays
    ) -> tuple[RuntimeVerdict, ...]:
        """Returns that the executor ran it; the C reference needs a compiler and is proven by kwsq's own tests."""
        ran = [check for check in parity.checks if check.name == "executor"]
        executor = RuntimeVerdict(EXECUTOR, bool(ran), ran[0].question if ran else "refused the file")
        return (
            executor,
            RuntimeVerdict(C_REFERENCE, None, "not tried: compile targets/accel/csource with targets/csource"),
        )

    def weight_bytes(self, data: bytes) -> int:
        """Returns the bytes of the weights section."""
        return len(read(data).sections[Section.WEIGHTS])

    def arena_bytes(self, data: bytes) -> int | None:
        """Returns None: a pack states its arena, which the footprint shows."""
        return None

    def footprint(self, data: bytes, name: str) -> MemoryReport:
        """Returns the footprint of the file."""
        return measure_pack(read(data, name))


def _check_executor(graph: LoweredGraph, pack: Pack, inputs: Arrays, expected: Arrays, *, everything: bool) -> Check:
    question = "integer reference = executor of the pack's bytes, bit for bit"
    numbers = _tensor_numbers(graph, pack) if everything else {e.name: e.tensor for e in pack.entries(Role.OUTPUT)}

    def run(arrays: Arrays) -> Arrays:
        found = run_tensors(pack, arrays, numbers.values())
        return {name: found[number] for name, number in numbers.items()}

    try:
        found = run_vectors(graph, run, inputs, zero_states(graph))
    except ValueError as error:
        return Check("executor", question, (Mismatch("pack", "run", "outputs", str(error)),))
    mismatches = tuple(
        first_difference(name, found[name], expected[name], 0)
        for name in (numbers if everything else graph.outputs)
        if not np.array_equal(found[name], expected[name])
    )
    figures = {name: {"differing": float(np.mean(found[name] != expected[name]))} for name in graph.outputs}
    return Check("executor", question, mismatches, {"outputs": figures, "all_tensors": everything})


def _tensor_numbers(graph: LoweredGraph, pack: Pack) -> dict[str, int]:
    """Returns the number in the pack of everything the graph computes, in topological order."""
    pairs = zip(graph.nodes, pack.graph.operators, strict=True)
    found = {n: i for node, op in pairs for n, i in zip(node.outputs, op.outputs, strict=True)}
    return found | {entry.name: entry.tensor for entry in pack.entries(Role.OUTPUT)}
