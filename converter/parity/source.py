"""The artefact's arithmetic against the quantised source: how many steps of the output grid apart."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kwsq.converter.parity.noise import noisy_outputs
from kwsq.converter.parity.report import Check, Mismatch
from kwsq.converter.parity.sequences import Arrays, run_vectors
from kwsq.converter.parity.trace import first_divergence
from kwsq.ir.execute.call import grid
from kwsq.ir.lowered import Dequantize, DType, LoweredGraph, LoweredTensor
from kwsq.ir.numerics import dequantize

Array = npt.NDArray[Any]

NOISE_DRAWS = 4
FEWEST_VECTORS = 8
"""Below it no vector is left out of a share: what remains would be too little evidence."""
MAX_SQNR_DB = 120.0
"""Cap: equal outputs have no noise at all."""


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far outputs may be from the source's, in steps of the output grid.

    Args:
        near_lsb: distance nearly all elements keep.
        near_share: share of elements that keep it.
        max_lsb: distance every element keeps.
        outlying_vectors: how many vectors are left out of the share, not of `max_lsb`.
    """

    near_lsb: int = 1
    near_share: float = 0.99
    max_lsb: int = 2
    outlying_vectors: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class SourceReference:
    """The quantised model the artefact was made from, as something that can be run.

    Args:
        name: what runs it, e.g. "onnxruntime, optimisations off", for the report.
        run: input arrays by name -> output arrays by name. Arrays have the names, shapes and order of the source and
            may hold k stacked vectors; inputs are given as real numbers, also where the source's own are integer.
            Outputs are real numbers, or codes where the source's output is integer.
        tolerance: limits for a model of few layers; where they do not hold, rounding is simulated and judges
            (docs/parity.md).
        trace: like `run`, but returns inner tensors too, by their names in the source; used to find where a
            difference begins.
    """

    name: str
    run: Callable[[Mapping[str, Array]], Mapping[str, Array]]
    tolerance: Tolerance = Tolerance()
    trace: Callable[[Mapping[str, Array]], Mapping[str, Array]] | None = None


@dataclass(frozen=True, slots=True)
class OutputError:
    """Distance of one output from the source's.

    Args:
        name: output.
        scale: its step.
        max_lsb: largest distance, steps.
        mean_lsb: mean distance, steps.
        near_share: share of elements within the tolerance's `near_lsb`.
        sqnr_db: signal to noise, capped at 120 dB.
        top1_agreement: share of vectors with the same largest element among those where the source's two largest are
            more than 2 steps apart; None for outputs that are no list of scores.
    """

    name: str
    scale: float
    max_lsb: float
    mean_lsb: float
    near_share: float
    sqnr_db: float
    top1_agreement: float | None


def real_inputs(graph: LoweredGraph, inputs: Arrays) -> dict[str, Array]:
    """Returns what the source is given: the real values of codes, float32 inputs as they are."""
    return {name: _real(array, graph[name]) for name, array in inputs.items()}


def _real(array: Array, tensor: LoweredTensor) -> Array:
    if tensor.dtype not in (DType.INT8, DType.UINT8):
        return array
    spec = grid(tensor)
    return dequantize(array, scale=spec.scale, zero_point=spec.zero_point)


def check_source(graph: LoweredGraph, source: SourceReference, inputs: Arrays, expected: Arrays) -> Check:
    """Compares the integer reference's outputs with the source's.

    Args:
        graph: legalised graph.
        source: the quantised source.
        inputs: stacked codes by input name.
        expected: the integer reference's outputs, states included.
    """
    states = {pair.input: np.zeros(graph[pair.input].shape, np.float32) for pair in graph.states}
    found = run_vectors(graph, source.run, real_inputs(graph, inputs), states)
    limits = dict.fromkeys(graph.outputs, source.tolerance)
    mismatches = _all_mismatches(graph, limits, found, expected)
    if mismatches:
        limits = simulated_tolerances(graph, inputs, found, expected, source.tolerance)
        mismatches = _all_mismatches(graph, limits, found, expected)
    if mismatches and source.trace is not None and not graph.states:
        traced = source.trace(real_inputs(graph, inputs))
        begin = first_divergence(graph, traced, inputs, limit_lsb=source.tolerance.max_lsb)
        mismatches = [begin, *mismatches] if begin is not None else mismatches
    errors = {name: output_error(graph, name, found[name], expected[name], limits[name]) for name in graph.outputs}
    figures: dict[str, object] = {
        "runtime": source.name,
        "outputs": {name: asdict(error) for name, error in errors.items()},
        "tolerances": {name: asdict(limit) for name, limit in limits.items()},
    }
    question = f"integer reference and {source.name}, in steps of the output"
    return Check("source", question, tuple(mismatches), figures)


