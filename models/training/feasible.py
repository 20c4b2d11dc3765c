"""What a recipe needs of its data and its architecture, checked before the hours of the float phase."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from kwsq.ir.errors import Problem, UsageError
from kwsq.models.allowed import require_none, within
from kwsq.models.architectures import Build
from kwsq.models.data.clips import LabelledFeatures, class_names
from kwsq.models.layers.sequential import set_schemes
from kwsq.models.recipe import Recipe
from kwsq.models.schemes import FloatWeights, schedules
from kwsq.models.training.fitting import whole_batches


def require_feasible(plan: Recipe, build: Build, examples: LabelledFeatures) -> None:
    """Refuse a recipe that its data or its architecture would stop on the way.

    Args:
        plan: the recipe.
        build: its architecture.
        examples: training clips.

    Raises:
        UsageError: a report split that is trained on, classes without a clip, noise to add and no clip of it, features
            that the network does not take, masks longer than these, or a variant that cannot be built or whose schedule
            does not end; all of it at once.
    """
    # Keras counts the names it gives, and the seeds, per thread: those of the models that are trained stay as they are.
    with ThreadPoolExecutor(max_workers=1) as apart:
        unbuilt = apart.submit(lambda: [*_features(plan, build(FloatWeights()), examples), *_unbuilt(plan, build)])
        split = [*_splits(plan), *_classes(plan, examples), *_noise(plan, examples)]
        problems = [*split, *_masks(plan, examples), *_unfinished(plan, examples), *unbuilt.result()]
    require_none(problems)


def _splits(plan: Recipe) -> Iterator[Problem]:
    """Accuracy on the clips that trained says nothing of others, and no report would tell the two apart."""
    if plan.report_split == plan.train_split:
        found, expected = f"{plan.report_split!r}, the train split", "clips that are not trained on"
        yield Problem("recipe: report_split", found, expected, "name a split of other speakers")


def _classes(plan: Recipe, examples: LabelledFeatures) -> Iterator[Problem]:
    names = class_names(plan.keywords)
    clips = examples.class_counts(len(names))
    if missing := [name for name, count in zip(names, clips, strict=True) if not count]:
        where = f"recipe: train_split {plan.train_split!r} of {plan.dataset!r}"
        remedy = "bring clips of them" if plan.keywords else "bring clips of them, or name the words as keywords"
        yield Problem(where, f"no clip of {', '.join(missing)}", f"clips of all {len(names)} classes", remedy)


def _noise(plan: Recipe, examples: LabelledFeatures) -> Iterator[Problem]:
    """Other clips cannot stand in: what says the keyword, mixed into what does not, would be trained as none."""
    if plan.augmentation.noise_share > 0 and not examples.is_noise.any():
        where, found = "recipe: augmentation.noise_share", f"{plan.augmentation.noise_share:g}, and no clip of noise"
        expected = f"clips labelled _noise_ in train_split {plan.train_split!r}, or 0"
        yield Problem(where, found, expected, "bring recordings of background noise, or add none")


def _features(plan: Recipe, model: Any, examples: LabelledFeatures) -> Iterator[Problem]:
    found, taken = examples.features.shape[1:], tuple(model.input_shape[1:])
    if found != taken:
        expected = f"features of shape {taken}, which {plan.architecture} takes"
        yield Problem("recipe: features", f"{plan.features!r}, of shape {found}", expected, "name other features")


def _masks(plan: Recipe, examples: LabelledFeatures) -> Iterator[Problem]:
    """Masks that have no place in the features; where there are none, their length does not matter."""
    settings = plan.augmentation
    _, frames, bands = examples.features.shape
    for name, most in (("time_mask_frames", frames), ("band_mask_bands", bands)):
        longest = getattr(settings, name)
        if settings.masks and longest > most:
            yield Problem(f"recipe: augmentation.{name}", str(longest), f"at most {most}, all there are", "shorten it")


def _unbuilt(plan: Recipe, build: Build) -> Iterator[Problem]:
    for variant in plan.variants:
        try:
            with within(f"recipe: variant {variant.name}."):
                set_schemes(build(variant.scheme), dict(variant.layers))
        except UsageError as error:
            yield from error.problems


def _unfinished(plan: Recipe, examples: LabelledFeatures) -> Iterator[Problem]:
    """Schedules that count steps, both stages in one, and would be cut: another model than was trained is exported."""
    _, per_epoch = whole_batches(plan, examples)
    for variant in plan.variants:
        epochs = variant.stage1.epochs + variant.stage2.epochs
        steps = epochs * per_epoch
        for option, needed in schedules(variant.scheme).items():
            if needed > steps:
                where, found = f"recipe: variant {variant.name}.options.{option}", f"{needed} of {steps} steps"
                expected = f"at most the {steps} of {epochs} epochs with {per_epoch} each"
                yield Problem(where, found, expected, f"train for more epochs, or state a smaller {option}")
