"""Training: float, then per variant stage 1 (weights quantized) and stage 2 (activations too), then export.

Source: the order of stages is that of Zeng et al. 2022; every length and rate is the recipe's.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras
from numpy.typing import NDArray

from kwsq.ir.errors import Problem, UsageError
from kwsq.models.augmentation import augment
from kwsq.models.data import LabelledFeatures, load_split
from kwsq.models.evaluate import accuracy
from kwsq.models.export_onnx import export_onnx
from kwsq.models.layers import adopt_weights, layer_records
from kwsq.models.quantizers import ActivationQuantizer
from kwsq.models.recipe import Phase, Recipe, Variant, read_recipe
from kwsq.models.schemes import FloatWeights, WeightScheme

Build = Callable[[WeightScheme], Any]
Progress = Callable[[str], None]

ARCHITECTURES = {name: f"kwsq.models.{name}.model" for name in ("kws_ff", "kws_cnn", "ds_cnn")}


@dataclass(frozen=True, slots=True)
class TrainedModel:
    """One exported model: file name and its accuracy in ONNX Runtime on the report split."""

    file: str
    accuracy: float
    clips: int


def train(recipe: Path, data: Path, out: Path, seed: int, *, report: Progress = lambda _: None) -> list[TrainedModel]:
    """Train a recipe and write the annotated ONNX files and `metrics.json`.

    Args:
        recipe: recipe file.
        data: folder with `manifest.csv` and audio.
        out: output folder; also holds the feature cache, in a folder git ignores.
        seed: decides initial weights, order and augmentation; the same seed gives the same files on the
            same machine.
        report: called with one line per finished stretch.

    Returns:
        One entry per exported file, the float model first.

    Raises:
        UsageError: recipe or data cannot be used.
    """
    plan = read_recipe(recipe)
    build = architecture(plan.architecture)
    splits = [
        load_split(data, out / "cache", dataset=plan.dataset, split=split, features=plan.features)
        for split in (plan.train_split, plan.report_split)
    ]
    models = trained_models(plan, build, splits[0], seed=seed, report=report)
    return _export_all(models, plan, splits[1], out)


def architecture(name: str) -> Build:
    """Return the builder of a named architecture.

    Raises:
        UsageError: no such architecture.
    """
    if name not in ARCHITECTURES:
        expected = f"one of {', '.join(ARCHITECTURES)}"
        raise UsageError(Problem("recipe: architecture", repr(name), expected, "correct the recipe"))
    build: Build = import_module(ARCHITECTURES[name]).build
    return build


def trained_models(
    plan: Recipe, build: Build, examples: LabelledFeatures, *, seed: int, report: Progress
) -> dict[str, Any]:
    """Train the float model and every variant; return Keras models by name ("float" first)."""
    tf_keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()
    float_model = train_float(plan, build, examples, seed=seed, report=report)
    models = {"float": float_model}
    for variant in plan.variants:
        models[variant.name] = train_variant(plan, variant, build, float_model, examples, seed=seed, report=report)
    return models


def train_float(plan: Recipe, build: Build, examples: LabelledFeatures, *, seed: int, report: Progress) -> Any:
    """Train the float model from scratch."""
    model = build(FloatWeights())
    fit(model, examples, plan.float_phase, plan, np.random.default_rng([seed, 0]))
    report(f"float: {plan.float_phase.epochs} epochs done")
    return model


def train_variant(
    plan: Recipe,
    variant: Variant,
    build: Build,
    float_model: Any,
    examples: LabelledFeatures,
    *,
    seed: int,
    report: Progress,
) -> Any:
    """Fine-tune one quantized model from the float one: weights first, then activations as well."""
    rng = np.random.default_rng([seed, 1])
    model = build(variant.scheme)
    adopt_weights(model, float_model)
    fit(model, examples, variant.stage1, plan, rng)
    report(f"{variant.name}: stage 1 done")
    calibrate(model, examples.features[: plan.calibration_clips], variant.activation_percentile)
    fit(model, examples, variant.stage2, plan, rng)
    report(f"{variant.name}: stage 2 done")
    return model


def fit(model: Any, examples: LabelledFeatures, phase: Phase, plan: Recipe, rng: np.random.Generator) -> None:
    """Train for one phase with cosine decay to zero; every epoch sees freshly augmented features.

    Args:
        model: Keras model that maps features to logits.
        examples: training clips.
        phase: epochs, learning rate and weight decay.
        plan: batch size and augmentation.
        rng: source of order and augmentation.
    """
    # Whole batches only, so that one traced step serves all; the order is new in every epoch.
    batch_size = min(plan.batch_size, len(examples.labels))
    steps_per_epoch = len(examples.labels) // batch_size
    steps = max(phase.epochs * steps_per_epoch, 1)
    rate = tf_keras.optimizers.schedules.CosineDecay(phase.learning_rate, steps)
    optimizer = tf_keras.optimizers.AdamW(rate, weight_decay=phase.weight_decay)
    model.compile(optimizer, loss=tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    for _ in range(phase.epochs):
        features, labels = augment(examples, plan.augmentation, rng)
        for start in range(0, steps_per_epoch * batch_size, batch_size):
            batch = slice(start, start + batch_size)
            model.train_on_batch(features[batch], labels[batch])


def calibrate(model: Any, features: NDArray[np.float32], percentile: float) -> None:
    """Set every activation range, in layer order, from what these features cause there, and switch it on."""
    values = tf.constant(features)
    for layer in model.layers:
        if isinstance(layer, ActivationQuantizer):
            layer.calibrate(values.numpy(), percentile)
        values = layer(values, training=False)


def _export_all(models: dict[str, Any], plan: Recipe, held_out: LabelledFeatures, out: Path) -> list[TrainedModel]:
    results = []
    for name, model in models.items():
        path = out / f"{plan.architecture}_{name}.onnx"
        path.write_bytes(export_onnx(layer_records(model), model.input_shape[1:], name=path.stem))
        results.append(TrainedModel(path.name, accuracy(path, held_out), len(held_out.labels)))
    facts = [asdict(result) for result in results]
    (out / "metrics.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    return results
