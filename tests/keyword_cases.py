"""Seeded synthetic keywords: twelve smooth spectral patterns with noise, shaped like the real features."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from kwsq.models.data.clips import LABELS, LabelledFeatures

FRAMES, BANDS = 98, 64
RECIPE = """
architecture = "kws_ff"
dataset = "own"
train_split = "train"
report_split = "val"
batch_size = 8
calibration_clips = 16
[float]
epochs = 1
learning_rate = 1e-3
weight_decay = 0.0
[augmentation]
max_shift_frames = 4
max_gain_db = 6.0
noise_share = 0.5
lowest_snr_db = 5.0
highest_snr_db = 30.0
time_mask_frames = 4
band_mask_bands = 4
masks = 1
"""
"""Of clips in a set named own: one epoch of the float network, and no variant."""
VARIANT = """
[[variant]]
name = "w4"
weights = "max_abs"
bits = 4
activation_percentile = 100.0
stage1 = { epochs = 1, learning_rate = 1e-3, weight_decay = 0.0 }
stage2 = { epochs = 1, learning_rate = 1e-3, weight_decay = 0.0 }
"""
"""Of a recipe: one epoch of each stage."""


def synthetic_keywords(clips: int, *, seed: int) -> LabelledFeatures:
    """Clips whose class decides two spectral ridges that drift over time."""
    rng = np.random.default_rng(seed)
    labels = np.arange(clips, dtype=np.int64) % len(LABELS)
    frame, band = np.mgrid[0:FRAMES, 0:BANDS].astype(np.float32)
    features = np.empty((clips, FRAMES, BANDS), dtype=np.float32)
    for clip, label in enumerate(labels):
        centre = 4.0 + 4.5 * label + 0.05 * rng.normal() * frame
        ridge = np.exp(-(((band - centre) / 3.0) ** 2)) + np.exp(-(((band - 60 + 4 * label) / 5.0) ** 2))
        features[clip] = 3.0 * ridge - 1.0 + 0.3 * rng.standard_normal((FRAMES, BANDS))
    return LabelledFeatures(features, labels, tuple(f"speaker{clip % 7}" for clip in range(clips)))


def remembered_bands(seed: int, frames: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Which of two bands carried the first of some frames, (256, frames, 2): only a state remembers."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, 256)
    features = rng.normal(0, 0.3, size=(256, frames, 2)).astype(np.float32)
    features[np.arange(256), 0, labels] += 2.0
    return features, labels


def noise_recordings(folder: Path, dataset: str, clips: Sequence[tuple[str, str]]) -> Path:
    """A data folder of one second of noise per label and split, each of a speaker of its own: `0.wav` of s0, ..."""
    rng, rows = np.random.default_rng(5), ["file,set,label12,speaker,split"]
    folder.mkdir(exist_ok=True)
    for number, (label, split) in enumerate(clips):
        soundfile.write(folder / f"{number}.wav", 0.1 * rng.standard_normal(16_000), 16_000)
        rows.append(f"{number}.wav,{dataset},{label},s{number},{split}")
    (folder / "manifest.csv").write_text("\n".join(rows), encoding="utf-8")
    return folder
