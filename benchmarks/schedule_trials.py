"""Training schedules compared on a task that shares no word, speaker or spoken clip with the table's.

Twenty Arabic words of `arabic40` and noise, one speaker-disjoint fold of four held out, accuracy on its clips as they
are and three times over, masked once and in noise at -3 to 9 dB, where models of few bits fall apart first. Long rows
of models/kws_ff/table.toml, and later rates and penalties, follow what is seen here, so that nothing is tuned on the
clips that score it. Finished trials are kept in docs/schedule_trials.jsonl and not run again; 30 epochs take 1.5 CPU
minutes, 120 take 7, the float model before them 9. There is one seed: the standard error of 3,780 clips alone, 0.6
points at 85 %, is the least that two trials must differ by.

Usage: python benchmarks/schedule_trials.py [TRIALS.toml]
"""

from __future__ import annotations

import csv
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from kwsq.models.cli import prepare_tensorflow
from kwsq.models.data.audio import CLIP_SAMPLES, read_clip
from kwsq.models.data.augmentation import Augmentation, augment
from kwsq.models.data.clips import LabelledFeatures, front_end
from kwsq.models.data.folds import clip_groups, speaker_folds, subset
from kwsq.models.table.protocol import read_protocol

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data"
TRIALS = Path(__file__).with_suffix(".toml")
WEIGHTS = ROOT / ".cache" / "schedule_trials"
RESULTS = ROOT / "docs" / "schedule_trials.jsonl"
NOISE_CLIPS = 240
HELD_OUT, COPIES = 0, 3
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


def in_noise(clips: LabelledFeatures, plain: Augmentation) -> LabelledFeatures:
    """Return the clips several times: shifted, louder or softer, in noise and masked once."""
    settings = replace(plain, **IN_NOISE)
    drawn = [augment(clips, settings, np.random.default_rng([HELD_OUT, 9, copy])) for copy in range(COPIES)]
    features, labels = (np.concatenate(parts) for parts in zip(*drawn, strict=True))
    return LabelledFeatures(features, labels, ("",) * len(labels), labels == clips.labels.max())


def main(trials: Path) -> int:
    """Print one line per trial: accuracy on the clips, and in noise."""
    prepare_tensorflow(1)
    protocol, task = read_protocol(trials), load_task()
    from kwsq.models.table.row_training import trained_row  # TensorFlow, with its threads set

    WEIGHTS.mkdir(parents=True, exist_ok=True)
    fold_of = speaker_folds(clip_groups(task), protocol.folds, protocol.fold_seed)
    train, clean = (subset(task, chosen) for chosen in (fold_of != HELD_OUT, fold_of == HELD_OUT))
    print(f"{len(train.labels)} clips to train; {len(clean.labels)} of other speakers, and {COPIES} times in noise")
    scored, finished = (clean, in_noise(clean, protocol.recipe.augmentation)), finished_trials()
    for row in (row for row in protocol.rows() if row.fold == HELD_OUT):
        start = protocol.float_row(row)
        weights = WEIGHTS / f"{start.name}.npz"
        for missing in dict.fromkeys((start, row)) if row.name not in finished else ():
            if missing is row or not weights.exists():
                model = trained_row(protocol, missing, train, weights, classes=int(task.labels.max()) + 1)
                finished[missing.name] = [accuracy(model, clips) for clips in scored]
                keep(missing.name, finished[missing.name])
        found = finished[row.name]
        print(f"{row.method:28} {row.bits:2} bits  {found[0]:6.2f} %  in noise {found[1]:6.2f} %", flush=True)
    return 0


def finished_trials() -> dict[str, list[float]]:
    """Return accuracies, percent, on the clips and in noise, by the name of the row."""
    lines = RESULTS.read_text(encoding="utf-8").splitlines() if RESULTS.exists() else []
    return {entry["row"]: [entry["clips"], entry["in_noise"]] for entry in map(json.loads, lines)}


def keep(name: str, found: list[float]) -> None:
    """Append one finished trial."""
    entry = {"row": name, "clips": round(found[0], 2), "in_noise": round(found[1], 2)}
    with RESULTS.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(entry) + "\n")


def accuracy(model: Any, clips: LabelledFeatures) -> float:
    """Return the share of clips named rightly, in percent."""
    logits = model.predict(clips.features, batch_size=512, verbose=0)
    return 100.0 * float((logits.argmax(axis=1) == clips.labels).mean())


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if sys.argv[1:] else TRIALS))
