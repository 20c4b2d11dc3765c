"""The C target: C99 sources of one network with the kernels they call, for devices without a runtime."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from importlib.resources import files
from typing import ClassVar

from kwsq.ir.errors import UnsupportedModelError
from kwsq.ir.lowered import LoweredGraph, verify
from kwsq.targets.base import Artefact, TargetOptions
from kwsq.targets.c.literals import identifiers
from kwsq.targets.c.source import write_sources
from kwsq.targets.draft import Draft
from kwsq.targets.operators import LAYERS
from kwsq.targets.rules import problems
from kwsq.targets.sum_as_layer import sum_as_layer

SOURCE, HEADER = "model.c", "model.h"
KERNELS = {
    "kwsq.targets": ("kwsq_fixed.h", "kwsq_kernels.h", "kwsq_kernels.c"),
    "kwsq.targets.c": ("kwsq_layers.h", "kwsq_layers.c"),
}


class CTarget:
    """Int8 activations and weights, int32 biases, in C99 with NEON where the compiler has it."""

    name: ClassVar[str] = "c"

    def legalize(self, graph: LoweredGraph, options: TargetOptions) -> LoweredGraph:
        """Returns the graph with every sum as a layer of ones.

        Raises:
            UnsupportedModelError: naming every node that has no kernel.
        """
        draft = Draft(graph)
        for node in graph.nodes:
            if not sum_as_layer(draft, node):
                draft.nodes.append(node)
        used = {n for node in draft.nodes for n in (*node.inputs, *node.outputs)} | {*graph.inputs, *graph.outputs}
        tensors = {name: tensor for name, tensor in draft.tensors.items() if name in used}
        legal = replace(graph, nodes=tuple(draft.nodes), tensors=tensors)
        verify(legal)
        if found := list(problems(legal)):
            raise UnsupportedModelError(found, "the model has nodes that the C kernels cannot compute")
        return legal

    def emit(self, graph: LoweredGraph, options: TargetOptions) -> Artefact:
        """Returns the sources; the same bytes for the same graph and options on any machine.

        Args:
            graph: legalised graph.
            options: name, version and source; whether inner names are left out.
        """
        facts = f"Written by kwsq {options.version} from the model of SHA-256 {options.source_sha256}; do not edit."
        named = options.name or graph.name
        prefix = identifiers([named], "model")[named]
        sources = write_sources(graph, prefix, facts, strip_names=options.strip_names)
        header: dict[str, object] = {
            "container": options.container,
            "minimum_runtime": "C99",
            "operators": dict(sorted(Counter(node.op.name for node in graph.nodes).items())),
            "containers": {node.inputs[1]: "int8" for node in graph.nodes if isinstance(node.op, LAYERS)},
            "prefix": prefix,
            "arena_bytes": sources.memory.high_water_bytes,
            "constant_bytes": sum(sources.constant_bytes.values()),
        }
        written = {SOURCE: sources.body.encode(), HEADER: sources.header.encode()}
        kernels = {name: _kernel(package, name) for package, names in KERNELS.items() for name in names}
        beside = {HEADER: "declares the network"} | dict.fromkeys(kernels, "kernels of all networks")
        return Artefact(self.name, written | kernels, header, beside)


def _kernel(package: str, name: str) -> bytes:
    return files(package).joinpath("csource", name).read_bytes()
