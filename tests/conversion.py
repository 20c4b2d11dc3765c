"""From an ONNX model to LiteRT in memory, and what every faithful conversion keeps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from qdq_models import Arrays, shape_of

from kwsq.converter import parity
from kwsq.ir.execute.integer import run_integer
from kwsq.ir.lowered import DType, LoweredGraph
from kwsq.passes import dialects
from kwsq.passes.load import load_bytes
from kwsq.passes.pipeline import PipelineOptions, run_pipeline
from kwsq.targets.base import TargetOptions
from kwsq.targets.neon.target import NeonTarget

# Two roundings of one real number differ rarely; where the kernel's own grid or a second rounding comes between, the
# mean distance is that of two independent roundings at most: E|u - v| of u, v uniform in a step = 1/3, doubled for two
# such tensors in a row.
MEAN_LSB = 2 / 3
_SLACK = 0.01


@dataclass(frozen=True)
class Converted:
    """A converted model."""

    graph: LoweredGraph
    artefact: bytes


def convert(model: onnx.ModelProto, calibration: Arrays | None, **options: object) -> Converted:
    """Run every stage from bytes to bytes."""
    source = load_bytes(model.SerializeToString(), "model.onnx")
    chosen = PipelineOptions(calibration=calibration, **options)  # type: ignore[arg-type]
    result = run_pipeline(dialects.normalize(source), source.opsets[""], chosen)
    target = NeonTarget()
    graph = target.legalize(result.lowered, TargetOptions())
    return Converted(graph, target.emit(graph, TargetOptions()).files["model.tflite"])


def codes_of(graph: LoweredGraph, feeds: Arrays) -> Arrays:
    """Return the feeds on the grids of the graph's inputs."""
    codes = {}
    for name in graph.inputs:
        tensor = graph[name]
        if tensor.dtype is DType.FLOAT32:
            codes[name] = feeds[name]
            continue
        limits = np.iinfo(tensor.dtype.numpy)
        rounded = np.rint(feeds[name] / tensor.scale[0]) + tensor.zero_point
        codes[name] = np.clip(rounded, limits.min, limits.max).astype(tensor.dtype.numpy)
    return codes


def real_of(graph: LoweredGraph, arrays: Arrays) -> Arrays:
    """Return the real values of codes."""
    real = {}
    for name, array in arrays.items():
        tensor = graph[name]
        if tensor.dtype is DType.FLOAT32:
            real[name] = array
            continue
        real[name] = ((array.astype(np.float64) - tensor.zero_point) * float(tensor.scale[0])).astype(np.float32)
    return real


def assert_interface(graph: LoweredGraph, model: onnx.ModelProto) -> None:
    """Names, order, rank and dimension order are the source's."""
    assert list(graph.inputs) == [value.name for value in model.graph.input]
    assert list(graph.outputs) == [value.name for value in model.graph.output]
    for value in (*model.graph.input, *model.graph.output):
        assert graph[value.name].shape == shape_of(value), value.name


def assert_faithful(converted: Converted, codes: Arrays) -> None:
    """LiteRT computes what the integer reference does."""
    states = {pair.input for pair in converted.graph.states}
    inputs = {name: array for name, array in codes.items() if name not in states}
    report = parity.check(converted.graph, converted.artefact, None, inputs)
    assert report.passed, [str(mismatch) for check in report.checks for mismatch in check.mismatches][:3]


def assert_close(graph: LoweredGraph, codes: Arrays, expected: Arrays, lsb: float) -> None:
    """Every output is within `lsb` steps of the expected real values."""
    found = real_of(graph, {name: np.asarray(a) for name, a in run_integer(graph, codes).items()})
    for name in graph.outputs:
        distance = np.abs(found[name].reshape(expected[name].shape) - expected[name]) / graph[name].scale[0]
        assert distance.max() <= lsb + _SLACK, f"{name}: {distance.max():.2f} LSB"
        assert distance.mean() <= MEAN_LSB * max(lsb / 2, 1), f"{name}: {distance.mean():.2f} LSB on average"
