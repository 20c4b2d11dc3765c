"""The artefact in LiteRT: bit-exact with the integer reference, and each default kernel one rounding away from it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from kwsq.converter.parity.report import Check, Mismatch
from kwsq.converter.parity.sequences import Arrays, first_vectors, run_vectors, vector_count, zero_states
from kwsq.converter.runtimes import tflm
from kwsq.converter.runtimes.litert import KernelSet, LitertSession
from kwsq.ir import lowered as ir
from kwsq.ir.errors import ParityError, Problem
from kwsq.ir.execute import run_integer
from kwsq.ir.lowered import DType, LoweredGraph, LoweredNode, LoweredTensor
from kwsq.targets.neon.build import tensor_order
from kwsq.targets.neon.lookup import DECODE
from kwsq.targets.neon.reader import read

Array = npt.NDArray[Any]

OPERATOR_VECTORS = 16
"""Vectors on which every operator is compared, unless all intermediates are asked for."""

_MOVES: tuple[type[ir.LoweredOp], ...] = (
    ir.Concat,
    ir.Maximum,
    ir.MaxPool2D,
    ir.Minimum,
    ir.Pad,
    ir.ReduceMax,
    ir.Reshape,
    ir.Split,
    ir.StridedSlice,
    ir.Transpose,
)
_FLOAT_FUNCTIONS: tuple[type[ir.LoweredOp], ...] = (ir.Logistic, ir.Tanh)
"""Reference kernels that call the C library's float32 functions, whose last bit is not specified."""


def reference_bound_lsb(op: ir.LoweredOp) -> int:
    """Returns how far the reference kernel of `op` may be from the integer reference on equal inputs."""
    return 1 if isinstance(op, _FLOAT_FUNCTIONS) else 0


def rounding_bound_lsb(op: ir.LoweredOp) -> int:
    """Returns how far another kernel of `op` may be from the integer reference on equal inputs.

    Operators that choose or move codes: 0. All others round one real number to an integer; two such roundings, each
    within half a step and the arithmetic's own error of it, are at most 1 apart (docs/parity.md).
    """
    return 0 if isinstance(op, _MOVES) else 1


def integer_outputs(graph: LoweredGraph, inputs: Arrays, *, everything: bool = False) -> dict[str, Array]:
    """Returns the integer reference's outputs, or all its activations, for stacked vectors."""
    keep = activations(graph) if everything else ()
    return run_vectors(graph, lambda arrays: run_integer(graph, arrays, keep), inputs, zero_states(graph))


def activations(graph: LoweredGraph) -> list[str]:
    """Returns the names of the inputs and computed tensors that something reads, in topological order.

    XNNPACK gives no memory to a part of a Split that nothing reads.
    """
    read = {name for node in graph.nodes for name in node.inputs} | {*graph.inputs, *graph.outputs}
    return [name for name in tensor_order(graph) if name in read and not graph[name].is_constant]


def litert_outputs(
    graph: LoweredGraph, artefact: bytes, inputs: Arrays, kernels: KernelSet, *, everything: bool = False
) -> dict[str, Array]:
    """Returns the artefact's outputs, or all its activations, by the graph's names."""
    index = {name: i for i, name in enumerate(tensor_order(graph))}
    keep = {index[name]: name for name in activations(graph)} if everything else {}
    session = LitertSession(artefact, kernels, preserve=everything)

    def step(arrays: Arrays) -> dict[str, Array]:
        run = session.run([arrays[name] for name in graph.inputs], keep)
        return _named(graph, keep, run.outputs, run.kept, vector_count(graph, arrays))

    return run_vectors(graph, step, inputs, zero_states(graph))


def _named(
    graph: LoweredGraph, keep: Mapping[int, str], outputs: Sequence[Array], kept: Mapping[int, Array], count: int
) -> dict[str, Array]:
    """Returns a runtime's arrays by the graph's names, after checking that they are what the graph declares."""
    arrays = dict(zip(graph.outputs, outputs, strict=True)) | {keep[i]: array for i, array in kept.items()}
    problems = []
    for name, array in arrays.items():
        declared = graph[name]
        shape = (declared.shape[0] * count, *declared.shape[1:]) if declared.shape else (count,)
        if array.shape != shape or array.dtype != declared.dtype.numpy:
            found, expected = (
                f"{a} of shape {list(s)}" for a, s in ((array.dtype, array.shape), (declared.dtype.value, shape))
            )
            problems.append(Problem(name, found, expected, "report this as a defect of kwsq"))
    if problems:
        raise ParityError(problems)
    return arrays


