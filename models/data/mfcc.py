"""Mel-frequency cepstral coefficients in the manner of MLPerf Tiny: 49 frames of 10 from one second.

With x[n] the waveform at 16 kHz, frame t covering samples 320 t ... 320 t + 479, and no padding:

  (1) z[n]    = x[n] / max(x)              the largest sample, not the largest magnitude
  (2) w[n]    = 0.5 - 0.5 cos(2 pi n / 480)                        periodic Hann window
  (3) M[t,k]  = |sum_n w[n] z[320 t + n] exp(-2 pi i k n / 512)|   magnitude, not power; k = 0..256
  (4) E[t,m]  = sum_k B[m,k] M[t,k], 40 triangles, linear in mel(f) = 1127 ln(1 + f / 700), 20..4000 Hz, k > 0
  (5) L[t,m]  = ln(E[t,m] + 1e-6)
  (6) y[t,c]  = sqrt(2 / 40) sum_m L[t,m] cos(pi c (m + 1/2) / 40)   c = 0..9

Equation (1) needs the whole clip, so these features fit clips, not streams.

Source: the front end of the MLPerf Tiny keyword-spotting benchmark as its documentation describes it: tf.signal's
stft, linear_to_mel_weight_matrix and mfccs_from_log_mel_spectrograms.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from kwsq.models.data.features import SAMPLE_RATE_HZ

FRAMES = 49
COEFFICIENTS = 10
FRAME_SAMPLES = 480
HOP_SAMPLES = 320
FFT_SAMPLES = 512
BANDS = 40
LOWEST_HZ = 20.0
HIGHEST_HZ = 4_000.0
ENERGY_FLOOR = 1e-6


@dataclass(frozen=True, slots=True)
class MfccFormat:
    """The constants of the format, as stored beside cached features."""

    kind: str = "mfcc"
    version: int = 1
    frame_samples: int = FRAME_SAMPLES
    hop_samples: int = HOP_SAMPLES
    bands: int = BANDS
    coefficients: int = COEFFICIENTS


@cache
def _window() -> NDArray[np.float64]:
    phase = 2.0 * np.pi * np.arange(FRAME_SAMPLES) / FRAME_SAMPLES
    return np.asarray(0.5 - 0.5 * np.cos(phase), dtype=np.float64)


@cache
def _filterbank() -> NDArray[np.float64]:
    """(257, 40): equation (4); the row of k = 0 is zero."""
    bin_mel = 1127.0 * np.log1p(np.arange(FFT_SAMPLES // 2 + 1) * (SAMPLE_RATE_HZ / FFT_SAMPLES) / 700.0)
    low, high = 1127.0 * np.log1p(np.array([LOWEST_HZ, HIGHEST_HZ]) / 700.0)
    corner = np.linspace(low, high, BANDS + 2)
    rising = (bin_mel[:, None] - corner[:-2]) / (corner[1:-1] - corner[:-2])
    falling = (corner[2:] - bin_mel[:, None]) / (corner[2:] - corner[1:-1])
    bank: NDArray[np.float64] = np.maximum(0.0, np.minimum(rising, falling))
    bank[0] = 0.0
    return bank


@cache
def _cosines() -> NDArray[np.float64]:
    """(40, 10): equation (6)."""
    angle = np.pi * np.outer(np.arange(BANDS) + 0.5, np.arange(COEFFICIENTS)) / BANDS
    return np.asarray(np.sqrt(2.0 / BANDS) * np.cos(angle), dtype=np.float64)


def mfcc(waveform: NDArray[np.floating]) -> NDArray[np.float32]:
    """Compute the features of one clip, equations (1)-(6), in float64 throughout.

    Args:
        waveform: (16000,) samples in [-1, 1] at 16 kHz.

    Returns:
        (49, 10) float32. A clip without a positive sample has no maximum to divide by and is taken as silence.

    Raises:
        ValueError: another shape, or samples that are not finite.
    """
    if waveform.shape != (SAMPLE_RATE_HZ,) or not np.isfinite(waveform).all():
        msg = f"waveform has shape {waveform.shape}; expected ({SAMPLE_RATE_HZ},) finite samples"
        raise ValueError(msg)
    samples = waveform.astype(np.float64)
    largest = samples.max()
    samples = samples / largest if largest > 0 else np.zeros_like(samples)
    frames = sliding_window_view(samples, FRAME_SAMPLES)[::HOP_SAMPLES]
    magnitude = np.abs(np.fft.rfft(frames * _window(), n=FFT_SAMPLES))
    return np.asarray(np.log(magnitude @ _filterbank() + ENERGY_FLOOR) @ _cosines(), dtype=np.float32)
