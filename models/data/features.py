"""Log-mel filterbank energies (LFBE): the one reference used in training and at inference.

With x[n] the waveform in [-1, 1] at 16 kHz, frame t covering samples 160 t ... 160 t + 399, and no padding:

  (1) w[n]    = 0.5 - 0.5 cos(2 pi n / 400)                      periodic Hann window, n = 0..399
  (2) S[t,k]  = |sum_n w[n] x[160 t + n] exp(-2 pi i k n / 512)|^2          k = 0..256
  (3) mel(f)  = 2595 log10(1 + f / 700)
  (4) B[m,k]  = max(0, min((mel(f_k) - c_m) / d, (c_{m+2} - mel(f_k)) / d))   f_k = 31.25 k Hz, m = 0..63
              with c_j = mel(60) + j d, d = (mel(7600) - mel(60)) / 65: triangles with peak 1, linear in mel
  (5) E[t,m]  = sum_k B[m,k] S[t,k]
  (6) y[t,m]  = (ln(E[t,m] + 1e-5) - OFFSET) / SPREAD

OFFSET and SPREAD are constants of the format (about the mean and standard deviation of ln E on speech), not
statistics of the clip, so that a stream and a clip give the same numbers. Rounding to 16 bits puts at most
about 1e-7 into a band; the floor 1e-5 stands well above that, so digital silence and a quiet room look alike.

Source: equations (2)-(5) are the usual filterbank of speech recognition (mel scale of O'Shaughnessy 1987,
as in HTK); window, band edges, floor, offset and spread are our choice.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

SAMPLE_RATE_HZ = 16_000
FRAME_SAMPLES = 400
HOP_SAMPLES = 160
FFT_SAMPLES = 512
BANDS = 64
LOWEST_HZ = 60.0
HIGHEST_HZ = 7_600.0
ENERGY_FLOOR = 1e-5
OFFSET = -6.0
SPREAD = 4.0


@dataclass(frozen=True, slots=True)
class FeatureFormat:
    """The constants of the feature format, as stored beside cached features.

    Source: our own format; see the module's equations.
    """

    version: int = 1
    sample_rate_hz: int = SAMPLE_RATE_HZ
    frame_samples: int = FRAME_SAMPLES
    hop_samples: int = HOP_SAMPLES
    bands: int = BANDS
    floor: float = ENERGY_FLOOR
    offset: float = OFFSET
    spread: float = SPREAD


def frame_count(samples: int) -> int:
    """Return the number of whole frames in `samples` samples (0 if shorter than one frame)."""
    return max(0, 1 + (samples - FRAME_SAMPLES) // HOP_SAMPLES)


def mel_from_hz(hertz: NDArray[np.floating]) -> NDArray[np.float64]:
    """Map frequencies in Hz to mel, equation (3)."""
    return np.asarray(2595.0 * np.log10(1.0 + hertz / 700.0), dtype=np.float64)


@cache
def _hann_window() -> NDArray[np.float64]:
    phase = 2.0 * np.pi * np.arange(FRAME_SAMPLES) / FRAME_SAMPLES
    return np.asarray(0.5 - 0.5 * np.cos(phase), dtype=np.float64)


@cache
def mel_filterbank() -> NDArray[np.float64]:
    """Return the triangles of equation (4).

    Returns:
        (257, 64) float64: weight of FFT bin k in band m.
    """
    bins_hz = np.arange(FFT_SAMPLES // 2 + 1) * (SAMPLE_RATE_HZ / FFT_SAMPLES)
    bin_mel = mel_from_hz(bins_hz)[:, None]
    edge_low, edge_high = mel_from_hz(np.array([LOWEST_HZ, HIGHEST_HZ]))
    step = (edge_high - edge_low) / (BANDS + 1)
    corner = edge_low + step * np.arange(BANDS + 2)
    rising = (bin_mel - corner[:-2]) / step
    falling = (corner[2:] - bin_mel) / step
    bank: NDArray[np.float64] = np.maximum(0.0, np.minimum(rising, falling))
    bank.setflags(write=False)
    return bank


def lfbe(waveform: NDArray[np.floating]) -> NDArray[np.float32]:
    """Compute the features of one waveform, equations (1)-(6), in float64 throughout.

    Args:
        waveform: (samples,) samples in [-1, 1] at 16 kHz, at least 400 of them.

    Returns:
        (frames, 64) float32; frames = 1 + (samples - 400) // 160.

    Raises:
        ValueError: the waveform is not one-dimensional, too short, or not finite.
    """
    if waveform.ndim != 1 or waveform.shape[0] < FRAME_SAMPLES:
        msg = f"waveform has shape {waveform.shape}; expected (samples,), at least {FRAME_SAMPLES} of them"
        raise ValueError(msg)
    samples = waveform.astype(np.float64)
    if not np.isfinite(samples).all():
        msg = "waveform holds NaN or infinity; expected finite samples in [-1, 1]"
        raise ValueError(msg)
    frames = sliding_window_view(samples, FRAME_SAMPLES)[::HOP_SAMPLES]
    power = np.abs(np.fft.rfft(frames * _hann_window(), n=FFT_SAMPLES)) ** 2
    return log_from_energy(power @ mel_filterbank())


def log_from_energy(energy: NDArray[np.floating]) -> NDArray[np.float32]:
    """Map band energies to features, equation (6)."""
    features = energy + ENERGY_FLOOR
    np.log(features, out=features)  # in place from here: training does this to every clip of every epoch
    features -= OFFSET
    features /= SPREAD
    return np.asarray(features, dtype=np.float32)


def energy_from_log(features: NDArray[np.floating]) -> NDArray[np.float32]:
    """Invert equation (6): band energies behind features, never below zero."""
    energy = features * np.float32(SPREAD)
    energy += np.float32(OFFSET)
    np.exp(energy, out=energy)
    energy -= np.float32(ENERGY_FLOOR)
    return np.asarray(np.maximum(energy, np.float32(0.0), out=energy), dtype=np.float32)
