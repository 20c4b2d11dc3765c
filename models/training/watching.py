"""What a training run keeps and shows while it runs: states on disk, TensorBoard events, a metric at each boundary."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from kwsq.ir.errors import Problem, UsageError
from kwsq.models.data.clips import LabelledFeatures
from kwsq.models.data.whole_file import whole_file
from kwsq.models.progress import Count, Told, ignore_count
from kwsq.models.recipe import Recipe
from kwsq.models.schemes import NormClips
from kwsq.models.training.fitting import Epoch, Steps
from kwsq.models.training.run_facts import run_facts
from kwsq.models.training.state import TrainingState

BOUNDARY_CLIPS = 256
Show = Callable[[str], None]


def ignore_line(_: str) -> None:
    """Show nothing."""


class Watch(Protocol):
    """Told about every stage of a run."""

    def state(self, stage: str) -> TrainingState | None:
        """Return where the stage keeps its state, None for nowhere."""

    def steps(self, stage: str, steps: Steps) -> None:
        """Hear of the beginning of an epoch and of every step."""

    def epoch(self, stage: str, epoch: Epoch) -> None:
        """Hear of a finished epoch."""

    def boundary(self, stage: str, model: Any) -> None:
        """Hear of a finished stage."""


@dataclass(frozen=True, slots=True)
class Unwatched:
    """Keeps and shows nothing."""

    def state(self, stage: str) -> TrainingState | None:
        """Keep no state: a killed run starts again."""

    def steps(self, stage: str, steps: Steps) -> None:
        """Show nothing."""

    def epoch(self, stage: str, epoch: Epoch) -> None:
        """Show nothing."""

    def boundary(self, stage: str, model: Any) -> None:
        """Show nothing."""


UNWATCHED = Unwatched()


@dataclass(frozen=True, slots=True, eq=False)
class RunFolder:
    """Keeps everything in an output folder: `state/`, `tensorboard/`, and `stages.json` with each boundary's metric.

    Args:
        out: the folder.
        plan: the recipe; a state of another one is refused.
        seed: likewise.
        clips: digest of the training clips, likewise.
        held_out: clips that the metric is measured on, with the Keras model as it then computes.
        show: called with one line per epoch and boundary.
        told: called with the steps of each stage.
    """

    out: Path
    plan: Recipe
    seed: int
    clips: str
    held_out: LabelledFeatures
    show: Show
    told: Told = ignore_count
    _writers: dict[str, Any] = field(default_factory=dict)

    def state(self, stage: str) -> TrainingState:
        """Return where the stage keeps its state.

        Raises:
            UsageError: `stages.json` is damaged, which is better said before the stage is trained.
        """
        self._measured()
        facts = run_facts(self._deciding(stage), self.seed, self.clips, stage)
        return TrainingState(self.out / "state" / f"{stage}.npz", self._key(stage), facts=facts)

    def _deciding(self, stage: str) -> Recipe:
        """What of the recipe decides a stage: variants enter by their own stages only, so that one may be added.

        What comes after the last stage stays out, so that it may be changed.
        """
        own = tuple(
            replace(each, norm_clips=NormClips.MIXED)
            for each in self.plan.variants
            if stage in (f"{each.name}-stage1", f"{each.name}-stage2")
        )
        return replace(self.plan, variants=own)

    def _key(self, stage: str) -> str:
        plan = self._deciding(stage)
        schemes = [repr(variant.scheme) for variant in plan.variants]
        facts = [_stated(plan), schemes, self.seed, stage]
        recipe = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
        return f"{stage} of recipe and seed {recipe} on clips {self.clips}"

    def steps(self, stage: str, steps: Steps) -> None:
        """Tell how far the stage is."""
        loss = "" if steps.loss is None else f"  loss {steps.loss:.4f}"
        self.told(Count(stage, steps.done, steps.of, f"epoch {steps.epoch}/{steps.epochs}{loss}"))

    def epoch(self, stage: str, epoch: Epoch) -> None:
        """Show the epoch and write its loss for TensorBoard."""
        self.show(f"{stage}: epoch {epoch.done} of {epoch.of}, loss {epoch.loss:.4f}")
        self._scalar(stage, "loss", epoch.loss, epoch.done)

    def boundary(self, stage: str, model: Any) -> None:
        """Measure the accuracy and write it to `stages.json`."""
        features = self.held_out.features
        slices = (features[start : start + BOUNDARY_CLIPS] for start in range(0, len(features), BOUNDARY_CLIPS))
        predicted = np.concatenate([model(each, training=False).numpy().argmax(axis=1) for each in slices])
        accuracy = float(np.mean(predicted == self.held_out.labels))
        known = self._measured() | {stage: {"accuracy": accuracy, "clips": len(self.held_out.labels)}}
        with whole_file(self.out / "stages.json") as stream:
            stream.write((json.dumps(known, indent=2) + "\n").encode())
        self._scalar(stage, "accuracy", accuracy, 0)
        self.show(f"{stage}: done, accuracy {100 * accuracy:.2f} % of {len(self.held_out.labels)} clips")

    def _measured(self) -> dict[str, Any]:
        """Return what `stages.json` holds so far."""
        path = self.out / "stages.json"
        try:
            known = json.loads(path.read_bytes()) if path.exists() else {}
        except (ValueError, RecursionError):
            known = None
        if not isinstance(known, dict):
            remedy = "remove it: every stage of the recipe is measured again"
            raise UsageError(Problem(str(path), "a damaged file", "what kwsq train writes", remedy))
        return known

    def _scalar(self, stage: str, name: str, value: float, step: int) -> None:
        folder = self.out / "tensorboard" / stage
        try:
            if stage not in self._writers:
                self._writers[stage] = tf.summary.create_file_writer(str(folder))
            with self._writers[stage].as_default():
                # `tf.summary.scalar` needs the package tensorboard; the record it would write does not.
                tf.summary.write(name, np.float32(value), step=step, metadata=_scalar_metadata())
            self._writers[stage].flush()
        except tf.errors.OpError as error:
            found, remedy = (
                (error.message or type(error).__name__).rpartition("}} ")[2],
                "make room, or name another folder",
            )
            raise UsageError(Problem(str(folder), found, "a folder that can be written", remedy)) from error


def _stated(value: Any) -> Any:
    """Return a record with its type and without fields at their default: one added later leaves old states valid."""
    if is_dataclass(value):
        pairs = [(field.name, getattr(value, field.name), field.default) for field in fields(value)]
        return {"": type(value).__name__} | {name: _stated(found) for name, found, default in pairs if found != default}
    return [_stated(entry) for entry in value] if isinstance(value, tuple) else value


def _scalar_metadata() -> Any:
    plugin = tf.compat.v1.SummaryMetadata.PluginData(plugin_name="scalars")
    return tf.compat.v1.SummaryMetadata(plugin_data=plugin, data_class="DATA_CLASS_SCALAR")
