"""The NEON target: one `.tflite` file for LiteRT or TensorFlow Lite Micro."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from kwsq.ir.lowered import LoweredGraph
from kwsq.targets.base import Artefact, TargetOptions
from kwsq.targets.neon.build import build_program, tensor_order
from kwsq.targets.neon.container import Containers, choose_containers, weight_nodes
from kwsq.targets.neon.emission import emit_flatbuffer
from kwsq.targets.neon.legalize import legalize
from kwsq.targets.neon.lookup import DECODE
from kwsq.targets.neon.memory import OFFLINE_PLAN_ENTRY, offline_plan
from kwsq.targets.neon.program import Program
from kwsq.targets.neon.reader import read

FILE_NAME = "model.tflite"


class NeonTarget:
    """Int8 activations, int8, INT4 or indexed weights, int32 biases, the exact float32 scales."""

    name: ClassVar[str] = "neon"

    def legalize(self, graph: LoweredGraph, options: TargetOptions) -> LoweredGraph:
        """Returns the graph as LiteRT can express it.

        Raises:
            UnsupportedModelError: naming every node that has no form.
        """
        return legalize(graph, options)

    def emit(self, graph: LoweredGraph, options: TargetOptions) -> Artefact:
        """Returns `model.tflite`; the same bytes for the same graph and options on any machine.

        Args:
            graph: legalised graph.
            options: container, runtime, names, version and source.

        Raises:
            UsageError: the int4 or lut container was asked for and no constant fits it.
        """
        containers = choose_containers(graph, options.container, options.runtime)
        program = build_program(graph, containers, options)
        header: dict[str, object] = {
            "container": options.container,
            "packed_tensors": [*containers.packed, *containers.lookups],
            "kept_tensors": dict(containers.kept),
            "containers": {t.name: containers.of(t.name) for _, t in weight_nodes(graph)},
            "tensors": list(tensor_order(graph)),
            "minimum_runtime": _minimum_runtime(program, containers),
        }
        return Artefact(self.name, {FILE_NAME: _file(program, options)}, header | _operators(program))


def _file(program: Program, options: TargetOptions) -> bytes:
    data = emit_flatbuffer(program)
    if not options.offline_memory_plan:
        return data
    entry = {OFFLINE_PLAN_ENTRY: offline_plan(read(data, FILE_NAME).main)}
    return emit_flatbuffer(replace(program, metadata={**program.metadata, **entry}))


def _minimum_runtime(program: Program, containers: Containers) -> str:
    if containers.lookups:
        return f"TensorFlow Lite Micro with {DECODE.partition(':')[2]}"
    return program.metadata["min_runtime_version"].rstrip(b"\0").decode()


def _operators(program: Program) -> dict[str, object]:
    counts: dict[str, int] = {}
    for operator in program.operators:
        counts[operator.builtin] = counts.get(operator.builtin, 0) + 1
    return {"operators": dict(sorted(counts.items()))}
