"""The C target: C99 sources of one network with the kernels they call, for devices without a runtime."""

from __future__ import annotations

from collections import Counter
from importlib.resources import files
from typing import ClassVar

from kwsq.ir.lowered import LoweredGraph
from kwsq.targets.base import Artefact, TargetOptions
from kwsq.targets.c.literals import identifiers
from kwsq.targets.c.source import write_sources
from kwsq.targets.operators import LAYERS
from kwsq.targets.rules import legalize

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
        return legalize(graph, "the model has nodes that the C kernels cannot compute")

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
            "arena_bytes": sources.arena_bytes,
            "constant_bytes": sources.constant_bytes,
        }
        written = {SOURCE: sources.body.encode(), HEADER: sources.header.encode()}
        kernels = {name: _kernel(package, name) for package, names in KERNELS.items() for name in names}
        beside = {HEADER: "declares the network"} | dict.fromkeys(kernels, "kernels of all networks")
        return Artefact(self.name, written | kernels, header, beside)


def _kernel(package: str, name: str) -> bytes:
    return files(package).joinpath("csource", name).read_bytes()
