"""The accelerator target: `model.kwsq`, weights packed at their own width, verified and run from its bytes."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import ClassVar

from kwsq.ir.lowered import LoweredGraph
from kwsq.targets.accel.bits import Layout
from kwsq.targets.accel.build import PackContents, build_contents
from kwsq.targets.accel.constraints import WIDTHS
from kwsq.targets.accel.writer import write_pack
from kwsq.targets.base import Artefact, TargetOptions
from kwsq.targets.rules import legalize

FILE_NAME = "model.kwsq"
CONTAINERS = ("stream", "planes")


class AccelTarget:
    """Int8 activations, weights of 1 to 8 bits, int32 biases, Q0.31 multipliers with shifts."""

    name: ClassVar[str] = "accel"

    def legalize(self, graph: LoweredGraph, options: TargetOptions) -> LoweredGraph:
        """Returns the graph with every sum as a layer of ones.

        Raises:
            UnsupportedModelError: naming every node that a pack cannot express.
        """
        return legalize(graph, "the model has nodes a kwsq pack cannot express", WIDTHS)

    def emit(self, graph: LoweredGraph, options: TargetOptions) -> Artefact:
        """Returns `model.kwsq`; the same bytes for the same graph and options on any machine.

        Args:
            graph: legalised graph.
            options: container ("stream" or "planes"), row alignment, names, version and source.
        """
        contents = build_contents(graph, Layout[options.container.upper()], options.row_align_bits or None)
        # The containers of the report go by the graph's names, whatever the file keeps of them.
        containers = _containers(contents, options.container)
        if options.strip_names:
            contents = replace(contents, weights=tuple(replace(weight, tensor="") for weight in contents.weights))
        facts = {"name": graph.name, "kwsq": options.version, "source": options.source_sha256, **options.remarks}
        data = write_pack(contents, facts)
        counts = Counter(operator.code.name for operator in contents.graph.operators)
        header: dict[str, object] = {
            "container": options.container,
            "minimum_runtime": "kwsq pack 1.0",
            "operators": dict(sorted(counts.items())),
            "containers": containers,
        }
        return Artefact(self.name, {FILE_NAME: data}, header)


def _containers(contents: PackContents, container: str) -> dict[str, str]:
    """Returns weight tensor -> how it is stored."""
    return {weight.tensor: container for weight in contents.weights}