def check_reference_kernels(
    graph: LoweredGraph, artefact: bytes, inputs: Arrays, expected: Arrays, *, everything: bool
) -> Check:
    """Compares LiteRT's reference kernels with the integer reference, bit for bit.

    Args:
        graph: legalised graph.
        artefact: bytes of the `.tflite` file.
        inputs: stacked codes by input name.
        expected: the integer reference's outputs.
        everything: compare every intermediate, not only the outputs.
    """
    found = litert_outputs(graph, artefact, inputs, KernelSet.REFERENCE)
    equal = all(np.array_equal(found[name], expected[name]) for name in graph.outputs)
    mismatches: tuple[Mismatch, ...] = ()
    if not equal or everything:
        arrays = litert_outputs(graph, artefact, inputs, KernelSet.REFERENCE, everything=True)
        mismatches = tuple(_operator_mismatches(graph, arrays, exact=True))
        if not equal and not mismatches and not _has_float_functions(graph):
            # Preserving tensors changes memory, not arithmetic; should it ever, the outputs still speak.
            mismatches = tuple(_first_differences(graph, found, expected))
    figures = {"outputs": {name: lsb_figures(found[name], expected[name], graph[name]) for name in graph.outputs}}
    question = "integer reference = LiteRT reference kernels, bit for bit"
    if _has_float_functions(graph):
        question += "; sigmoid and tanh, which call the C library, to 1 LSB"
    return Check("reference_kernels", question, mismatches, figures | {"all_tensors": everything})


def _has_float_functions(graph: LoweredGraph) -> bool:
    return any(isinstance(node.op, _FLOAT_FUNCTIONS) for node in graph.nodes)


def _first_differences(graph: LoweredGraph, found: Arrays, expected: Arrays) -> Iterator[Mismatch]:
    for name in graph.outputs:
        if not np.array_equal(found[name], expected[name]):
            yield first_difference(name, found[name], expected[name], 0)


def check_default_kernels(
    graph: LoweredGraph, artefact: bytes, inputs: Arrays, expected: Arrays, *, everything: bool
) -> Check:
    """Compares what an application's interpreter computes with the integer reference, operator by operator.

    Every operator is held to its own rounding bound on the very codes it was given; the difference this makes at the
    outputs, over all layers, is reported.

    Args:
        graph: legalised graph.
        artefact: bytes of the `.tflite` file.
        inputs: stacked codes by input name.
        expected: the integer reference's outputs.
        everything: compare operators on all vectors, not only the first ones.
    """
    found = litert_outputs(graph, artefact, inputs, KernelSet.DEFAULT)
    few = inputs if everything else first_vectors(graph, inputs, OPERATOR_VECTORS)
    arrays = litert_outputs(graph, artefact, few, KernelSet.DEFAULT, everything=True)
    mismatches = list(_operator_mismatches(graph, arrays, exact=False))
    if not mismatches:
        mismatches += _unobserved_mismatches(graph, found, arrays)
    outputs = {name: lsb_figures(found[name], expected[name], graph[name]) for name in graph.outputs}
    question = "LiteRT default kernels, each within 1 LSB of the integer reference on equal inputs"
    return Check("default_kernels", question, tuple(mismatches), {"outputs": outputs})


def _unobserved_mismatches(graph: LoweredGraph, found: Arrays, observed: Arrays) -> Iterator[Mismatch]:
    """Yields outputs that change when inner tensors are kept: then the operators seen are not those that run."""
    for name in graph.outputs:
        seen = observed[name]
        if not np.array_equal(found[name][: seen.shape[0]], seen):
            yield first_difference(name, found[name][: seen.shape[0]], seen, 0)


