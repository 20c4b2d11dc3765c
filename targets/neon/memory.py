"""The arena of a `.tflite` file: how long each activation lives, and the plan that can be written into the file.

TensorFlow Lite Micro reads a plan from the metadata entry OfflineMemoryAllocation instead of making one at start-up:
int32 version, subgraph, number of tensors, then an offset per tensor or -1 for "decide at run time".

Source: tensorflow/lite/micro/docs/memory_management.md and micro_allocation_info.cc.
"""

from __future__ import annotations

import numpy as np

from kwsq.targets.neon.lookup import DECODE
from kwsq.targets.neon.reader import FileSubgraph, TfliteModel
from kwsq.targets.planner import Lifetime, MemoryPlan, plan

OFFLINE_PLAN_ENTRY = "OfflineMemoryAllocation"
_VERSION, _SUBGRAPH, _AT_RUN_TIME = 1, 0, -1
_HEADER_NUMBERS = 3
_UNPACKING = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")


def memory_plan(model: TfliteModel) -> MemoryPlan:
    """Returns where activations and scratch memory of the first subgraph lie: as the file says, else greedily."""
    activations = activation_lifetimes(model.main)
    steps = len(model.main.operators) + 1
    fixed = _offline_offsets(model, len(activations))
    return plan([*activations, *scratch_lifetimes(model.main)], steps, fixed)


def scratch_lifetimes(graph: FileSubgraph) -> list[Lifetime]:
    """Returns the memory that kernels of TensorFlow Lite Micro ask for: INT4 weights, unpacked while they are used.

    Source: micro/kernels/conv_common.cc, depthwise_conv_common.cc and fully_connected.cc; vendors' kernels may differ.
    """
    return [
        Lifetime(f"{tensor_name(graph, weight)}, unpacked", graph.tensors[weight].size, step, step)
        for step, operator in enumerate(graph.operators, 1)
        if operator.name in _UNPACKING and len(operator.inputs) > 1
        for weight in operator.inputs[1:2]
        if weight >= 0 and graph.tensors[weight].dtype == "INT4"
    ]


def offline_plan(graph: FileSubgraph) -> bytes:
    """Returns the greedy plan as the contents of the entry OfflineMemoryAllocation.

    Args:
        graph: the only subgraph of the file, without an entry of its own.
    """
    activations = activation_lifetimes(graph)
    arena = plan([*activations, *scratch_lifetimes(graph)], len(graph.operators) + 1)
    offsets = np.full(len(graph.tensors), _AT_RUN_TIME, "<i4")
    offsets[activation_indices(graph)] = [placement.offset_bytes for placement in arena.placements[: len(activations)]]
    return np.array([_VERSION, _SUBGRAPH, offsets.size], "<i4").tobytes() + offsets.tobytes()


def _offline_offsets(model: TfliteModel, count: int) -> list[int]:
    """Returns the offsets of the activations where the file brings a whole plan for one subgraph, else none."""
    body = model.metadata.get(OFFLINE_PLAN_ENTRY, b"")
    numbers = np.frombuffer(body[: len(body) // 4 * 4], "<i4").tolist()
    if len(model.subgraphs) != 1 or len(numbers) != _HEADER_NUMBERS + len(model.main.tensors):
        return []
    offsets = [numbers[_HEADER_NUMBERS + index] for index in activation_indices(model.main)]
    return offsets if len(offsets) == count and min(offsets, default=-1) >= 0 else []


def activation_lifetimes(graph: FileSubgraph, element_bytes: int | None = None) -> list[Lifetime]:
    """Returns the lifetimes of the tensors that a runtime must allocate.

    Step 0 is before the first operator, step i + 1 is operator i; inputs live from step 0, outputs to the
    last step.

    Args:
        graph: entry subgraph.
        element_bytes: bytes per element to assume, the tensor's own when None. With it, constants that a DECODE
            writes are left out: a model of such elements has none.
    """
    first: dict[int, int] = dict.fromkeys(graph.inputs, 0)
    last: dict[int, int] = dict.fromkeys(graph.inputs, 0)
    for step, operator in enumerate(graph.operators, 1):
        # An operand that nobody wrote is scratch memory of its operator.
        for index in (*operator.outputs, *operator.inputs):
            first.setdefault(index, step)
        last.update((index, step) for index in (*operator.inputs, *operator.outputs) if index >= 0)
    last.update((index, len(graph.operators)) for index in graph.outputs)
    if element_bytes:
        decoded = {index for operator in graph.operators if operator.name == DECODE for index in operator.outputs}
        first = {index: step for index, step in first.items() if index not in decoded}
    each = [tensor.size * element_bytes if element_bytes else tensor.size_bytes for tensor in graph.tensors]
    return [
        Lifetime(tensor_name(graph, index), each[index], first[index], last[index])
        for index in activation_indices(graph)
        if index in first
    ]


def activation_indices(graph: FileSubgraph) -> list[int]:
    """Returns the tensors that an operator or the boundary names and that neither are constants nor keep contents."""
    named = {*graph.inputs, *graph.outputs, *(i for op in graph.operators for i in (*op.inputs, *op.outputs))}
    return [
        index
        for index, tensor in enumerate(graph.tensors)
        if index in named and not tensor.is_constant and not tensor.is_variable
    ]


def tensor_name(graph: FileSubgraph, index: int) -> str:
    """Returns the name of a tensor, its number where it has none."""
    return graph.tensors[index].name or f"tensor {index}"
