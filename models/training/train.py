"""Training: float, then per variant stage 1 (weights quantized) and stage 2 (activations too), then export.

Source: the order of stages is that of Zeng et al. 2022; every length and rate is the recipe's.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras
from numpy.typing import NDArray

from kwsq.models.architectures import Build, architecture
from kwsq.models.data.augmentation import augment
from kwsq.models.data.clips import LabelledFeatures, class_names, load_split
from kwsq.models.data.folds import subset
from kwsq.models.data.record_shards import reads_all
from kwsq.models.data.shard_index import Part
from kwsq.models.data.split_shards import open_split, require_other_clips, shard_split
from kwsq.models.data.whole_file import whole_file
from kwsq.models.export_onnx import export_onnx
from kwsq.models.layers.accumulator_biases import round_biases
from kwsq.models.layers.calibration import calibrate
from kwsq.models.layers.norm_statistics import MOST_CLIPS, are_young, settle_norms
from kwsq.models.layers.sequential import adopt_weights, layer_records, set_schemes
from kwsq.models.progress import Told, ignore_count
from kwsq.models.quantizers.activation import use_ranges
from kwsq.models.recipe import FLOAT, Phase, Recipe, Variant, read_recipe
from kwsq.models.schemes import FloatWeights, NormClips
from kwsq.models.scoring.accuracy import accuracy
from kwsq.models.training.distribution import chosen_strategy, ended_workers_named, is_chief, synchronize_norms
from kwsq.models.training.feasible import require_feasible
from kwsq.models.training.fitting import fit, whole_batches
from kwsq.models.training.published_start import adopt_published
from kwsq.models.training.published_weights import PublishedLayer, published_layers
from kwsq.models.training.run_lock import held_folder
from kwsq.models.training.watching import UNWATCHED, RunFolder, Show, Watch, ignore_line


@dataclass(frozen=True, slots=True)
class TrainedModel:
    """One exported model: file name and its accuracy in ONNX Runtime on the report split."""

    file: str
    accuracy: float
    clips: int


def train(
    recipe: Path,
    data: Path,
    out: Path,
    seed: int,
    *,
    weights: Path | None = None,
    shards: Path | None = None,
    show: Show = ignore_line,
    told: Told = ignore_count,
) -> list[TrainedModel]:
    """Train a recipe and write the annotated ONNX files, `metrics.json` and `stages.json`.

    Several workers run it with one recipe and seed, each with its own TF_CONFIG and output folder.
    A run that was killed goes on from the last finished epoch when started again, and ends in the same files; workers
    go on from the last one that any of them kept.

    Args:
        recipe: recipe file.
        data: folder with `manifest.csv` and audio.
        out: output folder; also holds the feature cache, the state of every stage and TensorBoard's events.
        seed: decides initial weights, order and augmentation; the same seed gives the same files on the
            same machine.
        weights: the published model of a recipe that starts from one.
        shards: folder that `shard` wrote; the clips to train on are read from it as they are needed, those of the
            report split from `data`.
        show: called with one line per epoch and per finished stage, and where recordings are cut.
        told: called with how far clips are read and each stage is trained; of several workers by the chief alone.

    Returns:
        One entry per exported file, the float model first.

    Raises:
        UsageError: recipe or data cannot be used, or not together, training diverged, or `out` cannot be written,
            is another run's at work, or holds the state of another recipe, seed or set of clips.
    """
    plan = read_recipe(recipe)
    with held_folder(out, show):
        return _carried_out(plan, data, out, seed, weights=weights, shards=shards, show=show, told=told)


def _carried_out(
    plan: Recipe,
    data: Path,
    out: Path,
    seed: int,
    *,
    weights: Path | None,
    shards: Path | None,
    show: Show,
    told: Told,
) -> list[TrainedModel]:
    """Arguments as in `train`, in a folder that is held."""
    strategy = chosen_strategy(show)
    told = told if is_chief(strategy) else ignore_count
    build = architecture(plan.architecture, len(class_names(plan.keywords)))
    start = published_layers(plan, weights)
    report_clips = load_split(data, out / "cache", split=plan.report_split, show=show, told=told, **_clips_of(plan))
    if shards is None:
        train_clips = load_split(data, out / "cache", split=plan.train_split, show=show, told=told, **_clips_of(plan))
    else:
        train_clips = open_split(shards, split=plan.train_split, **_clips_of(plan))
        require_other_clips(train_clips, report_clips, data, split=plan.train_split, show=show, **_clips_of(plan))
        if reads_all(shards, plan.batch_size, strategy.num_replicas_in_sync):
            show(f"{shards}: every worker reads all shards; a number that the replicas divide would share them")
    require_feasible(plan, build, train_clips)
    watch = RunFolder(out, plan, seed, train_clips.digest, report_clips, show, told)
    with strategy.scope():
        models = trained_models(plan, build, train_clips, seed=seed, start=start, watch=watch)
    return export_all(models, plan, report_clips, out)


def shard(
    recipe: Path,
    data: Path,
    folder: Path,
    shards: int,
    part: Part = (1, 1),
    *,
    show: Show = ignore_line,
    told: Told = ignore_count,
) -> int:
    """Write the clips that a recipe trains on into shards, or those of a part of the shards; return their number.

    Args:
        recipe: recipe file.
        data: folder with `manifest.csv` and audio.
        folder: created; must not hold the part.
        shards: number of files in all.
        part: (i, n), every n-th shard from the i-th on, for n machines.
        show: told, in one line, of recordings that are cut.
        told: called with how many clips are written.

    Raises:
        UsageError: recipe or data cannot be used, or the folder holds the part.
    """
    plan = read_recipe(recipe)
    clips = _clips_of(plan)
    return shard_split(data, folder, split=plan.train_split, shards=shards, part=part, show=show, told=told, **clips)


def _clips_of(plan: Recipe) -> dict[str, Any]:
    """Return what decides the clips of a recipe but for their split, as `load_split` takes it."""
    return {"dataset": plan.dataset, "features": plan.features, "keywords": plan.keywords}


def trained_models(
    plan: Recipe,
    build: Build,
    examples: LabelledFeatures,
    *,
    seed: int,
    start: tuple[PublishedLayer, ...] | None = None,
    watch: Watch = UNWATCHED,
) -> dict[str, Any]:
    """Train the float model and every variant; return Keras models by name ("float" first).

    Raises:
        UsageError: training diverged, or another worker has ended.
    """
    tf.config.experimental.enable_op_determinism()
    with ended_workers_named():
        float_model = train_float(plan, build, examples, seed=seed, start=start, watch=watch)
        models = {FLOAT: float_model}
        for variant in plan.variants:
            models[variant.name] = train_variant(plan, variant, build, float_model, examples, seed=seed, watch=watch)
    return models


def train_float(
    plan: Recipe,
    build: Build,
    examples: LabelledFeatures,
    *,
    seed: int,
    start: tuple[PublishedLayer, ...] | None = None,
    watch: Watch = UNWATCHED,
) -> Any:
    """Train the float model, from random weights or from published ones; after a few steps its norms are settled."""
    tf_keras.utils.set_random_seed(seed)
    model = build(FloatWeights())
    if start is not None:
        adopt_published(model, start, examples.features)
    synchronize_norms(model)
    stage = Stage(model, plan, examples, np.random.default_rng([seed, 0]), watch)
    stage.run(FLOAT, plan.float_phase, lambda: _settle_young(model, plan, examples, seed) if start is None else None)
    return model


def _settle_young(model: Any, plan: Recipe, examples: LabelledFeatures, seed: int) -> None:
    """Give batch norms that saw few steps the statistics of augmented clips, by draws of their own."""
    _, per_epoch = whole_batches(plan, examples)
    if are_young(model, plan.float_phase.epochs * per_epoch):
        rng = np.random.default_rng([seed, 2])
        clips = subset(examples, _drawn(examples, MOST_CLIPS, rng))
        settle_norms(model, augment(clips, plan.augmentation, rng)[0])


def train_variant(
    plan: Recipe,
    variant: Variant,
    build: Build,
    float_model: Any,
    examples: LabelledFeatures,
    *,
    seed: int,
    watch: Watch = UNWATCHED,
) -> Any:
    """Fine-tune one quantized model from the float one: weights first, then activations as well.

    Args:
        plan: recipe; its distillation is that of variants without their own.
        variant: what is trained.
        build: the architecture.
        float_model: trained; start and teacher.
        examples: training clips.
        seed: decides order and augmentation.
        watch: told about both stages.

    Returns:
        The Keras model, norms settled and biases on codes.
    """
    rng = np.random.default_rng([seed, 1])
    model = trained_stages(plan, variant, build, float_model, examples, rng, watch)
    settle(model, variant.norm_clips, examples, plan, rng)
    round_biases(model)
    return model


def trained_stages(
    plan: Recipe,
    variant: Variant,
    build: Build,
    float_model: Any,
    examples: LabelledFeatures,
    rng: np.random.Generator,
    watch: Watch = UNWATCHED,
) -> Any:
    """Return the model after both stages: norms as training left them, biases float.

    Arguments as in `train_variant`, but for a generator in place of its seed.
    """
    if variant.distillation is not None:
        plan = replace(plan, distillation=variant.distillation)
    model = build(variant.scheme)
    synchronize_norms(model)
    set_schemes(model, dict(variant.layers))
    use_ranges(model, variant.activation_ranges)
    adopt_weights(model, float_model)
    stage = Stage(model, plan, examples, rng, watch, teacher=float_model if plan.distillation.weight else None)
    stage.run(f"{variant.name}-stage1", variant.stage1)
    calibrate(model, sample(examples, plan.calibration_clips, rng), variant.activation_percentile)
    stage.run(f"{variant.name}-stage2", variant.stage2)
    return model


@dataclass(frozen=True, slots=True, eq=False)
class Stage:
    """A model with what all its stages share; see `fit` for the fields."""

    model: Any
    plan: Recipe
    examples: LabelledFeatures
    rng: np.random.Generator
    watch: Watch
    teacher: Any | None = None

    def run(self, name: str, phase: Phase, at_end: Callable[[], None] = lambda: None) -> None:
        """Train one stage, from its state on disk where there is one, do what is left to do, and tell the boundary."""
        fit(
            self.model,
            self.examples,
            phase,
            self.plan,
            self.rng,
            teacher=self.teacher,
            state=self.watch.state(name),
            observe=lambda epoch: self.watch.epoch(name, epoch),
            follow=lambda steps: self.watch.steps(name, steps),
        )
        at_end()
        self.watch.boundary(name, self.model)


def settle(model: Any, kind: NormClips, examples: LabelledFeatures, plan: Recipe, rng: np.random.Generator) -> None:
    """Give batch norms the statistics of clips of a kind.

    Args:
        model: has been trained.
        kind: of clips.
        examples: training clips.
        plan: its augmentation.
        rng: draws clips and augmentation.
    """
    if kind is not NormClips.AS_TRAINED:
        settle_norms(model, norm_features(kind, examples, plan, rng))


def norm_features(
    kind: NormClips, examples: LabelledFeatures, plan: Recipe, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Return features of all clips, or of MOST_CLIPS; where they are mixed, every second clip and as many augmented."""
    clips = subset(examples, _drawn(examples, MOST_CLIPS, rng))
    if kind is NormClips.CLEAN:
        return clips.features
    return np.concatenate([clips.features[::2], augment(clips, plan.augmentation, rng)[0][1::2]])


