"""One phase of training: the distillation loss is the stated one, and what layers add enters."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from keyword_cases import BANDS, FRAMES, synthetic_keywords

from kwsq.ir.errors import UsageError
from kwsq.models.data.augmentation import Augmentation
from kwsq.models.data.clips import LabelledFeatures
from kwsq.models.layers.over_time import QuantizedDense
from kwsq.models.recipe import Distillation, Phase, Recipe
from kwsq.models.schemes import Compressed, LloydMax, SoftToHard, WeightScheme
from kwsq.models.training.fitting import Epoch, Steps, fit, training_step
from kwsq.models.training.state import TrainingState

CLASSES = 12


class EndedError(Exception):
    """Ends a run after an epoch."""


def linear_model(seed: int, **options: Any) -> Any:
    rng = np.random.default_rng(seed)
    layers = [tf_keras.Input((FRAMES, BANDS)), tf_keras.layers.GlobalAveragePooling1D()]
    model = tf_keras.Sequential([*layers, tf_keras.layers.Dense(CLASSES, **options)])
    model.set_weights([rng.normal(size=array.shape).astype(np.float32) for array in model.get_weights()])
    return model


@pytest.mark.parametrize("rate", [0, 1])
def test_a_rate_may_be_a_whole_number(rate: int) -> None:
    clips, results = synthetic_keywords(16, seed=1), list[np.ndarray]()
    plan = Recipe("small", "synthetic", "train", "val", 16, 16, Phase(1, 1e-3, 0.0), Augmentation(), ())
    for each in (rate, float(rate)):
        model = linear_model(3)
        fit(model, clips, Phase(1, each, 0.0), plan, np.random.default_rng(0))
        results.append(model.get_weights()[0])
    np.testing.assert_array_equal(*results)


def frozen_step(model: Any, distillation: Distillation, teacher: Any) -> Any:
    """A step of rate 0: it gives the loss and changes nothing."""
    optimizer = tf_keras.optimizers.SGD(0.0)
    optimizer.build(model.trainable_variables)
    return training_step(model, optimizer, distillation, teacher)


def softmax(logits: np.ndarray) -> np.ndarray:
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


def stated_loss(student: np.ndarray, teacher: np.ndarray, labels: np.ndarray, weight: float, heat: float) -> float:
    """Equation (1) of the module in float64."""
    truth = -np.log(softmax(student)[np.arange(labels.size), labels]).mean()
    target, soft = softmax(teacher / heat), softmax(student / heat)
    divergence = (target * (np.log(target) - np.log(soft))).sum(axis=1).mean()
    return float((1 - weight) * truth + weight * heat**2 * divergence)


@pytest.mark.parametrize(("weight", "heat"), [(0.0, 2.0), (0.5, 1.0), (0.7, 3.0), (1.0, 4.0)])
def test_the_loss_is_the_stated_one(weight: float, heat: float) -> None:
    examples, student, teacher = synthetic_keywords(48, seed=1), linear_model(1), linear_model(2)
    step = frozen_step(student, Distillation(weight, heat), teacher)
    logits = [model(examples.features).numpy().astype(np.float64) for model in (student, teacher)]
    expected = stated_loss(*logits, examples.labels, weight, heat)
    # float32 sums of 48 x 12 terms of a few units each: 1e-5 relative is a hundred roundings.
    assert float(step(examples.features, examples.labels)) == pytest.approx(expected, rel=1e-5)


def test_a_student_equal_to_its_teacher_has_nothing_to_learn_from_it() -> None:
    examples, model = synthetic_keywords(24, seed=1), linear_model(3)
    loss = float(frozen_step(model, Distillation(1.0, 2.0), model)(examples.features, examples.labels))
    # KL is the difference of two sums of about 2.5: a few float32 roundings, times T^2 = 4.
    assert abs(loss) < 4 * 2.5 * 8 * np.finfo(np.float32).eps


def test_the_teacher_is_not_trained_and_the_student_is() -> None:
    examples, student, teacher = synthetic_keywords(24, seed=1), linear_model(1), linear_model(2)
    before = [np.array(array) for model in (student, teacher) for array in model.get_weights()]
    optimizer = tf_keras.optimizers.SGD(0.1)
    optimizer.build(student.trainable_variables)
    training_step(student, optimizer, Distillation(0.5, 2.0), teacher)(examples.features, examples.labels)
    after = [np.array(array) for model in (student, teacher) for array in model.get_weights()]
    assert [np.array_equal(old, new) for old, new in zip(before, after, strict=True)] == [False, False, True, True]


def test_what_layers_add_is_part_of_the_loss() -> None:
    examples = synthetic_keywords(24, seed=1)
    plain, regularized = linear_model(1), linear_model(1, kernel_regularizer=tf_keras.regularizers.L2(0.01))
    none = Distillation(0.0, 1.0)
    losses = [float(frozen_step(m, none, None)(examples.features, examples.labels)) for m in (plain, regularized)]
    added = 0.01 * float(tf.reduce_sum(regularized.layers[-1].kernel ** 2))
    assert losses[1] - losses[0] == pytest.approx(added, rel=1e-4)


@pytest.mark.parametrize(("weight", "temperature"), [(-0.1, 1.0), (1.1, 1.0), (0.5, 0.0)])
def test_distillation_without_meaning_is_refused(weight: float, temperature: float) -> None:
    with pytest.raises(UsageError, match=r"weight: found|temperature: found"):
        Distillation(weight, temperature)


def test_every_epoch_is_observed() -> None:
    plan = Recipe("small", "synthetic", "train", "val", 16, 16, Phase(3, 1e-3, 0.0), Augmentation(), ())
    seen: list[Epoch] = []
    fit(
        linear_model(1), synthetic_keywords(40, seed=1), plan.float_phase, plan, np.random.default_rng(0),
        observe=seen.append,
    )  # fmt: skip
    assert [(epoch.done, epoch.of) for epoch in seen] == [(1, 3), (2, 3), (3, 3)]
    assert all(np.isfinite(epoch.loss) for epoch in seen)


def test_every_step_is_followed_and_counted_on_where_a_run_goes_on(tmp_path: Path) -> None:
    plan = Recipe("small", "synthetic", "train", "val", 16, 16, Phase(3, 1e-3, 0.0), Augmentation(), ())
    state, seen, epochs = TrainingState(tmp_path / "state.npz", "float"), list[Steps](), list[Epoch]()

    def end_after_the_first(epoch: Epoch) -> None:
        epochs.append(epoch)
        if epoch.done == 1:
            raise EndedError

    def train(observe: Callable[[Epoch], None]) -> None:
        rng, examples = np.random.default_rng(0), synthetic_keywords(40, seed=1)
        fit(linear_model(1), examples, plan.float_phase, plan, rng, state=state, observe=observe, follow=seen.append)

    with pytest.raises(EndedError):
        train(end_after_the_first)
    first = len(seen)
    train(epochs.append)
    places = [(1, 0), (1, 1), (1, 2), (2, 2), (2, 3), (2, 4), (3, 4), (3, 5), (3, 6)]
    assert [(steps.epoch, steps.done) for steps in seen] == places
    assert {(steps.epochs, steps.of) for steps in seen} == {(3, 6)}
    assert first == 3
    assert [steps.loss for steps in seen[::3]] == [None] * 3
    assert [steps.loss for steps in seen[2::3]] == pytest.approx([epoch.loss for epoch in epochs])


@pytest.mark.parametrize("rate", [float("inf"), 1e38])
def test_training_that_diverges_says_so_and_keeps_nothing(rate: float, tmp_path: Path) -> None:
    phase, shown = Phase(3, rate, 0.0), list[Epoch]()
    plan = Recipe("small", "synthetic", "train", "val", 16, 16, phase, Augmentation(), ())
    state, rng = TrainingState(tmp_path / "state.npz", "float"), np.random.default_rng(0)
    with pytest.raises(UsageError, match=r"phase of 3 epochs .* not finite after epoch 1"):
        fit(linear_model(5), synthetic_keywords(48, seed=1), phase, plan, rng, state=state, observe=shown.append)
    assert shown == []
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("scheme", [LloydMax(3), Compressed(3, snap_steps=1), SoftToHard(3)], ids=str)
def test_weights_on_codebooks_that_diverge_say_so_too(scheme: WeightScheme) -> None:
    phase = Phase(3, float("inf"), 0.0)
    plan = Recipe("small", "synthetic", "train", "val", 16, 16, phase, Augmentation(), ())
    dense = QuantizedDense(5, scheme=scheme)
    model = tf_keras.Sequential([tf_keras.Input((FRAMES, BANDS)), tf_keras.layers.Flatten(), dense])
    dense.adopt(np.random.default_rng(1).normal(0, 0.01, (FRAMES * BANDS, 5)).astype(np.float32))
    with pytest.raises(UsageError, match="not finite after epoch 1"):
        fit(model, labelled_below(5), phase, plan, np.random.default_rng(0))


def labelled_below(classes: int) -> LabelledFeatures:
    clips = synthetic_keywords(48, seed=1)
    return replace(clips, labels=clips.labels % classes)
