"""Running two models on labelled data: the gate's scores are log odds of the keyword class."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kwsq.converter.class_rows import rows_of
from kwsq.converter.data import InputSpec, Samples, read_samples
from kwsq.converter.det.trials import FloatArray
from kwsq.converter.gate.class_trials import ClassTrials, class_trials, softmax_lint
from kwsq.converter.gate.columns import read_columns
from kwsq.converter.gate.config import GateConfig
from kwsq.converter.input_file import read_file
from kwsq.ir.errors import ParityError, Problem, UnsupportedModelError, UsageError

Json = dict[str, Any]
Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True, eq=False)
class Runnable:
    """A model ready to be run.

    Args:
        name: file name.
        sha256: of the file.
        runtime: what runs it.
        spec: its only input.
        run: (n, *shape) real inputs to (n, classes) real outputs.
    """

    name: str
    sha256: str
    runtime: str
    spec: InputSpec
    run: Callable[[Array], FloatArray]


def scored_pair(reference: Path, candidate: Path, data: Path, config: GateConfig) -> tuple[ClassTrials, Json]:
    """Returns trials of two models, and what was compared.

    Args:
        reference: `.onnx` or `.tflite` of one input and one output.
        candidate: the same.
        data: `.npz` of inputs, classes y and what `read_columns` looks for.
        config: for the keyword classes and the detector.

    Raises:
        UsageError: the data do not fit a model, or the models' classes differ.
        ModelError: a model cannot be run.
    """
    models = load_runnable(reference, "--reference"), load_runnable(candidate, "--candidate")
    samples = [read_samples(data, "--data", [model.spec], labelled=True) for model in models]
    outputs = _outputs(models[0], samples[0]), _outputs(models[1], samples[1])
    labels = samples[0].labels
    assert labels is not None, "read_samples was asked for labels"
    columns = read_columns(data, labels.size, samples[0].dropped)
    right = outputs[0].argmax(1) == labels, outputs[1].argmax(1) == labels
    trials = class_trials(outputs, right, labels, columns, config)
    evalset = hashlib.sha256(read_file(data, "--data")).hexdigest()
    sources = {
        name: {"file": model.name, "sha256": model.sha256, "runtime": model.runtime, "lint": softmax_lint(scores)}
        for name, model, scores in zip(("reference", "candidate"), models, outputs, strict=True)
    }
    return trials, {**sources, "evalset": {"file": data.name, "sha256": evalset}}


def load_runnable(path: Path, flag: str) -> Runnable:
    """Returns a model of one input and one output.

    Raises:
        ModelError: it cannot be read or run.
        UnsupportedModelError: a pack, or a model of several inputs or outputs.
    """
    data = read_file(path, flag)
    if data.startswith(b"KWSQPACK") or path.suffix == ".kwsq":
        found, remedy = "a pack", "score what kwsq run makes of it and gate the score files"
        raise UnsupportedModelError(Problem(f"{flag} {path.name!r}", found, "an .onnx or .tflite file", remedy))
    is_tflite = data[4:8] == b"TFL3" or path.suffix == ".tflite"
    return _tflite(path, data) if is_tflite else _onnx(path, data)


def _onnx(path: Path, data: bytes) -> Runnable:
    from kwsq.converter.runtimes.onnx_source import source_runner
    from kwsq.passes.load import load_bytes

    source = load_bytes(data, path.name, batch=1)
    graph = source.graph
    _check_single(path, len(graph.inputs), len(graph.outputs))
    runtime, run_source = source_runner(source)
    tensor, output = graph.inputs[0], graph.outputs[0].name

    def run(inputs: Array) -> FloatArray:
        return rows_of(np.asarray(run_source({tensor.name: inputs})[output], np.float64), len(inputs))

    spec = InputSpec(tensor.name, tuple(tensor.shape), str(np.dtype(tensor.dtype)))
    return Runnable(path.name, source.sha256, runtime, spec, run)


def _tflite(path: Path, data: bytes) -> Runnable:
    from kwsq.converter.runtimes.litert import KernelSet, LitertSession
    from kwsq.targets.neon.reader import read

    model = read(data, path.name).main
    _check_single(path, len(model.inputs), len(model.outputs))
    entry, end = model.tensors[model.inputs[0]], model.tensors[model.outputs[0]]
    try:
        session = LitertSession(data, KernelSet.DEFAULT)
    except ParityError as error:
        found, remedy = error.problems[0].found, "run it where it can be, and gate the score files"
        raise UnsupportedModelError(Problem(repr(path.name), found, "a file that LiteRT runs", remedy)) from error

    def run(inputs: Array) -> FloatArray:
        return _real(end, rows_of(session.run([_encoded(entry, inputs)]).outputs[0], len(inputs)))

    spec = InputSpec(entry.name, tuple(entry.shape))
    return Runnable(path.name, hashlib.sha256(data).hexdigest(), "LiteRT, default kernels", spec, run)


def _check_single(path: Path, inputs: int, outputs: int) -> None:
    if (inputs, outputs) != (1, 1):
        found, remedy = f"{inputs} inputs and {outputs} outputs", "score it yourself and gate the score files"
        raise UnsupportedModelError(Problem(path.name, found, "one input and one output", remedy))


def _encoded(tensor: Any, real: Array) -> Array:
    """Returns inputs as the file's tensor takes them."""
    from kwsq.ir.quant import INT8, UINT8, Affine, quantize

    if tensor.dtype == "FLOAT32":
        return np.asarray(real, np.float32)
    if tensor.dtype not in ("INT8", "UINT8") or tensor.scale.size != 1:
        found = f"{tensor.dtype} with {tensor.scale.size} scales"
        remedy = "score it yourself and gate the score files"
        raise UnsupportedModelError(Problem(f"input {tensor.name!r}", found, "float32, or int8 with one scale", remedy))
    codes = UINT8 if tensor.dtype == "UINT8" else INT8
    spec = Affine.per_tensor(float(tensor.scale[0]), int(tensor.zero_point[0]), codes)
    return quantize(np.asarray(real, np.float32), spec).astype(np.uint8 if tensor.dtype == "UINT8" else np.int8)


def _real(tensor: Any, outputs: Array) -> FloatArray:
    if tensor.scale.size != 1:
        return np.asarray(outputs, np.float64)
    return (outputs.astype(np.float64) - float(tensor.zero_point[0])) * float(tensor.scale[0])


def _outputs(model: Runnable, samples: Samples) -> FloatArray:
    outputs = model.run(samples.inputs[model.spec.name])
    if not np.isfinite(outputs).all():
        raise UsageError(Problem(model.name, "NaN or infinite outputs", "finite scores", "repair the model"))
    return outputs
