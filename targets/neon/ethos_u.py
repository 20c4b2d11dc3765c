"""The Ethos-U target: the neon target's int8 file, compiled by Vela so that every operator runs on the NPU.

Codes of b bits stay in int8 containers: Vela's weight encoder finds the palette of at most 32 values by itself and
stores about b bits per weight. INT4 containers it does not survive.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from kwsq.ir.errors import Problem, UnsupportedModelError
from kwsq.ir.lowered import LoweredGraph
from kwsq.targets.base import Artefact, TargetOptions
from kwsq.targets.neon.reader import FileSubgraph, read
from kwsq.targets.neon.schema_names import NPU_OPERATOR
from kwsq.targets.neon.target import FILE_NAME, NeonTarget
from kwsq.targets.neon.vela import DEFAULT_ACCELERATOR, Compiled, compile_file

SOURCE_NAME = "model_int8.tflite"
SOURCE_DESCRIPTION = "the file before Vela, on which parity is proven"


class EthosUTarget:
    """Int8 activations and weights, compiled for one accelerator configuration."""

    name: ClassVar[str] = "ethos-u"

    def legalize(self, graph: LoweredGraph, options: TargetOptions) -> LoweredGraph:
        """Returns the graph as LiteRT, and so Vela, can express it.

        Raises:
            UnsupportedModelError: naming every node that has no form.
        """
        return NeonTarget().legalize(graph, options)

    def emit(self, graph: LoweredGraph, options: TargetOptions) -> Artefact:
        """Returns `model.tflite` for the NPU, and `model_int8.tflite` that it was compiled from.

        Args:
            graph: legalised graph.
            options: accelerator, names, version and source.

        Raises:
            UsageError: Vela is not installed.
            UnsupportedModelError: Vela refuses the file, leaves operators on the CPU (each is named), or changes
                inputs or outputs.
        """
        plain = NeonTarget().emit(graph, options)
        compiled = compile_file(plain.proven_bytes, options.accelerator or DEFAULT_ACCELERATOR)
        file = read(compiled.data, FILE_NAME).main
        if problems := [*_on_the_cpu(file, compiled), *_changed_interface(graph, file)]:
            raise UnsupportedModelError(problems, "the accelerator cannot run the whole model")
        counts = {NPU_OPERATOR: len(file.operators)}
        header = {
            **plain.header,
            "minimum_runtime": "TensorFlow Lite Micro with the ethos-u operator",
            "operators": counts,
            "estimates": dict(compiled.estimates),
        }
        files = {FILE_NAME: compiled.data, SOURCE_NAME: plain.proven_bytes}
        return Artefact(self.name, files, header, {SOURCE_NAME: SOURCE_DESCRIPTION}, SOURCE_NAME)


def _on_the_cpu(file: FileSubgraph, compiled: Compiled) -> Iterator[Problem]:
    for operator in file.operators:
        if operator.name == NPU_OPERATOR:
            continue
        outputs = [file.tensors[i].name for i in operator.outputs]
        reason = "; ".join(compiled.refusals[name] for name in outputs if name in compiled.refusals)
        found = f"left on the CPU{f': {reason}' if reason else ''}"
        remedy = "use --io int8 and operators of Vela's list, or --target neon"
        yield Problem(", ".join(outputs) or operator.name, found, "an operator of the NPU", remedy, op=operator.name)


def _changed_interface(graph: LoweredGraph, file: FileSubgraph) -> Iterator[Problem]:
    for names, indices in ((graph.inputs, file.inputs), (graph.outputs, file.outputs)):
        found = [(t.name, t.shape, t.dtype, t.scale.tolist()) for t in (file.tensors[i] for i in indices)]
        wanted = [_described(graph, name) for name in names]
        if found != wanted:
            yield Problem("Vela", str(found), str(wanted), "report this as a defect of kwsq")


def _described(graph: LoweredGraph, name: str) -> tuple[object, ...]:
    tensor = graph[name]
    return tensor.name, tensor.shape, tensor.dtype.name, [] if tensor.scale is None else tensor.scale.tolist()
