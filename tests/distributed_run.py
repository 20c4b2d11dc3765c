"""One worker of a small training run, as its own process: prints the loss of every epoch as JSON.

    python distributed_run.py PORTS INDEX [unsynchronized] [parameter_bits] [FOLDER.shards] [OUT/]

PORTS is a comma-separated list, one per worker; with one port there is no cluster. With `parameter_bits`, the bias and
the batch norm have few bits in the last steps, and activation ranges are learned, which no number of replicas changes.
With FOLDER.shards, the first steps, or all of `training_program`, read the rows of this worker from there.

With OUT, it is a worker of `training_program` instead: it trains in OUT/INDEX, keeps the state after each epoch of
stage 1 as OUT/INDEX/epochN, and prints a digest of the final weights, or why it refuses.
"""

import hashlib
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

PORTS, INDEX = sys.argv[1].split(","), int(sys.argv[2])
if len(PORTS) > 1:
    cluster = {"worker": [f"127.0.0.1:{port}" for port in PORTS]}
    os.environ["TF_CONFIG"] = json.dumps({"cluster": cluster, "task": {"type": "worker", "index": INDEX}})

import numpy as np  # noqa: E402
import tf_keras  # noqa: E402
import training_program  # noqa: E402
from keyword_cases import BANDS, FRAMES, synthetic_keywords  # noqa: E402

from kwsq.ir.errors import UsageError  # noqa: E402
from kwsq.models.data.augmentation import Augmentation  # noqa: E402
from kwsq.models.data.clips import Features, Labels  # noqa: E402
from kwsq.models.data.epochs import epoch_batches  # noqa: E402
from kwsq.models.data.record_shards import open_shards  # noqa: E402
from kwsq.models.data.share import Share  # noqa: E402
from kwsq.models.layers.calibration import calibrate  # noqa: E402
from kwsq.models.layers.over_time import MeanOverTime, QuantizedDense, SplicedDense, batch_norm  # noqa: E402
from kwsq.models.quantizers.activation import ActivationQuantizer, use_ranges  # noqa: E402
from kwsq.models.schemes import ActivationRanges, TwoStage  # noqa: E402
from kwsq.models.training.distribution import chosen_strategy, own_share, synchronize_norms  # noqa: E402
from kwsq.models.training.fitting import NO_DISTILLATION, training_step  # noqa: E402

STEPS, BATCH = 4, 24
FOLDERS = [Path(option) for option in sys.argv if option.endswith(".shards")]


def main() -> None:
    """Train four steps with quantized weights, then two with quantized activations as well."""
    examples = synthetic_keywords(STEPS * BATCH, seed=1)
    scheme = TwoStage(4, parameter_bits=8 if "parameter_bits" in sys.argv else 0)
    with chosen_strategy().scope():
        tf_keras.utils.set_random_seed(2)
        layers = [
            tf_keras.Input((FRAMES, BANDS)),
            ActivationQuantizer(name="features_quantizer"),
            SplicedDense(16, taps=5, stride=3, scheme=scheme, name="splice1"),
            batch_norm(scheme, "splice1_norm"),
            tf_keras.layers.ReLU(name="splice1_relu"),
            MeanOverTime(name="mean"),
            QuantizedDense(12, scheme=scheme, name="classifier"),
        ]
        model = tf_keras.Sequential(layers)
        if "unsynchronized" not in sys.argv:
            synchronize_norms(model)
        if "parameter_bits" in sys.argv:
            use_ranges(model, ActivationRanges.LEARNED)
        optimizer = tf_keras.optimizers.SGD(0.05)
        optimizer.build(model.trainable_variables)
        step = training_step(model, optimizer, NO_DISTILLATION, None)
        share = own_share(BATCH)
        own = [start + share.rows(BATCH) for start in range(0, STEPS * BATCH, BATCH)]
        batches = [(examples.features[rows], examples.labels[rows]) for rows in own]
        losses = [float(step(*batch)) for batch in streamed(share) or batches]
        calibrate(model, examples.features, 100.0)
        statistics = norm_statistics(model)
        ranged = [float(step(*batch)) for batch in batches[:2]]
        moved = norm_statistics(model) != statistics
    weights = float(sum(np.abs(array).sum() for array in model.get_weights()))
    sys.stdout.write(json.dumps({"losses": losses, "ranged": ranged, "weights": weights, "moved": moved}) + "\n")


def streamed(share: Share) -> list[tuple[Features, Labels]]:
    """Return this worker's rows of an epoch of the shards that the command line names, if it names any."""
    return [
        batch
        for folder in FOLDERS
        for batch in epoch_batches(open_shards(folder), Augmentation(), BATCH, np.random.default_rng(3), share)
    ]


def norm_statistics(model: Any) -> list[list[float]]:
    """Return mean and variance that the batch norm has kept so far."""
    norm = model.get_layer("splice1_norm")
    return [norm.moving_mean.numpy().tolist(), norm.moving_variance.numpy().tolist()]


def train_in(out: Path) -> None:
    """Train, or go on training, in a folder of this worker's own."""

    def keep(line: str) -> None:
        if line.startswith("w4-stage1: epoch "):
            shutil.copy(out / "state" / "w4-stage1.npz", out / f"epoch{line.split()[2]}")

    try:
        with chosen_strategy().scope():
            training_program.main(out, keep, clips=next((open_shards(folder, held=8) for folder in FOLDERS), None))
        result = {"weights": hashlib.sha256((out / "final.npz").read_bytes()).hexdigest()}
    except UsageError as error:
        result = {"refused": str(error)}
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    if sys.argv[-1].endswith("/"):
        train_in(Path(sys.argv[-1]) / sys.argv[2])
    else:
        main()
