"""The committed synthetic features: both feature formats in one byte a value, with words, speakers and splits.

    real = low + step * code,    code uint8,    error at most step / 2

The step of the log-mel features, 1/8, is 2.2 dB of band energy; that of the cepstra is 1. CARD.md says how the
set was made.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kwsq.models.data.audio import CLIP_SAMPLES, read_clip
from kwsq.models.data.clips import SILENCE, LabelledFeatures, class_of, front_end, label_of
from kwsq.models.data.speech_commands import background_clips, read_recordings

WAKE_WORD = "computer"
SILENCE_WORD = "_silence_"
FILE = Path(__file__).with_name("keywords.npz")
LOW_AND_STEP = {"lfbe": (-1.5, 1 / 8), "mfcc": (-180.0, 1.0)}


def load_synthetic(split: str, *, features: str = "lfbe", keywords: tuple[str, ...] = ()) -> LabelledFeatures:
    """Return one split of the committed set; needs neither audio nor TensorFlow.

    Args:
        split: "train" or "val"; no speaker is in both.
        features: "lfbe" (98, 64) or "mfcc" (49, 10).
        keywords: of the task, such as WAKE_WORD; none for the twelve classes.

    Returns:
        The clips in the order of the file; of the twelve classes, wake word and other words are `_unknown_`.
    """
    with np.load(FILE) as stored:
        chosen = stored["split"] == split
        low, step = LOW_AND_STEP[features]
        values = (low + step * stored[features][chosen].astype(np.float64)).astype(np.float32)
        words = [str(word) for word in stored["word"][chosen]]
        labels = np.array([class_of(word, _label(word), keywords) for word in words], dtype=np.int64)
        noise = np.array([word == SILENCE_WORD for word in words])
        return LabelledFeatures(values, labels, tuple(str(speaker) for speaker in stored["speaker"][chosen]), noise)


def synthetic_words(split: str) -> tuple[str, ...]:
    """Return what is said in each clip of a split, in the order of `load_synthetic`; "computer" is the wake word."""
    with np.load(FILE) as stored:
        return tuple(str(word) for word in stored["word"][stored["split"] == split])


def _label(word: str) -> int:
    return SILENCE if word == SILENCE_WORD else label_of(word)


def store(path: Path, folder: Path) -> None:
    """Compute the features of a generated layout and write them; the same audio gives the same bytes.

    Args:
        path: .npz file to write.
        folder: what `kwsq.models.synthetic.generate` wrote.
    """
    words = read_recordings(folder)
    silence = [
        clip
        for split in ("train", "val")
        for clip in background_clips(folder, split, sum(word.split == split for word in words) // 12, CLIP_SAMPLES)
    ]
    clips = [*words, *silence]
    audio = [read_clip(folder / clip.file, clip.start_sample) for clip in clips]
    lfbe, mfcc = (to_codes(np.stack([front_end(name)[0](clip) for clip in audio]), name) for name in ("lfbe", "mfcc"))
    np.savez_compressed(
        path,
        word=np.array([clip.word or SILENCE_WORD for clip in clips]),
        speaker=np.array([clip.speaker for clip in clips]),
        split=np.array([clip.split for clip in clips]),
        lfbe=lfbe,
        mfcc=mfcc,
    )


def to_codes(values: NDArray[np.float32], features: str) -> NDArray[np.uint8]:
    """Round features to their byte codes, clipping at the ends."""
    low, step = LOW_AND_STEP[features]
    return np.asarray(np.clip(np.rint((values.astype(np.float64) - low) / step), 0, 255).astype(np.uint8))
