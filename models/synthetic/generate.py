"""Speak the synthetic set with espeak-ng and write it in the Speech Commands layout.

    python -m kwsq.models.synthetic.generate DIR [--features FILE.npz]

A speaker is a voice with its own accent, pitch and speed. Every speaker says the ten words, one other word and the
wake word once, at its own place in the second, over faint noise; background files are coloured noise and hum.
The voices that validate say nothing that trains. With `--features` the clips are also stored as the compact
features that `kwsq.models.synthetic.dataset` reads.
"""

import argparse
import subprocess
import wave
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kwsq.models.data.audio import CLIP_SAMPLES
from kwsq.models.data.clips import LABELS
from kwsq.models.data.features import SAMPLE_RATE_HZ
from kwsq.models.synthetic.dataset import WAKE_WORD, store

WORDS = tuple(word for word in LABELS if not word.startswith("_"))
OTHER_WORDS = ("bed", "house", "marvin", "seven", "tree", "wow", "happy", "bird")
NOISE_SECONDS = 40
FAINT = 0.0003


@dataclass(frozen=True, slots=True)
class Voice:
    """One speaker: espeak-ng voice with variant, pitch 0..99 and speed in words per minute."""

    name: str
    pitch: int
    speed_wpm: int

    @property
    def speaker(self) -> str:
        """Name of the speaker in file names."""
        return f"{self.name.replace('+', '-')}-p{self.pitch}-s{self.speed_wpm}"


TRAIN_VOICES = (
    Voice("en-us", 45, 150), Voice("en-us+f2", 55, 140), Voice("en-gb", 40, 160), Voice("en-gb+f3", 60, 150),
    Voice("en-gb-scotland+m2", 40, 145), Voice("en-029+m4", 50, 155), Voice("en-gb-x-rp+f1", 65, 165),
    Voice("en-us-nyc+m6", 35, 140), Voice("en-us+f5", 70, 155), Voice("en-gb-x-gbclan+f4", 50, 135),
)  # fmt: skip
VAL_VOICES = (
    Voice("en-us+m1", 55, 145), Voice("en-gb+f2", 45, 150), Voice("en-gb-scotland+f5", 60, 155),
    Voice("en-us-nyc+f4", 40, 145), Voice("en-gb-x-rp+m3", 45, 160), Voice("en-029+f3", 60, 140),
)  # fmt: skip


def write_layout(folder: Path) -> None:
    """Write the whole set as 16-bit, 16 kHz mono .wav files with its lists."""
    rng = np.random.default_rng(2022)
    held_out = []
    for number, voice in enumerate((*TRAIN_VOICES, *VAL_VOICES)):
        for word in (*WORDS, OTHER_WORDS[number % len(OTHER_WORDS)], WAKE_WORD):
            name = f"{word}/{voice.speaker}_nohash_0.wav"
            write_wav(folder / name, _placed(speak(word, voice), rng))
            held_out += [name] if voice in VAL_VOICES else []
    for name, colour in (("white", 0.0), ("pink", 1.0), ("brown", 2.0)):
        write_wav(folder / "_background_noise_" / f"{name}.wav", _noise(colour, rng))
    (folder / "validation_list.txt").write_text("\n".join(held_out) + "\n", encoding="utf-8")
    (folder / "testing_list.txt").write_text("", encoding="utf-8")


def speak(text: str, voice: Voice) -> NDArray[np.float64]:
    """Return espeak-ng's speech at 16 kHz in [-1, 1]; runs the program `espeak-ng`."""
    options = ["-v", voice.name, "-p", str(voice.pitch), "-s", str(voice.speed_wpm), "--stdout"]
    spoken = subprocess.run(["espeak-ng", *options, text], check=True, capture_output=True).stdout
    # Streamed to a pipe, the header does not know its length yet: read what is there.
    with wave.open(BytesIO(spoken)) as stream:
        rate_hz = stream.getframerate()
        samples = np.frombuffer(stream.readframes(len(spoken)), dtype="<i2") / 32768.0
    return resample(samples, rate_hz, SAMPLE_RATE_HZ)


def resample(samples: NDArray[np.floating], from_hz: int, to_hz: int) -> NDArray[np.float64]:
    """Resample by cutting or extending the spectrum: exact for signals that are band-limited and periodic."""
    step = from_hz // int(np.gcd(from_hz, to_hz))
    padded = np.pad(samples, (0, -len(samples) % step))
    length = len(padded) * to_hz // from_hz
    spectrum = np.fft.rfft(padded)[: length // 2 + 1]
    return np.asarray(np.fft.irfft(spectrum, n=length) * (length / len(padded)), dtype=np.float64)


def _placed(speech: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """Trim digital silence, place the word somewhere in the second, set its level and add faint noise."""
    loud = np.flatnonzero(np.abs(speech) > 0.01)
    word = speech[loud[0] : loud[-1] + 1][:CLIP_SAMPLES]
    clip = np.zeros(CLIP_SAMPLES)
    start = int(rng.integers(0, CLIP_SAMPLES - len(word) + 1))
    clip[start : start + len(word)] = word / np.abs(word).max() * rng.uniform(0.2, 0.7)
    return clip + FAINT * rng.standard_normal(CLIP_SAMPLES)


def _noise(colour: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Noise whose power falls as frequency to the `colour`, with mains hum."""
    spectrum = np.fft.rfft(rng.standard_normal(NOISE_SECONDS * SAMPLE_RATE_HZ))
    spectrum /= np.maximum(np.arange(len(spectrum)), NOISE_SECONDS * 20) ** (colour / 2)
    noise = np.fft.irfft(spectrum)
    hum = 0.005 * np.sin(2 * np.pi * 50 * np.arange(len(noise)) / SAMPLE_RATE_HZ)
    return np.asarray(0.02 * noise / noise.std() + hum, dtype=np.float64)


def write_wav(path: Path, samples: NDArray[np.floating]) -> None:
    """Write 16-bit mono at 16 kHz."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as stream:
        stream.setnchannels(1)
        stream.setsampwidth(2)
        stream.setframerate(SAMPLE_RATE_HZ)
        stream.writeframes(np.clip(np.rint(samples * 32767), -32768, 32767).astype("<i2").tobytes())


def main() -> None:
    """Write the layout, and on request the committed features."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--features", type=Path, help="also write the compact features here")
    options = parser.parse_args()
    write_layout(options.folder)
    if options.features:
        store(options.features, options.folder)


if __name__ == "__main__":
    main()
