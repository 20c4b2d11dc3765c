"""On which clips batch norms should take their statistics once training has ended: clean ones, augmented ones, or both.

kws_ff on the training speakers of the twelve-class task, a fifth of them set aside: accuracy on their 612 clips as they
are, and three times over, masked once and in noise at -3 to 9 dB; again with another fifth and another seed. 100 float
epochs, then 10 more with float weights or a trained step, and 20 with int8 activations. No clip that scores a committed
model is heard. About 20 CPU minutes.

Usage: python benchmarks/norm_statistics.py
"""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import numpy as np
from schedule_trials import CACHE, DATA, ROOT, accuracy, in_noise

from kwsq.models.architectures import architecture
from kwsq.models.cli import prepare_tensorflow
from kwsq.models.data.clips import LabelledFeatures, load_split
from kwsq.models.data.folds import clip_groups, speaker_folds, subset
from kwsq.models.recipe import Phase, Recipe, Variant, read_recipe
from kwsq.models.schemes import FloatWeights, NormClips, weight_scheme

FOLDS = 5
HELD_OUT_AND_SEED = ((0, 3), (1, 4))
FLOAT_EPOCHS = 100
STAGES = (Phase(10, 5e-4, 0.0), Phase(20, 5e-4, 0.0))
SCHEMES = {
    "float weights": FloatWeights(),
    "4 bits": weight_scheme("learned_step", 4),
    "2 bits": weight_scheme("learned_step", 2),
    "1 bit": weight_scheme("learned_step", 1),
}


def main() -> int:
    """Print one line per model and choice of clips: accuracy on the clips as they are, and in noise."""
    prepare_tensorflow(1)
    from kwsq.models.training.train import train_float, trained_stages  # TensorFlow, with its threads set

    plan = read_recipe(ROOT / "models" / "kws_ff" / "recipe.toml")
    plan = replace(plan, float_phase=replace(plan.float_phase, epochs=FLOAT_EPOCHS))
    clips = load_split(DATA, CACHE, dataset=plan.dataset, split=plan.train_split, features=plan.features)
    fold_of = speaker_folds(clip_groups(clips), FOLDS, 0)
    build = architecture(plan.architecture)
    for held_out, seed in HELD_OUT_AND_SEED:
        train, clean = (subset(clips, chosen) for chosen in (fold_of != held_out, fold_of == held_out))
        scored = (clean, in_noise(clean, plan.augmentation))
        float_model = train_float(plan, build, train, seed=seed)
        for name, scheme in SCHEMES.items():
            variant = Variant(name, scheme, 100.0, *STAGES)
            model = trained_stages(plan, variant, build, float_model, train, np.random.default_rng([seed, 1]))
            show(f"fold {held_out}, {name}", model, plan, train, scored)
    return 0


def show(
    name: str, model: Any, plan: Recipe, train: LabelledFeatures, scored: tuple[LabelledFeatures, LabelledFeatures]
) -> None:
    """Print a model's accuracies with each choice of statistics."""
    from kwsq.models.training.train import settle

    trained = model.get_weights()
    for kind in NormClips:
        model.set_weights(trained)
        settle(model, kind, train, plan, np.random.default_rng(0))
        found = [accuracy(model, clips) for clips in scored]
        print(f"{name:22} {kind:10} {found[0]:6.2f} %  in noise {found[1]:6.2f} %", flush=True)


if __name__ == "__main__":
    sys.exit(main())