def check_micro_kernels(graph: LoweredGraph, artefact: bytes, inputs: Arrays, expected: Arrays) -> Check:
    """Compares TensorFlow Lite Micro's operators with the integer reference, one by one.

    Args:
        graph: legalised graph.
        artefact: bytes of the `.tflite` file.
        inputs: stacked codes by input name.
        expected: the integer reference's outputs; they give the states of a streaming model's steps.
    """
    few = first_vectors(graph, inputs, OPERATOR_VECTORS)
    arrays = {**few, **_states_of_steps(graph, expected, vector_count(graph, few))}
    index = {name: i for i, name in enumerate(tensor_order(graph))}
    keep = {index[name]: name for name in activations(graph)}
    decoded = {index[name]: name for name in decoded_constants(graph, artefact)}
    run = tflm.run_tflm(artefact, [arrays[name] for name in graph.inputs], [*keep, *decoded])
    kept = {i: array for i, array in run.kept.items() if i in keep}
    found = _named(graph, keep, run.outputs, kept, vector_count(graph, few))
    wrong = [m for i, name in decoded.items() for m in _decoded_mismatches(graph[name], run.kept[i])]
    mismatches = (*wrong, *_operator_mismatches(graph, found, exact=False))
    figures = {
        name: lsb_figures(found[name], expected[name][: found[name].shape[0]], graph[name]) for name in graph.outputs
    }
    question = "TensorFlow Lite Micro's kernels, each within 1 LSB of the integer reference on equal inputs"
    if decoded:
        question += f"; the {len(decoded)} constants it decodes, bit for bit"
    return Check("micro_kernels", question, mismatches, {"outputs": figures, "decoded": len(decoded)})


def decoded_constants(graph: LoweredGraph, artefact: bytes) -> list[str]:
    """Returns the names of the constants that the file's DECODE operators write."""
    order = tensor_order(graph)
    operators = read(artefact, "model.tflite").main.operators
    return [order[i] for op in operators if op.name == DECODE for i in op.outputs if i < len(order)]


def _decoded_mismatches(tensor: LoweredTensor, found: Array) -> Iterator[Mismatch]:
    """Yields the first code that differs; every vector decodes anew."""
    assert tensor.data is not None, f"{tensor.name} is a constant"
    expected = np.broadcast_to(tensor.data, (found.size // tensor.size, *tensor.shape))
    codes = found.reshape(expected.shape)
    if not np.array_equal(codes, expected):
        yield first_difference(tensor.name, codes, expected, 0)


def _states_of_steps(graph: LoweredGraph, expected: Arrays, steps: int) -> dict[str, Array]:
    """Returns the states every step of a sequence starts from."""
    first = zero_states(graph)
    before = {pair.input: expected[pair.output][: (steps - 1) * graph[pair.input].shape[0]] for pair in graph.states}
    return {name: np.concatenate([first[name], array]) for name, array in before.items()}


def _operator_mismatches(graph: LoweredGraph, arrays: Arrays, *, exact: bool) -> Iterator[Mismatch]:
    """Yields, in topological order, the tensors whose operator left its bound on the inputs it was given.

    Args:
        graph: legalised graph.
        arrays: what LiteRT computed, every activation (see `activations`).
        exact: hold operators to the reference kernels' bound.
    """
    for node in graph.nodes:
        bound = reference_bound_lsb(node.op) if exact else rounding_bound_lsb(node.op)
        expected = recomputed(graph, node, arrays)
        for name in (n for n in node.outputs if n in arrays):
            lsb = bound if graph[name].dtype is not DType.FLOAT32 else 0
            if np.abs(arrays[name].astype(np.float64) - expected[name]).max(initial=0) > lsb:
                yield first_difference(name, arrays[name], expected[name], lsb)


def recomputed(graph: LoweredGraph, node: LoweredNode, arrays: Mapping[str, Array]) -> Mapping[str, Array]:
    """Returns what the integer reference makes of a node's inputs."""
    inputs = tuple(dict.fromkeys(n for n in node.inputs if n and not graph[n].is_constant))
    names = {*node.inputs, *node.outputs} - {""}
    alone = ir.LoweredGraph(node.name, (node,), {n: graph[n] for n in names}, inputs, node.outputs)
    return run_integer(alone, {name: arrays[name] for name in inputs})


def first_difference(name: str, found: Array, expected: Array, bound_lsb: int) -> Mismatch:
    """Returns the first element of `found` further than the bound from `expected`."""
    far = np.abs(found.astype(np.float64) - expected) > bound_lsb
    index = tuple(int(i) for i in np.unravel_index(int(np.flatnonzero(far)[0]), far.shape))
    margin = f" within {bound_lsb} LSB" if bound_lsb else ""
    return Mismatch(name, "output", f"{expected[index]}{margin}", str(found[index]), index)


def lsb_figures(found: Array, expected: Array, tensor: LoweredTensor) -> dict[str, float]:
    """Returns largest difference and share of differing elements, in steps of the tensor's grid."""
    difference = np.abs(found.astype(np.float64) - expected)
    unit = "max" if tensor.dtype is DType.FLOAT32 else "max_lsb"
    return {unit: float(difference.max(initial=0)), "differing": float(np.mean(difference > 0))}
