"""A small training run as a program of its own, so that it can be killed: `python training_program.py OUT`.

It trains float, then both stages of one quantized model with a teacher, in a run folder, and writes the weights of
both to `OUT/final.npz`. The network holds batch norms and moving activation ranges, the optimizer AdamW's slots.
"""

import sys
from pathlib import Path
from typing import Any

import tf_keras
from keyword_cases import BANDS, FRAMES, synthetic_keywords

from kwsq.models.data.augmentation import Augmentation
from kwsq.models.data.clips import LABELS, LabelledFeatures
from kwsq.models.layers.over_time import MeanOverTime, QuantizedDense, SplicedDense
from kwsq.models.quantizers.activation import ActivationQuantizer
from kwsq.models.recipe import Distillation, Phase, Recipe, Variant
from kwsq.models.schemes import TwoStage, WeightScheme
from kwsq.models.training.state import write_arrays
from kwsq.models.training.train import trained_models
from kwsq.models.training.watching import RunFolder, Show

SEED = 5
PLAN = Recipe(
    architecture="small",
    dataset="synthetic",
    train_split="train",
    report_split="val",
    batch_size=16,
    calibration_clips=32,
    float_phase=Phase(epochs=4, learning_rate=5e-3, weight_decay=1e-4),
    augmentation=Augmentation(max_shift_frames=4, time_mask_frames=4, band_mask_bands=2),
    distillation=Distillation(weight=0.5, temperature=2.0),
    variants=(Variant("w4", TwoStage(4), 100.0, Phase(3, 2e-3, 0.0), Phase(3, 1e-3, 0.0)),),
)


def build(scheme: WeightScheme) -> Any:
    """A network with every kind of state a stage has to restore."""
    return tf_keras.Sequential(
        [
            tf_keras.Input((FRAMES, BANDS)),
            ActivationQuantizer(name="features_quantizer"),
            SplicedDense(8, taps=5, stride=6, scheme=scheme, name="splice1"),
            tf_keras.layers.BatchNormalization(name="splice1_norm"),
            tf_keras.layers.ReLU(name="splice1_relu"),
            ActivationQuantizer(name="splice1_quantizer"),
            MeanOverTime(name="mean"),
            QuantizedDense(len(LABELS), scheme=scheme, name="classifier"),
            ActivationQuantizer(name="logits_quantizer"),
        ]
    )


def show(line: str) -> None:
    """Tell the parent process where training is."""
    print(line, flush=True)


def main(out: Path, show: Show = show, clips: LabelledFeatures | None = None) -> None:
    """Train, or go on training."""
    examples = clips or synthetic_keywords(96, seed=1)
    watch = RunFolder(out, PLAN, SEED, examples.digest, synthetic_keywords(24, seed=2), show)
    models = trained_models(PLAN, build, examples, seed=SEED, watch=watch)
    weights = {f"{name}{i}": array for name, model in models.items() for i, array in enumerate(model.get_weights())}
    write_arrays(out / "final.npz", weights)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
