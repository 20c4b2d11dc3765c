"""How far every layer of the integer reference is from the quantised source: accumulated error, layer by layer.

SQNR = 10 log10(sum of source^2 / sum of (source - integer)^2), capped at 120 dB          (N1)
rmse in steps = sqrt(mean of (source - integer)^2) / step                                 (N2)

Rounding to a grid alone gives 1 / sqrt(12) = 0.29 steps: a layer that the source does not round itself cannot
be nearer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from kwsq.converter.parity.kernels import activations, integer_outputs
from kwsq.converter.parity.sequences import first_vectors, run_vectors
from kwsq.converter.parity.source import real_inputs, sqnr_db
from kwsq.converter.parity.trace import in_source_order
from kwsq.converter.references import run_annotated
from kwsq.ir.graph import Graph
from kwsq.ir.lowered import DType, LoweredGraph, LoweredTensor
from kwsq.ir.ops import FakeQuant

Array = npt.NDArray[Any]
Json = dict[str, Any]
VECTORS = 8
"""Enough to rank layers, few enough to cost little: the outputs are compared on all vectors."""


def layer_noise(graph: LoweredGraph, annotated: Graph, inputs: Mapping[str, Array]) -> list[Json]:
    """Returns the distance of every computed int8 tensor that has a counterpart in the source, in order.

    Args:
        graph: legalised graph.
        annotated: the source with every quantiser the artefact has.
        inputs: codes by input name, states left out.
    """
    counterparts = {
        name: found
        for name in activations(graph)
        if name not in graph.inputs and (found := _counterpart(graph[name], annotated)) is not None
    }
    if not counterparts:
        return []
    few = first_vectors(graph, inputs, VECTORS)
    zeros = {pair.input: np.zeros(graph[pair.input].shape, np.float32) for pair in graph.states}
    keep = list(dict.fromkeys(counterparts.values()))
    source = run_vectors(graph, lambda x: run_annotated(annotated, x, keep), real_inputs(graph, few), zeros)
    integer = integer_outputs(graph, few, everything=True)
    layers = {name: node for node in graph.nodes for name in node.outputs}
    rows = []
    for name, counterpart in counterparts.items():
        noise = _noise(graph[name], integer[name], source[counterpart])
        if noise is not None:
            rows.append({"layer": layers[name].name, "tensor": name, "operator": layers[name].op.name, **noise})
    return rows


def _counterpart(tensor: LoweredTensor, annotated: Graph) -> str | None:
    """Returns the source's tensor that holds the same values, past the quantiser that rounds it to the same grid."""
    if tensor.dtype is not DType.INT8 or tensor.scale is None or tensor.name not in annotated.tensors:
        return None
    for node in annotated.nodes:
        if isinstance(node.op, FakeQuant) and node.inputs[0] == tensor.name:
            scale = np.asarray(node.op.spec.scale, np.float64).reshape(-1)
            if scale.size == 1 and np.float32(scale[0]) == np.float32(tensor.scale[0]):
                return node.outputs[0]
    return tensor.name


def _noise(tensor: LoweredTensor, codes: Array, source: Array) -> Json | None:
    assert tensor.scale is not None, f"{tensor.name} is quantised"
    step = float(tensor.scale[0])
    low, high = ((limit - tensor.zero_point) * step for limit in (-128, 127))
    # The grid clips, which is how activations are fused; what the source holds beyond it is no difference.
    wanted = np.clip(np.asarray(source, np.float64), low, high)
    found = [(array - tensor.zero_point) * step for array in in_source_order(codes, source.shape)]
    if not found:
        return None
    noise, signal = min(float(np.square(array - wanted).mean()) for array in found), float(np.square(wanted).mean())
    return {"sqnr_db": sqnr_db(signal, noise), "rmse_steps": math.sqrt(noise) / step}
