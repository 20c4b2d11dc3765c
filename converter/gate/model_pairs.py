"""Running two models on labelled data: the gate's scores are log odds of the keyword class."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kwsq.converter.data import InputSpec, Samples, read_samples
from kwsq.converter.det.saturation import BYTE_LEVELS
from kwsq.converter.det.trials import FloatArray, IntArray
from kwsq.converter.gate.checks import Classified
from kwsq.converter.gate.pairs import PairedTrials
from kwsq.converter.input_file import read_file
from kwsq.ir.errors import Problem, UnsupportedModelError, UsageError

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


def scored_pair(
    reference: Path, candidate: Path, data: Path, keywords: tuple[int, ...]
) -> tuple[PairedTrials, Classified, Json]:
    """Returns trials of two models, which samples each classifies rightly, and what was compared.

    Args:
        reference: `.onnx` or `.tflite` of one input and one output.
        candidate: the same.
        data: `.npz` of inputs, classes y and, if known, `group` or `speaker` and `duration` per sample.
        keywords: classes that are keywords; none pools every class.

    Raises:
        UsageError: the data do not fit a model, or the models' classes differ.
        ModelError: a model cannot be run.
    """
    models = load_runnable(reference, "--reference"), load_runnable(candidate, "--candidate")
    samples = [read_samples(data, "--data", [model.spec], labelled=True) for model in models]
    outputs = [_outputs(model, each) for model, each in zip(models, samples, strict=True)]
    labels = samples[0].labels
    assert labels is not None, "read_samples was asked for labels"
    _check_classes(outputs, labels, keywords)
    group, duration = _columns(data, labels.size)
    classified = Classified(outputs[0].argmax(1) == labels, outputs[1].argmax(1) == labels, group)
    pairs = _pooled(outputs, labels, keywords, group, duration)
    evalset = hashlib.sha256(read_file(data, "--data")).hexdigest()
    sources = {
        name: {"file": model.name, "sha256": model.sha256, "runtime": model.runtime, "lint": _lint(scores)}
        for name, model, scores in zip(("reference", "candidate"), models, outputs, strict=True)
    }
    return pairs, classified, {**sources, "evalset": {"file": data.name, "sha256": evalset}}


def load_runnable(path: Path, flag: str) -> Runnable:
    """Returns a model of one input and one output.

    Raises:
        ModelError: it cannot be read or run.
        UnsupportedModelError: it has several inputs or outputs.
    """
    data = read_file(path, flag)
    is_tflite = data[4:8] == b"TFL3" or path.suffix == ".tflite"
    return _tflite(path, data) if is_tflite else _onnx(path, data)


def _onnx(path: Path, data: bytes) -> Runnable:
    from kwsq.converter.runtimes.ort import OrtSession
    from kwsq.passes.load import load_bytes

    source = load_bytes(data, path.name, batch=1)
    graph = source.graph
    _check_single(path, len(graph.inputs), len(graph.outputs))
    session, tensor = OrtSession(data), graph.inputs[0]
    (output,) = session.outputs

    def run(inputs: Array) -> FloatArray:
        return np.asarray(session.run({tensor.name: inputs})[output], np.float64).reshape(len(inputs), -1)

    spec = InputSpec(tensor.name, tuple(tensor.shape), str(np.dtype(tensor.dtype)))
    return Runnable(path.name, source.sha256, session.name, spec, run)


def _tflite(path: Path, data: bytes) -> Runnable:
    from kwsq.converter.runtimes.litert import KernelSet, LitertSession
    from kwsq.targets.neon.reader import read

    model = read(data, path.name).main
    _check_single(path, len(model.inputs), len(model.outputs))
    entry, end = model.tensors[model.inputs[0]], model.tensors[model.outputs[0]]
    session = LitertSession(data, KernelSet.DEFAULT)

    def run(inputs: Array) -> FloatArray:
        outputs = session.run([_encoded(entry, inputs)]).outputs[0].reshape(len(inputs), -1)
        return _real(end, outputs)

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


def _check_classes(outputs: list[FloatArray], labels: IntArray, keywords: tuple[int, ...]) -> None:
    counts = [scores.shape[1] for scores in outputs]
    if counts[0] != counts[1] or counts[0] < 2:
        found = f"{counts[0]} and {counts[1]} outputs"
        raise UsageError(Problem("models", found, "the same classes, at least two", "name two models of one task"))
    if labels.max(initial=0) >= counts[0]:
        found = f"labels up to {int(labels.max())} for {counts[0]} classes"
        raise UsageError(Problem("--data, labels 'y'", found, "one class per output", "check the labels"))
    wrong = [keyword for keyword in keywords if not 0 <= keyword < counts[0]]
    if wrong:
        raise UsageError(Problem("--keyword", str(wrong[0]), f"0 to {counts[0] - 1}", "correct the class"))


def log_odds(outputs: FloatArray, keyword: int) -> FloatArray:
    """Returns the log odds of a class against all others; docs/gate.md (11).

    Args:
        outputs: (n, classes) logits, or the probabilities of a softmax: both give the same odds.
        keyword: the class.
    """
    others = np.delete(outputs, keyword, axis=1)
    if is_probability(outputs):
        # 0 has no logarithm; half the smallest share seen keeps the order.
        least = 0.5 * float(outputs[outputs > 0].min())
        odds = np.log(np.maximum(outputs[:, keyword], least)) - np.log(np.maximum(others.sum(axis=1), least))
        return np.asarray(odds, np.float64)
    top = others.max(axis=1)
    return np.asarray(outputs[:, keyword] - top - np.log(np.exp(others - top[:, None]).sum(axis=1)))


def is_probability(outputs: FloatArray) -> bool:
    """Returns whether rows are those of a softmax, as far as int8 steps show it."""
    in_range = (outputs >= 0).all() and (outputs <= 1).all()
    # Each of C classes is off by half a step of 1/256 at most.
    return bool(in_range and np.abs(outputs.sum(axis=1) - 1.0).max() <= 0.5 * outputs.shape[1] / 256 + 1e-3)


def _lint(outputs: FloatArray) -> str | None:
    levels = int(np.unique(outputs).size)
    if not is_probability(outputs) or levels > BYTE_LEVELS:
        return None
    return f"its softmax has {levels} levels: scores saturate; gate a model that emits logits (--drop-softmax)"


def _pooled(
    outputs: list[FloatArray], labels: IntArray, keywords: tuple[int, ...], group: IntArray | None, duration: FloatArray
) -> PairedTrials:
    """Returns a trial per sample and keyword; those of one sample are never independent, so they form a group."""
    classes = keywords or tuple(sorted(set(labels.tolist())))
    label = np.concatenate([labels == keyword for keyword in classes])
    scores = [np.concatenate([log_odds(each, keyword) for keyword in classes]) for each in outputs]
    if group is None and len(classes) > 1:
        group = np.arange(labels.size)
    groups = None if group is None else np.tile(group, len(classes))
    return PairedTrials.of(label, scores[0], scores[1], np.tile(duration, len(classes)), groups)


def _columns(data: Path, samples: int) -> tuple[IntArray | None, FloatArray]:
    """Returns group and duration of each sample, where the archive has them."""
    group: IntArray | None = None
    duration = np.ones(samples)
    try:
        with np.load(data, allow_pickle=False) as arrays:
            for name in ("speaker", "group"):
                if name in arrays.files:
                    group = np.unique(arrays[name].reshape(-1), return_inverse=True)[1].astype(np.int64)
            if "duration" in arrays.files:
                duration = np.asarray(arrays["duration"], np.float64).reshape(-1)
    except ValueError as error:
        remedy = "save texts as numpy strings"
        raise UsageError(Problem("--data, group or duration", str(error), "plain arrays", remedy)) from error
    if duration.size != samples or (group is not None and group.size != samples):
        found = f"{duration.size} durations, {samples if group is None else group.size} groups for {samples} samples"
        raise UsageError(Problem("--data", found, "one of each per sample", "save one value per sample"))
    return group, duration
