"""One row of the table as a trained Keras model."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras

from kwsq.models.architectures import Build, architecture
from kwsq.models.data.clips import LABELS, LabelledFeatures
from kwsq.models.recipe import Recipe
from kwsq.models.schemes import FloatWeights
from kwsq.models.table.protocol import CONTROL, FLOAT, Method, Protocol, Row
from kwsq.models.table.rows import file_digest
from kwsq.models.training.fitting import fit
from kwsq.models.training.published_weights import PublishedLayer
from kwsq.models.training.state import TrainingState, write_arrays
from kwsq.models.training.train import settle, train_float, train_variant
from kwsq.models.training.watching import Unwatched


def trained_row(
    protocol: Protocol,
    row: Row,
    examples: LabelledFeatures,
    float_weights: Path,
    start: tuple[PublishedLayer, ...] | None = None,
    classes: int = len(LABELS),
) -> Any:
    """Train the model of a row on the clips of all folds but its own.

    Args:
        protocol: methods and recipe.
        row: which model.
        examples: the clips to train on.
        float_weights: cache of the float model; written by its own row, read by every other. Beside it, controls keep
            the end of their training.
        start: what the float model begins from, None for random weights.
        classes: of the task.

    Returns:
        The Keras model.
    """
    tf_keras.backend.clear_session()
    tf.config.experimental.enable_op_determinism()
    seed, method = _seed(row), protocol.method(row.method)
    build, plan = architecture(protocol.recipe.architecture, classes), protocol.plan(method)
    if method.name == FLOAT:
        # The longest row by far: it alone keeps its state on the way.
        state = TrainingState(float_weights.with_suffix(".state.npz"), row.name, every_epochs=10)
        model = train_float(plan, build, examples, seed=seed, start=start, watch=KeepState(state))
        write_arrays(float_weights, {f"w{i}": value for i, value in enumerate(model.get_weights())})
        return model
    float_model = _cached_float(build, float_weights)
    if method.weights == "float":
        kept = _kept(float_weights, protocol.training_key(row), method)
        return _continued(plan, method, float_model, build, examples, seed, kept)
    return train_variant(plan, method.variant(row.bits), build, float_model, examples, seed=seed)


@dataclass(frozen=True, slots=True)
class KeepState(Unwatched):
    """Keeps the state of the only stage there is, and shows nothing."""

    kept: TrainingState

    def state(self, stage: str) -> TrainingState:
        """Return where the state is kept."""
        return self.kept


def _seed(row: Row) -> int:
    """Every fold has seeds of its own, the same for all methods."""
    return row.seed * 100 + row.fold


def _cached_float(build: Build, path: Path) -> Any:
    model = build(FloatWeights())
    with np.load(path) as arrays:
        model.set_weights([arrays[f"w{i}"] for i in range(len(model.weights))])
    return model


def _kept(float_weights: Path, training_key: str, method: Method) -> TrainingState:
    """Return where controls of one training keep its end: valid for the float weights it went on from."""
    digest = file_digest(float_weights)
    path = float_weights.with_name(f"{CONTROL}-{training_key}-{digest}.npz")
    return TrainingState(path, path.stem, every_epochs=method.stage2.epochs)


def _continued(
    plan: Recipe, method: Method, teacher: Any, build: Build, examples: LabelledFeatures, seed: int, kept: TrainingState
) -> Any:
    """Train the float model on: what the same epochs, data and teacher give without quantization.

    Controls that differ only in the statistics their batch norms take train once: the second finds the end of stage 2.
    """
    model = build(FloatWeights())
    model.set_weights(teacher.get_weights())
    rng = np.random.default_rng([seed, 1])
    followed = teacher if plan.distillation.weight else None
    if not kept.path.exists():
        fit(model, examples, method.stage1, plan, rng, teacher=followed)
    fit(model, examples, method.stage2, plan, rng, teacher=followed, state=kept)
    settle(model, method.norm_clips, examples, plan, rng)
    return model
