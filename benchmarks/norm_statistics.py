"""On which clips batch norms should take their statistics once training has ended: clean ones, augmented ones, or both.

kws_ff on the training speakers of the twelve-class task, a fifth of them set aside: accuracy on their 612 clips as they
are, and three times over, masked once and in noise at -3 to 9 dB. One seed, 100 float epochs, then 30 with a trained
step. No clip that scores a committed model is heard. About 8 CPU minutes.

Usage: python benchmarks/norm_statistics.py
"""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from schedule_trials import CACHE, DATA, ROOT, accuracy, in_noise

from kwsq.models.architectures import architecture
from kwsq.models.cli import prepare_tensorflow
from kwsq.models.data.augmentation import augment
from kwsq.models.data.clips import LabelledFeatures, load_split
from kwsq.models.data.folds import clip_groups, speaker_folds, subset
from kwsq.models.recipe import Phase, Variant, read_recipe
from kwsq.models.schemes import weight_scheme

FOLDS, HELD_OUT, SEED = 5, 0, 3
FLOAT_EPOCHS = 100
STAGES = (Phase(10, 5e-4, 0.0), Phase(20, 5e-4, 0.0))
WIDTHS = (4, 2)


def main() -> int:
    """Print one line per model and choice of clips: accuracy on the clips as they are, and in noise."""
    prepare_tensorflow(1)
    from kwsq.models.training.train import train_float, trained_stages  # TensorFlow, with its threads set

    plan = read_recipe(ROOT / "models" / "kws_ff" / "recipe.toml")
    plan = replace(plan, float_phase=replace(plan.float_phase, epochs=FLOAT_EPOCHS))
    clips = load_split(DATA, CACHE, dataset=plan.dataset, split=plan.train_split, features=plan.features)
    fold_of = speaker_folds(clip_groups(clips), FOLDS, 0)
    train, clean = (subset(clips, chosen) for chosen in (fold_of != HELD_OUT, fold_of == HELD_OUT))
    scored = (clean, in_noise(clean, plan.augmentation))
    augmented = augment(train, plan.augmentation, np.random.default_rng(SEED))[0]
    choices = {
        "clean": train.features,
        "both": np.concatenate([train.features[::2], augmented[1::2]]),
        "augmented": augmented,
    }
    build = architecture(plan.architecture)
    float_model = train_float(plan, build, train, seed=SEED)
    show("float", float_model, choices, scored)
    for bits in WIDTHS:
        variant = Variant(f"w{bits}", weight_scheme("learned_step", bits), 100.0, *STAGES)
        model = trained_stages(plan, variant, build, float_model, train, np.random.default_rng([SEED, 1]))
        show(f"{bits} bits", model, choices, scored)
    return 0


def show(
    name: str, model: Any, choices: dict[str, NDArray[np.float32]], scored: tuple[LabelledFeatures, LabelledFeatures]
) -> None:
    """Print a model's accuracies with each choice of statistics; it ends as it began."""
    from kwsq.models.layers.norm_statistics import settle_norms

    trained = model.get_weights()
    for choice, features in {"as trained": None, **choices}.items():
        model.set_weights(trained)
        if features is not None:
            settle_norms(model, features)
        found = [accuracy(model, clips) for clips in scored]
        print(f"{name:8} {choice:10} {found[0]:6.2f} %  in noise {found[1]:6.2f} %", flush=True)
    model.set_weights(trained)


if __name__ == "__main__":
    sys.exit(main())
