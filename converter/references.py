"""The source as something to run: what parity compares with, and whose accuracy is reported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from kwsq.converter.parity import SourceReference
from kwsq.converter.runtimes.onnx_source import EXECUTOR
from kwsq.converter.runtimes.ort import OrtSession
from kwsq.ir.errors import UnsupportedModelError
from kwsq.ir.execute import run_float
from kwsq.ir.graph import Graph
from kwsq.ir.quant import Affine, quantize
from kwsq.passes.load import Source
from kwsq.passes.pipeline import PipelineResult

Array = npt.NDArray[Any]


def source_reference(source: Source, result: PipelineResult, *, whole: bool) -> SourceReference:
    """Returns the source model as it was given, quantisers included.

    onnxruntime runs models of standard operators whose outputs the artefact keeps; the float executor the others:
    custom domains, which onnxruntime does not know, dropped softmaxes, whose probabilities it would return, and
    models whose quantisers are in a side file.

    Args:
        source: the model as read.
        result: of the pipeline.
        whole: whether the file alone says how the model is quantised.
    """
    if whole and "emits_logits" not in result.source.facts and source.domains <= {""}:
        try:
            session = OrtSession(source.data)
        except UnsupportedModelError:
            return _executed(result.source, EXECUTOR)
        return SourceReference(session.name, lambda inputs: session.run(_as_taken(result.source, inputs)))
    return _executed(result.source, EXECUTOR)


def quantized_reference(source: Source, result: PipelineResult, *, whole: bool) -> SourceReference:
    """Returns the quantised model that the artefact must agree with.

    For a model quantised after training that is the graph with the codes and scales chosen, because the source itself
    has none.
    """
    if result.is_ptq:
        return _executed(result.annotated, f"{EXECUTOR} on the quantised graph")
    return source_reference(source, result, whole=whole)


def _executed(graph: Graph, name: str) -> SourceReference:
    def run(inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        outputs = run_float(graph, _float32(inputs))
        return {key: _encoded(graph, key, array) for key, array in outputs.items()}

    return SourceReference(name, run)


def run_annotated(graph: Graph, inputs: Mapping[str, Array], keep: Sequence[str]) -> dict[str, Array]:
    """Returns outputs and inner tensors of a float graph, as real numbers.

    Args:
        graph: float graph.
        inputs: stacked real arrays by name.
        keep: names of the inner tensors.
    """
    return dict(run_float(graph, _float32(inputs), keep=keep))


def _float32(inputs: Mapping[str, Array]) -> dict[str, Array]:
    return {name: np.asarray(array, np.float32) for name, array in inputs.items()}


def _as_taken(graph: Graph, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Returns the inputs as the source takes them: codes where its own are integer."""
    taken = dict(inputs)
    for name, dtype in graph.integer_io.items():
        if name in taken:
            spec = graph[name].quant
            assert isinstance(spec, Affine), f"{name} is integer in the source"
            taken[name] = quantize(taken[name], spec).astype(dtype)
    return taken


def _encoded(graph: Graph, name: str, array: Array) -> Array:
    """Returns the codes of an output that is integer in the source, which is what onnxruntime would return too."""
    producer = graph.producers().get(name)
    spec = getattr(producer.op, "spec", None) if producer is not None else None
    if name in graph.integer_io and isinstance(spec, Affine):
        return quantize(array, spec).astype(graph.integer_io[name])
    return array