def simulated_tolerances(
    graph: LoweredGraph, inputs: Arrays, found: Arrays, expected: Arrays, least: Tolerance
) -> dict[str, Tolerance]:
    """Returns what rounding alone does to each output of this model, and half as much again.

    The source and the artefact round the same real numbers; where the layers amplify the differences, outputs end
    further apart than the usual tolerance without anybody being wrong (`kwsq.converter.parity.noise`). One sample of
    that noise is held against the largest of a few others: a high quantile of few outputs varies much. The elements
    of one vector stray together, most of all behind a softmax near a tie, so that a single vector of a few dozen can
    break the share: one is left out of it. Of fewer than a hundred elements one may stray, as of a hundred. A source
    whose output has no grid of its own is up to half a step from any.
    """
    draws = [noisy_outputs(graph, inputs, seed) for seed in range(NOISE_DRAWS)]
    tolerances = {}
    for name in graph.outputs:
        step = _code_step(graph, name)
        distances = [np.abs(noisy[name].astype(np.float64) - expected[name]) / step for noisy in draws]
        own = 0.0 if _on_grid(graph, name, found[name], expected[name]) else 0.5
        near, largest = (
            own + max(float(np.quantile(distance, share)) for distance in distances)
            for share in (least.near_share, 1.0)
        )
        outlying = int(len(expected[name]) >= FEWEST_VECTORS)
        compared = expected[name][outlying:].size
        tolerances[name] = Tolerance(
            near_lsb=max(least.near_lsb, _widened(near)),
            near_share=min(least.near_share, (compared - 1) / compared),
            max_lsb=max(least.max_lsb, _widened(largest)),
            outlying_vectors=outlying,
        )
    return tolerances


def _on_grid(graph: LoweredGraph, output: str, found: Array, expected: Array) -> bool:
    """Returns whether the source rounds this output itself."""
    steps = _comparable(graph, output, found, expected)[0] / step_of(graph, output)
    return bool(np.abs(steps - np.rint(steps)).max(initial=0) <= _SLACK)


def _widened(distance_lsb: float) -> int:
    """Returns half as much again, in whole steps; a single step stays one."""
    return math.ceil(1.5 * distance_lsb - 0.5)


def _code_step(graph: LoweredGraph, output: str) -> float:
    """Returns one step in the units of the integer reference's output: 1 for codes."""
    return step_of(graph, output) if graph[output].dtype is DType.FLOAT32 else 1.0


def _all_mismatches(
    graph: LoweredGraph, limits: Mapping[str, Tolerance], found: Arrays, expected: Arrays
) -> list[Mismatch]:
    errors = [output_error(graph, name, found[name], expected[name], limits[name]) for name in graph.outputs]
    return [m for e in errors for m in _mismatches(graph, e, limits[e.name], found[e.name], expected[e.name])]


def step_of(graph: LoweredGraph, output: str) -> float:
    """Returns the step of an output's grid; of the codes behind it for a float32 output."""
    tensor = graph[output]
    if tensor.dtype is DType.FLOAT32:
        producer = next(node for node in graph.nodes if output in node.outputs)
        assert isinstance(producer.op, Dequantize)
        tensor = graph[producer.inputs[0]]
    return grid(tensor).scale


