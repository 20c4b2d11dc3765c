"""CPU time of a training step with quantized weights and activations against a float step, one thread.

All methods on kws_ff, fixed point on kws_cnn as well, whose float steps are cheaper for their many outputs.

Steps of all methods are taken in turn, so that what else the machine does falls on all alike; the median counts.

    python benchmarks/qat_step.py
"""

import os
import statistics
import sys
import time
from collections.abc import Callable

os.environ.update(TF_CPP_MIN_LOG_LEVEL="3", TF_NUM_INTRAOP_THREADS="1", TF_NUM_INTEROP_THREADS="1")

import numpy as np
import tensorflow as tf
import tf_keras

from kwsq.models.architectures import Build, architecture
from kwsq.models.layers.calibration import calibrate
from kwsq.models.layers.sequential import adopt_weights
from kwsq.models.recipe import NO_DISTILLATION
from kwsq.models.schemes import FloatWeights, WeightScheme, weight_scheme
from kwsq.models.training.fitting import training_step

MOST_RATIO = 1.5
BATCH, FRAMES, BANDS, CLASSES = 64, 98, 64, 12
WARM_UP, ROUNDS = 4, 40
METHODS = {
    "max_abs w4": weight_scheme("max_abs", 4),
    "two_stage w4": weight_scheme("two_stage", 4),
    "two_stage w1": weight_scheme("two_stage", 1),
    "two_stage w4, ACosR": weight_scheme("two_stage", 4, cosine=1e-4),
    "learned_step w4": weight_scheme("learned_step", 4),
    "lloyd_max w4": weight_scheme("lloyd_max", 4),
    "s8bqat w4": weight_scheme("s8bqat", 4),
    "two_stage w4, all": weight_scheme("two_stage", 4, parameter_bits=8, power_of_two=True),
    "fxp w4": weight_scheme("fxp", 4),
    "fxp w8": weight_scheme("fxp", 8),
    "gq w4, soft": weight_scheme("gq", 4),
    "gq w4, hard": weight_scheme("gq", 4, anneal_steps=1),
}
NETWORKS = {"kws_ff": tuple(METHODS), "kws_cnn": ("two_stage w4", "fxp w4", "fxp w8")}


def main() -> int:
    """Print a line per method; 1 where one is slower than it may be."""
    tf.config.experimental.enable_op_determinism()
    rng = np.random.default_rng(0)
    features = rng.normal(size=(BATCH, FRAMES, BANDS)).astype(np.float32)
    labels = rng.integers(0, CLASSES, BATCH)
    worst = max(worst_ratio(network, methods, features, labels) for network, methods in NETWORKS.items())
    print(f"worst ratio {worst:.2f}, at most {MOST_RATIO}")
    return int(worst > MOST_RATIO)


def worst_ratio(network: str, methods: tuple[str, ...], features: np.ndarray, labels: np.ndarray) -> float:
    """Print a line per method of a network; return the largest ratio."""
    build = architecture(network)
    float_model = build(FloatWeights())
    steps = {"float": step_of(float_model)}
    steps |= {name: step_of(quantized(build, METHODS[name], float_model, features)) for name in methods}
    seconds = measured(steps, features, labels)
    print(f"{network}, float step {1e3 * seconds['float']:.1f} ms")
    for name in methods:
        print(f"{name:<22}{1e3 * seconds[name]:6.1f} ms, {seconds[name] / seconds['float']:.2f} of a float step")
    return max(seconds[name] for name in methods) / seconds["float"]


def quantized(build: Build, scheme: WeightScheme, float_model: object, features: np.ndarray) -> object:
    """A model in stage 2: weights and activations quantized."""
    model = build(scheme)
    adopt_weights(model, float_model)
    calibrate(model, features, 100.0)
    return model


def step_of(model: object) -> Callable[[np.ndarray, np.ndarray], object]:
    """The traced training step of a model with its own optimizer."""
    optimizer = tf_keras.optimizers.AdamW(1e-3)
    optimizer.build(model.trainable_variables)
    return training_step(model, optimizer, NO_DISTILLATION, None)


def measured(
    steps: dict[str, Callable[[np.ndarray, np.ndarray], object]], features: np.ndarray, labels: np.ndarray
) -> dict[str, float]:
    """Median CPU seconds of each kind of step, taken in turn."""
    found: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(WARM_UP + ROUNDS):
        for name, step in steps.items():
            start = time.process_time()
            step(features, labels)
            if number >= WARM_UP:
                found[name].append(time.process_time() - start)
    return {name: statistics.median(values) for name, values in found.items()}


if __name__ == "__main__":
    sys.exit(main())
