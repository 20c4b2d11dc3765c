"""The float executor: every node in float32, fake quantisers included."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from kwsq.ir.graph import Graph
from kwsq.ir.quant import FloatArray


def run_float(
    graph: Graph, inputs: Mapping[str, FloatArray], *, keep: Sequence[str] | None = None
) -> dict[str, FloatArray]:
    """Runs the graph once.

    Args:
        graph: verified graph.
        inputs: float32 array per graph input; the batch dimension may be a multiple of the declared one when no node
            fixes it (Reshape and Slice are re-based on the actual batch).
        keep: tensors to return besides the graph outputs; None for the outputs only.

    Returns:
        Arrays by tensor name.
    """
    wanted = {*graph.outputs, *(keep or ())}
    last_use = {name: i for i, node in enumerate(graph.nodes) for name in node.inputs}
    values: dict[str, FloatArray] = {name: np.asarray(inputs[name], np.float32) for name in graph.inputs}
    constants: dict[str, FloatArray] = {tensor.name: tensor.real() for tensor in graph.constants()}
    for i, node in enumerate(graph.nodes):
        arguments = [values[n] if n in values else constants[n] if n else None for n in node.inputs]
        for name, value in zip(node.outputs, node.op.evaluate(*arguments), strict=True):
            values[name] = np.asarray(value, np.float32)
        for name in node.inputs:
            if last_use.get(name) == i and name not in wanted:
                values.pop(name, None)
    return {name: values.get(name, constants.get(name)) for name in wanted}  # type: ignore[misc]  # all defined
