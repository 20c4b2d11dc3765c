"""Training schedules compared on a task that shares no word, speaker or spoken clip with the table's.

Twenty Arabic words of `arabic40` and noise, one speaker-disjoint fold of four held out, accuracy on its clips as they
are and three times over in noise at -3 to 9 dB, where models of few bits fall apart first. What the long rows of
models/kws_ff/table.toml were given was chosen here, so that nothing is tuned on the clips that score it. Finished
trials are kept in .cache and not run again; 30 epochs take 1.5 CPU minutes, 120 take 7, the float model before them 9.

Usage: python benchmarks/schedule_trials.py [TRIALS.toml]
"""

from __future__ import annotations

import csv
import json
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from kwsq.models.cli import prepare_tensorflow
from kwsq.models.data.augmentation import augment
from kwsq.models.data.clips import CLIP_SAMPLES, LabelledFeatures, front_end, read_clip
from kwsq.models.data.folds import clip_groups, speaker_folds, subset
from kwsq.models.table.protocol import FLOAT, Method, Protocol, read_protocol

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data"
TRIALS = Path(__file__).with_suffix(".toml")
CACHE = ROOT / ".cache" / "schedule_trials"
NOISE_CLIPS = 240
HELD_OUT, SEED, COPIES = 0, 0, 3
IN_NOISE: dict[str, Any] = {"noise_share": 1.0, "lowest_snr_db": -3.0, "highest_snr_db": 9.0, "masks": 1}


def load_task() -> LabelledFeatures:
    """Return the words, then as many clips of noise as one word has."""
    compute, _ = front_end("lfbe")
    with (DATA / "manifest.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    spoken = sorted((row for row in rows if row["set"] == "arabic40"), key=lambda row: row["file"])
    words = sorted({row["word"] for row in spoken})
    features = [compute(read_clip(DATA / row["file"])) for row in spoken]
    noise, rng = [DATA / row["file"] for row in rows if row["set"] == "noise"], np.random.default_rng(0)
    for clip in range(NOISE_CLIPS):
        file = noise[clip % len(noise)]
        start = int(rng.integers(0, max(1, soundfile.info(file).frames - CLIP_SAMPLES)))
        features.append(compute(read_clip(file, start)))
    labels = np.array([words.index(row["word"]) for row in spoken] + [len(words)] * NOISE_CLIPS, np.int64)
    speakers = (*(row["speaker"] for row in spoken), *(f"noise{clip}" for clip in range(NOISE_CLIPS)))
    return LabelledFeatures(np.stack(features), labels, speakers, labels == len(words))


def in_noise(clips: LabelledFeatures, protocol: Protocol) -> LabelledFeatures:
    """Return the clips again and again, shifted, louder or softer, and in noise."""
    settings = replace(protocol.recipe.augmentation, **IN_NOISE)
    drawn = [augment(clips, settings, np.random.default_rng([HELD_OUT, 9, copy])) for copy in range(COPIES)]
    features, labels = (np.concatenate(parts) for parts in zip(*drawn, strict=True))
    return LabelledFeatures(features, labels, ("",) * len(labels), labels == clips.labels.max())


def main(trials: Path) -> int:
    """Print one line per trial: accuracy on the clips, and in noise."""
    prepare_tensorflow(1)
    protocol, task = read_protocol(trials), load_task()
    fold_of = speaker_folds(clip_groups(task), protocol.folds, protocol.fold_seed)
    train, clean = (subset(task, chosen) for chosen in (fold_of != HELD_OUT, fold_of == HELD_OUT))
    print(f"{len(train.labels)} clips to train; {len(clean.labels)} of other speakers, and {COPIES} times in noise")
    scored = (clean, in_noise(clean, protocol))
    for row in protocol.rows():
        if row.fold == HELD_OUT and row.method != FLOAT:
            path = CACHE / f"{row.name}.json"
            if not path.exists():
                model = trained(protocol, protocol.method(row.method), row.bits, train)
                path.write_text(json.dumps([accuracy(model, clips) for clips in scored]), encoding="utf-8")
            found = json.loads(path.read_text(encoding="utf-8"))
            print(f"{row.method:28} {row.bits:2} bits  {found[0]:6.2f} %  in noise {found[1]:6.2f} %", flush=True)
    return 0


def trained(protocol: Protocol, method: Method, bits: int, clips: LabelledFeatures) -> Any:
    """Return the model of one trial, as the table would train it."""
    import tensorflow as tf
    import tf_keras

    from kwsq.models.schemes import FloatWeights
    from kwsq.models.table.row_training import continued
    from kwsq.models.training.state import write_arrays
    from kwsq.models.training.train import architecture, train_float, train_variant

    tf.config.experimental.enable_op_determinism()
    tf_keras.backend.clear_session()
    build = partial(architecture(protocol.recipe.architecture), classes=int(clips.labels.max()) + 1)
    weights = CACHE / "float.npz"
    if not weights.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        arrays = train_float(protocol.recipe, build, clips, seed=SEED).get_weights()
        write_arrays(weights, {f"w{i}": value for i, value in enumerate(arrays)})
    float_model, plan = build(FloatWeights()), protocol.plan(method)
    with np.load(weights) as arrays:
        float_model.set_weights([arrays[f"w{i}"] for i in range(len(float_model.weights))])
    if method.weights == "float":
        return continued(plan, method, float_model, build, clips, SEED)
    return train_variant(plan, method.variant(bits), build, float_model, clips, seed=SEED)


def accuracy(model: Any, clips: LabelledFeatures) -> float:
    """Return the share of clips named rightly, in percent."""
    logits = model.predict(clips.features, batch_size=512, verbose=0)
    return 100.0 * float((logits.argmax(axis=1) == clips.labels).mean())


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if sys.argv[1:] else TRIALS))
