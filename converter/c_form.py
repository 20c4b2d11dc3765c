"""C99 sources beside a `.tflite`: the same network for devices without a runtime, compiled and compared."""

from __future__ import annotations

import re

import numpy as np
import numpy.typing as npt

from kwsq.converter.parity import Check, Mismatch
from kwsq.converter.parity.kernels import first_difference, integer_outputs
from kwsq.converter.parity.sequences import run_vectors, zero_states
from kwsq.converter.proof import Arrays, Beside
from kwsq.converter.runtimes.c_program import CProgram
from kwsq.ir.errors import ParityError
from kwsq.ir.lowered import Conv2D, DepthwiseConv2D, LoweredGraph, LoweredNode
from kwsq.targets.base import Artefact, TargetOptions
from kwsq.targets.c.source import BLOCK
from kwsq.targets.c.target import CTarget
from kwsq.targets.operators import LAYERS, weight_rows

_CODES = re.compile(rb"static const int8_t codes_(\d+)\[\d+\] = \{([^}]*)\};")


def c_form(lowered: LoweredGraph, options: TargetOptions, inputs: Arrays) -> Beside:
    """Returns the sources with their checks.

    Args:
        lowered: integer graph before legalisation.
        options: of the artefact.
        inputs: as the artefact takes them.

    Raises:
        UnsupportedModelError: naming every node that has no kernel.
        UsageError: there is no compiler.
    """
    target = CTarget()
    graph = target.legalize(lowered, options)
    artefact = target.emit(graph, options)
    arena, constants = artefact.header["arena_bytes"], artefact.header["constant_bytes"]
    what = f"the network in C99: {constants:,} B of constants, an arena of {arena:,} B"
    checks = (check_codes(graph, artefact), check_program(graph, artefact, inputs))
    return Beside(artefact.files, {artefact.name: what, **artefact.beside}, checks)


def check_codes(graph: LoweredGraph, artefact: Artefact) -> Check:
    """Reads the codes of all weights back from the text."""
    question = f"{artefact.name}, read back, holds the graph's weight codes"
    written = {int(m[1]): np.array(m[2].split(b",")[:-1], np.int64) for m in _CODES.finditer(artefact.proven_bytes)}
    mismatches = []
    for position, node in enumerate(graph.nodes):
        if isinstance(node.op, LAYERS):
            weight = graph[node.inputs[1]]
            found, wanted = written.get(position), weight_rows(node, weight)
            if found is None or found.size != wanted.size or not np.array_equal(_rows(graph, node, found), wanted):
                mismatches.append(Mismatch(weight.name, "codes", "the graph's", "others"))
    return Check("c_codes", question, tuple(mismatches))


def _rows(graph: LoweredGraph, node: LoweredNode, codes: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Returns the rows of a layer from its codes in the order of kwsq_layers.h."""
    weight, depth = graph[node.inputs[1]], graph[node.inputs[0]].shape[-1]
    rows, columns = weight_rows(node, weight).shape
    if isinstance(node.op, DepthwiseConv2D):
        return codes.reshape(columns, rows).T
    group = rows * weight.shape[-1] // depth if isinstance(node.op, Conv2D) else rows
    found, begin = np.empty((rows, columns), np.int64), 0
    for top in (top for first in range(0, rows, group) for top in range(first, first + group, BLOCK)):
        bottom = min(top + BLOCK, top - top % group + group)
        for left in range(0, columns, BLOCK):
            place = found[top:bottom, left : left + BLOCK]
            place[:] = codes[begin : begin + place.size].reshape(place.shape)
            begin += place.size
    return found


def check_program(graph: LoweredGraph, artefact: Artefact, inputs: Arrays) -> Check:
    """Compiles the sources and compares what the program computes with the integer reference."""
    question = f"{artefact.name}, compiled: integer reference = program, bit for bit"
    expected = integer_outputs(graph, inputs)
    try:
        with CProgram(graph, str(artefact.header["prefix"]), artefact.files) as program:
            found = run_vectors(graph, program.run, inputs, zero_states(graph))
    except ParityError as error:
        (problem,) = error.problems
        mismatch = Mismatch(problem.where, "run", problem.expected, f"{problem.found}; {problem.remedy}")
        return Check("c_program", question, (mismatch,))
    mismatches = tuple(
        first_difference(name, found[name], expected[name], 0)
        for name in graph.outputs
        if not np.array_equal(found[name], expected[name])
    )
    return Check("c_program", question, mismatches, {"compiler": program.compiler, "emulator": program.emulator})
