"""One phase of training: AdamW with cosine decay, fresh augmentation per epoch, an optional teacher, resumable.

With logits z, teacher logits u, temperature T and weight a:

  (1) loss = (1 - a) CE(label, z) + a T^2 KL(softmax(u / T) || softmax(z / T)) + what layers add

Twelve classes of about equal size weigh every clip alike. A task of keywords is mostly everything else; there both
means of (1) weigh a clip of class c, of which n_c of the N clips are, by

  (2) w_c = N / (C n_c)

which is the loss of a corpus with equally many clips of each of the C classes. Against weighing alike it adds a
constant to a keyword's log odds, which the detection threshold takes up, and keeps steps from being everything
else's alone. The weights come from the training clips only.

Everything random comes from one NumPy generator, which an epoch leaves in a place that only its beginning decides;
weights, optimizer slots and that generator are therefore the whole state, and an epoch begun again is the same epoch.

Source: (1) Hinton et al. 2015; (2) after King and Zeng 2001; the rest is common practice.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras
from numpy.typing import NDArray

from kwsq.ir.errors import Problem, UsageError
from kwsq.models.data.clips import Features, LabelledFeatures, Labels
from kwsq.models.data.epochs import epoch_batches
from kwsq.models.recipe import NO_DISTILLATION, Distillation, Phase, Recipe
from kwsq.models.training.distribution import own_share, replica_loss, spanning_step
from kwsq.models.training.state import TrainingState


@dataclass(slots=True)
class Epoch:
    """What an observer is told after each epoch: the epochs done in this phase, of how many, and the mean loss."""

    done: int
    of: int
    loss: float


@dataclass(frozen=True, slots=True)
class Steps:
    """How far a phase is within its epochs.

    Args:
        epoch: the one under way, from 1 on.
        epochs: of the phase.
        done: steps of the phase.
        of: steps that the phase has.
        loss: mean of the epoch so far; None before its first step.
    """

    epoch: int
    epochs: int
    done: int
    of: int
    loss: float | None = None


def ignore(_: Epoch | Steps) -> None:
    """Observe nothing."""


def fit(
    model: Any,
    examples: LabelledFeatures,
    phase: Phase,
    plan: Recipe,
    rng: np.random.Generator,
    *,
    teacher: Any | None = None,
    state: TrainingState | None = None,
    observe: Callable[[Epoch], None] = ignore,
    follow: Callable[[Steps], None] = ignore,
) -> None:
    """Train for one phase with cosine decay to zero; every epoch sees freshly augmented features.

    Args:
        model: Keras model that maps features to logits.
        examples: training clips.
        phase: epochs, learning rate and weight decay.
        plan: batch size, augmentation and distillation.
        rng: the only source of randomness: order and augmentation.
        teacher: trained model whose logits are followed; None where the recipe has no distillation.
        state: where the state of this phase is kept; training continues from what it holds.
        observe: called after each epoch.
        follow: called at the beginning of each epoch and after each step.

    Raises:
        UsageError: an epoch left a variable that is not finite; its state is not kept.
    """
    batch_size, steps = whole_batches(plan, examples)
    optimizer = _optimizer(model, phase, steps)
    weights = class_weights(examples.class_counts(1 + len(plan.keywords))) if plan.keywords else None
    distillation = plan.distillation if teacher is not None else NO_DISTILLATION
    step = training_step(model, optimizer, distillation, teacher, weights)
    done = 0
    share = own_share(batch_size)
    if state is not None:
        state.share()
        done = state.restore(model, optimizer, rng)
    for epoch in range(done, phase.epochs):
        batches = epoch_batches(examples, plan.augmentation, batch_size, rng, share)
        begin = Steps(epoch + 1, phase.epochs, epoch * steps, phase.epochs * steps)
        losses = _losses(step, batches, begin, follow)
        if not all(np.isfinite(values).all() for values in model.get_weights()):
            raise _diverged(epoch + 1, phase)
        if state is not None:
            state.save(model, optimizer, rng, epochs_done=epoch + 1, last=epoch + 1 == phase.epochs)
        observe(Epoch(epoch + 1, phase.epochs, float(np.mean(losses))))


def _losses(
    step: Any, batches: Iterable[tuple[Features, Labels]], begin: Steps, follow: Callable[[Steps], None]
) -> list[float]:
    """Train on the batches of an epoch; return the loss of each."""
    losses: list[float] = []
    total = 0.0
    follow(begin)
    for features, labels in batches:
        losses.append(float(step(features, labels)))
        total += losses[-1]
        follow(replace(begin, done=begin.done + len(losses), loss=total / len(losses)))
    return losses


def whole_batches(plan: Recipe, examples: LabelledFeatures) -> tuple[int, int]:
    """Return the clips of a step and the steps of an epoch.

    Whole batches only, so that one traced step serves all; the order is new in every epoch.
    """
    batch_size = min(plan.batch_size, examples.clips)
    return batch_size, examples.clips // batch_size


def _diverged(epoch: int, phase: Phase) -> UsageError:
    where = f"recipe: phase of {phase.epochs} epochs with learning rate {phase.learning_rate:g}"
    found, expected = f"variables that are not finite after epoch {epoch}", "finite ones"
    return UsageError(Problem(where, found, expected, "lower the phase's learning rate"))


def _optimizer(model: Any, phase: Phase, steps_per_epoch: int) -> Any:
    first = float(phase.learning_rate)  # a whole number would make the schedule one of integers
    rate = tf_keras.optimizers.schedules.CosineDecay(first, max(phase.epochs * steps_per_epoch, 1))
    optimizer = tf_keras.optimizers.AdamW(rate, weight_decay=phase.weight_decay)
    optimizer.build(model.trainable_variables)
    return optimizer


def class_weights(counts: NDArray[np.int64]) -> NDArray[np.float32]:
    """Equation (2).

    Args:
        counts: (C,) training clips of each class.

    Returns:
        (C,) float32; over the clips, their mean is 1.

    Raises:
        UsageError: a class has no clip.
    """
    if not counts.all():
        found, expected = f"no training clip of class {int(counts.argmin())}", "clips of every class"
        raise UsageError(Problem("recipe: keywords", found, expected, "name words that the training split holds"))
    return np.asarray(counts.sum() / (counts.size * counts), dtype=np.float32)


def training_step(
    model: Any,
    optimizer: Any,
    distillation: Distillation,
    teacher: Any | None,
    weights: NDArray[np.float32] | None = None,
) -> Any:
    """Return the traced step: (features, labels) of this worker to the loss of all, with one update of the model.

    Args:
        model: trained.
        optimizer: built on the model's trainable variables.
        distillation: weight and temperature of equation (1).
        teacher: gives the logits that are followed; not used where the weight is 0.
        weights: (C,) weight of each class, equation (2); None where all clips weigh alike.
    """

    @tf.function(reduce_retracing=True)
    def step(features: Any, labels: Any) -> Any:
        with tf.GradientTape() as tape:
            logits = model(features, training=True)
            loss = _loss(features, logits, labels, distillation, teacher, weights)
            if model.losses:
                loss += tf.add_n(model.losses)
            share = replica_loss(loss)
        variables = model.trainable_variables
        optimizer.apply_gradients(zip(tape.gradient(share, variables), variables, strict=True))
        return loss

    return spanning_step(step)


def _loss(
    features: Any,
    logits: Any,
    labels: Any,
    distillation: Distillation,
    teacher: Any | None,
    weights: NDArray[np.float32] | None,
) -> Any:
    """Equation (1) without what layers add."""
    truth = _mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits), labels, weights)
    if teacher is None or distillation.weight == 0.0:
        return truth
    heat = distillation.temperature
    target = tf.nn.softmax(tf.stop_gradient(teacher(features, training=False)) / heat)
    divergence = tf.nn.softmax_cross_entropy_with_logits(target, logits / heat) - _entropy(target)
    return (1.0 - distillation.weight) * truth + distillation.weight * heat**2 * _mean(divergence, labels, weights)


def _mean(losses: Any, labels: Any, weights: NDArray[np.float32] | None) -> Any:
    return tf.reduce_mean(losses if weights is None else losses * tf.gather(weights, labels))


def _entropy(target: Any) -> Any:
    return -tf.reduce_sum(tf.math.xlogy(target, target), axis=1)
