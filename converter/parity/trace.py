"""Where the integer graph leaves its source: the first tensor, in topological order, that is not what it should be."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from kwsq.converter.parity.kernels import activations, integer_outputs
from kwsq.converter.parity.report import Mismatch
from kwsq.converter.parity.sequences import Arrays
from kwsq.ir.lowered import DType, LoweredGraph, LoweredTensor

Array = npt.NDArray[Any]


def first_divergence(
    graph: LoweredGraph, traced: Mapping[str, Array], inputs: Arrays, *, limit_lsb: float
) -> Mismatch | None:
    """Returns the first inner tensor further than `limit_lsb` from the source's, None where none can be told.

    Args:
        graph: legalised graph; physical dimension order.
        traced: the source's tensors by name, real values, source order.
        inputs: stacked codes by input name.
        limit_lsb: distance, in steps of each tensor's own grid.
    """
    arrays = integer_outputs(graph, inputs, everything=True)
    for name in activations(graph):
        source = traced.get(name, traced.get(graph[name].origin))
        if source is None or name in graph.inputs:
            continue
        found = _mismatch(graph[name], arrays[name], source, limit_lsb)
        if found is not None:
            return found
    return None


def _mismatch(tensor: LoweredTensor, codes: Array, source: Array, limit_lsb: float) -> Mismatch | None:
    if tensor.scale is None or tensor.dtype is not DType.INT8:
        return None
    # The grid clips; what the source's tensor holds beyond it is no difference.
    steps = np.clip(np.asarray(source, np.float64) / float(tensor.scale[0]) + tensor.zero_point, -128, 127)
    candidates = list(in_source_order(codes, source.shape))
    if not candidates:
        return None
    nearest = min(candidates, key=lambda array: float(np.abs(array - steps).mean()))
    far = np.abs(nearest - steps) > limit_lsb
    if not far.any():
        return None
    index = tuple(int(i) for i in np.unravel_index(int(np.flatnonzero(far)[0]), far.shape))
    return Mismatch(tensor.name, "output", f"{steps[index]:.2f}", f"{nearest[index]:.0f}", index)


def in_source_order(codes: Array, shape: tuple[int, ...]) -> Iterator[Array]:
    """Yields the physical array in the dimension orders that fit the source's shape."""
    for candidate in (codes, np.moveaxis(codes, -1, 1) if codes.ndim > 2 else codes):
        if candidate.size == int(np.prod(shape)):
            yield candidate.astype(np.float64).reshape(shape)