def output_error(graph: LoweredGraph, name: str, found: Array, expected: Array, limit: Tolerance) -> OutputError:
    """Returns the distance of the integer reference's output from the source's.

    Args:
        graph: legalised graph.
        name: output.
        found: the source's output, real values or codes.
        expected: the integer reference's output.
        limit: tolerance, for the share of near elements.
    """
    step = step_of(graph, name)
    source, artefact = _comparable(graph, name, found, expected)
    distance = np.abs(artefact - source) / step
    return OutputError(
        name=name,
        scale=step,
        max_lsb=float(distance.max(initial=0)),
        mean_lsb=float(distance.mean()),
        near_share=_near_share(distance, limit),
        sqnr_db=sqnr_db(float(np.square(source).sum()), float(np.square(source - artefact).sum())),
        top1_agreement=_top1_agreement(source, artefact, 2 * step),
    )


def _near_share(distance: Array, limit: Tolerance) -> float:
    near = distance <= limit.near_lsb + _SLACK
    if limit.outlying_vectors:
        by_vector = near.reshape(len(near), -1)
        worst_first = np.argsort(by_vector.sum(axis=1), kind="stable")
        near = by_vector[worst_first[limit.outlying_vectors :]]
    return float(np.mean(near))


# The source's float32 output is within a few units in the last place of a grid point; a hundredth of a step is more.
_SLACK = 0.01


def _comparable(graph: LoweredGraph, name: str, found: Array, expected: Array) -> tuple[Array, Array]:
    """Returns both outputs as real numbers, float64."""
    artefact = _real(expected, graph[name]) if expected.dtype == np.int8 else expected
    source = found
    if found.dtype.kind in "iu":
        spec = grid(graph[name])
        source = dequantize(found, scale=spec.scale, zero_point=spec.zero_point)
        artefact = dequantize(expected, scale=spec.scale, zero_point=spec.zero_point)
    return np.asarray(source, np.float64).reshape(expected.shape), np.asarray(artefact, np.float64)


def sqnr_db(signal: float, noise: float) -> float:
    """Returns the ratio of two powers in decibel, within -MAX_SQNR_DB and MAX_SQNR_DB.

    >>> sqnr_db(100.0, 1.0), sqnr_db(1.0, 0.0), sqnr_db(0.0, 1.0)
    (20.0, 120.0, -120.0)
    """
    if noise <= 0:
        return MAX_SQNR_DB
    return max(-MAX_SQNR_DB, min(MAX_SQNR_DB, 10 * math.log10(signal / noise))) if signal > 0 else -MAX_SQNR_DB


def _top1_agreement(source: Array, artefact: Array, margin: float) -> float | None:
    if source.ndim < 2 or source.shape[-1] < 2:
        return None
    scores, others = source.reshape(-1, source.shape[-1]), artefact.reshape(-1, source.shape[-1])
    top_two = np.sort(scores, axis=-1)[:, -2:]
    clear = top_two[:, 1] - top_two[:, 0] > margin
    if not clear.any():
        return None
    return float(np.mean(scores[clear].argmax(-1) == others[clear].argmax(-1)))


def _mismatches(
    graph: LoweredGraph, error: OutputError, limit: Tolerance, found: Array, expected: Array
) -> list[Mismatch]:
    source, artefact = _comparable(graph, error.name, found, expected)
    distance = np.abs(artefact - source) / error.scale
    near = error.near_share >= limit.near_share
    allowed = limit.max_lsb if near else limit.near_lsb
    if near and error.max_lsb <= limit.max_lsb + _SLACK:
        return []
    index = tuple(int(i) for i in np.unravel_index(int(np.flatnonzero(distance > allowed + _SLACK)[0]), distance.shape))
    wanted = f"{source[index]:.6g} within {allowed} LSB of {error.scale:.6g}"
    if not near:
        wanted += f" for {limit.near_share:.0%} of elements, found {error.near_share:.2%}"
    return [Mismatch(error.name, "output", wanted, f"{artefact[index]:.6g}", index)]
