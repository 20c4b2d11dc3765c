"""Proof of a `.tflite` file: LiteRT's kernels, and TensorFlow Lite Micro where it is installed."""

from __future__ import annotations

import numpy as np

from kwsq.converter.evidence import checked_parity, try_runtimes
from kwsq.converter.footprint import MemoryReport
from kwsq.converter.parity import ParityReport, SourceReference
from kwsq.converter.parity.kernels import decoded_constants
from kwsq.converter.proof import Arrays, Beside, Runner
from kwsq.converter.report import RuntimeVerdict
from kwsq.converter.runtimes.litert import KernelSet, LitertSession
from kwsq.converter.runtimes.tflm import is_installed, measure_arena, run_tflm
from kwsq.converter.tflite_flash import count_bytes
from kwsq.converter.tflite_footprint import measure
from kwsq.ir.errors import ParityError
from kwsq.ir.lowered import LoweredGraph
from kwsq.targets.base import TargetOptions
from kwsq.targets.neon.reader import read

MICRO_VECTORS = 256
"""Vectors of one run of TensorFlow Lite Micro, which decodes all constants for each."""


class NeonProof:
    """The neon target's artefact."""

    def check(
        self, graph: LoweredGraph, data: bytes, source: SourceReference, inputs: Arrays, *, all_tensors: bool
    ) -> ParityReport:
        """Compares the file and both kernel sets with the integer reference, and that with the source."""
        return checked_parity(graph, data, source, inputs, all_tensors=all_tensors)

    def beside(self, lowered: LoweredGraph, options: TargetOptions, inputs: Arrays) -> Beside:
        """Returns the C sources where they are asked for; the file itself is complete."""
        if not options.c_sources:
            return Beside()
        from kwsq.converter.c_form import c_form

        return c_form(lowered, options, inputs)

    def runner(self, graph: LoweredGraph, data: bytes) -> Runner:
        """Returns LiteRT with its default kernels, or TensorFlow Lite Micro for a file only it can run."""
        if decoded_constants(graph, data):
            return lambda arrays: _run_micro(graph, data, arrays)
        session = LitertSession(data, KernelSet.DEFAULT)

        def invoke(arrays: Arrays) -> Arrays:
            run = session.run([arrays[name] for name in graph.inputs])
            return dict(zip(graph.outputs, run.outputs, strict=True))

        return invoke

    def runtimes(
        self, graph: LoweredGraph, data: bytes, parity: ParityReport, inputs: Arrays
    ) -> tuple[RuntimeVerdict, ...]:
        """Returns what LiteRT and TensorFlow Lite Micro answered."""
        return try_runtimes(graph, data, parity, inputs)

    def weight_bytes(self, data: bytes) -> int:
        """Returns the bytes of the weight buffers."""
        return sum(flash.weights_bytes for flash in count_bytes(read(data, "model.tflite")).values())

    def arena_bytes(self, data: bytes) -> int | None:
        """Returns what TensorFlow Lite Micro's recording interpreter says, None where it is absent or refuses."""
        if not is_installed():
            return None
        try:
            return measure_arena(data)
        except ParityError:
            return None

    def footprint(self, data: bytes, name: str) -> MemoryReport:
        """Returns the footprint of the file."""
        return measure(read(data, name))


def _run_micro(graph: LoweredGraph, data: bytes, arrays: Arrays) -> Arrays:
    """Runs many vectors in portions, each in time."""
    sizes = {name: (*graph[name].shape, 1)[0] * MICRO_VECTORS for name in graph.inputs}
    count = max(-(-len(arrays[name]) // size) for name, size in sizes.items())
    portions = [[arrays[name][i * size : (i + 1) * size] for name, size in sizes.items()] for i in range(count)]
    runs = [run_tflm(data, portion).outputs for portion in portions]
    return {name: np.concatenate([run[i] for run in runs]) for i, name in enumerate(graph.outputs)}