def sample(examples: LabelledFeatures, most: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Return features of so many clips, or all, of all classes: the clips are ordered by class."""
    return examples.features[_drawn(examples, most, rng)]


def _drawn(examples: LabelledFeatures, most: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Return which clips are among so many, or all."""
    count = min(most, len(examples.labels))
    chosen = np.zeros(len(examples.labels), dtype=bool)
    chosen[rng.choice(len(examples.labels), count, replace=False)] = True
    return chosen


def export_all(models: dict[str, Any], plan: Recipe, held_out: LabelledFeatures, out: Path) -> list[TrainedModel]:
    """Write an annotated ONNX file per model, then `metrics.json`, each of them whole.

    Args:
        models: Keras models by name.
        plan: names the files.
        held_out: clips that accuracy is measured on.
        out: folder.

    Raises:
        UsageError: a file cannot be written.
    """
    results = []
    for name, model in models.items():
        path = out / f"{plan.name}_{name}.onnx"
        classes, shape = class_names(plan.keywords), model.input_shape[1:]
        records = layer_records(model)
        with whole_file(path) as stream:
            stream.write(export_onnx(records, shape, name=path.stem, classes=classes, features=plan.features))
        results.append(TrainedModel(path.name, accuracy(path, held_out), len(held_out.labels)))
    facts = [asdict(result) for result in results]
    with whole_file(out / "metrics.json") as stream:
        stream.write((json.dumps(facts, indent=2) + "\n").encode())
    return results
