"""What is measured on an artefact besides parity: size per container, runtimes, distance from a float source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from kwsq.converter.config import CONTAINERS
from kwsq.converter.parity import Check, Mismatch, ParityReport, SourceReference, Tolerance, check
from kwsq.converter.parity.kernels import decoded_constants, integer_outputs
from kwsq.converter.parity.sequences import first_vectors, run_vectors
from kwsq.converter.parity.source import output_error
from kwsq.converter.proof import Proof
from kwsq.converter.report import LITERT_DEFAULT, LITERT_REFERENCE, MICRO, Container, RuntimeVerdict
from kwsq.converter.runtimes.tflm import is_installed, run_tflm
from kwsq.ir.errors import ParityError, UnsupportedModelError, UsageError
from kwsq.ir.lowered import LoweredGraph
from kwsq.targets.base import Artefact, Target, TargetOptions

Array = npt.NDArray[Any]


def checked_parity(
    graph: LoweredGraph, data: bytes, source: SourceReference, inputs: Mapping[str, Array], *, all_tensors: bool
) -> ParityReport:
    """Returns the parity report; a runtime that refuses the artefact is a failed check, not an exception.

    Args:
        graph: legalised graph.
        data: the artefact.
        source: the quantised model.
        inputs: as the artefact takes them.
        all_tensors: compare every intermediate.
    """
    try:
        return check(graph, data, source, inputs, all_tensors=all_tensors)
    except ParityError as error:
        refusals = tuple(Mismatch(p.where, "refused", p.expected, p.found) for p in error.problems)
        return ParityReport((Check("runs", "the artefact runs in LiteRT", refusals),), 0)


def measure_containers(
    target: Target,
    proof: Proof,
    lowered: LoweredGraph,
    options: TargetOptions,
    written: Artefact,
) -> tuple[Container, ...]:
    """Returns the sizes of the model in every container, by writing it in each.

    Args:
        target: the target.
        proof: tells the bytes of the weights in an artefact, and of the arena where Micro is to run it.
        lowered: integer graph before legalisation.
        options: of the artefact written.
        written: that artefact.
    """
    found = []
    for name in CONTAINERS[target.name]:
        if name == options.container:
            found.append(_container(options, proof, written, written=True))
            continue
        if name == "lut" and options.runtime != "tflm":
            found.append(Container(name, False, None, None, None, "read by TensorFlow Lite Micro only: --runtime tflm"))
            continue
        wanted = replace(options, container=name)
        try:
            other = target.emit(target.legalize(lowered, wanted), wanted)
        except (UsageError, UnsupportedModelError) as error:
            reason = f"{error.summary}: {error.problems[0].where}: {error.problems[0].found}"
            found.append(Container(name, False, None, None, None, reason))
        else:
            found.append(_container(wanted, proof, other, written=False))
    return tuple(found)


def _container(options: TargetOptions, proof: Proof, artefact: Artefact, *, written: bool) -> Container:
    data = artefact.proven_bytes
    arena = proof.arena_bytes(data) if options.runtime == "tflm" else None
    return Container(options.container, written, len(data), proof.weight_bytes(data), arena)


def try_runtimes(
    graph: LoweredGraph, data: bytes, parity: ParityReport, inputs: Mapping[str, Array]
) -> tuple[RuntimeVerdict, ...]:
    """Returns which runtimes ran the artefact.

    Args:
        graph: legalised graph.
        data: the artefact.
        parity: LiteRT's runs are part of it.
        inputs: as the artefact takes them.
    """
    if decoded_constants(graph, data):
        reason = "not tried: constants in lookup tables are TensorFlow Lite Micro's"
        untried = (RuntimeVerdict(name, None, reason) for name in (LITERT_REFERENCE, LITERT_DEFAULT))
        return (*untried, _tflm(graph, data, inputs))
    ran = {c.name: c for c in parity.checks}
    litert = [
        RuntimeVerdict(name, check_name in ran, ran[check_name].question if check_name in ran else "refused the file")
        for name, check_name in (
            (LITERT_REFERENCE, "reference_kernels"),
            (LITERT_DEFAULT, "default_kernels"),
        )
    ]
    return (*litert, _tflm(graph, data, inputs))


def _tflm(graph: LoweredGraph, data: bytes, inputs: Mapping[str, Array]) -> RuntimeVerdict:
    if not is_installed():
        return RuntimeVerdict(MICRO, None, "not tried: the package tflite-micro is not installed")
    one = first_vectors(graph, inputs, 1)
    states = {pair.input: graph[pair.input] for pair in graph.states}
    zeros = {n: np.full(t.shape, t.zero_point, t.dtype.numpy) for n, t in states.items()}
    try:
        run = run_tflm(data, [{**one, **zeros}[n] for n in graph.inputs])
    except ParityError as error:
        return RuntimeVerdict(MICRO, False, error.problems[0].found)
    return RuntimeVerdict(MICRO, True, "ran one input", run.arena)


def float_distance(
    graph: LoweredGraph, source: SourceReference, real: Mapping[str, Array], inputs: Mapping[str, Array]
) -> dict[str, Any]:
    """Returns how far the artefact's outputs are from those of the float model it was quantised from.

    Args:
        graph: legalised graph.
        source: the float model.
        real: vectors as the source takes them.
        inputs: the same vectors as the artefact takes them.
    """
    zeros = {pair.input: np.zeros(graph[pair.input].shape, np.float32) for pair in graph.states}
    wanted = run_vectors(graph, source.run, real, zeros)
    found = integer_outputs(graph, inputs)
    errors = {n: output_error(graph, n, wanted[n], found[n], Tolerance()) for n in graph.outputs}
    return {"runtime": source.name, "outputs": {name: asdict(error) for name, error in errors.items()}}
